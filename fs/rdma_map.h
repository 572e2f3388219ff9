/* -o rdma_map=FILE: where agents take RDMA connections, for clusters whose agents cannot say so
 * themselves. One line for each volume server:
 *
 *   VOLUME_SERVER_HOST:PORT RDMA_ADDRESS[:PORT]    # and a comment
 *
 * Immutable once it was read, and so thread-safe. */
#ifndef KELP_RDMA_MAP_H
#define KELP_RDMA_MAP_H

#include <stdbool.h>
#include <stddef.h>

#include "filer/endpoint.h"

struct rdma_map;

#define RDMA_MAP_BYTES_MAX ((size_t)1 << 20) /* of the file */
#define RDMA_MAP_LINES_MAX 4096 /* that map something */

/* Returns 0, or -errno and a message with the name of the file and the number of the line. */
int rdma_map_read(const char *path, struct rdma_map **ret, char *message, size_t message_bytes);

/* Likewise, of a text of len bytes; path is for messages. */
int rdma_map_parse(const char *text, size_t len, const char *path, struct rdma_map **ret,
		   char *message, size_t message_bytes);

/* True: *ret is where the agent beside that volume server takes connections. */
bool rdma_map_find(const struct rdma_map *m, const struct endpoint *server, struct endpoint *ret);

size_t rdma_map_count(const struct rdma_map *m);

/* Takes NULL. */
void rdma_map_free(struct rdma_map *m);

#endif
