/* The filer client's inside, shared by filer.c (which filer, lookups, reads), filer_list.c (listings) and
 * filer_grpc.c (calls on the gRPC port). */
#ifndef KELP_FILER_CLIENT_H
#define KELP_FILER_CLIENT_H

#include <stdatomic.h>
#include <stddef.h>

#include "filer/filer.h"
#include "filer/http.h"

struct filer_server {
	struct endpoint addr;
	char url[ENDPOINT_STR_MAX];
	char grpc_url[ENDPOINT_STR_MAX];
};

struct filer {
	struct http_pool *http;
	struct token_source *tokens; /* NULL: none */
	/* How often the present filer was given up for the next one: what it leaves over when divided by
	 * n_servers is the index of the one that answers, as far as we know. */
	atomic_size_t moves;
	atomic_uint_fast64_t names_refused;
	size_t n_servers;
	struct filer_server servers[]; /* immutable */
};

/* One try at one filer. 0 and -errno as the operations of filer.h; a positive result ends all tries
 * too, and is handed on. */
typedef int (*filer_try)(struct filer *f, const struct filer_server *s, void *arg);

size_t filer_moves(struct filer *f);

/* Tries the filers in turn, the current one first, with pauses between the rounds, until one gives an
 * answer that counts or the deadline is over. */
int filer_on_any(struct filer *f, struct deadline d, filer_try try, void *arg);

/* GET of a URL with the read token. on_head and on_body as in http_request; a status other than 200,
 * 206 becomes its errno, -EPROTO where nothing fits. */
int filer_get(struct filer *f, struct http_request *r, struct http_head *ret_head);

/* Is that the JSON that the filer gives for entries and listings? */
bool filer_head_is_json(const struct http_head *head);

/* The filer gives an empty body where a time does not fit into JSON. */
bool filer_head_is_blank(const struct http_head *head);

/* Entry by LookupDirectoryEntry. */
int filer_grpc_lookup(struct filer *f, const struct filer_server *s, const char *path,
		      struct deadline d, struct entry **ret);

/* ListEntries: on_entry gets each serialized Entry. */
int filer_grpc_list(struct filer *f, const struct filer_server *s, const char *dir,
		    const char *after, unsigned limit, struct deadline d,
		    int (*on_entry)(void *arg, const uint8_t *pb, size_t len), void *arg);

#endif
