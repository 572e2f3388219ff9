#include "fs/ctl_path.h"

#include <errno.h>
#include <string.h>

#include "filer/filer.h"
#include "fs/ctl.h"
#include "fs/fetch.h"

static int explain(const struct ctl_reach *r, int err, char *message, size_t bytes)
{
	const char *path = r->options->cluster.path;
	const char *filer = filer_current_url(r->cluster.filer);

	switch (err) {
	case -ENOENT:
		return ctl_fail(err, message, bytes, "%s: the filer %s has no such path", path,
				filer);
	case -EACCES:
		return ctl_fail(err, message, bytes,
				"%s: the filer %s does not allow it (--security names the file "
				"with the read key)",
				path, filer);
	case -EPROTO:
		return ctl_fail(err, message, bytes, "%s: what answers there is not a filer",
				filer);
	default:
		return ctl_fail(err, message, bytes, "%s: the filer cannot be asked: %s", filer,
				strerror(-err));
	}
}

int ctl_path_open(struct ctl_reach *r, struct deadline d, struct ctl_path *ret, char *message,
		  size_t bytes)
{
	struct ctl_path p;
	int err = filer_lookup(r->cluster.filer, r->options->cluster.path, d, &p.entry);

	if (err)
		return explain(r, err, message, bytes);
	err = chunkmap_build(p.entry, fetch_manifest, r->cluster.fetcher, d, &p.map);
	if (err) {
		entry_put(p.entry);
		return ctl_fail(err, message, bytes, "%s: its list of chunks cannot be read: %s",
				r->options->cluster.path, strerror(-err));
	}
	*ret = p;
	return 0;
}

void ctl_path_close(struct ctl_path *p)
{
	chunkmap_free(p->map);
	entry_put(p->entry);
}
