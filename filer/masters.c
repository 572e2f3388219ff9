/* Thread model: one thread asks, and ends when it has found something. All that it shares is the locator,
 * and what tells it to end. */
#include "filer/masters.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>

#include "filer/base/base.h"
#include "filer/base/stopper.h"
#include "filer/filer.h"
#include "filer/http.h"
#include "filer/locate.h"

#define PAUSE_MIN_MS 1000
#define PAUSE_MAX_MS 60000

struct masters_search {
	struct masters_search_config cfg; /* immutable */
	struct stopper stopper;
	struct http_cancel cancel;
	pthread_t thread;
};

static bool find(struct masters_search *s)
{
	struct endpoint found[MASTERS_MAX];
	size_t n = 0;
	int err = filer_masters(s->cfg.filer, deadline_in_ms(MASTERS_TIMEOUT_MS), &s->cancel, found,
				MASTERS_MAX, &n);

	if (err)
		return false;
	for (size_t i = 0; i < n; i++)
		found[i].https |= s->cfg.https;
	if (locator_set_masters(s->cfg.locator, found, n))
		return false;
	s->cfg.on_found(s->cfg.arg, n);
	return true;
}

static void *search_thread(void *arg)
{
	struct masters_search *s = arg;
	int64_t pause_ms = PAUSE_MIN_MS;

	while (stopper_pause(&s->stopper, jitter_ms(pause_ms)) && !find(s))
		pause_ms = (int64_t)min_u64((uint64_t)pause_ms * 2, PAUSE_MAX_MS);
	return NULL;
}

int masters_search_new(const struct masters_search_config *cfg, struct masters_search **ret)
{
	struct masters_search *s = calloc(1, sizeof(*s));

	if (!s)
		return -ENOMEM;
	s->cfg = *cfg;
	int err = http_cancel_init(&s->cancel);
	if (err)
		goto free_search;
	err = stopper_init(&s->stopper);
	if (err)
		goto destroy_cancel;
	err = -pthread_create(&s->thread, NULL, search_thread, s);
	if (err)
		goto destroy_stopper;
	*ret = s;
	return 0;

destroy_stopper:
	stopper_destroy(&s->stopper);
destroy_cancel:
	http_cancel_destroy(&s->cancel);
free_search:
	free(s);
	return err;
}

void masters_search_free(struct masters_search *s)
{
	if (!s)
		return;
	stopper_stop(&s->stopper);
	http_cancel(&s->cancel);
	pthread_join(s->thread, NULL);
	stopper_destroy(&s->stopper);
	http_cancel_destroy(&s->cancel);
	free(s);
}
