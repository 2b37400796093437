#define _GNU_SOURCE
#include "waits.h"

#include <errno.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdio.h>
#include <time.h>
#include <unistd.h>

#include "worker.h"

static pthread_mutex_t door = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t signal_that_never_comes = PTHREAD_COND_INITIALIZER;
static pthread_once_t once = PTHREAD_ONCE_INIT;

void wait_for_condition(struct worker *worker)
{
	enter(worker);
	must(pthread_mutex_lock(&door), __func__);
	waits_in(worker, __func__);
	for (;;)
		must(pthread_cond_wait(&signal_that_never_comes, &door), __func__);
}

void wait_condition_timed(struct worker *worker)
{
	struct timespec until;

	clock_gettime(CLOCK_REALTIME, &until);
	until.tv_sec += 365 * 24 * 3600;
	enter(worker);
	must(pthread_mutex_lock(&door), __func__);
	waits_in(worker, __func__);
	for (;;)
		must(pthread_cond_timedwait(&signal_that_never_comes, &door, &until), __func__);
}

void wait_for_semaphore(struct worker *worker)
{
	static sem_t semaphore;

	must(sem_init(&semaphore, 0, 0) ? errno : 0, "sem_init");
	enter(worker);
	meet(worker->gate);
	waits_in(worker, __func__);
	while (sem_wait(&semaphore))
		must(errno == EINTR ? 0 : errno, "sem_wait");
}

void wait_at_barrier(struct worker *worker)
{
	static pthread_barrier_t barrier;

	must(pthread_barrier_init(&barrier, NULL, 2), "pthread_barrier_init");
	enter(worker);
	meet(worker->gate);
	waits_in(worker, __func__);
	/* What it answers is used: a jump as the last act would leave no trace of this function. */
	must(pthread_barrier_wait(&barrier), __func__);
}

static struct gate *first_has_come;

static void stay_in_once(void)
{
	meet(first_has_come);
	for (;;)
		pause();
}

void be_first(struct worker *worker)
{
	enter(worker);
	first_has_come = worker->gate;
	must(pthread_once(&once, stay_in_once), __func__);
}

void wait_for_first(struct worker *worker)
{
	enter(worker);
	meet(worker->gate);
	waits_in(worker, __func__);
	pthread_once(&once, stay_in_once);
}

static FILE *file;

void hold_file(struct worker *worker)
{
	file = fopen("/dev/null", "w");
	must(file ? 0 : errno, "/dev/null");
	enter(worker);
	flockfile(file);
	meet(worker->gate);
	for (;;)
		pause();
}

void wait_for_file(struct worker *worker)
{
	enter(worker);
	meet(worker->gate);
	waits_in(worker, __func__);
	flockfile(file);
	must(worker == NULL, __func__);
}
