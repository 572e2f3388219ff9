/* A TCP server in a thread that plays scripts: for faults that a real server cannot be made to show.
 *
 *	static const struct script_step stale[] = { RECEIVE(), SEND(OK_EMPTY), RECEIVE(), CLOSE() };
 *	static const struct script_step good[] = { RECEIVE(), SEND(OK_EMPTY), AGAIN() };
 *	const struct script_step *scripts[] = { stale, good };
 *	struct scripted_server *s = scripted_server_start(scripts, 2);
 *	... requests to scripted_server_url(s) ...
 *	scripted_server_stop(s);
 *
 * The first connection gets the first script, and so on; connections beyond the last script get the
 * last one again. Connections are served at the same time. What cannot be set up ends the process. */
#ifndef KELP_SCRIPTED_SERVER_H
#define KELP_SCRIPTED_SERVER_H

#include <stddef.h>
#include <stdint.h>

enum script_op {
	SCRIPT_RECEIVE, /* waits for one request, with its Content-Length bytes, and keeps it */
	SCRIPT_SEND, /* sends bytes, times over */
	SCRIPT_TRICKLE, /* sends bytes one by one, ms apart */
	SCRIPT_PAUSE, /* does nothing for ms */
	SCRIPT_HANG, /* does nothing until the peer closes or the server is stopped */
	SCRIPT_AGAIN, /* goes on with the first step */
	SCRIPT_CLOSE, /* ends the connection in order (FIN) */
	SCRIPT_RESET, /* ends it with a reset (RST) */
};

struct script_step {
	enum script_op op;
	const char *bytes;
	size_t len;
	unsigned times;
	unsigned ms;
};

/* Each script ends with one of AGAIN, CLOSE, RESET. SEND and the like take string literals. */
#define RECEIVE()                                                                                  \
	{                                                                                          \
		.op = SCRIPT_RECEIVE                                                               \
	}
#define SEND(literal) SEND_TIMES(literal, 1)
#define SEND_TIMES(literal, n)                                                                     \
	{                                                                                          \
		.op = SCRIPT_SEND, .bytes = (literal), .len = sizeof(literal) - 1, .times = (n)    \
	}
#define TRICKLE(literal, interval_ms)                                                              \
	{                                                                                          \
		.op = SCRIPT_TRICKLE, .bytes = (literal), .len = sizeof(literal) - 1,              \
		.ms = (interval_ms)                                                                \
	}
#define PAUSE(duration_ms)                                                                         \
	{                                                                                          \
		.op = SCRIPT_PAUSE, .ms = (duration_ms)                                            \
	}
#define HANG()                                                                                     \
	{                                                                                          \
		.op = SCRIPT_HANG                                                                  \
	}
#define AGAIN()                                                                                    \
	{                                                                                          \
		.op = SCRIPT_AGAIN                                                                 \
	}
#define CLOSE()                                                                                    \
	{                                                                                          \
		.op = SCRIPT_CLOSE                                                                 \
	}
#define RESET()                                                                                    \
	{                                                                                          \
		.op = SCRIPT_RESET                                                                 \
	}

#define OK_EMPTY "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"

struct scripted_server;

/* The scripts must stay until scripted_server_stop(). */
struct scripted_server *scripted_server_start(const struct script_step *const *scripts,
					      size_t n_scripts);
void scripted_server_stop(struct scripted_server *s);

uint16_t scripted_server_port(const struct scripted_server *s);

/* "http://127.0.0.1:port" */
const char *scripted_server_url(const struct scripted_server *s);

/* Connections accepted and requests received so far. */
size_t scripted_server_connections(struct scripted_server *s);
size_t scripted_server_requests(struct scripted_server *s);

/* The i-th request, header and body, NUL-terminated; there must have been so many. Valid until
 * scripted_server_stop(). */
const char *scripted_server_request(struct scripted_server *s, size_t i);

#endif
