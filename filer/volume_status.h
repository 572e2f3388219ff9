/* What a volume server says about itself. */
#ifndef KELP_VOLUME_STATUS_H
#define KELP_VOLUME_STATUS_H

#include <stdbool.h>
#include <stddef.h>

#include "filer/base/base.h"
#include "filer/endpoint.h"
#include "filer/http.h"

/* Its data directories, as its machine names them; each malloced. At most max; more is -E2BIG.
 * Returns 0, -EPROTO for an answer that no volume server gives, or as http_perform(). */
int volume_status_dirs(struct http_pool *http, const struct endpoint *server, struct deadline d,
		       char **ret_dirs, size_t max, size_t *ret_n);

/* Whether anything answers for it at url ("http://host:port"); for health, as a server that nobody reads
 * from has nothing else that tells that it is back. */
bool volume_status_answers(struct http_pool *http, const char *url, struct deadline d);

#endif
