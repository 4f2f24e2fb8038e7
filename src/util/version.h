/*
 * version.h
 *	  Does the loaded library belong to the SQL that is installed in this database?
 */
#ifndef PENSTOCK_VERSION_H
#define PENSTOCK_VERSION_H

/*
 * Raises ERRCODE_PENSTOCK_VERSION when the extension of this database has another version than the library.
 * Once they agree it is not looked again in this process, so it may be called often.
 */
extern void penstock_version_check(void);

extern void penstock_version_init(void);

#endif							/* PENSTOCK_VERSION_H */
