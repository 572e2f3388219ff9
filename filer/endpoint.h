/* Network addresses as users and SeaweedFS write them. */
#ifndef KELP_ENDPOINT_H
#define KELP_ENDPOINT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define ENDPOINT_HOST_MAX 256
/* scheme://[host]:port and a NUL */
#define ENDPOINT_STR_MAX (ENDPOINT_HOST_MAX + 24)

/* SeaweedFS serves gRPC at the HTTP port plus this unless told otherwise. */
#define GRPC_PORT_DELTA 10000

struct endpoint {
	char host[ENDPOINT_HOST_MAX]; /* name, IPv4, or IPv6 without brackets */
	uint16_t port;
	uint16_t grpc_port; /* port + 10000 unless written as host:port.grpcport; 0: none */
	bool https;
};

/* Takes `host`, `host:port`, `host:port.grpcport`, `[v6]:port`, each optionally behind http:// or
 * https://. Exactly len bytes are read. Returns 0 or -EINVAL; *ret untouched on failure. */
int endpoint_parse(const char *s, size_t len, uint16_t default_port, struct endpoint *ret);

/* "http://host:port" (IPv6 in brackets). Returns the length. */
size_t endpoint_url(const struct endpoint *e, char buf[ENDPOINT_STR_MAX]);

/* "http://host:grpcport", likewise. */
size_t endpoint_grpc_url(const struct endpoint *e, char buf[ENDPOINT_STR_MAX]);

#endif
