/* The record of a needle: header, data, and the tail with flags, fields and checksum. */
#include <errno.h>
#include <stdlib.h>
#include <time.h>

#include "filer/base/base.h"
#include "rdma/agent/store.h"
#include "rdma/agent/volume_file.h"
#include "rdma/agent/volume_format.h"

#define FLAG_GZIP 0x01
#define FLAG_NAME 0x02
#define FLAG_MIME 0x04
#define FLAG_LAST_MODIFIED 0x08
#define FLAG_TTL 0x10
#define FLAG_PAIRS 0x20

#define FIXED_BYTES 16 /* cookie, key, size */
#define DATA_SIZE_BYTES 4
#define LAST_MODIFIED_BYTES 5
#define TTL_BYTES 2
#define CHECKSUM_BYTES 4
#define APPEND_TIME_BYTES 8
#define NS_PER_MINUTE (UINT64_C(60) * 1000 * 1000 * 1000)

static size_t trailer_bytes(uint8_t version)
{
	return CHECKSUM_BYTES + (version >= 3 ? APPEND_TIME_BYTES : 0);
}

/* What lies between data and checksum. Where there is no data there are no fields either. */
static size_t fields_bytes(const struct needle_place *p, const struct needle_info *info)
{
	if (p->version == 1 || p->record_size == 0)
		return 0;
	return p->record_size - DATA_SIZE_BYTES - info->data_bytes;
}

int store_parse_header(const struct needle_place *p, const struct fid *fid,
		       const uint8_t header[STORE_HEADER_BYTES], struct needle_info *ret)
{
	struct needle_info info = { .data_offset = p->record_offset + FIXED_BYTES };

	if (be64_at(header + 4) != fid->key || be32_at(header + 12) != p->record_size)
		return -EIO;
	if (be32_at(header) != fid->cookie)
		return -ENOENT;
	if (p->version == 1) {
		info.data_bytes = p->record_size;
	} else if (p->record_size > 0) {
		info.data_offset += DATA_SIZE_BYTES;
		info.data_bytes = be32_at(header + FIXED_BYTES);
		if (p->record_size < DATA_SIZE_BYTES ||
		    info.data_bytes > p->record_size - DATA_SIZE_BYTES ||
		    fields_bytes(p, &info) > STORE_TAIL_BYTES_MAX - trailer_bytes(p->version))
			return -EIO;
	}
	*ret = info;
	return 0;
}

void store_tail_place(const struct needle_place *p, const struct needle_info *info,
		      uint64_t *ret_offset, size_t *ret_len)
{
	*ret_offset = info->data_offset + info->data_bytes;
	*ret_len = fields_bytes(p, info) + trailer_bytes(p->version);
}

/* As the server counts: a month has 30 days, and an unknown unit means for ever. */
static uint64_t ttl_minutes(uint8_t count, uint8_t unit)
{
	static const uint32_t minutes[] = {
		0, 1, 60, 24 * 60, 7 * 24 * 60, 30 * 24 * 60, 365 * 24 * 60,
	};

	return unit < ARRAY_LEN(minutes) ? (uint64_t)count * minutes[unit] : 0;
}

struct fields {
	const uint8_t *at, *end;
};

/* NULL where there are not so many bytes any more. */
static const uint8_t *take(struct fields *f, size_t n)
{
	const uint8_t *p = f->at;

	if ((size_t)(f->end - f->at) < n)
		return NULL;
	f->at += n;
	return p;
}

/* A field with its length, of so many bytes, in front. */
static bool skip_counted(struct fields *f, size_t length_bytes)
{
	const uint8_t *p = take(f, length_bytes);

	if (!p)
		return false;
	return take(f, length_bytes == 1 ? p[0] : be16_at(p)) != NULL;
}

/* Servers look at the TTL only of what has a time of its last modification, although it counts from
 * another. */
static int parse_fields(struct fields *f, bool *ret_gzip, uint64_t *ret_ttl_minutes)
{
	const uint8_t *flags = take(f, 1);
	const uint8_t *ttl = NULL;

	if (!flags)
		return 0;
	if (((*flags & FLAG_NAME) && !skip_counted(f, 1)) ||
	    ((*flags & FLAG_MIME) && !skip_counted(f, 1)) ||
	    ((*flags & FLAG_LAST_MODIFIED) && !take(f, LAST_MODIFIED_BYTES)) ||
	    ((*flags & FLAG_TTL) && !(ttl = take(f, TTL_BYTES))) ||
	    ((*flags & FLAG_PAIRS) && !skip_counted(f, 2)))
		return -EIO;
	*ret_gzip = *flags & FLAG_GZIP;
	if (ttl && (*flags & FLAG_LAST_MODIFIED))
		*ret_ttl_minutes = ttl_minutes(ttl[0], ttl[1]);
	return 0;
}

int store_parse_tail(const struct needle_place *p, const uint8_t *tail, size_t len,
		     uint64_t now_realtime_ns, struct needle_info *info)
{
	size_t n = fields_bytes(p, info);
	struct fields f = { .at = tail, .end = tail + n };
	uint64_t minutes = 0, expires_at_ns = 0;
	bool gzip = false;

	if (len != n + trailer_bytes(p->version))
		return -EIO;
	int err = parse_fields(&f, &gzip, &minutes);
	if (err)
		return err;
	if (minutes > 0) {
		/* Records of older versions do not know the time: to a server they have expired. */
		uint64_t from_ns = p->version >= 3 ? be64_at(tail + n + CHECKSUM_BYTES) : 0;

		if (__builtin_add_overflow(from_ns, minutes * NS_PER_MINUTE, &expires_at_ns))
			expires_at_ns = UINT64_MAX;
		if (now_realtime_ns >= expires_at_ns)
			return -ENOENT;
	}
	info->crc32c = be32_at(tail + n);
	info->gzip = gzip;
	info->expires_at_ns = expires_at_ns;
	return 0;
}

static uint64_t now_realtime_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_REALTIME, &t);
	return (uint64_t)t.tv_sec * 1000 * 1000 * 1000 + (uint64_t)t.tv_nsec;
}

int store_read_info(const struct needle_place *p, const struct fid *fid, struct needle_info *ret)
{
	uint8_t header[STORE_HEADER_BYTES];
	struct needle_info info;
	uint64_t offset;
	size_t len;

	int err = pread_exact(p->fd, header, sizeof(header), p->record_offset);
	if (!err)
		err = store_parse_header(p, fid, header, &info);
	if (err)
		return err;
	store_tail_place(p, &info, &offset, &len);
	CLEANUP_FREE uint8_t *tail = malloc(len);
	if (!tail)
		return -ENOMEM;
	err = pread_exact(p->fd, tail, len, offset);
	if (!err)
		err = store_parse_tail(p, tail, len, now_realtime_ns(), &info);
	if (!err)
		*ret = info;
	return err;
}
