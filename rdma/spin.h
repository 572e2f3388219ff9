/* How long to poll for what comes next before sleeping.
 *
 * Sleeping and being woken costs more than most answers take, so polling pays where they come soon;
 * where they do not, it only takes the processor from others. So it is done where what came lately was
 * worth waiting for, and for no longer than that suggests.
 *
 * Not thread-safe. */
#ifndef KELP_SPIN_H
#define KELP_SPIN_H

#include <stdbool.h>
#include <stdint.h>

#include "filer/base/base.h"

/* Longer is not worth it: a processor that polls does nothing else. */
#define SPIN_US 200
/* Of what came lately, the last counts for so much. */
#define SPIN_SHARE 8
/* Where polling does not pay, it is tried again for one of so many waits: sleeping makes waits longer, by
 * itself perhaps longer than is worth polling for. */
#define SPIN_TRY_EVERY 8

struct spin {
	int64_t typical_ns; /* time to wait; 0 at first: it is tried */
	unsigned slept; /* waits since polling was tried last */
};

static inline bool spin_pays(const struct spin *s, int64_t max_ns)
{
	return s->typical_ns < max_ns;
}

/* Polling may go on for so long from the start of waiting; 0: not at all. */
static inline int64_t spin_window_ns(const struct spin *s, int64_t max_ns)
{
	if (!spin_pays(s, max_ns))
		return s->slept >= SPIN_TRY_EVERY ? max_ns : 0;
	return s->typical_ns == 0 ? max_ns
				  : (int64_t)min_u64((uint64_t)s->typical_ns * 2, (uint64_t)max_ns);
}

/* What was waited for came after so long. A long pause says little of what is next: it counts as four
 * times as much as is worth polling for. could_poll: nobody else kept from it, if the window was open. */
static inline void spin_note(struct spin *s, int64_t waited_ns, int64_t max_ns, bool could_poll)
{
	int64_t ns = (int64_t)min_u64((uint64_t)waited_ns, (uint64_t)max_ns * 4);
	bool tried = could_poll && s->slept >= SPIN_TRY_EVERY;

	if (tried && ns < max_ns)
		s->typical_ns = ns; /* not as long as those that were slept through */
	else
		s->typical_ns += (ns - s->typical_ns) / SPIN_SHARE;
	if (tried || spin_pays(s, max_ns))
		s->slept = 0;
	else
		s->slept++;
}

#endif
