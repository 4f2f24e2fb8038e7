/*
 * engine_call.h
 *	  What modules below the engine ask of it.
 */
#ifndef PENSTOCK_ENGINE_CALL_H
#define PENSTOCK_ENGINE_CALL_H

/* Made by the engine. */
typedef struct PenstockEngineCalls
{
	void		(*notify_at_commit) (void);
	void		(*catch_up) (Oid relid, int timeout_ms);
} PenstockEngineCalls;

extern void penstock_engine_calls_register(const PenstockEngineCalls *calls);

/* At the commit of this transaction, starts this database's worker if it is not running, and
 * makes it look at the registry again (a view was made, dropped, resumed ...). */
extern void penstock_engine_notify_at_commit(void);

/*
 * Waits until the view (InvalidOid: all views of the database) has consumed everything that was
 * committed before the call.  Raises ERRCODE_QUERY_CANCELED after timeout_ms (0: none), and
 * ERRCODE_PENSTOCK_STOPPED when the view has stopped with an error, which it quotes.
 */
extern void penstock_engine_catch_up(Oid relid, int timeout_ms);

#endif							/* PENSTOCK_ENGINE_CALL_H */
