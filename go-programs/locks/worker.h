/* What lock.h keeps from Go. */
#ifndef WORKER_H
#define WORKER_H

#include <pthread.h>
#include <stddef.h>
#include <sys/types.h>

#include "lock.h"

struct lock {
	int kind;
	pthread_mutex_t mutex;
	pthread_rwlock_t rwlock;
};

struct gate {
	int missing;
};

struct worker {
	pid_t tid;
	const char *function;
	struct lock *first, *second;
	struct gate *gate;
	struct worker *other;
	int number;
	bool let_go;
	pthread_t thread;
	task *task;
};

/* Ends the program on an error. */
void must(int error, const char *what);
void *allocate(size_t size);
/* The worker is on this thread from now on. */
void enter(struct worker *worker);
/* From here to the wait there is nothing that blocks. */
void waits_in(struct worker *worker, const char *function);
/* Opens once all have come; never blocks. */
void meet(struct gate *gate);

#endif
