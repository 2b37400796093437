#define _GNU_SOURCE
#include "rhythm.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <unistd.h>

#include "worker.h"

/* In Go. */
extern void called_with_lock_held(int number);

struct rhythm {
	const char *name;
	void (*turn)(struct rhythm *rhythm);
	int threads, goroutines;
	/* Kind of its locks. */
	int kind;
	long locks, waited;
	struct lock *a, *b, *c;
};

static void count(struct rhythm *rhythm, int error)
{
	__atomic_add_fetch(&rhythm->locks, 1, __ATOMIC_RELAXED);
	if (error)
		__atomic_add_fetch(&rhythm->waited, 1, __ATOMIC_RELAXED);
}

/* A holder that has ended leaves a robust lock to whoever comes next. */
static int inherited(struct lock *lock, int error)
{
	return error == EOWNERDEAD ? pthread_mutex_consistent(&lock->mutex) : error;
}

static void take(struct rhythm *rhythm, struct lock *lock)
{
	int error = inherited(lock, pthread_mutex_trylock(&lock->mutex));

	count(rhythm, error);
	if (error)
		must(inherited(lock, pthread_mutex_lock(&lock->mutex)), rhythm->name);
}

static void release(struct lock *lock)
{
	must(pthread_mutex_unlock(&lock->mutex), "pthread_mutex_unlock");
}

/* How many times longer everything takes than at full speed. */
static unsigned pace = 1;

void set_pace(unsigned times)
{
	pace = times;
}

static void nap(unsigned microseconds)
{
	usleep(microseconds * pace);
}

/* Keeps the processor busy: at full speed. On a slow machine there would be no room for others. */
static void spin(int turns)
{
	if (pace > 1) {
		nap((unsigned)turns / 500);
		return;
	}
	for (volatile int i = 0; i < turns; i++)
		;
}

/* Some of this thread's own, so that they do not go in step. */
static unsigned chance(unsigned below)
{
	static __thread unsigned seed;

	if (!seed)
		seed = (unsigned)(uintptr_t)&seed >> 4 | 1;
	return (unsigned)rand_r(&seed) % below;
}

static void spinning(struct rhythm *rhythm)
{
	take(rhythm, rhythm->a);
	spin(20000);
	release(rhythm->a);
	if (chance(2))
		nap(50);
}

static void sleeping(struct rhythm *rhythm)
{
	take(rhythm, rhythm->a);
	nap(100 + chance(400));
	release(rhythm->a);
}

/* a before b before c, some left out. */
static void nested(struct rhythm *rhythm)
{
	unsigned which = chance(4);

	if (which != 1)
		take(rhythm, rhythm->a);
	if (which != 2)
		take(rhythm, rhythm->b);
	if (which != 3)
		take(rhythm, rhythm->c);
	nap(chance(100));
	if (which != 3)
		release(rhythm->c);
	if (which != 2)
		release(rhythm->b);
	if (which != 1)
		release(rhythm->a);
}

/* Against the order, but never waiting for the second. */
static void trying(struct rhythm *rhythm)
{
	bool forward = chance(2);
	struct lock *first = forward ? rhythm->a : rhythm->b;
	struct lock *second = forward ? rhythm->b : rhythm->a;

	take(rhythm, first);
	nap(chance(100));
	if (pthread_mutex_trylock(&second->mutex) == 0) {
		spin(1000);
		release(second);
	}
	release(first);
	nap(chance(50));
}

static void recursing(struct rhythm *rhythm)
{
	for (int i = 0; i < 3; i++)
		take(rhythm, rhythm->a);
	nap(chance(100));
	for (int i = 0; i < 3; i++)
		release(rhythm->a);
}

static void timed(struct rhythm *rhythm)
{
	struct timespec until;
	int error;

	clock_gettime(CLOCK_REALTIME, &until);
	until.tv_sec += chance(2);
	error = pthread_mutex_trylock(&rhythm->a->mutex);
	count(rhythm, error);
	if (error && pthread_mutex_timedlock(&rhythm->a->mutex, &until))
		return;
	nap(chance(200));
	release(rhythm->a);
}

static void reading_and_writing(struct rhythm *rhythm)
{
	pthread_rwlock_t *lock = &rhythm->a->rwlock;
	bool writes = chance(3) == 0;
	int error = writes ? pthread_rwlock_trywrlock(lock) : pthread_rwlock_tryrdlock(lock);

	count(rhythm, error);
	if (error)
		must(writes ? pthread_rwlock_wrlock(lock) : pthread_rwlock_rdlock(lock), rhythm->name);
	nap(chance(200));
	must(pthread_rwlock_unlock(lock), rhythm->name);
}

static void *take_once(void *argument)
{
	struct rhythm *rhythm = argument;

	take(rhythm, rhythm->a);
	nap(chance(100));
	/* A robust lock may be left locked. */
	if (rhythm->kind != ROBUST || chance(8))
		release(rhythm->a);
	return NULL;
}

/* Threads that live for one lock: their numbers are new to everybody. */
static void brief(struct rhythm *rhythm)
{
	pthread_t threads[2];

	for (int i = 0; i < 2; i++)
		must(pthread_create(&threads[i], NULL, take_once, rhythm), "pthread_create");
	take(rhythm, rhythm->a);
	nap(chance(100));
	release(rhythm->a);
	for (int i = 0; i < 2; i++)
		must(pthread_join(threads[i], NULL), "pthread_join");
}

/* The last is for the calls into Go, which have their turns there. */
static struct rhythm all[] = {
	{ "spinning", spinning, 1, 1, NORMAL },
	{ "sleeping", sleeping, 2, 1, NORMAL },
	{ "nested", nested, 2, 1, NORMAL },
	{ "nested errorcheck", nested, 1, 1, ERRORCHECK },
	{ "nested robust", nested, 2, 0, ROBUST },
	{ "trying", trying, 1, 1, NORMAL },
	{ "recursing", recursing, 1, 1, RECURSIVE },
	{ "PI", sleeping, 2, 1, PI },
	{ "PI spinning", spinning, 1, 1, PI },
	{ "timed", timed, 2, 1, ERRORCHECK },
	{ "reading and writing", reading_and_writing, 3, 1, READ_WRITE },
	{ "brief", brief, 1, 0, NORMAL },
	{ "brief robust", brief, 1, 0, ROBUST },
	{ "calling Go", NULL, 0, 0, NORMAL },
};

static struct rhythm *const calling = &all[sizeof all / sizeof all[0] - 1];

int rhythms(void)
{
	return sizeof all / sizeof all[0];
}

const char *rhythm_name(int rhythm)
{
	return all[rhythm].name;
}

int rhythm_threads(int rhythm)
{
	return all[rhythm].threads;
}

int rhythm_goroutines(int rhythm)
{
	return all[rhythm].goroutines;
}

long rhythm_locks(int rhythm)
{
	return __atomic_load_n(&all[rhythm].locks, __ATOMIC_RELAXED);
}

long rhythm_waited(int rhythm)
{
	return __atomic_load_n(&all[rhythm].waited, __ATOMIC_RELAXED);
}

void prepare_rhythms(void)
{
	/* Threads inherit it: on a small machine, who looks at them comes first. */
	errno = 0;
	must(nice(10) == -1 ? errno : 0, "nice");
	for (int i = 0; i < rhythms(); i++) {
		all[i].a = new_lock(all[i].kind);
		all[i].b = new_lock(all[i].kind);
		all[i].c = new_lock(all[i].kind);
	}
}

void rhythm_turns(int rhythm)
{
	for (int i = 0; i < 32; i++)
		all[rhythm].turn(&all[rhythm]);
}

static void *for_ever(void *rhythm)
{
	for (;;)
		rhythm_turns((int)(intptr_t)rhythm);
	return NULL;
}

void start_rhythm(int rhythm)
{
	pthread_t thread;

	must(pthread_create(&thread, NULL, for_ever, (void *)(intptr_t)rhythm), "pthread_create");
}

void lock_for_call(void)
{
	take(calling, calling->a);
}

bool lock_if_free_for_call(void)
{
	return pthread_mutex_trylock(&calling->a->mutex) == 0;
}

void unlock_for_call(void)
{
	release(calling->a);
}

void call_with_lock(int number)
{
	take(calling, calling->a);
	called_with_lock_held(number);
	release(calling->a);
}
