/*
 * view_append.c
 *	  Strategy "append": the delta plan's rows are added to the view.
 */
#include "postgres.h"

#include "executor/tuptable.h"
#include "tcop/dest.h"

#include "view/view_internal.h"
#include "view/view_writer.h"

typedef struct AppendReceiver
{
	PenstockReceiver pub;
	Oid			relid;
	PenstockWriter *writer;
} AppendReceiver;

static void
append_startup(DestReceiver *self, int operation, TupleDesc desc)
{
	AppendReceiver *receiver = (AppendReceiver *) self;

	receiver->writer = penstock_writer_open(receiver->relid);
}

static bool
append_receive(TupleTableSlot *slot, DestReceiver *self)
{
	AppendReceiver *receiver = (AppendReceiver *) self;

	penstock_writer_collect(receiver->writer, slot);
	receiver->pub.changes++;
	return true;
}

static void
append_shutdown(DestReceiver *self)
{
	penstock_writer_close(((AppendReceiver *) self)->writer);
}

static void
append_destroy(DestReceiver *self)
{
	pfree(self);
}

/*
 * penstock_append_receiver takes rows of the view's row type and inserts them.
 */
DestReceiver *
penstock_append_receiver(PenstockView *view)
{
	AppendReceiver *receiver = palloc0(sizeof(AppendReceiver));

	receiver->pub.dest.receiveSlot = append_receive;
	receiver->pub.dest.rStartup = append_startup;
	receiver->pub.dest.rShutdown = append_shutdown;
	receiver->pub.dest.rDestroy = append_destroy;
	receiver->pub.dest.mydest = DestNone;
	receiver->relid = view->relid;
	return (DestReceiver *) receiver;
}
