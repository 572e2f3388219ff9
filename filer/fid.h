/* File ids: the name of a needle (a stored chunk) in a SeaweedFS cluster.
 *
 * Text form `<decimal volume>,<hex key><8 hex cookie>[_<decimal delta>]`, e.g. 3,01637037d6; the
 * delta is added to the key. A file id is written once: its bytes never change, so whatever is
 * cached under one never goes stale. */
#ifndef KELP_FID_H
#define KELP_FID_H

#include <stddef.h>
#include <stdint.h>

struct fid {
	uint64_t key;
	uint32_t volume_id;
	uint32_t cookie;
};

/* Room for any formatted fid and its NUL. */
#define FID_STR_MAX 40

/* Parses exactly len bytes. Returns 0 or -EINVAL; *ret is untouched on failure. */
int fid_parse(const char *s, size_t len, struct fid *ret);

/* Writes the canonical text (no delta, even number of key digits) and returns its length. */
size_t fid_format(const struct fid *f, char buf[FID_STR_MAX]);

#endif
