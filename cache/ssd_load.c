/* At start: from the tables on disk to the index. Whatever is not right is left out. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cache/ssd_impl.h"

/* What is read of a table first; few have more. */
#define FIRST_READ_BYTES (SSD_TABLE_BYTES / 8)

/* Reads what is there of [offset, offset + bytes); the rest is zeros. */
static int read_at(int fd, uint64_t offset, uint8_t *p, size_t bytes)
{
	ssize_t got = pread_up_to(fd, p, bytes, offset);

	if (got < 0)
		return (int)got;
	memset(p + got, 0, bytes - (size_t)got);
	return 0;
}

static int make_new(struct ssd *s)
{
	uint8_t page[SSD_SUPER_BYTES];

	ssd_super_encode(&s->cfg.cluster, page);
	if (ftruncate(s->dir.index_fd, 0) < 0 || ftruncate(s->dir.data_fd, 0) < 0)
		return -errno;
	ssize_t n = pwrite(s->dir.index_fd, page, sizeof(page), 0);
	if (n < 0)
		return -errno;
	return (size_t)n == sizeof(page) ? 0 : -ENOSPC;
}

struct table {
	uint8_t *p; /* SSD_TABLE_BYTES */
	size_t there; /* bytes of it that were read */
	uint32_t segment;
	uint64_t generation; /* 0: the segment was never used */
	uint32_t n; /* records that are right */
	uint32_t page; /* behind the last one's bytes */
};

static int table_need(struct ssd *s, struct table *t, size_t bytes)
{
	if (bytes <= t->there)
		return 0;
	bytes = bytes <= FIRST_READ_BYTES ? FIRST_READ_BYTES : SSD_TABLE_BYTES;
	int err = read_at(s->dir.index_fd, ssd_table_offset(t->segment) + t->there, t->p + t->there,
			  bytes - t->there);
	if (!err)
		t->there = bytes;
	return err;
}

/* Up to the first record that is not right: they were written in order, and blocks one behind the
 * other. */
static int load_records(struct ssd *s, struct table *t)
{
	struct ssd_record r;

	for (; t->n < SSD_RECORDS_MAX; t->n++) {
		size_t at = (t->n + 1) * SSD_RECORD_BYTES;
		int err = table_need(s, t, at + SSD_RECORD_BYTES);

		if (err)
			return err;
		if (ssd_record_decode(t->p + at, t->segment, t->generation, &r) || r.page < t->page)
			return 0;
		t->page = r.page + ssd_pages(r.bytes);
		ssd_index_add(s->index, t->segment, &r);
	}
	return 0;
}

static int load_table(struct ssd *s, struct table *t)
{
	int err = table_need(s, t, SSD_RECORD_BYTES);

	if (err)
		return err;
	if (ssd_head_decode(t->p, t->segment, &t->generation)) {
		t->generation = 0;
		return 0;
	}
	ssd_index_load(s->index, t->segment);
	err = load_records(s, t);
	ssd_index_seal(s->index, t->segment);
	return err;
}

/* The writer goes on where the last one was. */
static void resume(struct ssd *s, const struct table *t)
{
	s->generation = t->generation;
	s->open = (struct ssd_open_segment){ .segment = t->segment,
					     .generation = t->generation,
					     .page = t->page,
					     .n_records = t->n };
	memcpy(s->table, t->p, t->there);
	memset(s->table + t->there, 0, SSD_TABLE_BYTES - t->there);
	ssd_index_set_hand(s->index, t->segment + 1);
}

static int load_tables(struct ssd *s)
{
	CLEANUP_FREE uint8_t *p = malloc(SSD_TABLE_BYTES);

	if (!p)
		return -ENOMEM;
	for (uint32_t i = 0; i < s->n_segments; i++) {
		struct table t = { .p = p, .segment = i };
		int err = load_table(s, &t);

		if (err)
			return err;
		if (t.generation > s->generation)
			resume(s, &t);
	}
	if (s->open.segment != SSD_NO_SEGMENT)
		ssd_index_load(s->index, s->open.segment);
	return 0;
}

int ssd_load(struct ssd *s)
{
	uint8_t page[SSD_SUPER_BYTES];
	int err = read_at(s->dir.index_fd, 0, page, sizeof(page));

	if (err)
		return err;
	if (ssd_super_decode(page, &s->cfg.cluster))
		return make_new(s);
	err = ssd_dir_trim(&s->dir, s->n_segments);
	return err ? err : load_tables(s);
}
