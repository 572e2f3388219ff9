/* A client as a source of needles, in the terms of filer/source.h. */
#include <errno.h>

#include "filer/breaker.h"
#include "filer/locate.h"
#include "rdma/client_impl.h"

/* In the terms of filer/source.h. */
static int source_error(const struct client *c, const struct client_extent *e)
{
	if (e->err == -EUSERS)
		return -EBUSY;
	if (e->err == -EOPNOTSUPP && c->cfg.required)
		return -EHOSTUNREACH;
	return e->err;
}

/* A range beyond the stored bytes may lie within the plain ones. */
static bool is_compressed(struct client *c, const struct endpoint *server, const struct fid *fid,
			  struct deadline d)
{
	uint8_t first;
	struct read_buf buf = { .ptr = &first, .len = 1 };
	struct client_extent e = { .fid = *fid, .bufs = &buf, .n_bufs = 1, .read_deleted = true };

	client_read(c, server, &e, 1, d);
	return e.gzip;
}

static int source_read_range(void *self, struct server *server, struct needle_range *r,
			     struct deadline d)
{
	struct client *c = self;
	struct client_extent e = { .fid = r->fid,
				   .offset = r->offset,
				   .bufs = r->bufs,
				   .n_bufs = r->n_bufs,
				   .read_deleted = true };
	size_t bytes = 0;

	r->got = 0;
	for (size_t i = 0; i < r->n_bufs; i++)
		bytes += r->bufs[i].len;
	if (bytes == 0)
		return 0;
	client_read(c, &server->addr, &e, 1, d);
	if (e.gzip || (e.err == -ENODATA && is_compressed(c, &server->addr, &r->fid, d))) {
		r->gzip = true;
		return -EMEDIUMTYPE;
	}
	if (!e.err)
		r->plain_bytes = e.needle_bytes;
	r->got = e.got;
	return source_error(c, &e);
}

static int source_read_whole(void *self, struct server *server, const struct fid *fid,
			     const struct needle_sink *sink, struct deadline d)
{
	struct client *c = self;
	struct client_extent e = { .fid = *fid, .sink = sink, .read_deleted = true };

	client_read(c, &server->addr, &e, 1, d);
	return source_error(c, &e);
}

static void source_read_many(void *self, struct server *server, struct needle_item *const *items,
			     size_t n, void (*done)(void *arg, struct needle_item *item), void *arg,
			     struct deadline d)
{
	struct client_extent extents[NEEDLE_ITEMS_MAX];
	struct client *c = self;

	_Static_assert(NEEDLE_ITEMS_MAX <= WIRE_EXTENTS_MAX, "one message is enough");
	if (n == 0)
		return;
	for (size_t i = 0; i < n; i++)
		extents[i] = (struct client_extent){ .fid = items[i]->range.fid,
						     .offset = items[i]->range.offset,
						     .bufs = items[i]->range.bufs,
						     .n_bufs = items[i]->range.n_bufs,
						     .read_deleted = true };
	client_read(c, &server->addr, extents, n, d);
	for (size_t i = 0; i < n; i++) {
		items[i]->range.got = extents[i].got;
		items[i]->err = extents[i].gzip ? -EMEDIUMTYPE : source_error(c, &extents[i]);
		done(arg, items[i]);
	}
}

static struct breaker *source_breaker(struct server *server)
{
	return &server->agent;
}

static struct breaker *rdma_breaker(struct server *server)
{
	return &server->rdma;
}

static const struct source_ops rdma_ops = {
	.name = "rdma",
	.read_range = source_read_range,
	.read_whole = source_read_whole,
	.read_many = source_read_many,
	.breaker = rdma_breaker,
};

static const struct source_ops tcp_ops = {
	.name = "tcp",
	.read_range = source_read_range,
	.read_whole = source_read_whole,
	.read_many = source_read_many,
	.breaker = source_breaker,
};

struct source client_source(struct client *c)
{
	return (struct source){ .ops = c->cfg.directory ? &rdma_ops : &tcp_ops,
				.self = c,
				.per_server = true };
}
