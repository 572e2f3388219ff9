/* Listening sockets. */
#ifndef KELP_LISTEN_H
#define KELP_LISTEN_H

#include <stdint.h>

/* A TCP socket that listens on host (a name or an address) and port, not blocking, closed on exec.
 * NULL: all addresses of both families, or of IPv4 where there is no other. Returns 0 or why not:
 * -EADDRINUSE, -EADDRNOTAVAIL (also for a name that is not known), ... */
int listen_tcp(const char *host, uint16_t port, int backlog, int *ret);

#endif
