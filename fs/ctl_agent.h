/* One agent, asked directly: so that what is wrong with it can be said exactly. */
#ifndef KELP_CTL_AGENT_H
#define KELP_CTL_AGENT_H

#include <stddef.h>

#include "filer/base/base.h"
#include "filer/endpoint.h"
#include "rdma/session.h"
#include "rdma/transport.h"
#include "rdma/wire.h"

struct token_source;

/* Connects to an agent and says hello, with a token of the connection where there is a key. via: VIA_TCP, or VIA_RDMA
 * by the addresses that the agent tells over TCP. On failure: -errno and a message. */
int ctl_agent_open(unsigned via, const struct endpoint *agent, struct token_source *tokens,
		   struct deadline d, struct client_session **ret,
		   struct wire_hello_reply *ret_reply, char *message, size_t bytes);

#endif
