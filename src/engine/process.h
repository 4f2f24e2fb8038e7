/*
 * process.h
 *	  Begin and end of a worker process, an engine's or a pipe's.
 */
#ifndef PENSTOCK_PROCESS_H
#define PENSTOCK_PROCESS_H

#include "engine/shared.h"

/* Takes the slot that the launcher prepared; ends the process if it is not wanted any more. */
extern PenstockDatabase *penstock_process_attach(int slot);
/* The worker's own settings, also after a reload. */
extern void penstock_process_settings(const char *name, bool engine);
/* The slot is to be freed when the process ends. */
extern void penstock_process_leave(void);

#endif							/* PENSTOCK_PROCESS_H */
