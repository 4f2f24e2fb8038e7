# The chunk decoder, fed with damaged bytes.
program fuzz 600 test/fuzz/run.sh "$PG_CONFIG"
# The decoders of messages.
program fuzz-format 600 test/fuzz/format/run.sh "$PG_CONFIG"
