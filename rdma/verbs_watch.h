/* What becomes of the devices and connections that this process uses, while nobody looks at them.
 *
 * A device that goes away has to be let go of, or its driver waits for us: what hangs then is whoever
 * unloads the driver or deletes the device. librdmacm keeps a device open once it was used, and tells
 * nobody; so there is one id bound to each device, whose event tells, and when the last use has ended
 * the device's descriptors are taken from librdmacm.
 *
 * Thread-safe. One thread for the process, while there are devices in use. Its lock is taken before
 * those of connections and sessions: none of these may be held in a call of the functions below. */
#ifndef KELP_RDMA_VERBS_WATCH_H
#define KELP_RDMA_VERBS_WATCH_H

#include <rdma/rdma_cma.h>

struct watched_device;

/* One connection's use of a device; the memory is the caller's. */
struct device_use {
	struct device_use *prev, *next; /* utlist */
	struct watched_device *device; /* NULL: none */
	uint8_t port;
	/* Called once or more, by the watching thread: the connection, its port or its device is of no
	 * more use. NULL: nobody wants to know. */
	void (*lost)(struct device_use *u);
};

/* id has a device. Returns 0 or -errno. */
int watch_enter(struct device_use *u, const struct rdma_cm_id *id,
		void (*lost)(struct device_use *u));

/* From now on the watching thread takes the id's events; its context becomes u. To be called once it
 * is connected and has no event that was not acknowledged. Returns 0 or -errno. */
int watch_events(struct device_use *u, struct rdma_cm_id *id);

/* lost() is not under way, and will not be called any more. */
void watch_silence(struct device_use *u);

/* All of its use has ended: its queue pair and its memory are gone, and the id that was given to
 * watch_events() is, too. Does nothing where u->device is NULL. */
void watch_leave(struct device_use *u);

/* Forgets devices that nobody uses, and ends the thread if no others are left. */
void watch_close(void);

#endif
