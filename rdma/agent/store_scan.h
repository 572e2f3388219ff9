/* What lies in the directories of a volume server: which volumes, and whether they can be served. */
#ifndef KELP_STORE_SCAN_H
#define KELP_STORE_SCAN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct sighting;

/* Files of one stem in one directory. */
struct scan {
	struct sighting *seen; /* by id, stem, directory */
	size_t n, room;
};

/* A volume of which there is any trace. */
struct scanned_volume {
	uint32_t id;
	bool servable; /* a .dat and an .idx, and nothing against it; then: */
	const char *stem; /* while the scan lives */
	const char *dir, *idx_dir; /* two of those that were scanned */
};

/* Looks through the directories, STORE_DIRS_MAX at most; idx_dir may be NULL. What is not there holds nothing. Returns 0, or
 * -errno where it could not be told what there is. */
int scan_dirs(struct scan *s, const char *const *dirs, size_t n_dirs, const char *idx_dir);
void scan_free(struct scan *s);

/* The volume whose sightings begin at *at, which moves on to the next one. False at the end. */
bool scan_next(const struct scan *s, size_t *at, struct scanned_volume *ret);

#endif
