/* The agent over RDMA. listen() returns -ENODEV where this machine (or this build) has no RDMA. */
#ifndef KELP_AGENT_VERBS_H
#define KELP_AGENT_VERBS_H

#include <stdint.h>

#include "rdma/agent/agent.h"
#include "rdma/agent/transport.h"

extern const struct transport agent_verbs;

/* Memory that may be locked at once, with as many connections as there may be. */
uint64_t agent_verbs_locked_bytes(const struct agent *a);

#endif
