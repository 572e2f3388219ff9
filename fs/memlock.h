/* Memory that RDMA locks, and what is said where that is not permitted. Thread-safe. */
#ifndef KELP_MEMLOCK_H
#define KELP_MEMLOCK_H

#include <stddef.h>

#include "rdma/verbs.h"

/* May all of this be locked, once the soft limit is raised as far as needed? 0: it may, or there is no
 * device, or only a part may with which RDMA works: that is logged as a warning. Else -EPERM and a message with
 * the number that is needed. */
int memlock_allow(const struct verbs_memory *all, char *message, size_t message_bytes);

#endif
