/* What a request for /read asks for. */
#ifndef KELP_CTL_SERVE_REQUEST_H
#define KELP_CTL_SERVE_REQUEST_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "filer/endpoint.h"
#include "filer/fid.h"

struct serve_request {
	struct fid fid;
	uint64_t offset;
	uint64_t size; /* 0: all that follows */
	bool has_server;
	struct endpoint server; /* the volume server to be asked */
};

/* value gives a decoded parameter of the query, or NULL. One that is there but empty counts as not given.
 * Returns 0, or -EINVAL with a message that names the parameter. */
int serve_request_parse(const char *(*value)(void *arg, const char *name), void *arg,
			struct serve_request *ret, char *message, size_t bytes);

#endif
