/* What has changed: follows the filer's change events, so that an entry that was asked for once need
 * not be asked for again as long as nothing was said of it.
 *
 *	int64_t mark = watch_mark(w);
 *	filer_lookup(..., path, ..., &e);
 *	...
 *	if (watch_unchanged(w, path, mark))
 *		e is what the filer has, as far as its events have come here.
 *
 * Events come after the change has been acknowledged to who made it: mostly within some milliseconds,
 * at the latest WATCH_SILENT_MS later, because a filer that says nothing for so long is not believed
 * any more. While no events come, everything counts as changed.
 *
 * Two names can be taken for each other, see filer/changes.h, which makes one look changed though it is not,
 * never the other way round. When a directory is moved or deleted, all names count as changed.
 *
 * Thread-safe. One thread listens. */
#ifndef KELP_WATCH_H
#define KELP_WATCH_H

#include <stdbool.h>
#include <stdint.h>

struct filer;
struct watch;

#define WATCH_SILENT_MS 12000 /* filers say something every 5 s */

/* Follows what happens below the directory at path. The filer must outlive it. Returns at once; when
 * events come is not said. */
int watch_new(struct filer *f, const char *path, struct watch **ret);
/* Stops and joins the thread. Takes NULL. */
void watch_free(struct watch *w);

/* To be taken before the filer is asked for an entry. 0: no events come now, nothing counts as unchanged
 * since. w may be NULL: likewise. */
int64_t watch_mark(struct watch *w);

/* Has nothing been said of the path, absolute in the filer's namespace, since the mark? What may change
 * unannounced (struct entry) is not for it to know. w may be NULL: no. */
bool watch_unchanged(struct watch *w, const char *path, int64_t mark);

struct watch_stats {
	uint64_t messages; /* changes, and that there were none */
	uint64_t connections; /* on which events came */
	bool live;
};
void watch_stats(struct watch *w, struct watch_stats *ret);

#endif
