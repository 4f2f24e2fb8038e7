/*
 * engine.h
 *	  Start of the engine.  What others ask of it: util/engine_call.h
 */
#ifndef PENSTOCK_ENGINE_H
#define PENSTOCK_ENGINE_H

extern void penstock_engine_init(void);		/* from _PG_init: launcher, shared memory, GUCs */

#endif							/* PENSTOCK_ENGINE_H */
