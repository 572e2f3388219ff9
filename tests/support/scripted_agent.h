/* An agent in threads that tells lies, stalls and breaks off: for faults that a real one cannot be made
 * to show. Its needles have made-up bytes. What cannot be set up ends the process. */
#ifndef KELP_SCRIPTED_AGENT_H
#define KELP_SCRIPTED_AGENT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "filer/fid.h"

enum agent_fault {
	AGENT_GOOD,
	/* instead of the hello's answer */
	AGENT_HELLO_STALLS,
	AGENT_HELLO_NOISE,
	AGENT_HELLO_CLOSES,
	AGENT_HELLO_REFUSED, /* with hello_status */
	AGENT_HELLO_GOODBYE, /* likewise */
	AGENT_HELLO_OTHER_VERSION,
	/* reads */
	AGENT_STALLS, /* no answer */
	AGENT_STALLS_IN_DATA, /* half of it */
	AGENT_BREAKS_OFF, /* half of the data, then the end */
	AGENT_CLOSES, /* instead of an answer */
	AGENT_GOODBYE,
	AGENT_WRONG_XID,
	AGENT_ANSWERS_TWICE,
	AGENT_MORE_RESULTS,
	AGENT_LONGER, /* one byte more than asked for */
	AGENT_SHORTER,
	AGENT_NEEDLE_TOO_SHORT, /* says a needle length before the range's end */
	AGENT_BAD_STATUS, /* no such status */
	AGENT_SAYS_MALFORMED,
	AGENT_LEASES, /* over a stream */
	AGENT_NOISE,
	AGENT_HUGE_MESSAGE,
	AGENT_READS_TO_US, /* a message that only clients send */
	AGENT_PINGS_FIRST, /* waits for the pong, then answers */
	AGENT_PINGS_ALWAYS, /* and never answers */
	AGENT_FLIPS_A_BIT, /* of the data, not of the checksum */
	AGENT_NOT_FOUND, /* the first extent */
	AGENT_BUSY,
	AGENT_SECOND_NOT_FOUND, /* the second extent of every read */
};

struct agent_script {
	enum agent_fault fault;
	uint8_t hello_status;
	unsigned credits; /* in the hello's answer; 0: none, ever */
	unsigned late_credits_ms; /* then a credit message with one */
	bool token_needed;
	uint16_t told_port; /* of 127.0.0.1, where it says that it listens for RDMA; 0: nowhere */
	bool gzip; /* says that needles are stored compressed */
	bool crc; /* of ranges too */
	size_t needle_bytes;
	unsigned hold; /* answers so many reads in reverse order; 0, 1: each at once */
};

struct scripted_agent;

struct scripted_agent *scripted_agent_start(const struct agent_script *script, uint16_t port);
void scripted_agent_stop(struct scripted_agent *a);
void scripted_agent_set_fault(struct scripted_agent *a, enum agent_fault fault);
uint16_t scripted_agent_port(const struct scripted_agent *a);

/* So far: connections taken; reads and pongs received. */
size_t scripted_agent_connections(struct scripted_agent *a);
size_t scripted_agent_reads(struct scripted_agent *a);
size_t scripted_agent_pongs(struct scripted_agent *a);

/* Tokens of the last hello and the last read, "" without. */
void scripted_agent_tokens(struct scripted_agent *a, char hello[1025], char read[1025]);

/* The made-up bytes of a needle. */
void scripted_agent_bytes(const struct fid *fid, uint64_t offset, uint8_t *p, size_t n);

#endif
