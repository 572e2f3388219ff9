/* A circuit breaker: a server that fails is rested, and probed by one caller at a time.
 *
 *   CLOSED --(BREAKER_FAILURES_MAX failures in a row)--> OPEN
 *   OPEN --(pause over)--> the next caller becomes the probe: PROBING
 *   PROBING --success--> CLOSED; --failure--> OPEN, with twice the pause (jittered, bounded) */
#ifndef KELP_BREAKER_H
#define KELP_BREAKER_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

enum breaker_state {
	BREAKER_CLOSED,
	BREAKER_OPEN,
	BREAKER_PROBING,
};

#define BREAKER_FAILURES_MAX 2
#define BREAKER_PAUSE_MIN_MS 200
#define BREAKER_PAUSE_MAX_MS 10000

struct breaker {
	pthread_mutex_t lock; /* protects all below; innermost, nothing is taken under it */
	enum breaker_state state;
	unsigned failures; /* in a row */
	int64_t pause_ms; /* of the present or next rest */
	int64_t retry_at_ms; /* OPEN: when a probe is due; PROBING: when another may start */
	uint64_t opened; /* times, for statistics */
};

void breaker_init(struct breaker *b);
void breaker_destroy(struct breaker *b);

/* May the caller try now? Makes the caller the probe where one is due; it then must report. */
bool breaker_allow(struct breaker *b);

void breaker_success(struct breaker *b);
void breaker_failure(struct breaker *b);

enum breaker_state breaker_state(struct breaker *b);
/* Open, and no probe is due yet: for who reports on health, since only readers close a breaker again. */
bool breaker_rests(struct breaker *b);
uint64_t breaker_openings(struct breaker *b); /* times that it opened */
const char *breaker_state_name(enum breaker_state s);

#endif
