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

/* What stays the same from one address to the next. */
struct opening {
	const char *token;
	struct deadline deadline;
	struct client_session **session;
	struct wire_hello_reply *reply;
	char *message;
	size_t bytes;
};

static int open_one(const struct opening *o, const struct client_transport *transport,
		    const struct addrinfo *ai)
{
	struct client_session_config cfg = { .transport = transport,
					     .token = o->token[0] ? o->token : NULL,
					     .stall_ms = CLIENT_STALL_MS,
					     .answer_ms = deadline_left_ms(o->deadline) };

	if (ai->ai_addrlen > sizeof(cfg.address.sockaddr))
		return -EAFNOSUPPORT;
	memcpy(&cfg.address.sockaddr, ai->ai_addr, ai->ai_addrlen);
	cfg.address.len = ai->ai_addrlen;
	return client_session_open(&cfg, o->deadline, o->session, o->reply);
}

static int open_at(const struct opening *o, const struct client_transport *transport,
		   const char *host, uint16_t port)
{
	const struct addrinfo hints = { .ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM };
	struct endpoint at = { .port = port };
	char name[ENDPOINT_STR_MAX], service[8];
	struct addrinfo *addresses;
	int err = -EHOSTUNREACH;

	snprintf(at.host, sizeof(at.host), "%s", host);
	ctl_endpoint_name(&at, name);
	snprintf(service, sizeof(service), "%u", port);
	int found = getaddrinfo(host, service, &hints, &addresses);
	if (found)
		return ctl_fail(err, o->message, o->bytes, "%s: %s", name, gai_strerror(found));
	for (const struct addrinfo *ai = addresses; ai && err; ai = ai->ai_next) {
		err = open_one(o, transport, ai);
		if (o->reply->status != WIRE_OK)
			break;
	}
	freeaddrinfo(addresses);
	return err ? explain(err, name, o->reply, o->message, o->bytes) : 0;
}

/* From a connection over TCP to one over RDMA, where the agent said. */
static int change_over(const struct opening *o, const char *name)
{
	struct wire_hello_reply told = *o->reply;
	int err = -EOPNOTSUPP;

	/* It may count against the agent's limit. */
	client_session_close(*o->session, WIRE_OK);
	if (told.n_addresses == 0)
		return ctl_fail(err, o->message, o->bytes,
				"%s: the agent has no RDMA device to connect to", name);
	*o->reply = (struct wire_hello_reply){ 0 };
	for (size_t i = 0; i < told.n_addresses && err; i++)
		err = open_at(o, &client_verbs, told.addresses[i].host, told.addresses[i].port);
	return err;
}

int ctl_agent_open(unsigned via, const struct endpoint *agent, struct token_source *tokens,
		   struct deadline d, struct client_session **ret,
		   struct wire_hello_reply *ret_reply, char *message, size_t bytes)
{
	char name[ENDPOINT_STR_MAX], token[TOKEN_MAX];
	struct client_session *session = NULL;
	struct opening o = { .token = token,
			     .deadline = d,
			     .session = &session,
			     .reply = ret_reply,
			     .message = message,
			     .bytes = bytes };

	ctl_endpoint_name(agent, name);
	int err = token_for_agent(tokens, token);
	if (err)
		return ctl_fail(err, message, bytes, "cannot sign a token: %s", strerror(-err));
	err = open_at(&o, &client_tcp, agent->host, agent->port);
	if (!err && via == VIA_RDMA)
		err = change_over(&o, name);
	if (!err)
		*ret = session;
	return err;
}
