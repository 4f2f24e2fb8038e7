/*
 * client.c
 *	  What every connector compiles in: the way to Penstock, which it does not link to.
 */
#include "postgres.h"

#include <signal.h>
#include <stdarg.h>

#include "access/reloptions.h"
#include "fmgr.h"

#include "connector/connector.h"

/*
 * penstock_connector_api returns Penstock's side of the interface.  Raises an error if Penstock is not loaded, or is not of
 * the version this connector was built for.
 */
const PenstockConnectorApi *
penstock_connector_api(void)
{
	PenstockConnectorApi **api = (PenstockConnectorApi **) find_rendezvous_variable(PENSTOCK_CONNECTOR_API);

	if (*api == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("penstock must be loaded via shared_preload_libraries"),
				 errhint("Add penstock to shared_preload_libraries and restart the server.")));
	if ((*api)->abi != PENSTOCK_CONNECTOR_ABI)
		ereport(ERROR,
				(errcode(ERRCODE_FDW_ERROR),
				 errmsg("this connector does not belong to the penstock library that is loaded"),
				 errdetail("It speaks version %d of the interface, the library version %d.",
						   PENSTOCK_CONNECTOR_ABI, (*api)->abi),
				 errhint("Install both from the same version and restart the server.")));
	return *api;
}

/*
 * penstock_connector_validate checks the options of an object of the catalog (a connector's validator function).
 */
void
penstock_connector_validate(const PenstockConnector *connector, Datum options, Oid catalog)
{
	penstock_connector_api()->validate(connector, untransformRelOptions(options), catalog);
}

PenstockOutcome
penstock_fault(PenstockFault *fault, PenstockOutcome outcome, int sqlstate, const char *format,...)
{
	va_list		args;

	memset(fault, 0, sizeof(PenstockFault));
	fault->sqlstate = sqlstate;
	va_start(args, format);
	vsnprintf(fault->message, sizeof(fault->message), format, args);
	va_end(args);
	return outcome;
}

/*
 * penstock_connector_block_signals blocks all signals, so that threads started now never take one that is meant for the
 * server process.
 */
void
penstock_connector_block_signals(void *saved_sigset)
{
	sigset_t	all;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, saved_sigset);
}

void
penstock_connector_restore_signals(const void *saved_sigset)
{
	pthread_sigmask(SIG_SETMASK, saved_sigset, NULL);
}
