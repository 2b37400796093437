#define _GNU_SOURCE
#include "turns.h"

#include <errno.h>
#include <linux/futex.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/syscall.h>
#include <unistd.h>

/* Turns of an empty loop with the lock held, and without it: some microseconds and less. */
enum { HELD = 2000, FREE = 500 };

/* Each thread's own, on a cache line of its own. */
struct count {
	long turns;
	char rest[64 - sizeof(long)];
};

static struct count counts[2];
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static unsigned turn;

static void must(int error, const char *what)
{
	if (error) {
		errno = error;
		perror(what);
		_exit(1);
	}
}

static void count(int thread)
{
	long *turns = &counts[thread].turns;

	__atomic_store_n(turns, *turns + 1, __ATOMIC_RELAXED);
}

long turns(void)
{
	return __atomic_load_n(&counts[0].turns, __ATOMIC_RELAXED) +
	       __atomic_load_n(&counts[1].turns, __ATOMIC_RELAXED);
}

static void work(int length)
{
	for (volatile int i = 0; i < length; i++)
		;
}

static void *uncontended(void *unused)
{
	(void)unused;
	for (;;) {
		must(pthread_mutex_lock(&lock), __func__);
		must(pthread_mutex_unlock(&lock), __func__);
		count(0);
	}
	return NULL;
}

static void *contended(void *thread)
{
	for (;;) {
		must(pthread_mutex_lock(&lock), __func__);
		work(HELD);
		must(pthread_mutex_unlock(&lock), __func__);
		count((int)(intptr_t)thread);
		work(FREE);
	}
	return NULL;
}

static void *futex(void *thread)
{
	unsigned own = (unsigned)(uintptr_t)thread;

	for (;;) {
		while (__atomic_load_n(&turn, __ATOMIC_ACQUIRE) != own)
			syscall(SYS_futex, &turn, FUTEX_WAIT_PRIVATE, !own, NULL, NULL, 0);
		count((int)own);
		__atomic_store_n(&turn, !own, __ATOMIC_RELEASE);
		syscall(SYS_futex, &turn, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0);
	}
	return NULL;
}

static void *wait_for_ever(void *unused)
{
	must(pthread_mutex_lock(&lock), __func__);
	return unused;
}

static void start(void *(*run)(void *), intptr_t thread)
{
	pthread_t started;

	must(pthread_create(&started, NULL, run, (void *)thread), "pthread_create");
}

void run_uncontended(void)
{
	start(uncontended, 0);
}

void run_contended(void)
{
	for (int i = 0; i < 2; i++)
		start(contended, i);
}

void run_futex(void)
{
	for (int i = 0; i < 2; i++)
		start(futex, i);
}

void run_waiting(int threads)
{
	must(pthread_mutex_lock(&lock), __func__);
	for (int i = 0; i < threads; i++)
		start(wait_for_ever, i);
}
