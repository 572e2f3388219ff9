/* A path's entry and the map of its extents, for the commands that take one. */
#ifndef KELP_CTL_PATH_H
#define KELP_CTL_PATH_H

#include <stddef.h>

#include "filer/base/base.h"
#include "filer/chunkmap.h"
#include "filer/entry.h"
#include "fs/ctl_reach.h"

struct ctl_path {
	struct entry *entry;
	struct chunkmap *map; /* of a regular file; without extents for others */
};

/* Looks options->cluster.path up. On failure: -errno and a message. */
int ctl_path_open(struct ctl_reach *r, struct deadline d, struct ctl_path *ret, char *message,
		  size_t bytes);
void ctl_path_close(struct ctl_path *p);

#endif
