/* The agent's side of the protocol for one connection, whatever carries it (transport.h).
 *
 * Called from its connection's thread only. Never blocks: disk reads go through that thread's disk
 * (disk.h), and answers to what was not in the page cache are sent from within disk_reap(). */
#ifndef KELP_SESSION_H
#define KELP_SESSION_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "rdma/wire.h"

struct agent;
struct connection;
struct disk;
struct session;
struct transport;

struct session_config {
	struct agent *agent;
	struct disk *disk;
	const struct transport *transport;
	struct connection *connection;
	bool refused; /* over the limit: its hello will be answered with WIRE_EXHAUSTED */
};

/* Returns 0 or -ENOMEM. */
int session_new(const struct session_config *cfg, struct session **ret);

/* May a message be handed over now? While false, leave messages where they are; it may have changed
 * when an output is done. */
bool session_wants(const struct session *s);

/* One whole message; payload has h->length bytes and is not needed afterwards. */
void session_message(struct session *s, const struct wire_header *h, const uint8_t *payload);

/* What arrived is no message. */
void session_malformed(struct session *s);

/* Time limits; to be called every SESSION_TICK_MS or so. */
#define SESSION_TICK_MS 250
void session_tick(struct session *s, int64_t now);

/* Takes no more messages, finishes the answers under way and says goodbye. */
void session_shut_down(struct session *s);

/* The connection is gone, and all its outputs are done: nothing is sent any more. */
void session_lost(struct session *s);

/* Once lost: are there still disk reads under way, to memory of this connection? */
bool session_is_busy(const struct session *s);

/* Lost and not busy. Takes NULL. */
void session_free(struct session *s);

#endif
