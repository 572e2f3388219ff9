/* The metrics of a mount, and its options, as text. Thread-safe once the mount is open. */
#ifndef KELP_MOUNT_METRICS_H
#define KELP_MOUNT_METRICS_H

#include <stdio.h>

struct mount;

/* Each returns malloced text, or NULL without memory. */
char *mount_stats_json(struct mount *m);
char *mount_metrics_text(struct mount *m);
/* {"option": {"value": "...", "origin": "default" or "command line"}, ...} */
char *mount_config_json(struct mount *m);

/* The table of metrics for docs/metrics.md. */
void mount_metrics_markdown(FILE *out);

#endif
