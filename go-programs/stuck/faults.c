#define _GNU_SOURCE
#include "faults.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <unistd.h>

/* What a frame takes on the bus, in microseconds. */
enum { FRAME_US = 4000 };

static pthread_mutex_t bus, memory;
static int kept;

static void must(int error, const char *what)
{
	if (error) {
		errno = error;
		perror(what);
		_exit(1);
	}
}

/* Recursive: of these every C library writes down who has them, musl only of these and the like. */
static void open_lock(pthread_mutex_t *lock)
{
	pthread_mutexattr_t attr;

	must(pthread_mutexattr_init(&attr), "pthread_mutexattr_init");
	must(pthread_mutexattr_settype(&attr, PTHREAD_MUTEX_RECURSIVE), "pthread_mutexattr_settype");
	must(pthread_mutex_init(lock, &attr), "pthread_mutex_init");
}

void open_faults(void)
{
	open_lock(&bus);
	open_lock(&memory);
}

/* The order that all keep to: the bus, then the memory. */
int record_fault(void)
{
	int now;

	must(pthread_mutex_lock(&bus), __func__);
	usleep(FRAME_US);
	must(pthread_mutex_lock(&memory), __func__);
	now = ++kept;
	must(pthread_mutex_unlock(&memory), __func__);
	must(pthread_mutex_unlock(&bus), __func__);
	return now;
}

/* The fault in this library: who confirms takes the bus last. */
int clear_faults(bool confirm)
{
	int before;

	must(pthread_mutex_lock(&memory), __func__);
	before = kept;
	kept = 0;
	usleep(FRAME_US);
	if (confirm) {
		must(pthread_mutex_lock(&bus), __func__);
		usleep(FRAME_US);
		must(pthread_mutex_unlock(&bus), __func__);
	}
	must(pthread_mutex_unlock(&memory), __func__);
	return before;
}
