/* One generation of one volume: a pair of open .dat and .idx files that belong together, and the index
 * of its needles.
 *
 * Reference counted: whoever has a reference can go on reading its files, whatever becomes of their
 * names. Thread-safe. */
#ifndef KELP_VOLUME_H
#define KELP_VOLUME_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "rdma/agent/store.h"

/* Where the files of a volume are, by name. */
struct volume_names {
	const char *dir; /* of .dat and .vif */
	const char *idx_dir; /* of .idx */
	const char *stem; /* all names without their extensions */
};

/* Opens the pair and loads the index. Returns 0; -EAGAIN where the two do not belong together, for
 * they are being replaced; -EOPNOTSUPP for a tiered volume; -EIO or what the system said. */
int volume_load(const struct volume_names *names, struct volume **ret);

struct volume *volume_ref(struct volume *v);
void volume_unref(struct volume *v); /* takes NULL */

/* Reads what was appended to the index. Returns 0 when these are still the files of those names;
 * -EAGAIN while that is being changed; -ESTALE when they are not, and the volume has been retired; or
 * what the system said. Not from two threads at the same time. */
int volume_check(struct volume *v, const struct volume_names *names);

/* No more needles are found, and the index is given back; the files stay open. */
void volume_retire(struct volume *v);

/* store_find() in this volume. On success *ret has a reference of its own. Returns 0, -ENOENT, -ESTALE
 * for a retired volume, or what the system said. */
int volume_find(struct volume *v, uint64_t key, bool read_deleted, struct needle_place *ret);

/* store_note_facts() in this volume. */
void volume_note_facts(struct volume *v, uint64_t key, uint64_t record_offset,
		       const struct needle_facts *facts);

void volume_count(const struct volume *v, size_t *ret_needles, size_t *ret_bytes);

#endif
