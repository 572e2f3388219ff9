#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "filer/entry_build.h"
#include "filer/filer_client.h"
#include "filer/json.h"
#include "filer/listscan.h"

/* The filer compares the whole header: nothing else gives JSON. */
#define LIST_ACCEPT "application/json"
/* JSON of one entry of a listing, and of what surrounds the entries. */
#define ELEMENT_MAX_BYTES (64 * MIB)
#define ENVELOPE_MAX_BYTES (64 * KIB)

/* A result of tries: the callback wants no more. */
#define STOPPED 1

/* One page, which may take several tries: each goes on behind the last name that was given. */
struct list {
	struct filer *filer;
	const char *dir;
	const char *encoded; /* dir, with a slash at the end */
	struct deadline deadline;
	filer_list_cb cb;
	void *arg;
	int cb_result; /* where it was not 0 */
	unsigned left; /* entries that may still be given */
	char *last; /* name given last, or NULL; owned */
	const char *after; /* the caller's cursor */
	bool more;
	bool take_body;
	struct listscan scan;
};

static const char *cursor(const struct list *l)
{
	return l->last ? l->last : l->after;
}

/* Gives one entry, or NULL for one that does not decode. Takes both over. */
static int give(struct list *l, char *name, struct entry *e)
{
	if (!wire_name_ok(name, strlen(name))) {
		atomic_fetch_add_explicit(&l->filer->names_refused, 1, memory_order_relaxed);
		free(name);
		entry_put(e);
		return 0;
	}
	if (l->left == 0) {
		free(name);
		entry_put(e);
		return -EPROTO;
	}
	free(l->last);
	l->last = name;
	l->left--;
	l->cb_result = l->cb(l->arg, name, e);
	return l->cb_result ? STOPPED : 0;
}

/* Decodes an entry, or at least its name, and gives it. */
static int decode_and_give(struct list *l, const void *p, size_t len,
			   int (*decode)(const void *p, size_t len, struct entry **e, char **name),
			   int (*decode_name)(const void *p, size_t len, char **name))
{
	struct entry *e = NULL;
	char *name;
	int err = decode(p, len, &e, &name);

	if (err == -EPROTO) {
		err = decode_name(p, len, &name);
		if (err == -EPROTO) {
			atomic_fetch_add_explicit(&l->filer->names_refused, 1,
						  memory_order_relaxed);
			return 0;
		}
	}
	return err ? err : give(l, name, e);
}

static int decode_json(const void *p, size_t len, struct entry **e, char **name)
{
	return entry_from_json(p, len, e, name);
}

static int decode_json_name(const void *p, size_t len, char **name)
{
	return wire_json_name(p, len, name);
}

static int on_json(void *arg, const char *json, size_t len)
{
	return decode_and_give(arg, json, len, decode_json, decode_json_name);
}

static int decode_pb(const void *p, size_t len, struct entry **e, char **name)
{
	return entry_from_pb(p, len, e, name);
}

static int decode_pb_name(const void *p, size_t len, char **name)
{
	return wire_pb_name(p, len, name);
}

static int on_pb(void *arg, const uint8_t *pb, size_t len)
{
	return decode_and_give(arg, pb, len, decode_pb, decode_pb_name);
}

static int list_head(void *arg, const struct http_head *head)
{
	struct list *l = arg;

	/* A listing has no validator, a file has: this is the data of a file. */
	if (head->status == 200 && head->etag[0])
		return -ENOTDIR;
	l->take_body = filer_head_is_json(head);
	return head->status == 200 && !l->take_body && !filer_head_is_blank(head) ? -EPROTO : 0;
}

static int list_body(void *arg, const uint8_t *p, size_t n)
{
	struct list *l = arg;

	return l->take_body ? listscan_push(&l->scan, (const char *)p, n) : 0;
}

struct envelope {
	char *path;
	bool more;
};

static const struct json_field envelope_fields[] = {
	{ "Path", JSON_TEXT, true, offsetof(struct envelope, path) },
	{ "ShouldDisplayLoadMore", JSON_BOOL, true, offsetof(struct envelope, more) },
};

static int read_envelope(struct list *l)
{
	struct envelope e = { 0 };
	const char *text;
	struct json tree;
	size_t len;
	int err = listscan_finish(&l->scan, &text, &len);

	if (!err)
		err = json_parse(text, len, &tree);
	if (err)
		return err;
	err = json_read(tree.root, envelope_fields, ARRAY_LEN(envelope_fields), &e);
	if (!err)
		l->more = e.more;
	json_free(&tree);
	return err;
}

static int list_by_json(struct list *l, const struct filer_server *s)
{
	CLEANUP_FREE char *after = http_encode_path(cursor(l));
	CLEANUP_FREE char *url = NULL;
	struct http_request r = {
		.accept = LIST_ACCEPT,
		.on_head = list_head,
		.on_body = list_body,
		.arg = l,
		.deadline = l->deadline,
	};
	struct http_head head;
	int err;

	if (!after || asprintf(&url, "%s%s?limit=%u&lastFileName=%s", s->url, l->encoded, l->left,
			       after) < 0) {
		url = NULL;
		return -ENOMEM;
	}
	r.url = url;
	l->take_body = false;
	err = filer_get(l->filer, &r, &head);
	if (!err && !l->take_body)
		err = -ENODATA;
	return err ? err : read_envelope(l);
}

static int try_list(struct filer *f, const struct filer_server *s, void *arg)
{
	struct list *l = arg;
	int err;

	/* An earlier try may have given all that was asked for, and then broken off. */
	l->more = true;
	if (l->left == 0)
		return 0;
	listscan_init(&l->scan, &(struct listscan_config){ .key = "Entries",
							   .element_max_bytes = ELEMENT_MAX_BYTES,
							   .envelope_max_bytes = ENVELOPE_MAX_BYTES,
							   .on_element = on_json,
							   .arg = l });
	err = list_by_json(l, s);
	listscan_free(&l->scan);
	if (err == -ENODATA) {
		err = filer_grpc_list(f, s, l->dir, cursor(l), l->left, l->deadline, on_pb, l);
		l->more = l->left == 0;
	}
	return err == -EMSGSIZE ? -EPROTO : err;
}

int filer_list(struct filer *f, const char *dir, const char *after, unsigned limit,
	       struct deadline d, filer_list_cb cb, void *arg, bool *ret_more)
{
	CLEANUP_FREE char *with_slash = NULL;
	CLEANUP_FREE char *encoded = NULL;
	struct list l = { .filer = f,
			  .dir = dir,
			  .deadline = d,
			  .cb = cb,
			  .arg = arg,
			  .left = limit,
			  .after = after };
	int err;

	if (limit == 0 || limit > FILER_PAGE_MAX)
		return -EINVAL;
	if (asprintf(&with_slash, "%s/", strcmp(dir, "/") == 0 ? "" : dir) < 0) {
		with_slash = NULL;
		return -ENOMEM;
	}
	encoded = http_encode_path(with_slash);
	if (!encoded)
		return -ENOMEM;
	l.encoded = encoded;
	err = filer_on_any(f, d, try_list, &l);
	if (err == STOPPED)
		err = l.cb_result;
	/* A filer that always has more but gets nowhere would keep us for ever. */
	else if (!err && l.more && (!l.last || strcmp(l.last, after) == 0))
		err = -EPROTO;
	else if (!err)
		*ret_more = l.more;
	free(l.last);
	return err;
}
