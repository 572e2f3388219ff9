#include "rdma/agent/agent.h"

#include <string.h>

#include "filer/base/base.h"

void agent_init(struct agent *a, const struct agent_config *cfg)
{
	memset(a, 0, sizeof(*a));
	a->cfg = *cfg;
	if (!a->cfg.connections_max)
		a->cfg.connections_max = AGENT_CONNECTIONS_MAX;
	if (!a->cfg.idle_ms)
		a->cfg.idle_ms = AGENT_IDLE_MS;
	if (!a->cfg.staging_bytes_max)
		a->cfg.staging_bytes_max = AGENT_STAGING_BYTES;
	if (!a->cfg.staging_connection_bytes_max)
		a->cfg.staging_connection_bytes_max = AGENT_STAGING_CONNECTION_BYTES;
	if (!a->cfg.lease_connection_bytes_max)
		a->cfg.lease_connection_bytes_max = AGENT_LEASE_CONNECTION_BYTES;
	if (!a->cfg.small_bytes_max)
		a->cfg.small_bytes_max = AGENT_SMALL_BYTES;
	if (!a->cfg.lease_ms)
		a->cfg.lease_ms = AGENT_LEASE_MS;
	checker_init(&a->checker);
	a->staging.max_bytes = a->cfg.staging_bytes_max;
}
