/* One queue pair that carries messages, the same at both ends: posted receives, buffers to send from,
 * and a window that makes receiver-not-ready impossible.
 *
 * Every message is a SEND of LINK_PREFIX_BYTES and the message of wire.h. The prefix tells how many
 * receives its sender has posted again since the last one that it told of: so many more sends may be
 * outstanding. A prefix alone returns them where there is nothing else to say; the last place of the
 * window is kept for that. (Immediate data would do the same, but iWARP has none.)
 *
 * Not thread-safe. Nothing of it waits. */
#ifndef KELP_RDMA_VERBS_LINK_H
#define KELP_RDMA_VERBS_LINK_H

#include <infiniband/verbs.h>
#include <rdma/rdma_cma.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "rdma/wire.h"

#define LINK_PREFIX_BYTES 8
#define LINK_RECEIVES 24
#define LINK_SENDS 16
#define LINK_SGES_MAX 8
#define LINK_READS_MAX 32
/* A client's messages: 16 extents, or one with a long token. */
#define LINK_REQUEST_BYTES_MAX ((size_t)4096)

/* So long, as often as LINK_RETRIES, is waited for an acknowledgement: 4.096 us * 2^15 = 134 ms. The
 * default of a route is half a second. 7 retries would mean for ever to soft-RoCE. */
#define LINK_ACK_TIMEOUT 15
#define LINK_RETRIES 6

/* What both sides tell each other in the private data of connecting; little-endian. */
struct link_hello {
	uint16_t window; /* receives that are posted */
	uint32_t message_bytes; /* of each, without the prefix */
};
#define LINK_HELLO_BYTES 16

void link_hello_encode(const struct link_hello *h, uint8_t p[LINK_HELLO_BYTES]);
/* 0 or -EPROTO. Private data may arrive longer than it was sent. */
int link_hello_decode(const void *p, size_t len, struct link_hello *ret);

struct link_config {
	struct rdma_cm_id *id; /* with a device; borrowed */
	struct ibv_pd *pd; /* borrowed */
	size_t receive_bytes_max; /* of one message, without the prefix; likewise: */
	size_t send_bytes_max;
	bool reads; /* this side reads the other's memory */
	void *context; /* of the queue pair and its completion queue; for asynchronous events */
};

struct link {
	struct rdma_cm_id *id;
	struct ibv_comp_channel *channel; /* non-blocking */
	struct ibv_cq *cq;
	bool has_qp;
	unsigned events_unacked;
	uint8_t *memory; /* receives, then sends */
	struct ibv_mr *mr;
	size_t receive_size, send_size; /* with the prefix */
	uint32_t inline_bytes_max; /* granted */
	uint32_t sges_max;

	size_t peer_bytes_max; /* messages that the peer takes */
	unsigned window; /* sends that the peer has posted receives for */
	unsigned unreported; /* receives posted again that the peer was not told of */
	uint64_t sends_posted, sends_done; /* see link_signal_next() */
	bool signal_next;
	unsigned receives_posted;
	unsigned reads_posted; /* not yet known to be over */
	bool failed; /* the queue pair is of no more use */
	enum ibv_wc_status status; /* the first that was not a success */
};

enum link_event_type {
	LINK_NOTHING,
	LINK_MORE, /* nothing to tell of, but it took long enough; there may be more */
	LINK_MESSAGE,
	LINK_READ_DONE,
};

struct link_event {
	enum link_event_type type;
	struct wire_header header; /* LINK_MESSAGE; it fits what arrived */
	const uint8_t *payload;
	unsigned receive; /* for link_release() */
	unsigned read; /* LINK_READ_DONE: as given */
};

/* Memory that is locked for a link, whole pages: its messages', and its queues'. */
size_t link_locked_bytes(size_t receive_bytes_max, size_t send_bytes_max);

/* Makes the queue pair and posts its receives. Returns 0 or -errno. */
int link_open(struct link *l, const struct link_config *cfg);
/* What the peer said when it connected. */
void link_set_peer(struct link *l, const struct link_hello *peer);
/* Destroys the queue pair: nothing is read or written by the device any more. Then the rest. */
void link_close(struct link *l);

/* Parts of one message. Returns 0, -EAGAIN (no room in the window, or all buffers are under way),
 * -EMSGSIZE or -EIO. */
struct link_part {
	const void *p;
	size_t bytes;
};
int link_send(struct link *l, const struct link_part *parts, size_t n);
/* Has sends_done count up to the last send, once that is over; else only to every few of them. */
void link_signal_next(struct link *l);

/* Reads remote memory into n <= sges_max places. Its end is told by LINK_READ_DONE with `read`. Returns
 * 0, -EAGAIN (LINK_READS_MAX are under way) or -EIO. */
int link_read(struct link *l, struct ibv_sge *sges, int n, uint64_t remote_addr, uint32_t rkey,
	      unsigned read);

/* The next thing that happened. Returns 0, -EPROTO, -ECONNRESET (the queue pair failed: status). A peer
 * that sends what need not be told of, as fast as it is taken, keeps it no longer than LINK_MORE. */
int link_poll(struct link *l, struct link_event *ret);
/* The message's payload is not needed any more. */
void link_release(struct link *l, unsigned receive);

/* Has the channel's descriptor become readable with the next completion; poll once more after that. */
int link_arm(struct link *l);
/* Takes what is in the channel. */
void link_take_events(struct link *l);

/* All that was posted is over, but perhaps for a few sends. */
bool link_is_drained(const struct link *l);

#endif
