/*
 * options.h
 *	  Options penstock.* of relations, in pg_class.reloptions.
 *
 * They stand there as 'penstock.name=value', so \d+ shows and pg_dump dumps them.  The server would
 * refuse them; CREATE TABLE, CREATE TABLE AS and ALTER TABLE are handled here, so that it never
 * sees them.
 */
#ifndef PENSTOCK_OPTIONS_H
#define PENSTOCK_OPTIONS_H

#include "nodes/pg_list.h"
#include "utils/relcache.h"

/* An option that relations of one access method have. */
typedef struct PenstockOption
{
	const char *access_method;	/* "stream", "continuous" */
	const char *name;			/* without "penstock." */
	/* raises an error if value is not good for rel */
	void		(*check) (Relation rel, const char *value);
	const char *description;
} PenstockOption;

extern void penstock_options_init(void);
/* options must stay where they are; from a module's init. */
extern void penstock_options_register(const PenstockOption *options, int n);

/*
 * Takes Penstock's options out of a WITH or SET list and returns them as DefElems with the name
 * without prefix and a String, or NULL (RESET), as argument.  *with_list is changed: give a copy.
 */
extern List *penstock_options_take(List **with_list);
/* Raises an error if one of the taken options is unknown to the access method.  Values are not looked at. */
extern void penstock_options_check_names(const char *access_method, List *options);
/*
 * Checks and sets options (DefElems as taken), removes those of "reset" (same); the change is visible
 * afterwards.  The caller has at least ShareUpdateExclusiveLock on the relation.
 */
extern void penstock_options_store(Oid relid, List *set, List *reset);
/* Value in the current context, or NULL if the relation does not have the option. */
extern char *penstock_options_get(Relation rel, const char *name);

#endif							/* PENSTOCK_OPTIONS_H */
