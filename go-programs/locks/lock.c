#define _GNU_SOURCE
#include "lock.h"

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "worker.h"

/* In Go. */
extern void called_with_lock_held(int number);

static struct lock standing = { .kind = NORMAL, .mutex = PTHREAD_MUTEX_INITIALIZER };

void must(int error, const char *what)
{
	if (error) {
		errno = error;
		perror(what);
		_exit(1);
	}
}

void *allocate(size_t size)
{
	void *memory = calloc(1, size);
	must(memory ? 0 : ENOMEM, "calloc");
	return memory;
}

static void init_mutex(pthread_mutex_t *mutex, int kind)
{
	pthread_mutexattr_t attr;

	must(pthread_mutexattr_init(&attr), "pthread_mutexattr_init");
	if (kind == RECURSIVE)
		must(pthread_mutexattr_settype(&attr, PTHREAD_MUTEX_RECURSIVE), "recursive");
	if (kind == ERRORCHECK)
		must(pthread_mutexattr_settype(&attr, PTHREAD_MUTEX_ERRORCHECK), "errorcheck");
#ifdef __GLIBC__
	if (kind == ADAPTIVE)
		must(pthread_mutexattr_settype(&attr, PTHREAD_MUTEX_ADAPTIVE_NP), "adaptive");
#endif
	if (kind == ROBUST)
		must(pthread_mutexattr_setrobust(&attr, PTHREAD_MUTEX_ROBUST), "robust");
	if (kind == PI)
		must(pthread_mutexattr_setprotocol(&attr, PTHREAD_PRIO_INHERIT), "PI");
	must(pthread_mutex_init(mutex, &attr), "pthread_mutex_init");
}

struct lock *new_lock(int kind)
{
#ifndef __GLIBC__
	if (kind == ADAPTIVE)
		return NULL;
#endif
	struct lock *lock = allocate(sizeof *lock);

	lock->kind = kind;
	if (kind == READ_WRITE)
		must(pthread_rwlock_init(&lock->rwlock, NULL), "pthread_rwlock_init");
	else
		init_mutex(&lock->mutex, kind);
	return lock;
}

struct lock *standing_lock(void)
{
	return &standing;
}

uint64_t lock_address(const struct lock *lock)
{
	const void *at = &lock->mutex;

	if (lock->kind == READ_WRITE)
		at = &lock->rwlock;
	return (uintptr_t)at;
}

int lock_size(void)
{
	return sizeof(pthread_mutex_t);
}

bool is_glibc(void)
{
#ifdef __GLIBC__
	return true;
#else
	return false;
#endif
}

bool records_owner(int kind)
{
	return is_glibc() || (kind != NORMAL && kind != READ_WRITE);
}

struct gate *new_gate(int all)
{
	struct gate *gate = allocate(sizeof *gate);

	gate->missing = all;
	return gate;
}

struct worker *new_worker(struct lock *first, struct lock *second, struct gate *gate)
{
	struct worker *worker = allocate(sizeof *worker);

	worker->first = first;
	worker->second = second;
	worker->gate = gate;
	return worker;
}

void set_other(struct worker *worker, struct worker *other)
{
	worker->other = other;
}

void set_number(struct worker *worker, int number)
{
	worker->number = number;
}

int worker_tid(const struct worker *worker)
{
	return __atomic_load_n(&worker->tid, __ATOMIC_ACQUIRE);
}

const char *worker_function(const struct worker *worker)
{
	return __atomic_load_n(&worker->function, __ATOMIC_ACQUIRE);
}

uint64_t worker_lock(const struct worker *worker)
{
	return lock_address(worker->second);
}

void enter(struct worker *worker)
{
	__atomic_store_n(&worker->tid, syscall(SYS_gettid), __ATOMIC_RELEASE);
}

void waits_in(struct worker *worker, const char *function)
{
	__atomic_store_n(&worker->function, function, __ATOMIC_RELEASE);
}

void meet(struct gate *gate)
{
	if (!gate)
		return;
	__atomic_sub_fetch(&gate->missing, 1, __ATOMIC_ACQ_REL);
	while (__atomic_load_n(&gate->missing, __ATOMIC_ACQUIRE) > 0)
		sched_yield();
}

static void take_first(struct worker *worker)
{
	enter(worker);
	if (worker->first)
		must(pthread_mutex_lock(&worker->first->mutex), "first lock");
	meet(worker->gate);
}

static void *run(void *argument)
{
	struct worker *worker = argument;

	worker->task(worker);
	return NULL;
}

void start(struct worker *worker, task *task)
{
	worker->task = task;
	must(pthread_create(&worker->thread, NULL, run, worker), "pthread_create");
}

void join(struct worker *worker)
{
	must(pthread_join(worker->thread, NULL), "pthread_join");
}

void lock_both(struct worker *worker)
{
	take_first(worker);
	waits_in(worker, __func__);
	must(pthread_mutex_lock(&worker->second->mutex), __func__);
	waits_in(worker, NULL);
}

void timedlock_both(struct worker *worker)
{
	struct timespec until;

	clock_gettime(CLOCK_REALTIME, &until);
	until.tv_sec += 365 * 24 * 3600;
	take_first(worker);
	waits_in(worker, __func__);
	must(pthread_mutex_timedlock(&worker->second->mutex, &until), __func__);
	waits_in(worker, NULL);
}

void write_both(struct worker *worker)
{
	enter(worker);
	must(pthread_rwlock_wrlock(&worker->first->rwlock), __func__);
	meet(worker->gate);
	waits_in(worker, __func__);
	must(pthread_rwlock_wrlock(&worker->second->rwlock), __func__);
	waits_in(worker, NULL);
}

void read_second(struct worker *worker)
{
	enter(worker);
	meet(worker->gate);
	waits_in(worker, __func__);
	must(pthread_rwlock_rdlock(&worker->second->rwlock), __func__);
	waits_in(worker, NULL);
}

void lock_twice(struct worker *worker)
{
	enter(worker);
	must(pthread_mutex_lock(&worker->second->mutex), __func__);
	waits_in(worker, __func__);
	must(pthread_mutex_lock(&worker->second->mutex), __func__);
	waits_in(worker, NULL);
}

/* Its own frame is gone by then, where the compiler makes a jump of the last call. */
int lock_last(struct worker *worker)
{
	take_first(worker);
	waits_in(worker, __func__);
	return pthread_mutex_lock(&worker->second->mutex);
}

static __attribute__((noinline)) int open_inner(struct worker *worker)
{
	char name[200];

	waits_in(worker, __func__);
	must(pthread_mutex_lock(&worker->second->mutex), __func__);
	waits_in(worker, NULL);
	return snprintf(name, sizeof name, "%p", (void *)worker);
}

static __attribute__((noinline)) int open_middle(struct worker *worker, int more)
{
	return open_inner(worker) + more;
}

void lock_deep(struct worker *worker)
{
	take_first(worker);
	must(open_middle(worker, 1) < 0, __func__);
}

void lock_and_leave(struct worker *worker)
{
	take_first(worker);
	waits_in(worker, __func__);
	must(pthread_mutex_lock(&worker->second->mutex), __func__);
	waits_in(worker, NULL);
	must(pthread_mutex_unlock(&worker->second->mutex), __func__);
}

void hold_and_call(struct worker *worker)
{
	take_first(worker);
	called_with_lock_held(worker->number);
	must(pthread_mutex_unlock(&worker->first->mutex), __func__);
}

void hold_and_join(struct worker *worker)
{
	take_first(worker);
	waits_in(worker, __func__);
	must(pthread_join(worker->other->thread, NULL), __func__);
	waits_in(worker, NULL);
	must(pthread_mutex_unlock(&worker->first->mutex), __func__);
}

void hold_and_pause(struct worker *worker)
{
	take_first(worker);
	for (;;)
		pause();
}

void hold_for_seconds(struct worker *worker)
{
	struct timespec left = { .tv_sec = worker->number };

	take_first(worker);
	while (nanosleep(&left, &left))
		;
	must(pthread_mutex_unlock(&worker->first->mutex), __func__);
}

void let_go(struct worker *worker)
{
	__atomic_store_n(&worker->let_go, true, __ATOMIC_RELEASE);
}

void hold_until_told(struct worker *worker)
{
	const struct timespec moment = { .tv_nsec = 10 * 1000 * 1000 };

	take_first(worker);
	while (!__atomic_load_n(&worker->let_go, __ATOMIC_ACQUIRE))
		nanosleep(&moment, NULL);
	must(pthread_mutex_unlock(&worker->first->mutex), __func__);
}

void enter_and_keep(struct worker *worker)
{
	take_first(worker);
}

void stay(struct worker *worker)
{
	enter(worker);
	for (;;)
		pause();
}
