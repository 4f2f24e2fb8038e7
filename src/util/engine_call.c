/*
 * engine_call.c
 *	  Calls from below to the engine, which registers itself when the library is loaded.
 */
#include "postgres.h"

#include "util/engine_call.h"

static const PenstockEngineCalls *engine;

/*
 * penstock_engine_calls_register says who answers; "calls" must stay.
 */
void
penstock_engine_calls_register(const PenstockEngineCalls *calls)
{
	engine = calls;
}

void
penstock_engine_notify_at_commit(void)
{
	engine->notify_at_commit();
}

void
penstock_engine_catch_up(Oid relid, int timeout_ms)
{
	engine->catch_up(relid, timeout_ms);
}
