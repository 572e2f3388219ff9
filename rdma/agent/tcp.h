/* One connection of the TCP transport, between its thread (tcp.c) and its stream (tcp_stream.c). */
#ifndef KELP_AGENT_TCP_H
#define KELP_AGENT_TCP_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "rdma/agent/agent.h"
#include "rdma/agent/disk.h"
#include "rdma/agent/session.h"
#include "rdma/agent/staging.h"
#include "rdma/agent/transport.h"

struct listener;

/* An answer's memory, while nobody has it. */
struct block {
	struct block *next;
};

/* Only its own thread touches it, but for what says otherwise. */
struct tcp_thread {
	struct listener *listener;
	pthread_t thread;
	int epoll_fd;
	int wake_fd;
	struct disk *disk;
	struct connection *connections; /* utlist */
	struct connection *changed; /* to be looked at before the next wait */
	struct block *blocks;
	size_t n_blocks;
	int64_t tick_at_ms;
	int64_t accept_at_ms; /* accepting rests until then; 0: it does not */
	bool shutting_down;
	atomic_uint n_connections; /* read by the one that accepts */
	pthread_mutex_t lock; /* protects incoming */
	struct connection *incoming; /* accepted by another thread */
};

enum connection_state {
	CONNECTION_OPEN,
	CONNECTION_LINGERING, /* all is sent; what still arrives is dropped until the peer closes */
	CONNECTION_DEAD, /* the socket is closed */
	CONNECTION_LOST, /* the session knows; freed once no disk read is under way for it */
};

struct connection {
	struct tcp_thread *thread;
	struct connection *prev, *next; /* utlist */
	struct connection *next_changed;
	bool is_changed;
	bool advancing; /* it is being looked at */
	enum connection_state state;
	int fd;
	uint32_t events; /* that epoll watches for */
	int64_t progress_ms; /* the last time that anything of the output went out, or began to */
	struct session *session;
	struct staging_share staging;

	uint8_t *in; /* WIRE_MESSAGE_BYTES_MAX */
	size_t in_start, in_end;

	/* Outputs in order, and how much of the first is out: so many bytes of the message, so many
	 * pieces, so many bytes of the piece after them. */
	struct output *out_first, *out_last;
	size_t message_sent;
	size_t pieces_sent;
	uint64_t piece_sent;
	bool flushing;
	bool write_blocked; /* the socket's buffer is full, or it is another connection's turn */
	bool warming; /* waits for the disk */
	uint64_t warm_end; /* in the file of the piece under way, up to where it was warmed */
	struct disk_read warm;
};

/* Has thread->changed look at the connection. */
void tcp_mark_changed(struct connection *c);

/* Closes the socket. The rest is done before the thread waits again. */
void tcp_drop(struct connection *c);

/* Appends an output and sends what can be sent. */
void tcp_stream_send(struct connection *c, struct output *o);
void tcp_stream_flush(struct connection *c);
/* Calls done for what will not be sent. */
void tcp_stream_abandon(struct connection *c);

/* Receives once. */
void tcp_stream_receive(struct connection *c);
/* Hands whole messages to the session while it wants them. */
void tcp_stream_deliver(struct connection *c);
bool tcp_stream_wants_input(const struct connection *c);

#endif
