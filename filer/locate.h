/* Where volumes are: the master's answers, cached, and what is known of each volume server.
 *
 * Thread-safe. */
#ifndef KELP_LOCATE_H
#define KELP_LOCATE_H

#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

#include "filer/base/base.h"
#include "filer/breaker.h"
#include "filer/endpoint.h"
#include "filer/fid.h"

struct http_pool;
struct token_source;

/* One volume server, interned by address. One that a master has named lives as long as the locator, any
 * other as long as a set has it, and beyond that until its place is needed. */
struct server {
	struct endpoint addr; /* immutable */
	char url[ENDPOINT_STR_MAX]; /* immutable */
	struct breaker http; /* of its HTTP port */
	struct breaker agent; /* of the agent beside it */
	struct breaker rdma; /* of that over RDMA */
	atomic_uint_fast64_t reads, failures, bytes;
	atomic_uint sets; /* that have it; the locator's own */
};

/* Replicas of one volume. Immutable, reference-counted. n == 0: the master knows none. */
struct location_set {
	atomic_uint refs;
	size_t n;
	struct server *servers[];
};

#define LOCATE_SERVERS_MAX 4096 /* distinct servers */
#define LOCATE_REPLICAS_MAX 64 /* of one volume, duplicates (EC shards) removed */
#define LOCATE_VOLUMES_MAX 65536
#define LOCATE_TTL_MS 600000 /* a set is asked for again after that */
#define LOCATE_NEGATIVE_TTL_MS 1000
#define LOCATE_REFRESH_MIN_MS 500 /* a forced refresh is not sent more often per volume */

struct locator;

struct locate_config {
	const struct endpoint *masters; /* copied; n_masters 0: -ENXIO until there are some */
	size_t n_masters;
	bool volumes_https; /* lookup answers carry no scheme */
	bool use_public_url;
};

int locator_new(struct http_pool *http, const struct locate_config *cfg, struct locator **ret);
void locator_free(struct locator *l);

/* For a locator that knows none yet. Copies them. Returns 0, -EINVAL (n is 0), -ENOMEM, or -EALREADY:
 * some are known, and stay. */
int locator_set_masters(struct locator *l, const struct endpoint *masters, size_t n);

/* Replicas of a volume, from cache or the masters in turn. refresh: the cached set did not work.
 * One request per volume at a time, others wait for it. The set is the same object as before as long
 * as its members are the same, and stays in use while no master can be reached. Returns 0 (put the
 * set back with location_set_put), -ENOENT: the master has no such volume, -ENXIO: no master is known
 * yet, -EBUSY: the master is still warming up, or an -errno of the network. */
int locate_volume(struct locator *l, uint32_t volume_id, bool refresh, struct deadline d,
		  struct location_set **ret);
void location_set_put(struct location_set *s);

/* A set of that one server, whatever the masters say. Where there are LOCATE_SERVERS_MAX, it takes the place
 * of the one that no master has named, no set has, and nobody has asked for the longest. Returns 0, -ENOMEM, or
 * -EBUSY: there is none such. */
int locate_server(struct locator *l, const struct endpoint *addr, struct location_set **ret);

/* A volume read token for one fid from the master (`/dir/lookup?fileId=&read=yes`). */
int locate_read_token(struct locator *l, const struct fid *fid, struct deadline d, char *buf,
		      size_t buf_bytes);

/* Calls cb for each known server (statistics); the callback must not call back into the locator. Those that
 * no master has named may be gone afterwards. */
void locator_each_server(struct locator *l, void (*cb)(void *arg, struct server *s), void *arg);

#endif
