#include "rdma/verbs_memory.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <utlist.h>

#include "filer/base/base.h"
#include "rdma/verbs.h"
#include "rdma/verbs_watch.h"

struct region {
	uint8_t *base; /* NULL: none */
	size_t bytes;
};

struct memory_device {
	struct memory_device *next; /* utlist */
	struct ibv_context *ctx; /* immutable, as pd and mrs */
	struct ibv_pd *pd;
	struct ibv_mr *mrs[VERBS_REGIONS_MAX];
	unsigned users;
};

/* Protects all of it, but for what is immutable; innermost. */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct region regions[VERBS_REGIONS_MAX]; /* by handle - 1; set once */
static struct memory_device *devices;

static atomic_uint_fast64_t registrations; /* of single buffers */

int verbs_region_add(uint32_t region, void *base, size_t bytes)
{
	LOCK_SCOPE(&lock);

	if (region == MEM_UNREGISTERED || region > VERBS_REGIONS_MAX || !base || !bytes)
		return -EINVAL;
	if (regions[region - 1].base)
		return -EEXIST;
	regions[region - 1] = (struct region){ .base = base, .bytes = bytes };
	return 0;
}

static void device_close(struct memory_device *m)
{
	LL_DELETE(devices, m);
	for (size_t i = 0; i < VERBS_REGIONS_MAX; i++)
		if (m->mrs[i])
			ibv_dereg_mr(m->mrs[i]);
	if (m->pd)
		ibv_dealloc_pd(m->pd);
	free(m);
}

/* With the lock. */
static int device_open(struct ibv_context *ctx, struct memory_device **ret)
{
	struct memory_device *m = calloc(1, sizeof(*m));
	int err = 0;

	if (!m)
		return -ENOMEM;
	m->ctx = ctx;
	LL_PREPEND(devices, m);
	m->pd = ibv_alloc_pd(ctx);
	if (!m->pd)
		err = -errno;
	for (size_t i = 0; i < VERBS_REGIONS_MAX && !err; i++) {
		if (!regions[i].base)
			continue;
		m->mrs[i] = ibv_reg_mr(m->pd, regions[i].base, regions[i].bytes,
				       IBV_ACCESS_LOCAL_WRITE | IBV_ACCESS_RELAXED_ORDERING);
		if (!m->mrs[i])
			err = -errno;
	}
	if (err) {
		device_close(m);
		return err;
	}
	*ret = m;
	return 0;
}

int memory_device_get(struct ibv_context *ctx, struct memory_device **ret)
{
	struct memory_device *m;

	LOCK_SCOPE(&lock);
	LL_SEARCH_SCALAR(devices, m, ctx, ctx);
	if (!m) {
		int err = device_open(ctx, &m);
		if (err)
			return err;
	}
	m->users++;
	*ret = m;
	return 0;
}

void memory_device_put(struct memory_device *m)
{
	if (!m)
		return;
	LOCK_SCOPE(&lock);
	m->users--;
}

void memory_forget(const struct ibv_context *ctx)
{
	struct memory_device *m;

	LOCK_SCOPE(&lock);
	LL_SEARCH_SCALAR(devices, m, ctx, ctx);
	if (m && m->users == 0)
		device_close(m);
}

struct ibv_pd *memory_device_pd(const struct memory_device *m)
{
	return m->pd;
}

int memory_device_key(const struct memory_device *m, const struct read_buf *b, uint32_t *ret_key,
		      struct ibv_mr **ret_own)
{
	if (b->region != MEM_UNREGISTERED && b->region <= VERBS_REGIONS_MAX) {
		const struct region *r = &regions[b->region - 1];
		struct ibv_mr *mr = m->mrs[b->region - 1];

		if (mr && b->ptr >= r->base && b->len <= r->bytes &&
		    (size_t)(b->ptr - r->base) <= r->bytes - b->len) {
			*ret_key = mr->lkey;
			*ret_own = NULL;
			return 0;
		}
	}
	*ret_own = ibv_reg_mr(m->pd, b->ptr, b->len, IBV_ACCESS_LOCAL_WRITE);
	if (!*ret_own)
		return -errno;
	atomic_fetch_add_explicit(&registrations, 1, memory_order_relaxed);
	*ret_key = (*ret_own)->lkey;
	return 0;
}

uint64_t verbs_registrations(void)
{
	return atomic_load_explicit(&registrations, memory_order_relaxed);
}

void verbs_release(void)
{
	pthread_mutex_lock(&lock);
	while (devices)
		device_close(devices);
	for (size_t i = 0; i < VERBS_REGIONS_MAX; i++)
		regions[i].base = NULL;
	pthread_mutex_unlock(&lock);
	watch_close();
}
