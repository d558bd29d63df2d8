/* activity.h: one page of a store on which anybody can wait for anything to happen in it.
 *
 * A waiter takes a ticket, looks at whatever it waits for, and sleeps until something happened after
 * the ticket. Whoever made records readable (partition.c), or Python where groups change, touches the
 * page: that costs one look at a flag while nobody waits.
 */
#ifndef EL_ACTIVITY_H
#define EL_ACTIVITY_H

#include "batch.h"

void el_activity_touch(el_activity *a);
el_activity *el_activity_hold(el_activity *a);

#endif
