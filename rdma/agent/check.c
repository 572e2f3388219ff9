/* Thread model: the list of checks, with who follows whom, is under the checker's lock. Everything else
 * of a check belongs to its disk's thread. */
#include "rdma/agent/check.h"

#include <errno.h>
#include <stdlib.h>
#include <utlist.h>

#include "filer/base/base.h"
#include "filer/base/crc32c.h"

void checker_init(struct checker *k)
{
	pthread_mutex_init(&k->lock, NULL);
	k->checks = NULL;
}

static bool same_needle(const struct check *a, const struct check *b)
{
	return a->disk == b->disk && a->place->volume == b->place->volume &&
	       a->place->record_offset == b->place->record_offset;
}

/* The oldest that waits for this disk, if it may run now, which it then does; NULL: none. */
static struct check *next_to_run(struct checker *k, const struct disk *disk)
{
	struct check *c, *waiting = NULL;
	unsigned running = 0;
	LOCK_SCOPE(&k->lock);

	LL_FOREACH2(k->checks, c, next_)
	{
		if (c->disk != disk)
			continue;
		running += c->buf_ != NULL;
		if (!c->buf_ && !waiting)
			waiting = c;
	}
	if (!waiting || running >= CHECKS_RUNNING_MAX)
		return NULL;
	waiting->buf_ = malloc(CHECK_STEP_BYTES);
	if (!waiting->buf_)
		waiting->read->result = -ENOMEM;
	return waiting;
}

/* Tells everybody, who may then be gone. */
static void finish(struct checker *k, struct check *c)
{
	int err = c->read->result;
	bool sound = crc32c_matches(c->info->crc32c, c->crc_);
	enum needle_check found = sound ? NEEDLE_SOUND : NEEDLE_CORRUPT;

	pthread_mutex_lock(&k->lock);
	LL_DELETE2(k->checks, c, next_);
	pthread_mutex_unlock(&k->lock);
	free(c->buf_);
	while (c) {
		struct check *next = c->followers_;

		c->done(c, err, found);
		c = next;
	}
}

/* What was read is summed up. */
static void take_step(struct check *c)
{
	if (c->read->result)
		return;
	c->crc_ = crc32c(c->crc_, c->buf_, c->read->bytes);
	c->at_ += c->read->bytes;
	c->turn_bytes_ += c->read->bytes;
}

/* One step, or a pause for others. Returns false where it is over later. */
static bool step(struct check *c)
{
	uint64_t left = c->info->data_bytes - c->at_;

	c->read->fd = c->place->fd;
	c->read->offset = c->info->data_offset + c->at_;
	c->read->buf = c->buf_;
	c->read->bytes = min_u64(left, CHECK_STEP_BYTES);
	if (c->turn_bytes_ >= CHECK_TURN_BYTES) {
		c->turn_bytes_ = 0;
		c->read->bytes = 0;
		return disk_pause(c->disk, c->read);
	}
	return disk_read(c->disk, c->read);
}

/* By itself or by one that follows: all of them are of this thread. */
static bool is_wanted(const struct check *c)
{
	while (c && !c->wanted(c))
		c = c->followers_;
	return c != NULL;
}

static bool is_over(struct check *c)
{
	if (!c->read->result && c->at_ < c->info->data_bytes && !is_wanted(c))
		c->read->result = -ECANCELED;
	return c->read->result || c->at_ == c->info->data_bytes;
}

/* From where nothing is under way for c. */
static void work(struct checker *k, struct check *c)
{
	struct disk *disk = c->disk;

	while (c) {
		if (is_over(c)) {
			finish(k, c);
			c = next_to_run(k, disk);
		} else if (step(c)) {
			take_step(c);
		} else {
			return;
		}
	}
}

static void step_done(struct disk_read *r)
{
	struct check *c = r->arg;

	take_step(c);
	work(c->checker_, c);
}

/* True: another one looks at that needle already, and will tell. */
static bool follow(struct checker *k, struct check *c)
{
	struct check *first;
	unsigned n = 0;
	LOCK_SCOPE(&k->lock);

	LL_FOREACH2(k->checks, first, next_)
	{
		n++;
		if (!same_needle(first, c))
			continue;
		c->followers_ = first->followers_;
		first->followers_ = c;
		return true;
	}
	LL_APPEND2(k->checks, c, next_);
	if (n >= CHECKS_MAX)
		c->read->result = -ENOBUFS;
	return false;
}

void check_start(struct checker *k, struct check *c)
{
	c->checker_ = k;
	c->buf_ = NULL;
	c->at_ = c->turn_bytes_ = 0;
	c->crc_ = 0;
	*c->read = (struct disk_read){ .done = step_done, .arg = c };
	c->next_ = c->followers_ = NULL;
	if (follow(k, c))
		return;
	if (!c->read->result)
		c = next_to_run(k, c->disk);
	if (c)
		work(k, c);
}
