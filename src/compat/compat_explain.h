/*
 * compat_explain.h
 *	  Where the EXPLAIN functions are declared.
 */
#ifndef PENSTOCK_COMPAT_EXPLAIN_H
#define PENSTOCK_COMPAT_EXPLAIN_H

#include "commands/explain.h"
#include "compat/compat.h"
#if PG_VERSION_NUM >= 180000
#include "commands/explain_format.h"
#include "commands/explain_state.h"
#endif

#endif							/* PENSTOCK_COMPAT_EXPLAIN_H */
