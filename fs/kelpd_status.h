/* What kelpd says of itself over HTTP (--status): /health, /stats, /metrics. */
#ifndef KELP_KELPD_STATUS_H
#define KELP_KELPD_STATUS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>

struct agent;
struct kelpd_options;
struct kelpd_status;
struct store;

struct kelpd_status_config {
	const struct kelpd_options *options;
	struct agent *agent; /* all borrowed, and must outlive the server */
	struct store *store;
	bool has_rdma; /* connections over RDMA are taken */
};

/* Returns 0, or -errno and a message. */
int kelpd_status_start(const struct kelpd_status_config *cfg, struct kelpd_status **ret,
		       char *message, size_t bytes);

/* Takes NULL. */
void kelpd_status_stop(struct kelpd_status *s);

/* The table of metrics for docs/metrics.md. */
void kelpd_metrics_markdown(FILE *out);

#endif
