/* Thread model: a stream's pages are protected by the stream's lock. Prefetcher threads take jobs
 * from a queue under the prefetcher's lock, fetch without any lock, and publish the page under the
 * stream's lock. A stream is freed by whoever drops the last of its two possible holders: the open
 * directory and a prefetch under way. Those that are still open when the prefetcher goes, go with it. */
#include "fs/dir.h"

#include <errno.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <utlist.h>

#include "filer/entry.h"
#include "filer/filer.h"
#include "filer/watch.h"

/* A first page is small, so that a listing of any size starts at once. */
#define FIRST_PAGE_ENTRIES 128
/* A page ends early where its entries (long chunk lists) take more than that. */
#define PAGE_BYTES_MAX ((size_t)8 << 20)

struct name_entry {
	char *name;
	struct entry *entry; /* NULL: what the filer says of it cannot be decoded */
};

struct page {
	uint64_t first; /* position of names[0] */
	int64_t mark; /* watch_mark() from before it was asked for */
	size_t n, cap;
	size_t bytes;
	unsigned limit;
	bool more; /* names may follow the last one */
	int err; /* the page ends with this failure */
	struct name_entry names[];
};

/* The page at position `first` starts after this name. */
struct checkpoint {
	uint64_t first;
	char *after;
};

enum next_state {
	NEXT_NONE,
	NEXT_FETCHING, /* queued or under way */
	NEXT_READY,
};

struct dir_stream {
	struct dir_prefetcher *prefetcher; /* immutable */
	char *path; /* immutable */

	/* Taken by dir_lock() for the length of a reply; protects the pages and checkpoints.
	 * Before prefetcher->lock. */
	pthread_mutex_t lock;
	pthread_cond_t next_done; /* with lock: next_state left FETCHING */
	struct page *page;
	struct page *next;
	enum next_state next_state;
	struct checkpoint *checkpoints; /* ascending by first */
	size_t n_checkpoints, cap_checkpoints;
	bool closed; /* the directory was closed while a prefetch was under way */

	/* The prefetch that is queued: where it starts. */
	char *next_after;
	uint64_t next_first;
	struct dir_stream *queue_link; /* protected by prefetcher->lock */
	struct dir_stream *open_prev, *open_next; /* likewise */
};

struct dir_prefetcher {
	/* Immutable. */
	struct filer *filer;
	struct watch *watch; /* may be NULL */
	unsigned page_entries;
	unsigned timeout_ms;
	unsigned n_threads;

	pthread_mutex_t lock; /* protects the queue and the list */
	pthread_cond_t work;
	struct dir_stream *head, *tail;
	struct dir_stream *open; /* utlist of all open directories */
	bool stop;
	pthread_t threads[];
};

static void page_free(struct page *p)
{
	if (!p)
		return;
	for (size_t i = 0; i < p->n; i++) {
		free(p->names[i].name);
		entry_put(p->names[i].entry);
	}
	free(p);
}

static int page_add(void *arg, const char *name, struct entry *e)
{
	struct page *p = arg;

	if (p->n == p->cap || p->bytes > PAGE_BYTES_MAX) {
		entry_put(e);
		p->more = true;
		return -ECANCELED;
	}
	char *copy = strdup(name);
	if (!copy) {
		entry_put(e);
		return -ENOMEM;
	}
	p->names[p->n++] = (struct name_entry){ .name = copy, .entry = e };
	p->bytes += strlen(name) + (e ? entry_memory_bytes(e) : 0);
	return 0;
}

/* Never NULL but for want of memory: a failure is part of the page, after the names that came. */
static struct page *page_fetch(struct dir_prefetcher *p, const char *path, const char *after,
			       uint64_t first)
{
	unsigned limit = first == DIR_POSITION_FIRST && p->page_entries > FIRST_PAGE_ENTRIES
				 ? FIRST_PAGE_ENTRIES
				 : p->page_entries;
	struct page *page = calloc(1, sizeof(*page) + limit * sizeof(page->names[0]));
	bool more = false;

	if (!page)
		return NULL;
	page->first = first;
	page->cap = limit;
	page->mark = watch_mark(p->watch);
	page->err = filer_list(p->filer, path, after, limit, deadline_in_ms(p->timeout_ms),
			       page_add, page, &more);
	if (page->err == -ECANCELED)
		page->err = 0;
	else if (!page->err)
		page->more = more;
	return page;
}

static void stream_free(struct dir_stream *d)
{
	page_free(d->page);
	page_free(d->next);
	for (size_t i = 0; i < d->n_checkpoints; i++)
		free(d->checkpoints[i].after);
	free(d->checkpoints);
	free(d->next_after);
	pthread_cond_destroy(&d->next_done);
	pthread_mutex_destroy(&d->lock);
	free(d->path);
	free(d);
}

/* stopping: it is given back, and nothing is asked for any more. */
static void prefetch_one(struct dir_prefetcher *p, struct dir_stream *d, bool stopping)
{
	struct page *page = stopping ? NULL : page_fetch(p, d->path, d->next_after, d->next_first);
	bool closed;

	{
		LOCK_SCOPE(&d->lock);
		d->next = page;
		d->next_state = page ? NEXT_READY : NEXT_NONE;
		closed = d->closed;
		pthread_cond_broadcast(&d->next_done);
	}
	if (closed)
		stream_free(d);
}

static void *prefetch_thread(void *arg)
{
	struct dir_prefetcher *p = arg;

	for (;;) {
		pthread_mutex_lock(&p->lock);
		while (!p->head && !p->stop)
			pthread_cond_wait(&p->work, &p->lock);
		struct dir_stream *d = p->head;
		bool stopping = p->stop;
		if (d) {
			p->head = d->queue_link;
			if (!p->head)
				p->tail = NULL;
		}
		pthread_mutex_unlock(&p->lock);
		if (!d)
			return NULL;
		prefetch_one(p, d, stopping);
	}
}

static void stop_threads(struct dir_prefetcher *p)
{
	{
		LOCK_SCOPE(&p->lock);
		p->stop = true;
		pthread_cond_broadcast(&p->work);
	}
	for (unsigned i = 0; i < p->n_threads; i++)
		pthread_join(p->threads[i], NULL);
}

int dir_prefetcher_new(struct filer *filer, struct watch *watch, unsigned threads,
		       unsigned page_entries, unsigned timeout_ms, struct dir_prefetcher **ret)
{
	struct dir_prefetcher *p = calloc(1, sizeof(*p) + threads * sizeof(p->threads[0]));
	int err = -ENOMEM;

	if (!p)
		return err;
	p->filer = filer;
	p->watch = watch;
	p->page_entries = page_entries;
	p->timeout_ms = timeout_ms;
	err = -pthread_mutex_init(&p->lock, NULL);
	if (err)
		goto free_prefetcher;
	err = cond_init_monotonic(&p->work);
	if (err)
		goto destroy_lock;
	for (; p->n_threads < threads; p->n_threads++) {
		err = -pthread_create(&p->threads[p->n_threads], NULL, prefetch_thread, p);
		if (err)
			goto stop_threads;
	}
	*ret = p;
	return 0;

stop_threads:
	stop_threads(p);
	pthread_cond_destroy(&p->work);
destroy_lock:
	pthread_mutex_destroy(&p->lock);
free_prefetcher:
	free(p);
	return err;
}

void dir_prefetcher_free(struct dir_prefetcher *p)
{
	if (!p)
		return;
	stop_threads(p);
	while (p->open)
		dir_close(p->open);
	pthread_cond_destroy(&p->work);
	pthread_mutex_destroy(&p->lock);
	free(p);
}

int dir_open(struct dir_prefetcher *p, const char *path, struct dir_stream **ret)
{
	struct dir_stream *d = calloc(1, sizeof(*d));
	int err = -ENOMEM;

	if (!d)
		return err;
	d->prefetcher = p;
	d->path = strdup(path);
	if (!d->path)
		goto free_stream;
	err = -pthread_mutex_init(&d->lock, NULL);
	if (err)
		goto free_path;
	err = cond_init_monotonic(&d->next_done);
	if (err)
		goto destroy_lock;
	{
		LOCK_SCOPE(&p->lock);
		DL_APPEND2(p->open, d, open_prev, open_next);
	}
	*ret = d;
	return 0;

destroy_lock:
	pthread_mutex_destroy(&d->lock);
free_path:
	free(d->path);
free_stream:
	free(d);
	return err;
}

void dir_close(struct dir_stream *d)
{
	struct dir_prefetcher *p = d->prefetcher;
	bool fetching;

	{
		LOCK_SCOPE(&p->lock);
		DL_DELETE2(p->open, d, open_prev, open_next);
	}
	{
		LOCK_SCOPE(&d->lock);
		fetching = d->next_state == NEXT_FETCHING;
		d->closed = true;
	}
	if (!fetching)
		stream_free(d);
}

void dir_lock(struct dir_stream *d)
{
	if (pthread_mutex_lock(&d->lock))
		abort();
}

void dir_unlock(struct dir_stream *d)
{
	if (pthread_mutex_unlock(&d->lock))
		abort();
}

/* Names after the page's last one start here. NULL where the page is empty. */
static const char *last_name(const struct page *p)
{
	return p->n ? p->names[p->n - 1].name : NULL;
}

static int remember(struct dir_stream *d, uint64_t first, const char *after)
{
	if (d->n_checkpoints && d->checkpoints[d->n_checkpoints - 1].first >= first)
		return 0;
	if (d->n_checkpoints == d->cap_checkpoints) {
		size_t cap = d->cap_checkpoints ? 2 * d->cap_checkpoints : 16;
		void *grown = realloc(d->checkpoints, cap * sizeof(d->checkpoints[0]));

		if (!grown)
			return -ENOMEM;
		d->checkpoints = grown;
		d->cap_checkpoints = cap;
	}
	char *copy = strdup(after);
	if (!copy)
		return -ENOMEM;
	d->checkpoints[d->n_checkpoints++] = (struct checkpoint){ .first = first, .after = copy };
	return 0;
}

static void wait_for_prefetch(struct dir_stream *d)
{
	while (d->next_state == NEXT_FETCHING)
		pthread_cond_wait(&d->next_done, &d->lock);
}

/* Best effort: without it the next page is fetched when it is asked for. */
static void start_prefetch(struct dir_stream *d)
{
	struct dir_prefetcher *p = d->prefetcher;
	const char *after = last_name(d->page);

	if (!after || !d->page->more || d->page->err || d->next_state != NEXT_NONE)
		return;
	char *copy = strdup(after);
	if (!copy)
		return;
	free(d->next_after);
	d->next_after = copy;
	d->next_first = d->page->first + d->page->n;
	d->next_state = NEXT_FETCHING;
	LOCK_SCOPE(&p->lock);
	d->queue_link = NULL;
	if (p->tail)
		p->tail->queue_link = d;
	else
		p->head = d;
	p->tail = d;
	pthread_cond_signal(&p->work);
}

static void drop_next(struct dir_stream *d)
{
	wait_for_prefetch(d);
	page_free(d->next);
	d->next = NULL;
	d->next_state = NEXT_NONE;
}

static int take_page(struct dir_stream *d, struct page *page)
{
	if (!page)
		return -ENOMEM;
	page_free(d->page);
	d->page = page;
	start_prefetch(d);
	return 0;
}

/* Moves from the present page to the one after it. */
static int advance(struct dir_stream *d)
{
	uint64_t first = d->page->first + d->page->n;
	const char *after = last_name(d->page);
	int err = remember(d, first, after);

	if (err)
		return err;
	wait_for_prefetch(d);
	if (d->next_state == NEXT_READY) {
		struct page *page = d->next;

		d->next = NULL;
		d->next_state = NEXT_NONE;
		return take_page(d, page);
	}
	return take_page(d, page_fetch(d->prefetcher, d->path, after, first));
}

/* Goes to the last page known to start at or before the position. */
static int jump(struct dir_stream *d, uint64_t position)
{
	uint64_t first = DIR_POSITION_FIRST;
	const char *after = "";

	drop_next(d);
	for (size_t i = 0; i < d->n_checkpoints && d->checkpoints[i].first <= position; i++) {
		first = d->checkpoints[i].first;
		after = d->checkpoints[i].after;
	}
	return take_page(d, page_fetch(d->prefetcher, d->path, after, first));
}

static const char *name_before_page(const struct dir_stream *d)
{
	for (size_t i = d->n_checkpoints; i > 0; i--)
		if (d->checkpoints[i - 1].first == d->page->first)
			return d->checkpoints[i - 1].after;
	return NULL;
}

void dir_rewind(struct dir_stream *d)
{
	drop_next(d);
	page_free(d->page);
	d->page = NULL;
}

void dir_failure_told(struct dir_stream *d)
{
	if (d->page && d->page->err)
		dir_rewind(d);
}

int dir_at(struct dir_stream *d, uint64_t position, struct dir_name *ret)
{
	int err = 0;

	if (!d->page || position < d->page->first)
		err = jump(d, position);
	while (!err && position >= d->page->first + d->page->n) {
		if (d->page->err)
			return d->page->err;
		if (!d->page->more || !d->page->n)
			return 0;
		err = advance(d);
	}
	if (err)
		return err;
	size_t index = position - d->page->first;
	const struct name_entry *found = &d->page->names[index];
	*ret = (struct dir_name){
		.name = found->name,
		.entry = found->entry,
		.mark = d->page->mark,
		.after = index ? found[-1].name : name_before_page(d),
	};
	return 1;
}
