/* A few threads and one bounded queue of work for them. Thread-safe. */
#ifndef KELP_WORKERS_H
#define KELP_WORKERS_H

#include <stdbool.h>

#define WORKERS_THREADS_MAX 64u

struct workers;

enum work_state {
	WORK_IDLE,
	WORK_QUEUED,
	WORK_RUNNING,
};

/* Part of whatever is to be done; zeroed but for run and joinable. */
struct work {
	void (*run)(struct work *w);
	bool joinable; /* workers_retract() will be called; else run may free it */
	enum work_state state; /* under the queue's lock */
	struct work *prev, *next; /* likewise */
};

/* threads may be 0: then nothing can be pushed. */
int workers_new(unsigned threads, unsigned queue_max, struct workers **ret);

/* Runs what is still queued. Takes NULL. */
void workers_free(struct workers *w);

/* Never blocks. Urgent work goes ahead of the rest. False: no threads, or the queue is full. */
bool workers_push(struct workers *w, struct work *work, bool urgent);

/* Takes joinable work back from the queue, or waits for its end if it is running. */
void workers_retract(struct workers *w, struct work *work);

#endif
