/* Thread model: workers.lock guards the queue and the state of every work in it; work runs without
 * it. */
#include "fs/workers.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>

#include <utlist.h>

#include "filer/base/base.h"

struct workers {
	/* fixed once workers_new() has returned */
	unsigned n_threads;
	unsigned queue_max;
	pthread_t threads[WORKERS_THREADS_MAX];

	pthread_mutex_t lock;
	pthread_cond_t pushed; /* or stopping; with lock */
	pthread_cond_t done; /* some joinable work; with lock */
	/* under lock */
	struct work *queue;
	unsigned n_queued;
	bool stopping;
};

static struct work *take(struct workers *w)
{
	while (!w->queue && !w->stopping)
		pthread_cond_wait(&w->pushed, &w->lock);
	struct work *work = w->queue;
	if (work) {
		DL_DELETE(w->queue, work);
		w->n_queued--;
		work->state = WORK_RUNNING;
	}
	return work;
}

static void *thread_main(void *arg)
{
	struct workers *w = arg;
	struct work *work;
	sigset_t all;

	/* signals are for the program's main thread */
	sigfillset(&all);
	pthread_sigmask(SIG_BLOCK, &all, NULL);

	LOCK_SCOPE(&w->lock);
	while ((work = take(w))) {
		bool joinable = work->joinable;

		pthread_mutex_unlock(&w->lock);
		work->run(work);
		pthread_mutex_lock(&w->lock);
		if (joinable) {
			work->state = WORK_IDLE;
			pthread_cond_broadcast(&w->done);
		}
	}
	return NULL;
}

static void stop_and_join(struct workers *w)
{
	pthread_mutex_lock(&w->lock);
	w->stopping = true;
	pthread_cond_broadcast(&w->pushed);
	pthread_mutex_unlock(&w->lock);
	for (unsigned i = 0; i < w->n_threads; i++)
		pthread_join(w->threads[i], NULL);
}

static void destroy(struct workers *w)
{
	pthread_cond_destroy(&w->done);
	pthread_cond_destroy(&w->pushed);
	pthread_mutex_destroy(&w->lock);
	free(w);
}

int workers_new(unsigned threads, unsigned queue_max, struct workers **ret)
{
	if (threads > WORKERS_THREADS_MAX)
		return -EINVAL;
	struct workers *w = calloc(1, sizeof(*w));
	if (!w)
		return -ENOMEM;
	w->queue_max = queue_max;
	pthread_mutex_init(&w->lock, NULL);
	pthread_cond_init(&w->pushed, NULL);
	pthread_cond_init(&w->done, NULL);
	for (; w->n_threads < threads; w->n_threads++) {
		int err = pthread_create(&w->threads[w->n_threads], NULL, thread_main, w);

		if (err) {
			stop_and_join(w);
			destroy(w);
			return -err;
		}
	}
	*ret = w;
	return 0;
}

void workers_free(struct workers *w)
{
	if (!w)
		return;
	stop_and_join(w);
	destroy(w);
}

bool workers_push(struct workers *w, struct work *work, bool urgent)
{
	LOCK_SCOPE(&w->lock);
	if (w->n_threads == 0 || w->n_queued >= w->queue_max || w->stopping)
		return false;
	work->state = WORK_QUEUED;
	if (urgent)
		DL_PREPEND(w->queue, work);
	else
		DL_APPEND(w->queue, work);
	w->n_queued++;
	pthread_cond_signal(&w->pushed);
	return true;
}

void workers_retract(struct workers *w, struct work *work)
{
	LOCK_SCOPE(&w->lock);
	if (work->state == WORK_QUEUED) {
		DL_DELETE(w->queue, work);
		w->n_queued--;
		work->state = WORK_IDLE;
	}
	while (work->state == WORK_RUNNING)
		pthread_cond_wait(&w->done, &w->lock);
}
