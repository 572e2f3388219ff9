/* What a mount says of itself over HTTP (-o status=): /health, /stats, /metrics, /config. */
#ifndef KELP_MOUNT_STATUS_H
#define KELP_MOUNT_STATUS_H

#include <stddef.h>

struct mount;
struct mount_status;

/* For a mount whose cluster, cache and inodes are there. Returns 0, or -errno and a message. */
int mount_status_start(struct mount *m, struct mount_status **ret, char *message, size_t bytes);

/* Before any of those goes. Takes NULL. */
void mount_status_stop(struct mount_status *s);

#endif
