#include "fs/memlock.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "filer/base/base.h"
#include "fs/launch.h"
#include "fs/log.h"
#include "rdma/device.h"

/* What the number was computed for: nobody knows yet how many agents there are. */
static void say_for_what(const struct verbs_memory *all, char *message, size_t bytes)
{
	const struct verbs_memory agent = { .agents = 1, .connections = all->connections };

	snprintf(message, bytes,
		 " (%u device%s, %u agent%s; %" PRIu64 " KiB for each further agent)", all->devices,
		 all->devices == 1 ? "" : "s", all->agents, all->agents == 1 ? "" : "s",
		 verbs_locked_bytes(&agent) / KIB);
}

int memlock_allow(const struct verbs_memory *all, char *message, size_t message_bytes)
{
	const struct verbs_memory least = {
		.region_bytes = all->region_bytes, .devices = 1, .agents = 1, .connections = 1
	};
	char most[LAUNCH_MESSAGE_BYTES], ignored[LAUNCH_MESSAGE_BYTES];

	if (all->devices == 0)
		return 0;
	int err = device_allow_memlock(verbs_locked_bytes(all), most, sizeof(most));
	if (!err)
		return 0;
	size_t n = strlen(most);
	say_for_what(all, most + n, sizeof(most) - n);
	if (device_allow_memlock(verbs_locked_bytes(&least), ignored, sizeof(ignored))) {
		snprintf(message, message_bytes, "%s", most);
		return err;
	}
	log_warning("%s; RDMA is used as far as that goes", most);
	return 0;
}
