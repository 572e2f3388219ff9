#include "filer/base/stopper.h"

#include "filer/base/base.h"

int stopper_init(struct stopper *s)
{
	int err = -pthread_mutex_init(&s->lock, NULL);

	if (err)
		return err;
	s->stop = false;
	err = cond_init_monotonic(&s->wake);
	if (err)
		pthread_mutex_destroy(&s->lock);
	return err;
}

void stopper_destroy(struct stopper *s)
{
	pthread_cond_destroy(&s->wake);
	pthread_mutex_destroy(&s->lock);
}

void stopper_stop(struct stopper *s)
{
	LOCK_SCOPE(&s->lock);
	s->stop = true;
	pthread_cond_signal(&s->wake);
}

bool stopper_pause(struct stopper *s, int64_t ms)
{
	struct deadline d = deadline_in_ms(ms);
	LOCK_SCOPE(&s->lock);

	while (!s->stop && !deadline_passed(d))
		cond_wait_until(&s->wake, &s->lock, d);
	return !s->stop;
}
