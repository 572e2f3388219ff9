/* Where kelpctl reads needles: the servers that have one, and the ways to ask them. */
#ifndef KELP_CTL_REACH_H
#define KELP_CTL_REACH_H

#include <stddef.h>

#include "filer/base/base.h"
#include "filer/locate.h"
#include "filer/source.h"
#include "fs/cluster.h"
#include "fs/ctl_options.h"

struct client;
struct wire_result;

/* A way to ask. */
struct ctl_way {
	enum ctl_via via;
	struct source source;
};

#define CTL_WAYS_MAX 4

/* Must not move once it is open. */
struct ctl_reach {
	const struct ctl_options *options;
	struct cluster cluster;
	unsigned via; /* of enum ctl_via */
	struct client *rdma,
		*tcp; /* NULL: agents are not asked like that; tcp also for rdma's sake */
	/* Is told what agents answer, on the reader's thread; may be set once it is open. */
	void (*on_answer)(void *arg, const struct wire_result *result);
	void *on_answer_arg;
	struct ctl_way ways[CTL_WAYS_MAX];
	size_t n_ways;
	/* Has every needle: what was given as --server, or stands for --agent alone. */
	bool has_fixed;
	struct server fixed;
};

/* depth: most reads at once. alone: each way is asked by itself, so that connections to agents are waited for
 * as if there were no other. */
int ctl_reach_open(const struct ctl_options *o, unsigned depth, bool alone, struct ctl_reach *r,
		   char *message, size_t bytes);
void ctl_reach_close(struct ctl_reach *r);

/* Servers that have a volume; they live as long as r. Returns 0 or as locate_volume(). */
struct ctl_places {
	size_t n;
	struct server *servers[LOCATE_REPLICAS_MAX];
};
int ctl_reach_locate(struct ctl_reach *r, uint32_t volume_id, struct deadline d,
		     struct ctl_places *ret);

/* "127.0.0.1:8080 (http)". */
#define CTL_PLACE_BYTES (ENDPOINT_STR_MAX + 16)
void ctl_place_name(const struct ctl_reach *r, const struct ctl_way *way,
		    const struct server *server, char buf[CTL_PLACE_BYTES]);

/* What an errno of filer/source.h means to a person. */
const char *ctl_read_error(const struct ctl_way *way, int err);
const char *ctl_locate_error(int err);

#endif
