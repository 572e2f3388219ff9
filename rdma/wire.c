/* Layouts, offsets in bytes; reserved bytes are 0 and are checked, so that every message has exactly
 * one encoding:
 *
 *   header       0 magic u32, 4 version u8, 5 type u8, 6 credits u16, 8 length u32, 12 reserved u32,
 *                16 xid u64
 *   hello        0 version_min u8, 1 version_max u8, 2 token_len u16, 4 capabilities u32,
 *                8 inline_bytes_max u32, 12 token
 *   hello reply  0 status u8, 1 version u8, 2 flags u8 (bit 0: token needed), 3 n_addresses u8,
 *                4 capabilities u32, 8 inline_bytes_max u32, 12 lease_ms u32, 16 sessions_max u32,
 *                20 sessions_active u32, 24 transfer_bytes_max u64, 32 staging_bytes_max u64,
 *                40 vendor_id u64, 48 port_lid u32, 52 device [64], 116 port_gid [48],
 *                164 software [64], 228 text [256], 484 addresses: { host [64], port u16 }
 *   read         0 n_extents u8, 1 n_completes u8, 2 reserved [6], 8 extents: { volume u32,
 *                cookie u32, key u64, offset u64, length u64, flags u32, token_len u16,
 *                reserved u16 }, then leases u64 each, then the extents' tokens
 *   read reply   0 n_results u8, 1 reserved [7], 8 results: { status u8, reserved [3], flags u32,
 *                crc32c u32, rkey u32, length u64, needle_length u64, lease_id u64,
 *                remote_addr u64, lease_ms u32, reserved u32 }, then inline data
 *   complete     0 n u8, 1 reserved [7], 8 leases u64 each
 *   goodbye      0 reason u8, 1 text [256]
 *
 * Texts are printable ASCII, padded with NULs, at least one. */
#include "rdma/wire.h"

#include <endian.h>
#include <errno.h>
#include <string.h>

#define HELLO_REPLY_TOKEN_NEEDED 1

#define EXTENT_FLAGS (WIRE_EXTENT_WHOLE | WIRE_EXTENT_READ_DELETED)
#define RESULT_CRC_FLAGS (WIRE_RESULT_CRC_WHOLE | WIRE_RESULT_CRC_RANGE)
#define RESULT_FLAGS (WIRE_RESULT_GZIP | RESULT_CRC_FLAGS | WIRE_RESULT_LEASE)

const char *wire_status_text(enum wire_status s)
{
	static const char *const texts[] = {
		[WIRE_OK] = "no error",
		[WIRE_NOT_FOUND] = "no such needle",
		[WIRE_NOT_SERVED] = "volume not served by this agent",
		[WIRE_RANGE] = "range beyond the needle",
		[WIRE_DENIED] = "not authorised",
		[WIRE_BUSY] = "no staging memory now",
		[WIRE_IO] = "volume cannot be read",
		[WIRE_MALFORMED] = "malformed message",
		[WIRE_VERSION_REFUSED] = "no common protocol version",
		[WIRE_EXHAUSTED] = "connection limit reached",
		[WIRE_SHUTDOWN] = "agent is shutting down",
		[WIRE_IDLE] = "connection was idle",
		[WIRE_CORRUPT] = "stored bytes do not fit their checksum",
	};

	return (unsigned)s <= WIRE_STATUS_MAX ? texts[s] : "unknown status";
}

int wire_status_errno(enum wire_status s)
{
	switch (s) {
	case WIRE_OK:
		return 0;
	case WIRE_NOT_FOUND:
		return -ENOENT;
	case WIRE_NOT_SERVED:
	case WIRE_VERSION_REFUSED:
		return -EOPNOTSUPP;
	case WIRE_RANGE:
		return -ENODATA;
	case WIRE_DENIED:
		return -EACCES;
	case WIRE_BUSY:
		return -EBUSY;
	case WIRE_IO:
		return -EIO;
	case WIRE_CORRUPT:
		return -EUCLEAN;
	case WIRE_EXHAUSTED:
		return -EUSERS;
	case WIRE_SHUTDOWN:
	case WIRE_IDLE:
		return -ECONNRESET;
	case WIRE_MALFORMED:
		break;
	}
	return -EPROTO;
}

/* --- writing --- */

/* Where the next field goes. Beyond the end nothing is written, and the message is refused at last. */
struct writer {
	uint8_t *buf;
	size_t len;
	size_t bytes; /* of buf */
	bool refused;
};

static void put(struct writer *w, const void *p, size_t n)
{
	if (w->refused || n > w->bytes - w->len) {
		w->refused = true;
		return;
	}
	if (n > 0)
		memcpy(w->buf + w->len, p, n);
	w->len += n;
}

static void put_u8(struct writer *w, uint8_t v)
{
	put(w, &v, sizeof(v));
}

static void put_u16(struct writer *w, uint16_t v)
{
	v = htole16(v);
	put(w, &v, sizeof(v));
}

static void put_u32(struct writer *w, uint32_t v)
{
	v = htole32(v);
	put(w, &v, sizeof(v));
}

static void put_u64(struct writer *w, uint64_t v)
{
	v = htole64(v);
	put(w, &v, sizeof(v));
}

static void put_reserved(struct writer *w, size_t n)
{
	static const uint8_t zeros[8];

	put(w, zeros, n);
}

static bool is_printable(uint8_t c)
{
	return c >= ' ' && c <= '~';
}

/* text is a NUL-terminated array of `bytes`. */
static void put_text(struct writer *w, const char *text, size_t bytes)
{
	uint8_t field[WIRE_TEXT_BYTES_MAX + 1] = { 0 };

	for (size_t i = 0; i + 1 < bytes && text[i]; i++)
		field[i] = is_printable((uint8_t)text[i]) ? (uint8_t)text[i] : '?';
	put(w, field, bytes);
}

/* Leaves room for the header. */
static struct writer message_start(uint8_t *buf, size_t bytes)
{
	struct writer w = { .buf = buf, .bytes = bytes };

	if (bytes > WIRE_MESSAGE_BYTES_MAX)
		w.bytes = WIRE_MESSAGE_BYTES_MAX;
	if (w.bytes < WIRE_HEADER_BYTES)
		w.refused = true;
	else
		w.len = WIRE_HEADER_BYTES;
	return w;
}

/* data_bytes: of the payload that the caller puts behind. */
static int message_end(struct writer *w, uint8_t type, struct wire_header h, size_t data_bytes,
		       size_t *ret_len)
{
	if (w->refused || data_bytes > WIRE_MESSAGE_BYTES_MAX - w->len)
		return -EMSGSIZE;
	h.type = type;
	h.length = (uint32_t)(w->len - WIRE_HEADER_BYTES + data_bytes);
	wire_encode_header(w->buf, &h);
	*ret_len = w->len;
	return 0;
}

void wire_encode_header(uint8_t p[WIRE_HEADER_BYTES], const struct wire_header *h)
{
	struct writer w = { .buf = p, .bytes = WIRE_HEADER_BYTES };

	put_u32(&w, WIRE_MAGIC);
	put_u8(&w, h->version);
	put_u8(&w, h->type);
	put_u16(&w, h->credits);
	put_u32(&w, h->length);
	put_reserved(&w, 4);
	put_u64(&w, h->xid);
}

int wire_encode_bare(uint8_t *buf, size_t bytes, struct wire_header h, size_t *ret_len)
{
	struct writer w = message_start(buf, bytes);

	return message_end(&w, h.type, h, 0, ret_len);
}

int wire_encode_hello(uint8_t *buf, size_t bytes, struct wire_header h, const struct wire_hello *m,
		      size_t *ret_len)
{
	struct writer w = message_start(buf, bytes);

	if (m->token_len > WIRE_TOKEN_BYTES_MAX)
		return -EMSGSIZE;
	put_u8(&w, m->version_min);
	put_u8(&w, m->version_max);
	put_u16(&w, (uint16_t)m->token_len);
	put_u32(&w, m->capabilities);
	put_u32(&w, m->inline_bytes_max);
	put(&w, m->token, m->token_len);
	return message_end(&w, WIRE_HELLO, h, 0, ret_len);
}

int wire_encode_hello_reply(uint8_t *buf, size_t bytes, struct wire_header h,
			    const struct wire_hello_reply *m, size_t *ret_len)
{
	struct writer w = message_start(buf, bytes);

	if (m->n_addresses > WIRE_ADDRESSES_MAX)
		return -EMSGSIZE;
	put_u8(&w, m->status);
	put_u8(&w, m->version);
	put_u8(&w, m->token_needed ? HELLO_REPLY_TOKEN_NEEDED : 0);
	put_u8(&w, (uint8_t)m->n_addresses);
	put_u32(&w, m->capabilities);
	put_u32(&w, m->inline_bytes_max);
	put_u32(&w, m->lease_ms);
	put_u32(&w, m->sessions_max);
	put_u32(&w, m->sessions_active);
	put_u64(&w, m->transfer_bytes_max);
	put_u64(&w, m->staging_bytes_max);
	put_u64(&w, m->vendor_id);
	put_u32(&w, m->port_lid);
	put_text(&w, m->device, sizeof(m->device));
	put_text(&w, m->port_gid, sizeof(m->port_gid));
	put_text(&w, m->software, sizeof(m->software));
	put_text(&w, m->text, sizeof(m->text));
	for (size_t i = 0; i < m->n_addresses; i++) {
		put_text(&w, m->addresses[i].host, sizeof(m->addresses[i].host));
		put_u16(&w, m->addresses[i].port);
	}
	return message_end(&w, WIRE_HELLO_REPLY, h, 0, ret_len);
}

int wire_encode_read(uint8_t *buf, size_t bytes, struct wire_header h, const struct wire_read *m,
		     size_t *ret_len)
{
	struct writer w = message_start(buf, bytes);

	if (m->n_extents == 0 || m->n_extents > WIRE_EXTENTS_MAX ||
	    m->n_completes > WIRE_COMPLETES_MAX)
		return -EMSGSIZE;
	put_u8(&w, (uint8_t)m->n_extents);
	put_u8(&w, (uint8_t)m->n_completes);
	put_reserved(&w, 6);
	for (size_t i = 0; i < m->n_extents; i++) {
		const struct wire_extent *e = &m->extents[i];

		if (e->token_len > WIRE_TOKEN_BYTES_MAX)
			return -EMSGSIZE;
		put_u32(&w, e->fid.volume_id);
		put_u32(&w, e->fid.cookie);
		put_u64(&w, e->fid.key);
		put_u64(&w, e->offset);
		put_u64(&w, e->length);
		put_u32(&w, e->flags);
		put_u16(&w, (uint16_t)e->token_len);
		put_reserved(&w, 2);
	}
	for (size_t i = 0; i < m->n_completes; i++)
		put_u64(&w, m->completes[i]);
	for (size_t i = 0; i < m->n_extents; i++)
		put(&w, m->extents[i].token, m->extents[i].token_len);
	return message_end(&w, WIRE_READ, h, 0, ret_len);
}

static void put_result(struct writer *w, const struct wire_result *r)
{
	put_u8(w, r->status);
	put_reserved(w, 3);
	put_u32(w, r->flags);
	put_u32(w, r->crc32c);
	put_u32(w, r->rkey);
	put_u64(w, r->length);
	put_u64(w, r->needle_length);
	put_u64(w, r->lease_id);
	put_u64(w, r->remote_addr);
	put_u32(w, r->lease_ms);
	put_reserved(w, 4);
}

int wire_encode_read_reply(uint8_t *buf, size_t bytes, struct wire_header h,
			   const struct wire_read_reply *m, size_t *ret_len)
{
	struct writer w = message_start(buf, bytes);

	if (m->n_results == 0 || m->n_results > WIRE_EXTENTS_MAX)
		return -EMSGSIZE;
	put_u8(&w, (uint8_t)m->n_results);
	put_reserved(&w, 7);
	for (size_t i = 0; i < m->n_results; i++)
		put_result(&w, &m->results[i]);
	return message_end(&w, WIRE_READ_REPLY, h, h.length, ret_len);
}

int wire_encode_complete(uint8_t *buf, size_t bytes, struct wire_header h,
			 const struct wire_complete *m, size_t *ret_len)
{
	struct writer w = message_start(buf, bytes);

	if (m->n == 0 || m->n > WIRE_COMPLETES_MAX)
		return -EMSGSIZE;
	put_u8(&w, (uint8_t)m->n);
	put_reserved(&w, 7);
	for (size_t i = 0; i < m->n; i++)
		put_u64(&w, m->leases[i]);
	return message_end(&w, WIRE_COMPLETE, h, 0, ret_len);
}

int wire_encode_goodbye(uint8_t *buf, size_t bytes, struct wire_header h,
			const struct wire_goodbye *m, size_t *ret_len)
{
	struct writer w = message_start(buf, bytes);

	put_u8(&w, m->reason);
	put_text(&w, m->text, sizeof(m->text));
	return message_end(&w, WIRE_GOODBYE, h, 0, ret_len);
}

/* --- reading --- */

/* What is still to be read. What is not there reads as zeros, and the message is refused at last. */
struct reader {
	const uint8_t *p;
	size_t left;
	bool refused;
};

static const uint8_t *get(struct reader *r, size_t n)
{
	const uint8_t *p = r->p;

	if (r->refused || n > r->left) {
		r->refused = true;
		return NULL;
	}
	r->p += n;
	r->left -= n;
	return p;
}

static uint8_t get_u8(struct reader *r)
{
	const uint8_t *p = get(r, 1);

	return p ? *p : 0;
}

static uint16_t get_u16(struct reader *r)
{
	const uint8_t *p = get(r, sizeof(uint16_t));
	uint16_t v = 0;

	if (p)
		memcpy(&v, p, sizeof(v));
	return le16toh(v);
}

static uint32_t get_u32(struct reader *r)
{
	const uint8_t *p = get(r, sizeof(uint32_t));
	uint32_t v = 0;

	if (p)
		memcpy(&v, p, sizeof(v));
	return le32toh(v);
}

static uint64_t get_u64(struct reader *r)
{
	const uint8_t *p = get(r, sizeof(uint64_t));
	uint64_t v = 0;

	if (p)
		memcpy(&v, p, sizeof(v));
	return le64toh(v);
}

static void refuse_unless(struct reader *r, bool ok)
{
	if (!ok)
		r->refused = true;
}

static void get_reserved(struct reader *r, size_t n)
{
	const uint8_t *p = get(r, n);

	for (size_t i = 0; p && i < n; i++)
		refuse_unless(r, p[i] == 0);
}

/* Into an array of `bytes`. It may end up in a log or on a terminal. */
static void get_text(struct reader *r, char *ret, size_t bytes)
{
	const uint8_t *p = get(r, bytes);

	if (!p)
		return;
	size_t len = strnlen((const char *)p, bytes);
	refuse_unless(r, len < bytes);
	for (size_t i = 0; i < bytes; i++)
		refuse_unless(r, i < len ? is_printable(p[i]) : p[i] == 0);
	memcpy(ret, p, bytes);
}

int wire_decode_header(const uint8_t *p, size_t len, struct wire_header *ret)
{
	struct reader r = { .p = p, .left = len };
	struct wire_header h = { 0 };

	refuse_unless(&r, get_u32(&r) == WIRE_MAGIC);
	h.version = get_u8(&r);
	h.type = get_u8(&r);
	h.credits = get_u16(&r);
	h.length = get_u32(&r);
	get_reserved(&r, 4);
	h.xid = get_u64(&r);
	refuse_unless(&r, h.type >= WIRE_HELLO && h.type <= WIRE_GOODBYE);
	refuse_unless(&r, h.length <= WIRE_MESSAGE_BYTES_MAX - WIRE_HEADER_BYTES);
	if (r.refused)
		return -EPROTO;
	*ret = h;
	return 0;
}

int wire_decode_hello(const uint8_t *p, size_t len, struct wire_hello *ret)
{
	struct reader r = { .p = p, .left = len };
	struct wire_hello m = { 0 };

	m.version_min = get_u8(&r);
	m.version_max = get_u8(&r);
	m.token_len = get_u16(&r);
	m.capabilities = get_u32(&r);
	m.inline_bytes_max = get_u32(&r);
	refuse_unless(&r, m.version_min <= m.version_max);
	refuse_unless(&r, m.token_len <= WIRE_TOKEN_BYTES_MAX);
	m.token = (const char *)get(&r, m.token_len);
	if (r.refused || r.left > 0)
		return -EPROTO;
	*ret = m;
	return 0;
}

static void get_addresses(struct reader *r, struct wire_hello_reply *m)
{
	for (size_t i = 0; i < m->n_addresses; i++) {
		get_text(r, m->addresses[i].host, sizeof(m->addresses[i].host));
		m->addresses[i].port = get_u16(r);
	}
}

int wire_decode_hello_reply(const uint8_t *p, size_t len, struct wire_hello_reply *ret)
{
	struct reader r = { .p = p, .left = len };
	struct wire_hello_reply m = { 0 };

	m.status = get_u8(&r);
	m.version = get_u8(&r);
	uint8_t flags = get_u8(&r);
	m.token_needed = flags == HELLO_REPLY_TOKEN_NEEDED;
	m.n_addresses = get_u8(&r);
	refuse_unless(&r, m.status <= WIRE_STATUS_MAX);
	refuse_unless(&r, flags == 0 || flags == HELLO_REPLY_TOKEN_NEEDED);
	refuse_unless(&r, m.n_addresses <= WIRE_ADDRESSES_MAX);
	m.capabilities = get_u32(&r);
	m.inline_bytes_max = get_u32(&r);
	m.lease_ms = get_u32(&r);
	m.sessions_max = get_u32(&r);
	m.sessions_active = get_u32(&r);
	m.transfer_bytes_max = get_u64(&r);
	m.staging_bytes_max = get_u64(&r);
	m.vendor_id = get_u64(&r);
	m.port_lid = get_u32(&r);
	get_text(&r, m.device, sizeof(m.device));
	get_text(&r, m.port_gid, sizeof(m.port_gid));
	get_text(&r, m.software, sizeof(m.software));
	get_text(&r, m.text, sizeof(m.text));
	if (!r.refused)
		get_addresses(&r, &m);
	if (r.refused || r.left > 0)
		return -EPROTO;
	*ret = m;
	return 0;
}

static void get_extent(struct reader *r, struct wire_extent *e)
{
	uint64_t end;

	e->fid.volume_id = get_u32(r);
	e->fid.cookie = get_u32(r);
	e->fid.key = get_u64(r);
	e->offset = get_u64(r);
	e->length = get_u64(r);
	e->flags = get_u32(r);
	e->token_len = get_u16(r);
	get_reserved(r, 2);
	refuse_unless(r, (e->flags & ~(uint32_t)EXTENT_FLAGS) == 0);
	refuse_unless(r, e->token_len <= WIRE_TOKEN_BYTES_MAX);
	if (e->flags & WIRE_EXTENT_WHOLE)
		refuse_unless(r, e->offset == 0 && e->length == 0);
	else
		refuse_unless(r, e->length > 0 && e->length <= WIRE_EXTENT_BYTES_MAX &&
					 !__builtin_add_overflow(e->offset, e->length, &end) &&
					 end <= INT64_MAX);
}

int wire_decode_read(const uint8_t *p, size_t len, struct wire_read *ret)
{
	struct reader r = { .p = p, .left = len };
	struct wire_read m = { 0 };

	m.n_extents = get_u8(&r);
	m.n_completes = get_u8(&r);
	get_reserved(&r, 6);
	if (r.refused || m.n_extents == 0 || m.n_extents > WIRE_EXTENTS_MAX ||
	    m.n_completes > WIRE_COMPLETES_MAX)
		return -EPROTO;
	for (size_t i = 0; i < m.n_extents; i++)
		get_extent(&r, &m.extents[i]);
	for (size_t i = 0; i < m.n_completes; i++)
		m.completes[i] = get_u64(&r);
	for (size_t i = 0; i < m.n_extents; i++)
		m.extents[i].token = (const char *)get(&r, m.extents[i].token_len);
	if (r.refused || r.left > 0)
		return -EPROTO;
	*ret = m;
	return 0;
}

/* Do the fields of a result hang together? */
static bool is_sound(const struct wire_result *r)
{
	uint64_t end;

	if (r->status > WIRE_STATUS_MAX)
		return false;
	if (r->status != WIRE_OK)
		return (r->flags | r->crc32c | r->rkey | r->lease_ms) == 0 &&
		       (r->length | r->needle_length | r->lease_id | r->remote_addr) == 0;
	if ((r->flags & ~(uint32_t)RESULT_FLAGS) ||
	    (r->flags & RESULT_CRC_FLAGS) == RESULT_CRC_FLAGS)
		return false;
	if (!(r->flags & WIRE_RESULT_LEASE) &&
	    ((r->rkey | r->lease_ms) != 0 || (r->lease_id | r->remote_addr) != 0))
		return false;
	if ((r->flags & WIRE_RESULT_LEASE) && r->lease_id == 0)
		return false;
	return r->length <= WIRE_EXTENT_BYTES_MAX && r->length <= r->needle_length &&
	       r->needle_length <= UINT32_MAX &&
	       !__builtin_add_overflow(r->remote_addr, r->length, &end);
}

static void get_result(struct reader *r, struct wire_result *result)
{
	result->status = get_u8(r);
	get_reserved(r, 3);
	result->flags = get_u32(r);
	result->crc32c = get_u32(r);
	result->rkey = get_u32(r);
	result->length = get_u64(r);
	result->needle_length = get_u64(r);
	result->lease_id = get_u64(r);
	result->remote_addr = get_u64(r);
	result->lease_ms = get_u32(r);
	get_reserved(r, 4);
	refuse_unless(r, is_sound(result));
}

int wire_decode_read_reply(const uint8_t *p, size_t len, struct wire_read_reply *ret,
			   size_t *ret_data)
{
	struct reader r = { .p = p, .left = len };
	struct wire_read_reply m = { 0 };

	m.n_results = get_u8(&r);
	get_reserved(&r, 7);
	if (r.refused || m.n_results == 0 || m.n_results > WIRE_EXTENTS_MAX)
		return -EPROTO;
	for (size_t i = 0; i < m.n_results; i++)
		get_result(&r, &m.results[i]);
	if (r.refused)
		return -EPROTO;
	*ret = m;
	*ret_data = len - r.left;
	return 0;
}

int wire_decode_complete(const uint8_t *p, size_t len, struct wire_complete *ret)
{
	struct reader r = { .p = p, .left = len };
	struct wire_complete m = { 0 };

	m.n = get_u8(&r);
	get_reserved(&r, 7);
	if (r.refused || m.n == 0 || m.n > WIRE_COMPLETES_MAX)
		return -EPROTO;
	for (size_t i = 0; i < m.n; i++)
		m.leases[i] = get_u64(&r);
	if (r.refused || r.left > 0)
		return -EPROTO;
	*ret = m;
	return 0;
}

int wire_decode_goodbye(const uint8_t *p, size_t len, struct wire_goodbye *ret)
{
	struct reader r = { .p = p, .left = len };
	struct wire_goodbye m = { 0 };

	m.reason = get_u8(&r);
	refuse_unless(&r, m.reason <= WIRE_STATUS_MAX);
	get_text(&r, m.text, sizeof(m.text));
	if (r.refused || r.left > 0)
		return -EPROTO;
	*ret = m;
	return 0;
}
