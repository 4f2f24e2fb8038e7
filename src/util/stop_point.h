/*
 * stop_point.h
 *	  Named places where tests make a process wait, fail or crash.
 *
 * penstock.stop_points = 'engine_after_apply:wait, engine_before_merge:error, engine_before_commit:crash'
 * (superusers only).  "wait" waits until nobody holds the advisory lock (PENSTOCK_STOP_CLASS, number
 * of the point) of the database: a test takes it with pg_advisory_lock(20563, number) first.
 */
#ifndef PENSTOCK_STOP_POINT_H
#define PENSTOCK_STOP_POINT_H

#define PENSTOCK_STOP_CLASS 20563

typedef enum PenstockStopPoint
{
#define PENSTOCK_STOP(number, name) PENSTOCK_STOP_##name = number,
#include "util/stop_points.h"
#undef PENSTOCK_STOP
} PenstockStopPoint;

extern bool penstock_stop_points_active;

/* Costs one test of a variable unless a test has set something. */
#define PENSTOCK_STOP_POINT(name) \
	do { \
		if (unlikely(penstock_stop_points_active)) \
			penstock_stop_point_reached(PENSTOCK_STOP_##name); \
	} while (0)

extern void penstock_stop_point_reached(PenstockStopPoint point);
extern void penstock_stop_point_init(void); /* from _PG_init */

#endif							/* PENSTOCK_STOP_POINT_H */
