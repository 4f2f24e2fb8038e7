/*
 * run_as.h
 *	  Runs code as another user, safely: the one place where identity is switched.
 */
#ifndef PENSTOCK_RUN_AS_H
#define PENSTOCK_RUN_AS_H

typedef struct PenstockRunAs
{
	Oid			user;
	int			security_context;
	int			guc_level;
} PenstockRunAs;

extern void penstock_run_as_begin(PenstockRunAs *saved, Oid user, const char *settings);
extern void penstock_run_as_end(const PenstockRunAs *saved);

#endif							/* PENSTOCK_RUN_AS_H */
