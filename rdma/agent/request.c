#include "rdma/agent/request.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "filer/base/base.h"
#include "filer/base/crc32c.h"
#include "rdma/agent/agent.h"
#include "rdma/agent/volume_format.h"

/* What a record has around its data at least, and a little more. */
#define RECORD_OVERHEAD_BYTES 64
/* Records up to this are read whole also for a part of them: one read instead of three. */
#define RECORD_SMALL_BYTES 16384
/* What the head of a record has in front of the data, as in store_parse_header(). */
#define HEAD_BYTES_V1 16

static uint64_t now_realtime_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_REALTIME, &t);
	return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

static struct wire_result *result_of(const struct piece *p)
{
	struct request *r = p->request;

	return &r->reply.results[p - r->pieces];
}

static void unstage(struct request_host *host, struct staged *s)
{
	if (s->ptr)
		host->transport->unstage(host->connection, s);
	s->ptr = NULL;
}

static void unpin(struct piece *p)
{
	if (p->pinned)
		store_unpin(&p->place);
	p->pinned = false;
}

/* --- the answer --- */

static void output_done(struct output *o)
{
	struct request *r = (struct request *)((char *)o - offsetof(struct request, out));

	for (size_t i = 0; i < r->n_pieces; i++)
		unpin(&r->pieces[i]);
	unstage(r->host, &r->block);
	r->state = REQUEST_OVER;
	r->host->over(r);
}

/* Whose bytes are in memory of their own becomes a lease, if there is room for one. */
static void lease_piece(struct piece *p, struct wire_result *result)
{
	struct request_host *host = p->request->host;
	unsigned ms = host->agent->cfg.lease_ms;
	int err = host->transport->expose(host->connection, &p->staged, p->memory, result->length);

	if (!err)
		result->lease_id = lease_begin(&host->leases, &p->staged, now_ms() + ms);
	if (!result->lease_id) {
		unstage(host, &p->staged);
		*result = (struct wire_result){ .status = WIRE_BUSY };
		return;
	}
	agent_count(&host->agent->counters.leases, 1);
	result->flags |= WIRE_RESULT_LEASE;
	result->remote_addr = p->staged.remote_addr;
	result->rkey = p->staged.rkey;
	result->lease_ms = ms;
	p->staged.ptr = NULL;
}

static void add_output(struct request *r, const struct piece *p, uint64_t bytes)
{
	struct output_piece *o = &r->out.pieces[r->out.n_pieces++];

	*o = (struct output_piece){ .fd = p->place.fd, .bytes = bytes };
	if (p->way == WAY_FILE)
		o->offset = p->info.data_offset + p->extent.offset;
	else
		o->mem = p->memory;
}

/* With the client gone. Not counted: reads that were given up on that account look like failures. */
static void abandon(struct request *r)
{
	for (size_t i = 0; i < r->n_pieces; i++)
		unstage(r->host, &r->pieces[i].staged);
	output_done(&r->out);
}

static void answer(struct request *r)
{
	struct request_host *host = r->host;
	struct agent_counters *counters = &host->agent->counters;
	struct wire_header h = { .version = WIRE_VERSION, .credits = 1, .xid = r->xid };
	uint64_t in_message = 0;

	r->state = REQUEST_ANSWERING;
	r->out.n_pieces = 0;
	if (host->lost) {
		abandon(r);
		return;
	}
	for (size_t i = 0; i < r->n_pieces; i++) {
		struct piece *p = &r->pieces[i];
		struct wire_result *result = &r->reply.results[i];

		if (p->lease && result->status == WIRE_OK)
			lease_piece(p, result);
		unstage(host, &p->staged);
		agent_count(&counters->by_status[result->status], 1);
		if (result->status != WIRE_OK || result->length == 0)
			continue;
		agent_count(p->way == WAY_FILE ? &counters->bytes_file : &counters->bytes_memory,
			    result->length);
		if (result->flags & WIRE_RESULT_LEASE)
			continue;
		add_output(r, p, result->length);
		in_message += result->length;
	}
	agent_count(&counters->reads, r->n_pieces);
	if (!(host->transport->capabilities & WIRE_CAP_STREAM))
		h.length = (uint32_t)in_message;
	int err = wire_encode_read_reply(r->out.message, sizeof(r->out.message), h, &r->reply,
					 &r->out.message_bytes);
	if (err)
		output_done(&r->out);
	else
		host->transport->send(host->connection, &r->out);
}

/* --- pieces --- */

static void finish(struct piece *p, enum wire_status status)
{
	struct request *r = p->request;
	struct wire_result *result = result_of(p);

	p->state = PIECE_DONE;
	unstage(r->host, &p->long_tail);
	if (status != WIRE_OK) {
		*result = (struct wire_result){ .status = (uint8_t)status };
		unstage(r->host, &p->staged);
	}
	if (status != WIRE_OK || p->way != WAY_FILE)
		unpin(p);
	if (--r->pieces_left == 0)
		answer(r);
}

static enum wire_status status_of(int err)
{
	switch (err) {
	case 0:
		return WIRE_OK;
	case -ENOENT:
		return WIRE_NOT_FOUND;
	case -EOPNOTSUPP:
	case -EMSGSIZE:
		return WIRE_NOT_SERVED;
	case -EACCES:
		return WIRE_DENIED;
	case -ENODATA:
		return WIRE_RANGE;
	case -ENOBUFS:
		return WIRE_BUSY;
	default:
		return WIRE_IO;
	}
}

/* Head and tail are known and right, and the bytes are in memory if they are to be. */
static void describe(struct piece *p)
{
	const struct needle_info *info = &p->info;
	struct wire_result *result = result_of(p);
	uint64_t length = p->extent.length;

	result->status = WIRE_OK;
	result->length = length;
	result->needle_length = info->data_bytes;
	result->flags = info->gzip ? WIRE_RESULT_GZIP : 0;
	if (p->way == WAY_RECORD)
		p->memory += info->data_offset - p->place.record_offset + p->extent.offset;
	if (p->extent.offset == 0 && length == info->data_bytes) {
		result->flags |= WIRE_RESULT_CRC_WHOLE;
		result->crc32c = info->crc32c;
	} else if (p->way != WAY_FILE) {
		result->flags |= WIRE_RESULT_CRC_RANGE;
		result->crc32c = crc32c(0, p->memory, length);
	}
}

static void piece_advance(struct piece *p);

static void check_done(struct check *c, int err, enum needle_check found)
{
	struct piece *p = (struct piece *)((char *)c - offsetof(struct piece, check));

	p->error = err;
	p->place.facts.check = found;
	if (!err)
		store_note_facts(&p->place, p->extent.fid.key);
	piece_advance(p);
}

static bool check_wanted(const struct check *c)
{
	const struct piece *p = (const struct piece *)((const char *)c -
						       offsetof(struct piece, check));

	return !p->request->host->lost;
}

static bool is_part(const struct piece *p)
{
	return p->extent.length < p->info.data_bytes;
}

/* A large part of a needle is only served once all of it has been compared with its checksum; for a
 * small one that would be out of all proportion. Who gets a whole needle does it himself. */
static bool wants_check(const struct piece *p)
{
	return p->way != WAY_RECORD && is_part(p) &&
	       p->extent.length > p->request->host->agent->cfg.small_bytes_max &&
	       p->info.data_bytes <= CHECK_NEEDLE_BYTES_MAX && p->place.facts.check != NEEDLE_SOUND;
}

static void start_check(struct piece *p)
{
	struct request_host *host = p->request->host;

	p->state = PIECE_CHECKING;
	p->check.disk = host->disk;
	p->check.place = &p->place;
	p->check.info = &p->info;
	p->check.read = &p->reads[0];
	p->check.wanted = check_wanted;
	p->check.done = check_done;
	check_start(&host->agent->checker, &p->check);
}

/* All of it is at hand, and mostly not much: it costs next to nothing to look. */
static enum needle_check check_record(const struct piece *p)
{
	const uint8_t *data = p->memory + (p->info.data_offset - p->place.record_offset);
	bool large = p->info.data_bytes > p->request->host->agent->cfg.small_bytes_max;

	if (p->info.data_bytes == 0 || (large && p->extent.length == p->info.data_bytes))
		return NEEDLE_UNCHECKED;
	return crc32c_matches(p->info.crc32c, crc32c(0, data, p->info.data_bytes)) ? NEEDLE_SOUND
										   : NEEDLE_CORRUPT;
}

static void answer_piece(struct piece *p)
{
	if (p->place.facts.check == NEEDLE_CORRUPT) {
		finish(p, WIRE_CORRUPT);
		return;
	}
	describe(p);
	finish(p, WIRE_OK);
}

static void use_tail(struct piece *p, const uint8_t *tail, size_t len)
{
	int err = store_parse_tail(&p->place, tail, len, now_realtime_ns(), &p->info);

	if (err) {
		finish(p, status_of(err));
		return;
	}
	bool known = p->place.facts.plain_tail;
	p->place.facts.plain_tail = p->info.expires_at_ns == 0;
	p->place.facts.gzip = p->info.gzip;
	if (wants_check(p)) {
		start_check(p);
		return;
	}
	if (p->way == WAY_RECORD)
		p->place.facts.check = check_record(p);
	else if (is_part(p) && !known && p->place.facts.plain_tail)
		store_note_facts(&p->place, p->extent.fid.key);
	answer_piece(p);
}

static void read_done(struct disk_read *d);

static void begin_read(struct piece *p, unsigned i, uint64_t offset, void *buf, size_t bytes)
{
	struct disk_read *d = &p->reads[i];

	*d = (struct disk_read){ .fd = p->place.fd,
				 .offset = offset,
				 .buf = buf,
				 .bytes = bytes,
				 .done = read_done,
				 .arg = p };
	p->pending++;
	if (disk_read(p->request->host->disk, d)) {
		p->pending--;
		if (d->result)
			p->error = d->result;
	}
}

static size_t guess_bytes(const struct piece *p)
{
	return min_u64(TAIL_GUESS_BYTES, p->record_bytes);
}

/* The extent against the needle that is there. */
static int check_range(struct piece *p)
{
	struct wire_extent *e = &p->extent;
	uint64_t data_bytes = p->info.data_bytes;

	if (e->flags & WIRE_EXTENT_WHOLE)
		e->length = data_bytes;
	/* Whoever wants more than an answer may hold asks the volume server. */
	if (e->length > WIRE_EXTENT_BYTES_MAX)
		return -EOPNOTSUPP;
	return e->offset > data_bytes || e->length > data_bytes - e->offset ? -ENODATA : 0;
}

/* The reads are over: what do head and tail say? */
static void use_record(struct piece *p)
{
	const uint8_t *head = p->way == WAY_RECORD ? p->memory : p->head;
	uint64_t end = p->place.record_offset + p->record_bytes;
	uint64_t tail_offset;
	size_t tail_bytes;

	int err = store_parse_header(&p->place, &p->extent.fid, head, &p->info);
	if (!err)
		err = check_range(p);
	if (err) {
		finish(p, status_of(err));
		return;
	}
	if (p->without_tail && is_part(p)) {
		p->info.gzip = p->place.facts.gzip;
		answer_piece(p);
		return;
	}
	store_tail_place(&p->place, &p->info, &tail_offset, &tail_bytes);
	if (p->way == WAY_RECORD) {
		use_tail(p, p->memory + (tail_offset - p->place.record_offset), tail_bytes);
		return;
	}
	if (!p->without_tail && tail_offset >= end - guess_bytes(p)) {
		use_tail(p, p->tail + (tail_offset - (end - guess_bytes(p))), tail_bytes);
		return;
	}
	struct request_host *host = p->request->host;
	err = host->lost ? -EIO
			 : host->transport->stage(host->connection, tail_bytes, &p->long_tail);
	if (err) {
		finish(p, status_of(err));
		return;
	}
	p->state = PIECE_READING_TAIL;
	begin_read(p, 0, tail_offset, p->long_tail.ptr, tail_bytes);
	if (p->pending == 0)
		piece_advance(p);
}

/* A part needs nothing of the tail but what is remembered, unless the checksum is to be looked at. */
static bool tail_is_known(const struct piece *p)
{
	const struct needle_facts *facts = &p->place.facts;

	return p->way != WAY_RECORD && !(p->extent.flags & WIRE_EXTENT_WHOLE) &&
	       facts->plain_tail &&
	       (facts->check == NEEDLE_SOUND ||
		p->extent.length <= p->request->host->agent->cfg.small_bytes_max);
}

static void begin_reads(struct piece *p)
{
	const struct needle_place *place = &p->place;
	uint64_t end = place->record_offset + p->record_bytes;

	p->state = PIECE_READING;
	p->without_tail = tail_is_known(p);
	if (p->way == WAY_RECORD) {
		begin_read(p, 0, place->record_offset, p->memory, p->memory_bytes);
		return;
	}
	begin_read(p, 0, place->record_offset, p->head, sizeof(p->head));
	if (!p->without_tail)
		begin_read(p, 1, end - guess_bytes(p), p->tail, guess_bytes(p));
	if (p->way == WAY_RANGE)
		begin_read(p, 2,
			   place->record_offset +
				   (place->version == 1 ? HEAD_BYTES_V1 : STORE_HEADER_BYTES) +
				   p->extent.offset,
			   p->memory, p->extent.length);
}

/* Takes a piece on from where nothing is under way for it. */
static void piece_advance(struct piece *p)
{
	if (p->error && p->state != PIECE_DONE) {
		finish(p, p->error == -ENOBUFS || p->error == -ENOMEM ? WIRE_BUSY : WIRE_IO);
		return;
	}
	switch (p->state) {
	case PIECE_NEW:
		begin_reads(p);
		if (p->pending == 0)
			piece_advance(p);
		break;
	case PIECE_READING:
		use_record(p);
		break;
	case PIECE_READING_TAIL:
		use_tail(p, p->long_tail.ptr, p->reads[0].bytes);
		break;
	case PIECE_CHECKING:
		answer_piece(p);
		break;
	case PIECE_DONE:
		break;
	}
}

static void read_done(struct disk_read *d)
{
	struct piece *p = d->arg;

	if (d->result)
		p->error = d->result;
	if (--p->pending == 0)
		piece_advance(p);
}

/* --- the plan --- */

static int find(struct piece *p, const struct wire_extent *e)
{
	struct request_host *host = p->request->host;
	struct agent *agent = host->agent;
	bool read_deleted = e->flags & WIRE_EXTENT_READ_DELETED;

	if (!host->authorised &&
	    token_check_fid(agent->cfg.tokens, e->token ? e->token : "", e->token_len, &e->fid))
		return -EACCES;
	int err = store_find(agent->cfg.store, &e->fid, read_deleted, &p->place);
	if (err)
		return err;
	p->pinned = true;
	p->record_bytes = record_bytes(p->place.version, p->place.record_size);
	/* Size counts the data and what is behind it. */
	if (!(e->flags & WIRE_EXTENT_WHOLE) && e->offset + e->length > p->place.record_size)
		return -ENODATA;
	return 0;
}

/* Into memory, if it is to go there and there is some left of room, which is of memory where a stream
 * can take the rest, and of the message where all else has to be leased. Returns what it takes of it. */
static size_t choose_way(struct piece *p, size_t room)
{
	const struct request_host *host = p->request->host;
	const struct wire_extent *e = &p->extent;
	bool whole = e->flags & WIRE_EXTENT_WHOLE;
	bool stream = host->transport->capabilities & WIRE_CAP_STREAM;
	uint64_t wanted = whole ? p->place.record_size : e->length;
	bool small = wanted <= host->agent->cfg.small_bytes_max;

	p->way = WAY_RANGE;
	p->memory_bytes = e->length;
	if (whole || p->record_bytes <= RECORD_SMALL_BYTES ||
	    p->record_bytes <= wanted + RECORD_OVERHEAD_BYTES) {
		p->way = WAY_RECORD;
		p->memory_bytes = p->record_bytes;
	}
	if (!stream) {
		p->lease = wanted > room;
		return p->lease ? 0 : wanted;
	}
	if (!small || p->memory_bytes > room) {
		p->way = WAY_FILE;
		p->memory_bytes = 0;
	}
	return p->memory_bytes;
}

/* Memory for the pieces that share the block, which is also all that a stream needs. */
static void stage_block(struct request *r, size_t bytes)
{
	struct request_host *host = r->host;
	size_t used = 0;
	int err = bytes ? host->transport->stage(host->connection, bytes, &r->block) : 0;

	for (size_t i = 0; i < r->n_pieces; i++) {
		struct piece *p = &r->pieces[i];

		if (p->state != PIECE_NEW || p->way == WAY_FILE || p->lease)
			continue;
		if (!err) {
			p->memory = r->block.ptr + used;
			used += p->memory_bytes;
			continue;
		}
		agent_count(&host->agent->counters.unstaged, 1);
		if (host->transport->capabilities & WIRE_CAP_STREAM)
			p->way = WAY_FILE;
		else
			finish(p, WIRE_BUSY);
	}
}

static void stage_lease(struct piece *p)
{
	struct request_host *host = p->request->host;
	int err = host->transport->stage(host->connection, p->memory_bytes, &p->staged);

	if (err == -ENOBUFS)
		agent_count(&host->agent->counters.unstaged, 1);
	if (err)
		finish(p, status_of(err));
	p->memory = p->staged.ptr;
}

static size_t room_of(const struct request_host *host)
{
	if (host->transport->capabilities & WIRE_CAP_STREAM)
		return host->agent->cfg.small_bytes_max + RECORD_OVERHEAD_BYTES;
	return host->inline_bytes_max;
}

void request_start(struct request *r, uint64_t xid, const struct wire_read *m)
{
	size_t room = room_of(r->host), memory_bytes = 0;

	r->state = REQUEST_READING;
	r->xid = xid;
	r->n_pieces = r->reply.n_results = m->n_extents;
	/* One more than there are, so that the last one is not done before all have begun. */
	r->pieces_left = m->n_extents + 1;
	for (size_t i = 0; i < r->n_pieces; i++) {
		struct piece *p = &r->pieces[i];

		memset(p, 0, offsetof(struct piece, reads));
		r->reply.results[i] = (struct wire_result){ 0 };
		p->request = r;
		p->extent = m->extents[i];
		int err = find(p, &m->extents[i]);
		if (err) {
			finish(p, status_of(err));
			continue;
		}
		room -= choose_way(p, room);
		if (!p->lease)
			memory_bytes += p->memory_bytes;
	}
	stage_block(r, memory_bytes);
	for (size_t i = 0; i < r->n_pieces; i++) {
		struct piece *p = &r->pieces[i];

		if (p->state == PIECE_NEW && p->lease)
			stage_lease(p);
		if (p->state == PIECE_NEW)
			piece_advance(p);
	}
	if (--r->pieces_left == 0)
		answer(r);
}

struct request *request_new(struct request_host *host, size_t pieces_max)
{
	struct request *r = calloc(1, sizeof(*r) + pieces_max * sizeof(r->pieces[0]));

	if (!r)
		return NULL;
	r->host = host;
	r->out.done = output_done;
	r->pieces_max = pieces_max;
	return r;
}

void request_free(struct request *r)
{
	free(r);
}
