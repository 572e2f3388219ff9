/* Open directories: a listing streamed in pages, the next page fetched while the kernel reads this
 * one, seekable, in bounded memory.
 *
 * A position is 0 for ".", 1 for "..", then the number of names before it. Positions of pages already
 * passed are remembered by the name before them, so that seeking back costs one request. */
#ifndef KELP_DIR_H
#define KELP_DIR_H

#include <stddef.h>
#include <stdint.h>

#include "filer/base/base.h"

struct dir_prefetcher;
struct dir_stream;
struct entry;
struct filer;
struct watch;

/* threads: those that fetch next pages. watch may be NULL; both outlive the prefetcher. */
int dir_prefetcher_new(struct filer *filer, struct watch *watch, unsigned threads,
		       unsigned page_entries, unsigned timeout_ms, struct dir_prefetcher **ret);
/* Closes what is still open: at the end of a session the kernel does not send the release of what was
 * closed just before. Takes NULL. */
void dir_prefetcher_free(struct dir_prefetcher *p);

/* path is copied. Asks nothing yet. */
int dir_open(struct dir_prefetcher *p, const char *path, struct dir_stream **ret);
void dir_close(struct dir_stream *d);

/* Positions of "." and "..", and of the first name. */
#define DIR_POSITION_DOT 0
#define DIR_POSITION_DOTDOT 1
#define DIR_POSITION_FIRST 2

/* Lists anew from the next dir_at() on, as rewinddir() must. */
void dir_rewind(struct dir_stream *d);

/* A name of a listing. */
struct dir_name {
	const char *name;
	struct entry *entry; /* NULL: nothing more could be learned */
	int64_t mark; /* watch_mark() from before it was asked for */
	const char *after; /* the name before it; NULL: none that is known */
};

/* The name at a position. Valid until the next call on this stream; the entry has no reference of its
 * own. Returns 1 and a name, 0 at the
 * end, or -errno, again and again until dir_failure_told(). Calls on one stream must not overlap:
 * dir_lock() for the length of one reply. */
int dir_at(struct dir_stream *d, uint64_t position, struct dir_name *ret);

/* The application knows of the failure: the next dir_at() asks the filer again. Names that came before
 * it are told first, in a reply of their own, and must not cost the time limit twice. */
void dir_failure_told(struct dir_stream *d);

void dir_lock(struct dir_stream *d);
void dir_unlock(struct dir_stream *d);

#endif
