/* Needles over HTTP: from a volume server, or through the filer's proxy. Two sources in the sense of
 * filer/source.h. Sends readDeleted=true, so that an open file's chunks are read while they last. */
#ifndef KELP_NEEDLE_H
#define KELP_NEEDLE_H

#include "filer/source.h"

struct http_pool;
struct token_source;
struct locator;
struct filer;

struct needle_http;

/* Keeps the pointers; they must outlive it. tokens may be NULL: no key. locator is used for read
 * tokens where no key is at hand and a volume server answered 401; NULL: no such tokens. filer is
 * used by the proxy source only. */
int needle_http_new(struct http_pool *http, struct token_source *tokens, struct locator *locator,
		    struct filer *filer, struct needle_http **ret);
void needle_http_free(struct needle_http *n);

/* A token for reading one needle: signed with the volume read key, else asked of a master and used for a
 * while. Returns 0, -EACCES: neither is there, or as the network says. */
int needle_http_token(struct needle_http *n, const struct fid *fid, struct deadline d, char *buf,
		      size_t buf_bytes);

/* `GET http://volume-server/<fid>?readDeleted=true`, per server. */
struct source needle_http_source(struct needle_http *n);

/* `GET http://filer/?proxyChunkId=<fid>&readDeleted=true`. */
struct source needle_proxy_source(struct needle_http *n);

#endif
