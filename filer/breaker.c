#include "filer/breaker.h"

#include "filer/base/base.h"

/* A probe whose caller never reports may be replaced after that. */
#define PROBE_LOST_MS BREAKER_PAUSE_MAX_MS

enum breaker_event {
	EVENT_SUCCESS,
	EVENT_FAILURE,
	EVENT_PROBE,
};

void breaker_init(struct breaker *b)
{
	*b = (struct breaker){ .state = BREAKER_CLOSED, .pause_ms = BREAKER_PAUSE_MIN_MS };
	pthread_mutex_init(&b->lock, NULL);
}

void breaker_destroy(struct breaker *b)
{
	pthread_mutex_destroy(&b->lock);
}

static void rest(struct breaker *b)
{
	b->state = BREAKER_OPEN;
	b->opened++;
	b->retry_at_ms = now_ms() + jitter_ms(b->pause_ms);
}

/* The only place that changes the state. Called with the lock held. */
static void advance(struct breaker *b, enum breaker_event event)
{
	switch (event) {
	case EVENT_SUCCESS:
		/* Of whoever: a request that was under way when the breaker opened proves as much as
		 * the probe does. */
		b->state = BREAKER_CLOSED;
		b->failures = 0;
		b->pause_ms = BREAKER_PAUSE_MIN_MS;
		return;
	case EVENT_FAILURE:
		b->failures++;
		if (b->state == BREAKER_CLOSED && b->failures >= BREAKER_FAILURES_MAX) {
			rest(b);
		} else if (b->state == BREAKER_PROBING) {
			if (b->pause_ms <= BREAKER_PAUSE_MAX_MS / 2)
				b->pause_ms *= 2;
			else
				b->pause_ms = BREAKER_PAUSE_MAX_MS;
			rest(b);
		}
		/* OPEN: requests that started before it opened; they tell nothing new. */
		return;
	case EVENT_PROBE:
		b->state = BREAKER_PROBING;
		b->retry_at_ms = now_ms() + PROBE_LOST_MS;
		return;
	}
}

bool breaker_allow(struct breaker *b)
{
	LOCK_SCOPE(&b->lock);

	if (b->state == BREAKER_CLOSED)
		return true;
	if (now_ms() < b->retry_at_ms)
		return false;
	advance(b, EVENT_PROBE);
	return true;
}

void breaker_success(struct breaker *b)
{
	LOCK_SCOPE(&b->lock);
	advance(b, EVENT_SUCCESS);
}

void breaker_failure(struct breaker *b)
{
	LOCK_SCOPE(&b->lock);
	advance(b, EVENT_FAILURE);
}

enum breaker_state breaker_state(struct breaker *b)
{
	LOCK_SCOPE(&b->lock);
	return b->state;
}

bool breaker_rests(struct breaker *b)
{
	LOCK_SCOPE(&b->lock);
	return b->state == BREAKER_OPEN && now_ms() < b->retry_at_ms;
}

const char *breaker_state_name(enum breaker_state s)
{
	switch (s) {
	case BREAKER_CLOSED:
		return "closed";
	case BREAKER_OPEN:
		return "open";
	case BREAKER_PROBING:
		return "probing";
	}
	return "unknown";
}

uint64_t breaker_openings(struct breaker *b)
{
	LOCK_SCOPE(&b->lock);
	return b->opened;
}
