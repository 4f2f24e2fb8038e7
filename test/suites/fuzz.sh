# The chunk decoder, fed with damaged bytes.
[ ! -x test/fuzz/run.sh ] || program fuzz 600 test/fuzz/run.sh "$PG_CONFIG"
