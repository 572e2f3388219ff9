#include "filer/entry.h"

#include <errno.h>
#include <string.h>

#include "filer/base/base.h"
#include "filer/entry_build.h"
#include "filer/json.h"
#include "filer/listscan.h"

/* JSON of one chunk. */
#define CHUNK_JSON_MAX_BYTES (64 * KIB)
/* Entries up to there are parsed in one go. Of longer ones, which may have a million chunks, the chunks are taken
 * out one by one, so that of a long list no tree is built. */
#define WHOLE_JSON_MAX_BYTES (8 * KIB)

struct json_fid {
	uint32_t volume_id;
	uint32_t cookie;
	uint64_t file_key;
};

static const struct json_field fid_fields[] = {
	{ "volume_id", JSON_U32, false, offsetof(struct json_fid, volume_id) },
	{ "file_key", JSON_U64, false, offsetof(struct json_fid, file_key) },
	{ "cookie", JSON_U32, false, offsetof(struct json_fid, cookie) },
};

struct json_chunk {
	char *file_id;
	int64_t offset;
	uint64_t size;
	int64_t modified_ns;
	char *e_tag;
	const cJSON *fid;
	char *cipher_key;
	bool gzip;
	bool manifest;
	int64_t sse;
};

static const struct json_field chunk_fields[] = {
	{ "file_id", JSON_TEXT, false, offsetof(struct json_chunk, file_id) },
	{ "offset", JSON_I64, false, offsetof(struct json_chunk, offset) },
	{ "size", JSON_U64, false, offsetof(struct json_chunk, size) },
	{ "modified_ts_ns", JSON_I64, false, offsetof(struct json_chunk, modified_ns) },
	{ "e_tag", JSON_TEXT, false, offsetof(struct json_chunk, e_tag) },
	{ "fid", JSON_OBJECT, false, offsetof(struct json_chunk, fid) },
	{ "cipher_key", JSON_TEXT, false, offsetof(struct json_chunk, cipher_key) },
	{ "is_compressed", JSON_BOOL, false, offsetof(struct json_chunk, gzip) },
	{ "is_chunk_manifest", JSON_BOOL, false, offsetof(struct json_chunk, manifest) },
	{ "sse_type", JSON_I64, false, offsetof(struct json_chunk, sse) },
};

struct json_remote {
	int64_t mtime_s;
	uint64_t size;
};

static const struct json_field remote_fields[] = {
	{ "remote_mtime", JSON_I64, false, offsetof(struct json_remote, mtime_s) },
	{ "remote_size", JSON_U64, false, offsetof(struct json_remote, size) },
};

struct json_entry {
	char *full_path;
	char *mtime;
	char *ctime;
	char *atime;
	char *symlink;
	char *content;
	const cJSON *extended;
	const cJSON *chunks;
	const cJSON *remote;
	uint64_t file_size;
	uint64_t ino;
	int64_t hard_links;
	int64_t ttl_s;
	uint32_t mode;
	uint32_t uid;
	uint32_t gid;
	uint32_t rdev;
};

/* In the filer's order; the first NAME_FIELDS give the name. */
#define NAME_FIELDS 1
static const struct json_field entry_fields[] = {
	{ "FullPath", JSON_TEXT, true, offsetof(struct json_entry, full_path) },
	{ "Mtime", JSON_TEXT, true, offsetof(struct json_entry, mtime) },
	{ "Ctime", JSON_TEXT, false, offsetof(struct json_entry, ctime) },
	{ "Atime", JSON_TEXT, false, offsetof(struct json_entry, atime) },
	{ "Mode", JSON_U32, true, offsetof(struct json_entry, mode) },
	{ "Uid", JSON_U32, false, offsetof(struct json_entry, uid) },
	{ "Gid", JSON_U32, false, offsetof(struct json_entry, gid) },
	{ "SymlinkTarget", JSON_TEXT, false, offsetof(struct json_entry, symlink) },
	{ "FileSize", JSON_U64, true, offsetof(struct json_entry, file_size) },
	{ "Rdev", JSON_U32, false, offsetof(struct json_entry, rdev) },
	{ "Inode", JSON_U64, false, offsetof(struct json_entry, ino) },
	{ "Extended", JSON_OBJECT, false, offsetof(struct json_entry, extended) },
	{ "chunks", JSON_ARRAY, false, offsetof(struct json_entry, chunks) },
	{ "HardLinkCounter", JSON_I64, false, offsetof(struct json_entry, hard_links) },
	{ "TtlSec", JSON_I64, false, offsetof(struct json_entry, ttl_s) },
	{ "Content", JSON_TEXT, false, offsetof(struct json_entry, content) },
	{ "Remote", JSON_OBJECT, false, offsetof(struct json_entry, remote) },
};

static struct wire_bytes text_bytes(const char *text)
{
	return (struct wire_bytes){ text, text ? strlen(text) : 0 };
}

/* Replaces the text by what it encodes. NULL gives no bytes. */
static int decode_bytes(char *base64, struct wire_bytes *ret)
{
	size_t len = 0;

	if (base64 && json_base64(base64, &len))
		return -EPROTO;
	*ret = (struct wire_bytes){ base64, len };
	return 0;
}

static int add_chunk(struct wire_entry *to, const cJSON *chunk)
{
	struct json_chunk j = { 0 };
	struct json_fid fid = { 0 };
	struct wire_chunk w;
	int err = json_read(chunk, chunk_fields, ARRAY_LEN(chunk_fields), &j);

	if (!err && j.fid)
		err = json_read(j.fid, fid_fields, ARRAY_LEN(fid_fields), &fid);
	if (err)
		return err;
	w = (struct wire_chunk){
		.file_id = text_bytes(j.file_id),
		.fid = { .key = fid.file_key, .volume_id = fid.volume_id, .cookie = fid.cookie },
		.offset = j.offset,
		.size = j.size,
		.modified_ns = j.modified_ns,
		.gzip = j.gzip,
		.manifest = j.manifest,
		.sse = j.sse,
	};
	/* Text that is no MD5 only means that there is no checksum. */
	if (decode_bytes(j.e_tag, &w.md5))
		w.md5.len = 0;
	err = decode_bytes(j.cipher_key, &w.cipher_key);
	return err ? err : wire_add_chunk(to, &w);
}

static int parse_chunk(void *arg, const char *json, size_t len)
{
	struct json tree;
	int err = json_parse(json, len, &tree);

	if (err)
		return err;
	err = add_chunk(arg, tree.root);
	json_free(&tree);
	return err;
}

/* Exactly n digits. */
static int take_digits(const char **s, unsigned n, int *ret)
{
	int v = 0;

	for (; n > 0; n--, ++*s) {
		if (**s < '0' || **s > '9')
			return -EPROTO;
		v = v * 10 + (**s - '0');
	}
	*ret = v;
	return 0;
}

static int take_byte(const char **s, char c)
{
	if (**s != c)
		return -EPROTO;
	++*s;
	return 0;
}

/* A fraction of a second, of which nanoseconds count; none gives 0. */
static int take_fraction(const char **s, int64_t *ret_ns)
{
	int64_t unit = 100000000, ns = 0;

	if (**s == '.') {
		++*s;
		if (**s < '0' || **s > '9')
			return -EPROTO;
		for (; **s >= '0' && **s <= '9'; ++*s, unit /= 10)
			ns += (**s - '0') * unit;
	}
	*ret_ns = ns;
	return 0;
}

/* "Z" or "+hh:mm", in seconds. */
static int take_zone(const char **s, int64_t *ret_s)
{
	int h, m, sign = **s == '-' ? -1 : 1;

	if (**s == 'Z') {
		++*s;
		*ret_s = 0;
		return 0;
	}
	if (**s != '+' && **s != '-')
		return -EPROTO;
	++*s;
	if (take_digits(s, 2, &h) || take_byte(s, ':') || take_digits(s, 2, &m) || h > 23 || m > 59)
		return -EPROTO;
	*ret_s = (int64_t)sign * (h * 60 + m) * 60;
	return 0;
}

/* RFC 3339. NULL: not set. */
static int time_of(const char *s, struct wire_time *ret)
{
	struct tm tm = { 0 };
	int64_t zone_s, ns;

	if (!s)
		return 0;
	if (take_digits(&s, 4, &tm.tm_year) || take_byte(&s, '-') ||
	    take_digits(&s, 2, &tm.tm_mon) || take_byte(&s, '-') ||
	    take_digits(&s, 2, &tm.tm_mday) || take_byte(&s, 'T') ||
	    take_digits(&s, 2, &tm.tm_hour) || take_byte(&s, ':') ||
	    take_digits(&s, 2, &tm.tm_min) || take_byte(&s, ':') ||
	    take_digits(&s, 2, &tm.tm_sec) || take_fraction(&s, &ns) || take_zone(&s, &zone_s) ||
	    *s != '\0')
		return -EPROTO;
	if (tm.tm_mon < 1 || tm.tm_mon > 12 || tm.tm_mday < 1 || tm.tm_mday > 31 ||
	    tm.tm_hour > 23 || tm.tm_min > 59 || tm.tm_sec > 60)
		return -EPROTO;
	tm.tm_year -= 1900;
	tm.tm_mon -= 1;
	ret->s = timegm(&tm) - zone_s;
	ret->ns = ns;
	ret->set = ret->s != WIRE_UNSET_TIME_S;
	return 0;
}

static int add_extended(struct wire_entry *w, const cJSON *extended)
{
	const cJSON *v;

	cJSON_ArrayForEach(v, extended)
	{
		struct wire_bytes value = { 0 };
		int err;

		if (strncmp(v->string, WIRE_XATTR_PREFIX, strlen(WIRE_XATTR_PREFIX)) != 0)
			continue;
		if (!cJSON_IsString(v) && !cJSON_IsNull(v))
			return -EPROTO;
		err = decode_bytes(v->valuestring, &value);
		if (!err)
			err = wire_add_extended(w, text_bytes(v->string), value);
		if (err)
			return err;
	}
	return 0;
}

static int add_chunks(struct wire_entry *w, const cJSON *chunks)
{
	const cJSON *v;

	cJSON_ArrayForEach(v, chunks)
	{
		int err = add_chunk(w, v);

		if (err)
			return err;
	}
	return 0;
}

static int fill_entry(struct wire_entry *w, const struct json_entry *j)
{
	struct json_remote remote = { 0 };
	int err;

	w->mode = j->mode;
	w->uid = j->uid;
	w->gid = j->gid;
	w->rdev = j->rdev;
	w->ino = j->ino;
	w->hard_links = j->hard_links;
	w->ttl_s = j->ttl_s;
	w->file_size = j->file_size;
	w->symlink = text_bytes(j->symlink);
	if (time_of(j->mtime, &w->mtime) || time_of(j->ctime, &w->ctime) ||
	    time_of(j->atime, &w->atime) || decode_bytes(j->content, &w->content))
		return -EPROTO;
	err = j->extended ? add_extended(w, j->extended) : 0;
	if (!err && j->chunks)
		err = add_chunks(w, j->chunks);
	if (!err && j->remote)
		err = json_read(j->remote, remote_fields, ARRAY_LEN(remote_fields), &remote);
	if (err)
		return err;
	w->remote_size = remote.size;
	w->remote_mtime_s = remote.mtime_s;
	return 0;
}

/* The last component. */
static int name_of(const char *full_path, char **ret)
{
	const char *slash = strrchr(full_path, '/');
	char *name = strdup(slash ? slash + 1 : full_path);

	if (!name)
		return -ENOMEM;
	*ret = name;
	return 0;
}

/* From the whole text of an entry, or what is left without its chunks, which w has then. */
static int build(struct wire_entry *w, const char *text, size_t len, struct entry **ret,
		 char **ret_name)
{
	struct json_entry j = { 0 };
	struct entry *built;
	struct json tree;
	int err = json_parse(text, len, &tree);

	if (err)
		return err;
	err = json_read(tree.root, entry_fields, ARRAY_LEN(entry_fields), &j);
	if (!err)
		err = fill_entry(w, &j);
	if (!err)
		err = wire_build(w, &built);
	if (err)
		goto free_tree;
	err = ret_name ? name_of(j.full_path, ret_name) : 0;
	if (err)
		entry_put(built);
	else
		*ret = built;
free_tree:
	json_free(&tree);
	return err;
}

/* Takes the chunks out one by one. */
static int scan_entry(struct listscan *scan, const char *json, size_t len,
		      int (*on_chunk)(void *arg, const char *json, size_t len), void *arg,
		      const char **ret_envelope, size_t *ret_len)
{
	const struct listscan_config config = {
		.key = "chunks",
		.element_max_bytes = CHUNK_JSON_MAX_BYTES,
		.envelope_max_bytes = len,
		.on_element = on_chunk,
		.arg = arg,
	};
	int err;

	listscan_init(scan, &config);
	if (len > ENTRY_JSON_MAX)
		return -EPROTO;
	err = listscan_push(scan, json, len);
	if (!err)
		err = listscan_finish(scan, ret_envelope, ret_len);
	return err == -EMSGSIZE ? -EPROTO : err;
}

int entry_from_json(const char *json, size_t len, struct entry **ret, char **ret_name)
{
	struct wire_entry w = { 0 };
	struct listscan scan;
	const char *envelope;
	size_t envelope_len;
	int err;

	if (len <= WHOLE_JSON_MAX_BYTES) {
		err = build(&w, json, len, ret, ret_name);
		goto release_parts;
	}
	err = scan_entry(&scan, json, len, parse_chunk, &w, &envelope, &envelope_len);
	if (!err)
		err = build(&w, envelope, envelope_len, ret, ret_name);
	listscan_free(&scan);
release_parts:
	wire_entry_release(&w);
	return err;
}

static int skip_chunk(void *arg, const char *json, size_t len)
{
	(void)arg;
	(void)json;
	(void)len;
	return 0;
}

int wire_json_name(const char *json, size_t len, char **ret)
{
	struct json_entry j = { 0 };
	struct listscan scan;
	const char *envelope;
	size_t envelope_len;
	struct json tree = { 0 };
	int err = scan_entry(&scan, json, len, skip_chunk, NULL, &envelope, &envelope_len);

	if (!err)
		err = json_parse(envelope, envelope_len, &tree);
	if (!err)
		err = json_read(tree.root, entry_fields, NAME_FIELDS, &j);
	if (!err)
		err = name_of(j.full_path, ret);
	json_free(&tree);
	listscan_free(&scan);
	return err;
}
