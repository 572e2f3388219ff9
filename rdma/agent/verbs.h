/* The agent over RDMA. listen() returns -ENODEV where this machine (or this build) has no RDMA. */
#ifndef KELP_AGENT_VERBS_H
#define KELP_AGENT_VERBS_H

#include "rdma/agent/transport.h"

extern const struct transport agent_verbs;

#endif
