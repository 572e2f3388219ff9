#include "fs/ctl_agent.h"

#include <errno.h>
#include <netdb.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

#include "filer/token.h"
#include "fs/ctl.h"
#include "rdma/client.h"
#include "rdma/transport.h"
#include "rdma/verbs.h"

static const char *advice(enum wire_status s)
{
	switch (s) {
	case WIRE_DENIED:
		return " (--security names the file with the key)";
	case WIRE_EXHAUSTED:
		return " (kelpd --max-connections sets the limit)";
	default:
		return "";
	}
}

static int explain(int err, const char *name, const struct wire_hello_reply *r, char *message,
		   size_t bytes)
{
	if (r->status != WIRE_OK)
		return ctl_fail(err, message, bytes, "%s: the agent refuses: %s%s%s%s", name,
				wire_status_text(r->status), r->text[0] ? ": " : "", r->text,
				advice(r->status));
	switch (err) {
	case -ECONNREFUSED:
		return ctl_fail(err, message, bytes,
				"%s: nothing listens there; is kelpd running, and on that port?",
				name);
	case -ENODEV:
	case -EOPNOTSUPP:
		return ctl_fail(err, message, bytes,
				"%s: no RDMA device here leads there (kelpctl devices)", name);
	case -EPROTO:
	case -ECONNRESET:
		return ctl_fail(err, message, bytes, "%s: what answers there is not kelpd", name);
	case -ETIMEDOUT:
		return ctl_fail(err, message, bytes,
				"%s: no answer in time; is kelpd on that port, and may this "
				"machine reach it?",
				name);
	default:
		return ctl_fail(err, message, bytes, "%s: cannot be reached: %s", name,
				strerror(-err));
	}
}

const struct client_transport *ctl_transport(unsigned via)
{
	return via == VIA_RDMA ? &client_verbs : &client_tcp;
}

static int open_one(const struct client_transport *transport, const struct addrinfo *ai,
		    const char *token, struct deadline d, struct client_session **ret,
		    struct wire_hello_reply *ret_reply)
{
	struct client_session_config cfg = { .transport = transport,
					     .token = token[0] ? token : NULL,
					     .stall_ms = CLIENT_STALL_MS,
					     .answer_ms = deadline_left_ms(d) };

	if (ai->ai_addrlen > sizeof(cfg.address.sockaddr))
		return -EAFNOSUPPORT;
	memcpy(&cfg.address.sockaddr, ai->ai_addr, ai->ai_addrlen);
	cfg.address.len = ai->ai_addrlen;
	return client_session_open(&cfg, d, ret, ret_reply);
}

int ctl_agent_open(const struct client_transport *transport, const struct endpoint *agent,
		   struct token_source *tokens, struct deadline d, struct client_session **ret,
		   struct wire_hello_reply *ret_reply, char *message, size_t bytes)
{
	const struct addrinfo hints = { .ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM };
	char name[ENDPOINT_STR_MAX], port[8], token[TOKEN_MAX];
	struct addrinfo *addresses;

	ctl_endpoint_name(agent, name);
	int err = token_for_agent(tokens, token);
	if (err)
		return ctl_fail(err, message, bytes, "cannot sign a token: %s", strerror(-err));
	snprintf(port, sizeof(port), "%u", agent->port);
	int found = getaddrinfo(agent->host, port, &hints, &addresses);
	if (found)
		return ctl_fail(-EHOSTUNREACH, message, bytes, "%s: %s", name, gai_strerror(found));
	err = -EHOSTUNREACH;
	for (const struct addrinfo *ai = addresses; ai && err; ai = ai->ai_next) {
		err = open_one(transport, ai, token, d, ret, ret_reply);
		if (ret_reply->status != WIRE_OK)
			break;
	}
	freeaddrinfo(addresses);
	return err ? explain(err, name, ret_reply, message, bytes) : 0;
}
