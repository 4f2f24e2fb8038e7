# Random views against their queries; fewer on the majors that are tested beside the first.
program oracle 1500 perl test/oracle/run --cases $([ -n "${PENSTOCK_LIGHT:-}" ] && echo 200 || echo 1200)
