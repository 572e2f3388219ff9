/* The writer: takes blocks from the queue, puts them one behind the other into the open segment, and
 * when their bytes are on their way adds them to its table and to the index. */
#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "cache/blockcache.h"
#include "cache/ssd_impl.h"

#define BATCH_ITEMS 8
#define BATCH_PIECES 128

struct piece {
	struct ssd_record record;
	const uint8_t *ptr;
	struct ssd_io *io;
};

struct writer {
	struct ssd *s;
	struct ssd_ring *ring;
	size_t n_items, n_pieces, n_ios;
	struct ssd_item items[BATCH_ITEMS];
	struct piece pieces[BATCH_PIECES];
	struct ssd_io ios[SSD_RING_DEPTH];
};

/* ---- The queue. */

/* False: the end has come, and nothing is left. */
static bool take_items(struct writer *w)
{
	struct ssd *s = w->s;

	LOCK_SCOPE(&s->lock);
	while (s->queue_n == 0 && !s->stopping)
		pthread_cond_wait(&s->wake, &s->lock);
	for (w->n_items = 0; w->n_items < BATCH_ITEMS && s->queue_n > 0; w->n_items++) {
		w->items[w->n_items] = s->queue[s->queue_first];
		s->queue_first = (s->queue_first + 1) % SSD_QUEUE_MAX;
		s->queue_n--;
	}
	return w->n_items > 0;
}

static void release_items(struct writer *w)
{
	uint64_t bytes = 0;

	for (size_t i = 0; i < w->n_items; i++) {
		bytes += w->items[i].bytes;
		block_unpin(w->items[i].cache, w->items[i].block);
	}
	LOCK_SCOPE(&w->s->lock);
	w->s->queue_bytes -= bytes;
}

/* ---- Writing a batch. */

static void on_stall(void *arg)
{
	ssd_fail(arg, "write", -ETIMEDOUT);
}

/* A full disk is no failure: what is there stays good. */
static void note_error(struct ssd *s, int err)
{
	if (err == -ENOSPC || err == -EDQUOT || err == -EFBIG) {
		s->open.page = (uint32_t)SSD_SEGMENT_PAGES;
		s->refuse_bytes = SSD_SEGMENT_BYTES;
	} else {
		ssd_fail(s, "write", err);
	}
}

static void make_ios(struct writer *w, size_t first)
{
	w->n_ios = 0;
	for (size_t i = first; i < w->n_pieces; i++) {
		struct piece *p = &w->pieces[i];
		struct ssd_io *last = w->n_ios ? &w->ios[w->n_ios - 1] : NULL;
		uint64_t offset = ssd_data_offset(w->s->open.segment, p->record.page);
		size_t bytes = ssd_pages(p->record.bytes) * SSD_PAGE_BYTES;

		if (last && last->offset + last->bytes == offset &&
		    last->ptr + last->bytes == p->ptr) {
			last->bytes += bytes;
		} else if (w->n_ios < SSD_RING_DEPTH) {
			last = &w->ios[w->n_ios++];
			*last = (struct ssd_io){ .offset = offset,
						 .ptr = (uint8_t *)p->ptr,
						 .bytes = bytes,
						 .write = true };
		} else {
			return;
		}
		p->io = last;
	}
}

static bool was_written(struct ssd *s, const struct piece *p)
{
	if (p->io->result == (int)p->io->bytes)
		return true;
	note_error(s, p->io->result < 0 ? p->io->result : -ENOSPC);
	return false;
}

/* The table first, so that the index knows nothing that a later mount does not. */
static int write_records(struct ssd *s, uint32_t first)
{
	size_t from = (first + 1) * SSD_RECORD_BYTES;
	size_t bytes = (s->open.n_records - first) * SSD_RECORD_BYTES;
	ssize_t n = pwrite(s->dir.index_fd, s->table + from, bytes,
			   (off_t)(ssd_table_offset(s->open.segment) + from));

	if (n < 0)
		return -errno;
	return (size_t)n == bytes ? 0 : -ENOSPC;
}

static void commit(struct writer *w)
{
	struct ssd *s = w->s;
	uint32_t first = s->open.n_records;

	for (size_t i = 0; i < w->n_pieces; i++) {
		const struct piece *p = &w->pieces[i];

		if (!p->io)
			continue;
		ssd_record_encode(&p->record, s->open.segment, s->open.generation,
				  s->table + (s->open.n_records + 1) * SSD_RECORD_BYTES);
		s->open.n_records++;
		ssd_count(&s->stats.bytes_written, p->record.bytes);
	}
	if (s->open.n_records == first)
		return;
	int err = write_records(s, first);
	if (err)
		note_error(s, err);
	LOCK_SCOPE(&s->lock);
	for (size_t i = 0; i < w->n_pieces; i++)
		if (w->pieces[i].io)
			ssd_index_add(s->index, s->open.segment, &w->pieces[i].record);
}

/* All pieces of a batch lie in the open segment. */
static void flush(struct writer *w)
{
	size_t done = 0;

	while (done < w->n_pieces) {
		make_ios(w, done);
		ssd_ring_run(w->ring, w->ios, w->n_ios, on_stall, w->s);
		for (; done < w->n_pieces && w->pieces[done].io; done++)
			if (!was_written(w->s, &w->pieces[done]))
				w->pieces[done].io = NULL;
	}
	commit(w);
	w->n_pieces = 0;
}

/* ---- Segments. */

/* One that has no room on the disk yet; SSD_NO_SEGMENT: there is none, or no room for it. */
static uint32_t take_fresh(struct ssd *s)
{
	uint32_t segment = SSD_NO_SEGMENT;
	{
		LOCK_SCOPE(&s->lock);
		if (ssd_index_has_room(s->index))
			segment = ssd_index_take(s->index, true);
	}
	if (segment == SSD_NO_SEGMENT)
		return segment;
	int err = ssd_dir_reserve(&s->dir, segment, true);
	if (!err)
		return segment;
	if (err != -ENOSPC)
		ssd_fail(s, "write", err);
	LOCK_SCOPE(&s->lock);
	ssd_index_give_back(s->index, segment);
	return SSD_NO_SEGMENT;
}

/* Without its head a restart does not take the hole for blocks. Where not even that can be written the
 * checksums find out. */
static void release_segment(struct ssd *s, uint32_t segment)
{
	static const uint8_t no_head[SSD_RECORD_BYTES];

	(void)!pwrite(s->dir.index_fd, no_head, sizeof(no_head), (off_t)ssd_table_offset(segment));
	ssd_dir_release(&s->dir, segment);
}

/* In place of one that nobody reads. Where others have filled the disk, that one goes back to it. */
static uint32_t take_used(struct ssd *s)
{
	uint32_t segment;
	{
		LOCK_SCOPE(&s->lock);
		segment = ssd_index_take(s->index, false);
	}
	if (segment == SSD_NO_SEGMENT)
		return segment;
	bool is_short = ssd_dir_is_short(&s->dir);
	int err = is_short ? 0 : ssd_dir_reserve(&s->dir, segment, false);
	if (!is_short && !err)
		return segment;
	if (err)
		ssd_fail(s, "write", err);
	else
		release_segment(s, segment);
	LOCK_SCOPE(&s->lock);
	ssd_index_give_back(s->index, segment);
	return SSD_NO_SEGMENT;
}

/* Whoever comes when there is no room for the first time was not asked to come twice yet. */
static uint32_t take_segment(struct ssd *s)
{
	uint32_t segment = take_fresh(s);
	bool was_full;
	{
		LOCK_SCOPE(&s->lock);
		was_full = s->full;
		s->full = segment == SSD_NO_SEGMENT;
	}
	if (segment == SSD_NO_SEGMENT && was_full)
		segment = take_used(s);
	return segment;
}

static void close_segment(struct ssd *s)
{
	if (s->open.segment == SSD_NO_SEGMENT)
		return;
	LOCK_SCOPE(&s->lock);
	ssd_index_seal(s->index, s->open.segment);
	s->open.segment = SSD_NO_SEGMENT;
}

/* From here on what the table held before is not valid. */
static int begin_table(struct ssd *s)
{
	memset(s->table, 0, SSD_TABLE_BYTES);
	ssd_head_encode(s->open.segment, s->open.generation, s->table);
	ssize_t n = pwrite(s->dir.index_fd, s->table, SSD_RECORD_BYTES,
			   (off_t)ssd_table_offset(s->open.segment));

	if (n < 0)
		return -errno;
	return n == SSD_RECORD_BYTES ? 0 : -ENOSPC;
}

static bool open_segment(struct ssd *s)
{
	uint32_t segment = take_segment(s);

	if (segment == SSD_NO_SEGMENT) {
		s->refuse_bytes = SSD_SEGMENT_BYTES;
		return false;
	}
	s->open = (struct ssd_open_segment){ .segment = segment, .generation = ++s->generation };
	int err = begin_table(s);
	if (err) {
		note_error(s, err);
		close_segment(s);
	}
	return !err;
}

static bool fits(const struct ssd *s, uint32_t bytes)
{
	return s->open.segment != SSD_NO_SEGMENT && s->open.n_records < SSD_RECORDS_MAX &&
	       s->open.page + ssd_pages(bytes) <= SSD_SEGMENT_PAGES;
}

/* ---- From items to pieces. */

/* False: refused. */
static bool make_room(struct writer *w, uint32_t bytes)
{
	struct ssd *s = w->s;

	if (ssd_is_off(s))
		return false;
	if (s->refuse_bytes > 0) {
		s->refuse_bytes -= min_u64(s->refuse_bytes, bytes);
		ssd_count(&s->stats.refused, 1);
		return false;
	}
	if (w->n_pieces == BATCH_PIECES || s->open.n_records + w->n_pieces >= SSD_RECORDS_MAX)
		flush(w);
	if (fits(s, bytes))
		return true;
	flush(w);
	close_segment(s);
	return open_segment(s);
}

static void add_piece(struct writer *w, const struct ssd_item *item, uint32_t i)
{
	struct ssd *s = w->s;
	uint32_t at = (uint32_t)(i * SSD_BLOCK_BYTES);
	struct piece p = {
		.record = { .key = { .id = item->id, .index = item->index + i },
			    .bytes = (uint32_t)min_u64(SSD_BLOCK_BYTES, item->bytes - at) },
		.ptr = item->ptr + at,
	};

	if (!make_room(w, p.record.bytes))
		return;
	p.record.page = s->open.page;
	s->open.page += ssd_pages(p.record.bytes);
	for (uint32_t unit = 0; unit < ssd_units(p.record.bytes); unit++) {
		uint32_t from = (uint32_t)(unit * SSD_UNIT_BYTES);

		p.record.crc[unit] = ssd_unit_crc(&p.record.key, unit, p.ptr + from,
						  min_u64(SSD_UNIT_BYTES, p.record.bytes - from));
	}
	w->pieces[w->n_pieces++] = p;
}

static void write_batch(struct writer *w)
{
	for (size_t i = 0; i < w->n_items; i++)
		for (uint32_t b = 0; b < SSD_ITEM_BLOCKS_MAX; b++)
			if (w->items[i].wanted & 1u << b)
				add_piece(w, &w->items[i], b);
	flush(w);
}

/* Without a ring nothing is written, which is no reason to stop reading. */
void *ssd_writer(void *ssd)
{
	struct ssd *s = ssd;
	struct writer w = { .s = s };

	if (ssd_ring_new(s->dir.data_fd, !s->cfg.no_uring, &w.ring))
		ssd_fail(s, "write", -ENOMEM);
	while (take_items(&w)) {
		if (!ssd_is_off(s))
			write_batch(&w);
		release_items(&w);
	}
	close_segment(s);
	ssd_ring_free(w.ring);
	return NULL;
}
