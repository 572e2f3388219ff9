/* A SeaweedFS cluster as a client sees it: HTTP connections, tokens, the filers, volume locations,
 * and the sources of chunk bytes behind one fetcher. The mount and the hand tool share it. */
#ifndef KELP_CLUSTER_H
#define KELP_CLUSTER_H

#include <stdbool.h>
#include <stddef.h>

#include "filer/endpoint.h"
#include "filer/filer.h"
#include "fs/options.h"

struct client;
struct fetcher;
struct http_pool;
struct locator;
struct masters_search;
struct needle_http;
struct rdma_map;
struct token_source;

struct cluster {
	struct http_pool *http;
	struct token_source *tokens;
	struct filer *filer; /* NULL: none was given */
	struct locator *locator;
	struct needle_http *needles;
	struct client *agents; /* NULL: not used */
	struct rdma_map *rdma_map; /* NULL: none */
	struct client *rdma; /* NULL: likewise */
	struct fetcher *fetcher;
	struct endpoint masters[OPTION_MASTERS_MAX];
	size_t n_masters; /* known from the start; 0: every chunk goes through the filer at first */
	struct masters_search *search; /* NULL: none is made */
};

/* Reads keys, finds the masters (one gRPC request to the filer where none are given). Succeeds
 * without a filer that answers: the first lookup tells. Without any filer there are needles, but no
 * paths. Returns 0 or -errno and a message that says
 * what is wrong. */
int cluster_open(const struct options *o, struct cluster *ret, char *message, size_t message_bytes);
/* For what runs long: where no master is known yet, says so and asks the filer again, in the background.
 * Returns 0 or -errno. */
int cluster_search_masters(const struct options *o, struct cluster *c);
void cluster_close(struct cluster *c);

/* Only the keys: free with token_source_free(). Likewise. */
int cluster_open_tokens(const struct options *o, struct token_source **ret, char *message,
			size_t message_bytes);

#endif
