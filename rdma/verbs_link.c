#include "rdma/verbs_link.h"

#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "filer/base/base.h"
#include "rdma/completions.h"

#define HELLO_MAGIC UINT32_C(0x4b4c5631) /* of the link; the protocol above has its own version */
#define SIGNAL_EVERY 4
#define EVENTS_ACK_EVERY 128
#define QUIET_MAX 8 /* completions that tell nothing, in one call */
#define PAGE_BYTES 4096
/* What a device's driver locks for a queue pair, its completion queue and their doorbells. Drivers do not
 * tell: an estimate from the queues' lengths and the largest work requests. Soft-RoCE locks nothing. */
#define QUEUES_BYTES_MAX ((size_t)64 << 10)
/* Inline data to ask for; devices that have less refuse to make the queue pair. */
static const uint32_t inline_wishes[] = { 256, 64, 0 };

/* A work request's kind is in the upper half of its id, its number in the lower one. */
enum wr_kind {
	WR_RECEIVE = 1,
	WR_SEND,
	WR_READ,
};

static uint64_t wr_id(enum wr_kind kind, uint32_t number)
{
	return (uint64_t)kind << 32 | number;
}

/* --- hello --- */

static void put32(uint8_t *p, uint32_t v)
{
	v = htole32(v);
	memcpy(p, &v, sizeof(v));
}

static uint32_t get32(const uint8_t *p)
{
	uint32_t v;

	memcpy(&v, p, sizeof(v));
	return le32toh(v);
}

void link_hello_encode(const struct link_hello *h, uint8_t p[LINK_HELLO_BYTES])
{
	put32(p, HELLO_MAGIC);
	put32(p + 4, h->window);
	put32(p + 8, h->message_bytes);
	put32(p + 12, 0);
}

int link_hello_decode(const void *data, size_t len, struct link_hello *ret)
{
	const uint8_t *p = data;

	if (!p || len < LINK_HELLO_BYTES || get32(p) != HELLO_MAGIC)
		return -EPROTO;
	uint32_t window = get32(p + 4), bytes = get32(p + 8);
	/* One place is for returning places, so one alone could send nothing. */
	if (window < 2 || window > UINT16_MAX || bytes < WIRE_HEADER_BYTES)
		return -EPROTO;
	*ret = (struct link_hello){ .window = (uint16_t)window, .message_bytes = bytes };
	return 0;
}

/* --- life --- */

static uint8_t *receive_buffer(const struct link *l, unsigned i)
{
	return l->memory + i * l->receive_size;
}

static uint8_t *send_buffer(const struct link *l, unsigned i)
{
	return l->memory + LINK_RECEIVES * l->receive_size + i * l->send_size;
}

static int post_receive(struct link *l, unsigned i)
{
	struct ibv_sge sge = { .addr = (uintptr_t)receive_buffer(l, i),
			       .length = (uint32_t)l->receive_size,
			       .lkey = l->mr->lkey };
	struct ibv_recv_wr wr = { .wr_id = wr_id(WR_RECEIVE, i), .sg_list = &sge, .num_sge = 1 };
	struct ibv_recv_wr *bad;

	if (ibv_post_recv(l->id->qp, &wr, &bad))
		return -EIO;
	l->receives_posted++;
	return 0;
}

static int make_cq(struct link *l, const struct link_config *cfg)
{
	const int depth = LINK_RECEIVES + LINK_SENDS + LINK_READS_MAX + 1;

	l->channel = ibv_create_comp_channel(l->id->verbs);
	if (!l->channel)
		return -errno;
	int flags = fcntl(l->channel->fd, F_GETFL);
	if (flags < 0 || fcntl(l->channel->fd, F_SETFL, flags | O_NONBLOCK))
		return -errno;
	l->cq = ibv_create_cq(l->id->verbs, depth, cfg->context, l->channel, 0);
	return l->cq ? 0 : -errno;
}

static int make_qp(struct link *l, const struct link_config *cfg)
{
	struct ibv_device_attr device;
	int err = ibv_query_device(l->id->verbs, &device);

	if (err)
		return -err;
	l->sges_max = (uint32_t)min_u64(LINK_SGES_MAX, (uint64_t)device.max_sge);
	if (device.max_sge_rd > 0)
		l->sges_max = (uint32_t)min_u64(l->sges_max, (uint64_t)device.max_sge_rd);
	for (size_t i = 0; i < ARRAY_LEN(inline_wishes); i++) {
		struct ibv_qp_init_attr attr = {
			.qp_context = cfg->context,
			.send_cq = l->cq,
			.recv_cq = l->cq,
			.qp_type = IBV_QPT_RC,
			.cap = { .max_send_wr = LINK_SENDS + (cfg->reads ? LINK_READS_MAX : 0),
				 .max_recv_wr = LINK_RECEIVES,
				 .max_send_sge = (uint32_t)max_u64(l->sges_max, 2),
				 .max_recv_sge = 1,
				 .max_inline_data = inline_wishes[i] },
		};
		if (rdma_create_qp(l->id, cfg->pd, &attr) == 0) {
			l->has_qp = true;
			l->inline_bytes_max = attr.cap.max_inline_data;
			return 0;
		}
		err = -errno;
	}
	return err;
}

static size_t memory_bytes(size_t receive_bytes_max, size_t send_bytes_max)
{
	return LINK_RECEIVES * (LINK_PREFIX_BYTES + receive_bytes_max) +
	       LINK_SENDS * (LINK_PREFIX_BYTES + send_bytes_max);
}

size_t link_locked_bytes(size_t receive_bytes_max, size_t send_bytes_max)
{
	size_t page = (size_t)sysconf(_SC_PAGESIZE);
	size_t bytes = memory_bytes(receive_bytes_max, send_bytes_max);

	return (bytes + page - 1) / page * page + QUEUES_BYTES_MAX;
}

static int make_buffers(struct link *l, const struct link_config *cfg)
{
	l->receive_size = LINK_PREFIX_BYTES + cfg->receive_bytes_max;
	l->send_size = LINK_PREFIX_BYTES + cfg->send_bytes_max;
	size_t bytes = memory_bytes(cfg->receive_bytes_max, cfg->send_bytes_max);
	int err = posix_memalign((void **)&l->memory, PAGE_BYTES, bytes);

	if (err) {
		l->memory = NULL;
		return -err;
	}
	/* The provider may send from what was never written to. */
	memset(l->memory, 0, bytes);
	l->mr = ibv_reg_mr(cfg->pd, l->memory, bytes, IBV_ACCESS_LOCAL_WRITE);
	return l->mr ? 0 : -errno;
}

int link_open(struct link *l, const struct link_config *cfg)
{
	*l = (struct link){ .id = cfg->id };
	int err = make_buffers(l, cfg);

	if (!err)
		err = make_cq(l, cfg);
	if (!err)
		err = make_qp(l, cfg);
	for (unsigned i = 0; i < LINK_RECEIVES && !err; i++)
		err = post_receive(l, i);
	if (err)
		link_close(l);
	return err;
}

void link_set_peer(struct link *l, const struct link_hello *peer)
{
	l->window = peer->window;
	l->peer_bytes_max = min_u64(peer->message_bytes, l->send_size - LINK_PREFIX_BYTES);
}

void link_close(struct link *l)
{
	if (l->has_qp)
		rdma_destroy_qp(l->id);
	if (l->cq) {
		link_take_events(l);
		ibv_ack_cq_events(l->cq, l->events_unacked);
		ibv_destroy_cq(l->cq);
	}
	if (l->channel)
		ibv_destroy_comp_channel(l->channel);
	if (l->mr)
		ibv_dereg_mr(l->mr);
	free(l->memory);
	*l = (struct link){ .failed = true };
}

/* --- sending --- */

static int post(struct link *l, struct ibv_send_wr *wr)
{
	struct ibv_send_wr *bad;

	if (ibv_post_send(l->id->qp, wr, &bad)) {
		l->failed = true;
		return -EIO;
	}
	return 0;
}

static int post_send(struct link *l, const struct link_part *parts, size_t n, size_t bytes)
{
	unsigned slot = (unsigned)(l->sends_posted % LINK_SENDS);
	uint8_t *p = send_buffer(l, slot);
	struct ibv_sge sge = { .addr = (uintptr_t)p,
			       .length = (uint32_t)(LINK_PREFIX_BYTES + bytes),
			       .lkey = l->mr->lkey };
	struct ibv_send_wr wr = { .opcode = IBV_WR_SEND, .sg_list = &sge, .num_sge = 1 };

	put32(p, l->unreported);
	put32(p + 4, (uint32_t)bytes);
	p += LINK_PREFIX_BYTES;
	for (size_t i = 0; i < n; i++) {
		memcpy(p, parts[i].p, parts[i].bytes);
		p += parts[i].bytes;
	}
	l->sends_posted++;
	/* All but one of SIGNAL_EVERY are known to be over by the next one that is signalled. */
	if (l->sends_posted % SIGNAL_EVERY == 0 || l->signal_next)
		wr.send_flags |= IBV_SEND_SIGNALED;
	wr.wr_id = wr_id(WR_SEND, (uint32_t)l->sends_posted);
	if (sge.length <= l->inline_bytes_max)
		wr.send_flags |= IBV_SEND_INLINE;
	l->signal_next = false;
	l->unreported = 0;
	l->window--;
	return post(l, &wr);
}

void link_signal_next(struct link *l)
{
	l->signal_next = true;
}

static bool has_send_buffer(const struct link *l)
{
	return l->sends_posted - l->sends_done < LINK_SENDS;
}

int link_send(struct link *l, const struct link_part *parts, size_t n)
{
	size_t bytes = 0;

	for (size_t i = 0; i < n; i++)
		bytes += parts[i].bytes;
	if (bytes > l->peer_bytes_max)
		return -EMSGSIZE;
	if (l->failed)
		return -EIO;
	if (l->window < 2 || !has_send_buffer(l))
		return -EAGAIN;
	return post_send(l, parts, n, bytes);
}

/* Tells the peer of its places before it runs out of them. */
static int report(struct link *l)
{
	if (l->unreported < LINK_RECEIVES / 2 || l->window < 1 || !has_send_buffer(l) || l->failed)
		return 0;
	return post_send(l, NULL, 0, 0);
}

int link_read(struct link *l, struct ibv_sge *sges, int n, uint64_t remote_addr, uint32_t rkey,
	      unsigned read)
{
	struct ibv_send_wr wr = { .wr_id = wr_id(WR_READ, read),
				  .opcode = IBV_WR_RDMA_READ,
				  .send_flags = IBV_SEND_SIGNALED,
				  .sg_list = sges,
				  .num_sge = n,
				  .wr.rdma = { .remote_addr = remote_addr, .rkey = rkey } };

	if (l->failed)
		return -EIO;
	if (l->reads_posted >= LINK_READS_MAX)
		return -EAGAIN;
	l->reads_posted++;
	return post(l, &wr);
}

/* --- what happened --- */

void link_release(struct link *l, unsigned receive)
{
	if (l->failed)
		return;
	if (post_receive(l, receive)) {
		l->failed = true;
		return;
	}
	l->unreported++;
	(void)report(l);
}

static int take_message(struct link *l, const struct ibv_wc *wc, struct link_event *ret)
{
	unsigned i = (unsigned)(uint32_t)wc->wr_id;
	const uint8_t *p = receive_buffer(l, i);

	if (wc->byte_len < LINK_PREFIX_BYTES)
		return -EPROTO;
	uint32_t places = get32(p), bytes = get32(p + 4);
	if (places > UINT16_MAX || bytes != wc->byte_len - LINK_PREFIX_BYTES)
		return -EPROTO;
	l->window = (unsigned)min_u64((uint64_t)l->window + places, UINT16_MAX);
	if (bytes == 0) {
		link_release(l, i);
		return 0;
	}
	p += LINK_PREFIX_BYTES;
	if (wire_decode_header(p, bytes, &ret->header) ||
	    ret->header.length != bytes - WIRE_HEADER_BYTES)
		return -EPROTO;
	ret->type = LINK_MESSAGE;
	ret->payload = p + WIRE_HEADER_BYTES;
	ret->receive = i;
	return 0;
}

/* Of a completion with an error only its id is sure to be set. */
static void note_failure(struct link *l, const struct ibv_wc *wc)
{
	switch ((enum wr_kind)(wc->wr_id >> 32)) {
	case WR_RECEIVE:
		l->receives_posted--;
		break;
	case WR_SEND:
		l->sends_done = l->sends_posted -
				(uint32_t)((uint32_t)l->sends_posted - (uint32_t)wc->wr_id);
		break;
	case WR_READ:
		l->reads_posted--;
		break;
	}
	if (!l->failed || l->status == IBV_WC_SUCCESS)
		l->status = wc->status;
	l->failed = true;
}

static int take_completion(struct link *l, const struct ibv_wc *wc, struct link_event *ret)
{
	switch ((enum wr_kind)(wc->wr_id >> 32)) {
	case WR_RECEIVE:
		l->receives_posted--;
		return take_message(l, wc, ret);
	case WR_SEND:
		l->sends_done = l->sends_posted -
				(uint32_t)((uint32_t)l->sends_posted - (uint32_t)wc->wr_id);
		return report(l);
	case WR_READ:
		l->reads_posted--;
		ret->type = LINK_READ_DONE;
		ret->read = (unsigned)(uint32_t)wc->wr_id;
		return 0;
	default:
		return -EPROTO;
	}
}

int link_poll(struct link *l, struct link_event *ret)
{
	struct ibv_wc wc;

	ret->type = LINK_NOTHING;
	for (unsigned i = 0; i < QUIET_MAX; i++) {
		int n = l->cq ? ibv_poll_cq(l->cq, 1, &wc) : -1;

		if (n < 0)
			return -EIO;
		if (n == 0)
			return l->failed ? -ECONNRESET : 0;
		completion_note(wc.status);
		if (wc.status != IBV_WC_SUCCESS) {
			note_failure(l, &wc);
			continue;
		}
		int err = take_completion(l, &wc, ret);
		if (err || ret->type != LINK_NOTHING)
			return err;
	}
	ret->type = LINK_MORE;
	return 0;
}

int link_arm(struct link *l)
{
	return ibv_req_notify_cq(l->cq, 0) ? -EIO : 0;
}

void link_take_events(struct link *l)
{
	struct ibv_cq *cq;
	void *context;

	while (ibv_get_cq_event(l->channel, &cq, &context) == 0) {
		if (++l->events_unacked >= EVENTS_ACK_EVERY) {
			ibv_ack_cq_events(l->cq, l->events_unacked);
			l->events_unacked = 0;
		}
	}
}

bool link_is_drained(const struct link *l)
{
	return l->receives_posted == 0 && l->reads_posted == 0 &&
	       l->sends_posted - l->sends_done < SIGNAL_EVERY;
}
