# Kills at random moments under load; fewer on the majors that are tested beside the first.
program crash 1200 perl test/crash/run --kills $([ -n "${PENSTOCK_LIGHT:-}" ] && echo 12 || echo 110)
