/* The mount's SSD tier, from its options. */
#ifndef KELP_CACHEDIR_H
#define KELP_CACHEDIR_H

#include <stddef.h>

struct blockcache;
struct cluster;
struct options;
struct slab;
struct ssd;

/* Opens the tier in -o cache_dir=. A disk that does not work is no reason not to mount: *ret is NULL
 * then, as without that option, and the log says so. A directory that must not be used is: returns
 * -errno and a message. */
int cachedir_open(const struct options *o, const struct cluster *c, struct slab *slab,
		  struct blockcache *cache, struct ssd **ret, char *message, size_t message_bytes);

#endif
