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

/* Connects over a transport and says hello, with a token of the connection where there is a key. On failure: -errno and
 * a message. */
int ctl_agent_open(const struct client_transport *transport, const struct endpoint *agent,
		   struct token_source *tokens, struct deadline d, struct client_session **ret,
		   struct wire_hello_reply *ret_reply, char *message, size_t bytes);

/* That of VIA_RDMA or VIA_TCP. */
const struct client_transport *ctl_transport(unsigned via);

#endif
