/* How long to poll for what comes next before sleeping.
 *
 * Sleeping and being woken costs more than most answers take, so polling pays where they come soon;
 * where they do not, it only takes the processor from others. So it is done where what came lately was
 * worth waiting for, and for no longer than that suggests.
 *
 * Not thread-safe. */
#ifndef KELP_SPIN_H
#define KELP_SPIN_H

#include <stdint.h>

#include "filer/base/base.h"

/* Longer is not worth it: a processor that polls does nothing else. */
#define SPIN_US 200
/* Of what came lately, the last counts for so much. */
#define SPIN_SHARE 8

struct spin {
	int64_t typical_ns; /* time to wait; 0 at first: it is tried */
};

/* Polling may go on for so long from the start of waiting; 0: not at all. */
static inline int64_t spin_window_ns(const struct spin *s, int64_t max_ns)
{
	if (s->typical_ns >= max_ns)
		return 0;
	return s->typical_ns == 0 ? max_ns
				  : (int64_t)min_u64((uint64_t)s->typical_ns * 2, (uint64_t)max_ns);
}

/* What was waited for came after so long. A long pause says little of what is next: it counts as four
 * times as much as is worth polling for. */
static inline void spin_note(struct spin *s, int64_t waited_ns, int64_t max_ns)
{
	int64_t ns = (int64_t)min_u64((uint64_t)waited_ns, (uint64_t)max_ns * 4);

	s->typical_ns += (ns - s->typical_ns) / SPIN_SHARE;
}

#endif
