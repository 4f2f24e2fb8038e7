/*
 * penstock.c
 *	  Entry of the library: the modules, in the order in which they start.
 */
#include "postgres.h"

#include "fmgr.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/guc.h"

#include "claim/claim.h"
#include "engine/engine.h"
#include "pipe/pipe.h"
#include "producer/producer.h"
#include "queue/queue.h"
#include "stream/stream.h"
#include "stream/tail.h"
#include "util/stop_point.h"
#include "util/utility_hook.h"
#include "util/version.h"
#include "vector/vector.h"
#include "view/view.h"

PG_MODULE_MAGIC;

PG_FUNCTION_INFO_V1(penstock_library_version);

static void (*const modules[]) (void) =
{
	penstock_stop_point_init,
	penstock_version_init,
	penstock_tail_init,
	penstock_stream_init,
	penstock_producer_init,
	penstock_vector_init,
	penstock_view_init,
	penstock_claim_init,
	penstock_engine_init,
	penstock_queue_init,
	penstock_pipe_init,
	penstock_utility_init,
};

void		_PG_init(void);

void
_PG_init(void)
{
	if (!process_shared_preload_libraries_in_progress)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("penstock must be loaded when the server starts"),
				 errhint("Add penstock to shared_preload_libraries in postgresql.conf and restart the server.")));

	for (int i = 0; i < lengthof(modules); i++)
		modules[i] ();

	MarkGUCPrefixReserved("penstock");
}

/*
 * penstock_library_version() → text: the version this library was built as.
 */
Datum
penstock_library_version(PG_FUNCTION_ARGS)
{
	PG_RETURN_TEXT_P(cstring_to_text(PENSTOCK_VERSION));
}
