#include "fs/cachedir.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "cache/ssd.h"
#include "filer/topology.h"
#include "fs/cluster.h"
#include "fs/log.h"
#include "fs/options.h"

#define TOPOLOGY_TIMEOUT_MS 3000
#define TOPOLOGY_ID_BYTES 128
/* Of the slab, for blocks on their way to the disk. */
#define QUEUE_SHARE 16
#define OTHER_SEED UINT64_C(0x9e3779b97f4a7c15)

/* Two clusters may use the same file ids. One that does not say who it is goes by its filers' addresses,
 * in whatever order they are given. */
static struct ssd_id identify(const struct options *o, const struct cluster *c)
{
	char name[TOPOLOGY_ID_BYTES], url[ENDPOINT_STR_MAX];
	struct ssd_id id = { { 0 } };

	if (topology_id(c->http, c->masters, c->n_masters, deadline_in_ms(TOPOLOGY_TIMEOUT_MS),
			name, sizeof(name)) == 0) {
		id.word[0] = hash_bytes(HASH_SEED, name, strlen(name));
		id.word[1] = hash_bytes(OTHER_SEED, name, strlen(name));
		return id;
	}
	for (size_t i = 0; i < o->n_filers; i++) {
		endpoint_url(&o->filers[i], url);
		id.word[0] += hash_bytes(HASH_SEED, url, strlen(url));
		id.word[1] += hash_bytes(OTHER_SEED, url, strlen(url));
	}
	return id;
}

static void on_off(void *arg, const char *what, int err)
{
	const struct options *o = arg;

	log_warning("cache_dir %s is not used any more: %s: %s", o->cache_dir, what,
		    strerror(-err));
}

/* What the user has to put right. */
static int explain(const char *dir, int err, char *message, size_t bytes)
{
	switch (err) {
	case -EPERM:
		snprintf(message, bytes,
			 "cache_dir %s: it and the files in it must belong to the user who mounts, "
			 "and nobody else may write there",
			 dir);
		return err;
	case -ENOENT:
	case -ENOTDIR:
	case -ELOOP:
	case -EACCES:
	case -ENAMETOOLONG:
		snprintf(message, bytes, "cache_dir %s: %s", dir,
			 err == -ELOOP ? "it must not be a symbolic link" : strerror(-err));
		return err;
	default:
		return 0;
	}
}

int cachedir_open(const struct options *o, const struct cluster *c, struct slab *slab,
		  struct blockcache *cache, struct ssd **ret, char *message, size_t bytes)
{
	struct ssd_config cfg = {
		.dir = o->cache_dir,
		.bytes = o->cache_bytes,
		.queue_bytes = o->slab_bytes / QUEUE_SHARE,
		.slab = slab,
		.cache = cache,
		.on_off = on_off,
		.arg = (void *)o,
	};
	struct ssd_stats stats;

	*ret = NULL;
	if (!o->cache_dir)
		return 0;
	cfg.cluster = identify(o, c);
	int err = ssd_open(&cfg, ret);
	if (err == -ENOMEM)
		return err;
	if (err && explain(o->cache_dir, err, message, bytes))
		return err;
	if (err) {
		log_warning("cache_dir %s is not used: %s", o->cache_dir,
			    err == -EUSERS ? "too many mounts use it" : strerror(-err));
		return 0;
	}
	ssd_stats(*ret, &stats);
	log_info("in effect: cache_dir %s, cache_size %" PRIu64 " MiB, %zu blocks in it",
		 o->cache_dir, o->cache_bytes / MIB, stats.blocks);
	return 0;
}
