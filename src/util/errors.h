/*
 * errors.h
 *	  SQLSTATEs of Penstock's own, class "PS".  Where the standard or the server
 *	  has a fitting code, that one is used instead.
 */
#ifndef PENSTOCK_ERRORS_H
#define PENSTOCK_ERRORS_H

/* a stream cannot do this (UPDATE, indexes, ...): ERRCODE_FEATURE_NOT_SUPPORTED */
/* a damaged chunk: ERRCODE_DATA_CORRUPTED */

/* PS001: the query cannot be kept as a continuous view */
#define ERRCODE_PENSTOCK_NOT_CONTINUOUS		MAKE_SQLSTATE('P','S','0','0','1')
/* PS002: the history that is needed is gone */
#define ERRCODE_PENSTOCK_HISTORY_GONE		MAKE_SQLSTATE('P','S','0','0','2')
/* PS003: the view or consumer has stopped with an error */
#define ERRCODE_PENSTOCK_STOPPED			MAKE_SQLSTATE('P','S','0','0','3')
/* PS004: the library does not belong to the installed SQL */
#define ERRCODE_PENSTOCK_VERSION			MAKE_SQLSTATE('P','S','0','0','4')
/* PS011: a producer of an older epoch */
#define ERRCODE_PENSTOCK_FENCED				MAKE_SQLSTATE('P','S','0','1','1')
/* PS012: a producer's batch leaves out batches before it */
#define ERRCODE_PENSTOCK_SEQUENCE_GAP		MAKE_SQLSTATE('P','S','0','1','2')
/* PS013: the producer was never made, or has expired */
#define ERRCODE_PENSTOCK_UNKNOWN_PRODUCER	MAKE_SQLSTATE('P','S','0','1','3')

#endif							/* PENSTOCK_ERRORS_H */
