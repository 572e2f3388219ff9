/* How a thread that does something now and then is told to end, in its pauses.
 *
 * Thread-safe. */
#ifndef KELP_STOPPER_H
#define KELP_STOPPER_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

struct stopper {
	pthread_mutex_t lock; /* protects stop; leaf */
	pthread_cond_t wake;
	bool stop;
};

/* Returns 0 or -errno. */
int stopper_init(struct stopper *s);
void stopper_destroy(struct stopper *s);

/* Ends the pause under way, and those to come. */
void stopper_stop(struct stopper *s);

/* Of the thread: sleeps for so long. False: it has to end, and may have been woken early. */
bool stopper_pause(struct stopper *s, int64_t ms);

#endif
