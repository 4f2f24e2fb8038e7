/*
 * run_as.c
 *	  Runs code as another user, in a security-restricted operation with a pinned search_path.
 */
#include "postgres.h"

#include "miscadmin.h"
#include "utils/guc.h"

#include "compat/compat.h"
#include "util/run_as.h"

/* Sets one "name=value" line for the current nest level.  A setting that is gone is ignored. */
static void
apply_setting(char *line, Oid user)
{
	char	   *equals = strchr(line, '=');

	if (equals == NULL)
		return;
	*equals = '\0';
	if (GetConfigOption(line, true, false) == NULL)
		return;
	(void) set_config_option(line, equals + 1,
							 superuser_arg(user) ? PGC_SUSET : PGC_USERSET, PGC_S_SESSION,
							 GUC_ACTION_SAVE, true, 0, false);
}

/*
 * penstock_run_as_begin becomes "user" until penstock_run_as_end: in a security-restricted operation
 * (no session state can be left behind), with search_path pg_catalog, pg_temp and then the settings
 * given as lines "name=value" (NULL: none).  An error needs no call of the end: the abort of the
 * (sub)transaction puts identity and settings back.  So whoever catches errors in between must do
 * so with a subtransaction.
 */
void
penstock_run_as_begin(PenstockRunAs *saved, Oid user, const char *settings)
{
	GetUserIdAndSecContext(&saved->user, &saved->security_context);
	SetUserIdAndSecContext(user, saved->security_context | SECURITY_RESTRICTED_OPERATION);
	saved->guc_level = NewGUCNestLevel();

	(void) set_config_option("search_path", "pg_catalog, pg_temp", PGC_USERSET, PGC_S_SESSION,
							 GUC_ACTION_SAVE, true, 0, false);
	if (settings != NULL)
	{
		char	   *copy = pstrdup(settings);
		char	   *rest = copy;

		for (char *line = strsep(&rest, "\n"); line != NULL; line = strsep(&rest, "\n"))
			apply_setting(line, user);
		pfree(copy);
	}
}

/*
 * penstock_run_as_end becomes again who the caller of penstock_run_as_begin was.
 */
void
penstock_run_as_end(const PenstockRunAs *saved)
{
	AtEOXact_GUC(false, saved->guc_level);
	SetUserIdAndSecContext(saved->user, saved->security_context);
}
