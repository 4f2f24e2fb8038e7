# old_server.sh: a server of an older major inside a chroot of a newer one, for pg_upgrade.

# bring_old_server FROM ROOT DEST: copies the private copy of a server FROM (see private_copy) to
# DEST, a folder in the chroot ROOT, and to DEST/needed the libraries it needs that ROOT has not.
bring_old_server() {
	local from=$1 root=$2 dest=$3 file library path
	mkdir -p "$dest/needed"
	cp -r "$from/." "$dest/"
	find "$dest" -name 'llvmjit*.so' -delete
	chroot "$root" ldconfig -p | awk '/=>/ { print $1 }' | sort -u >"$dest/present"
	find "$dest" -type f \( -path '*/bin/*' -o -name '*.so' \) | while IFS= read -r file; do
		ldd "$file" 2>/dev/null
	done | awk '$2 == "=>" && $3 ~ /^\// { print $1, $3 }' | sort -u | while read -r library path; do
		grep -qxF "$library" "$dest/present" || cp -L "$path" "$dest/needed/"
	done
	rm -f "$dest/present"
}
