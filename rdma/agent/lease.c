#include "rdma/agent/lease.h"

#include <errno.h>
#include <stdlib.h>

uint64_t lease_begin(struct leases *l, const struct staged *s, int64_t until_ms)
{
	if (!l->table)
		l->table = calloc(LEASES_MAX, sizeof(*l->table));
	if (!l->table || l->n == LEASES_MAX)
		return 0;
	struct lease *free_one = l->table;
	while (free_one->id)
		free_one++;
	*free_one = (struct lease){ .id = ++l->last_id, .until_ms = until_ms, .staged = *s };
	l->n++;
	return free_one->id;
}

static void take_out(struct leases *l, struct lease *lease, struct staged *ret)
{
	*ret = lease->staged;
	lease->id = 0;
	l->n--;
}

int lease_end(struct leases *l, uint64_t id, struct staged *ret)
{
	for (size_t i = 0; id && l->n && i < LEASES_MAX; i++) {
		if (l->table[i].id == id) {
			take_out(l, &l->table[i], ret);
			return 0;
		}
	}
	return -ENOENT;
}

int lease_expire(struct leases *l, int64_t now, struct staged *ret)
{
	for (size_t i = 0; l->n && i < LEASES_MAX; i++) {
		if (l->table[i].id && l->table[i].until_ms <= now) {
			take_out(l, &l->table[i], ret);
			return 0;
		}
	}
	return -ENOENT;
}

void leases_free(struct leases *l)
{
	free(l->table);
	l->table = NULL;
}
