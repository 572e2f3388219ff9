/* The filer client: entries, listings, the masters' addresses, capacity. Several filers are tried in
 * turn; one that works is kept.
 *
 * Paths are absolute in the filer's namespace, without a trailing slash but for "/" itself; any byte
 * but NUL may stand in a name. Thread-safe. */
#ifndef KELP_FILER_H
#define KELP_FILER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "filer/base/base.h"
#include "filer/endpoint.h"
#include "filer/entry.h"

struct http_pool;
struct token_source;
struct filer;
struct http_cancel;

#define FILER_PORT 8888
#define FILERS_MAX 32

struct filer_config {
	const struct endpoint *filers; /* copied */
	size_t n_filers; /* 1 to FILERS_MAX */
};

int filer_new(struct http_pool *http, struct token_source *tokens, const struct filer_config *cfg,
	      struct filer **ret);
void filer_free(struct filer *f);

/* Errors of all calls below: -ENOENT, -EACCES (401, 403), -ENOTDIR, -EPROTO (not a filer, or an
 * answer that cannot be decoded), -ETIMEDOUT and the like when no filer could be reached by the
 * deadline. Network failures and 5xx are retried on every filer, with pauses, until then. */

/* One entry by `?metadata=true`; the root too. Falls back to gRPC where JSON cannot carry it. */
int filer_lookup(struct filer *f, const char *path, struct deadline d, struct entry **ret);

/* One page of a directory, in the filer's order, names after `after` ("" from the start), at most
 * limit (1 to FILER_PAGE_MAX) of them. Decoded as the answer streams in. cb owns a reference to e
 * and must put it; e is NULL where the filer has that name but with attributes that cannot be decoded
 * (a lookup of it gives -EPROTO). Names that no file can have are left out. Non-zero ends the page and
 * becomes the result. *ret_more: there may be more after the last name given. */
#define FILER_PAGE_MAX 10000
typedef int (*filer_list_cb)(void *arg, const char *name, struct entry *e);
int filer_list(struct filer *f, const char *dir, const char *after, unsigned limit,
	       struct deadline d, filer_list_cb cb, void *arg, bool *ret_more);

/* The path's data through the filer (remote-only entries, SSE that the filer decrypts). Reads
 * [offset, offset+len) into buf; *ret_got may be short only at end of file. if_match: the ETag to
 * insist on, or NULL. -ESTALE when that does not match. */
int filer_read(struct filer *f, const char *path, const char *if_match, uint64_t offset, void *buf,
	       size_t len, struct deadline d, size_t *ret_got);

/* Masters of the cluster by gRPC GetFilerConfiguration. At most max; -ENXIO when there is no gRPC, or
 * none of them is named; -ECANCELED, -EACCES, -ENOMEM. cancel may be NULL. */
int filer_masters(struct filer *f, struct deadline d, struct http_cancel *cancel,
		  struct endpoint *ret, size_t max, size_t *ret_n);

struct filer_capacity {
	uint64_t total_bytes;
	uint64_t used_bytes;
	uint64_t files;
};
/* gRPC Statistics; -ENXIO when there is no gRPC. */
int filer_statistics(struct filer *f, struct deadline d, struct filer_capacity *ret);

/* Which filer answers at present (index into the configuration). */
size_t filer_current(struct filer *f);
/* URL of that filer, for the proxy source. */
const char *filer_current_url(struct filer *f);
/* Says that the filer did not answer a request made outside of this module. */
void filer_failed(struct filer *f, size_t index);
/* Names left out of listings so far, because no file can have them. */
uint64_t filer_names_refused(struct filer *f);

#endif
