/* Finds the masters later, where the filer did not name them in time: its gRPC port may open after its HTTP
 * port, or stay closed for as long as it is being replaced. The filer is asked again and again, less and
 * less often, on a thread of its own, so that no reader waits for it.
 *
 * Thread-safe. */
#ifndef KELP_MASTERS_H
#define KELP_MASTERS_H

#include <stdbool.h>
#include <stddef.h>

struct filer;
struct locator;
struct masters_search;

#define MASTERS_MAX 16
#define MASTERS_TIMEOUT_MS 3000 /* of one time of asking */

struct masters_search_config {
	struct filer *filer; /* must outlive the search, as must the locator */
	struct locator *locator; /* is told; knows none yet */
	bool https; /* speak it to the masters */
	/* Called once, on the thread, when n have been found. */
	void (*on_found)(void *arg, size_t n);
	void *arg;
};

/* Returns 0 or -errno, at once. */
int masters_search_new(const struct masters_search_config *cfg, struct masters_search **ret);
/* Ends it, whether they have been found or not, without waiting for an answer. Takes NULL. */
void masters_search_free(struct masters_search *s);

#endif
