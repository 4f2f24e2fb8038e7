/*
 * pipe.h
 *	  Pipes.
 */
#ifndef PENSTOCK_PIPE_H
#define PENSTOCK_PIPE_H

extern void penstock_pipe_init(void);		/* from _PG_init */

#endif							/* PENSTOCK_PIPE_H */
