/*
 * stop_points.h
 *	  All places at which a test can stop the server, in one list.
 *
 * The number is the key to wait on: see stop_point.h.
 */
PENSTOCK_STOP(1, engine_before_snapshot)	/* a round begins, nothing read yet */
PENSTOCK_STOP(2, engine_after_snapshot)	/* S2 is taken, the tail not yet read */
PENSTOCK_STOP(3, engine_after_apply)	/* views changed, positions not saved */
PENSTOCK_STOP(4, engine_before_commit)	/* positions saved, not committed */
PENSTOCK_STOP(5, engine_after_commit)	/* committed, memory not yet brought up to date */
PENSTOCK_STOP(6, engine_before_merge)
PENSTOCK_STOP(7, engine_before_retain)
PENSTOCK_STOP(8, stream_after_flush)	/* a chunk is written, not yet published */
PENSTOCK_STOP(9, stream_after_publish)	/* published, not committed */
PENSTOCK_STOP(12, engine_commit_visible)	/* in a writer: visible, invalidations not yet sent */
PENSTOCK_STOP(13, pipe_after_collect)	/* events are known, nothing begun */
PENSTOCK_STOP(14, pipe_after_run)	/* the statements have run, the position is not stored */
PENSTOCK_STOP(15, pipe_before_commit)	/* position and dead letters are stored */
PENSTOCK_STOP(16, pipe_after_commit)	/* committed, not acknowledged */
PENSTOCK_STOP(17, pipe_after_acknowledge)
PENSTOCK_STOP(18, claim_after_lock)	/* the collector has locked what it may remove, and looks once more */
PENSTOCK_STOP(19, claim_after_delete)	/* removed, not committed */
PENSTOCK_STOP(20, claim_after_pages)	/* a payload's large object is written, its row is not */
PENSTOCK_STOP(21, claim_before_merge)	/* the collector has locked what may be duplicates */
