/* What the threads of this program do with locks, in C. */
#ifndef LOCK_H
#define LOCK_H

#include <stdbool.h>
#include <stdint.h>

/* Kinds of lock, as lock.go numbers them. */
enum { NORMAL, RECURSIVE, ERRORCHECK, ADAPTIVE, ROBUST, PI, READ_WRITE };

/* Go is not told what is in them: it would check its pointers on every call. */
struct lock;
struct gate;
struct worker;

/* A new lock; NULL if this library has no such kind. */
struct lock *new_lock(int kind);
/* One that is no allocation of its own but a variable of this program. */
struct lock *standing_lock(void);
uint64_t lock_address(const struct lock *lock);
/* Bytes of a mutex. */
int lock_size(void);
/* Whether this library writes down who has a lock of this kind. */
bool records_owner(int kind);
bool is_glibc(void);

/* Opens once `all` have come. */
struct gate *new_gate(int all);

/* A thread with the lock that it takes first, the one it wants then, and where it meets the others in between. */
struct worker *new_worker(struct lock *first, struct lock *second, struct gate *gate);
/* Whom it joins. */
void set_other(struct worker *worker, struct worker *other);
/* How many seconds it holds, or which of Go's calls it is. */
void set_number(struct worker *worker, int number);
/* Tells it to hold no longer. */
void let_go(struct worker *worker);
/* 0 before it runs. */
int worker_tid(const struct worker *worker);
/* The C function that is about to wait; NULL before and after. */
const char *worker_function(const struct worker *worker);
/* Where it waits in pthread_mutex_lock or the like. */
uint64_t worker_lock(const struct worker *worker);

typedef void task(struct worker *worker);
/* Does it on a thread of C's own. */
void start(struct worker *worker, task *task);
/* Waits until that thread has ended. */
void join(struct worker *worker);

/* Tasks. Each first takes `first`, if there is one, and meets the others. */
void lock_both(struct worker *worker);
void timedlock_both(struct worker *worker);
void write_both(struct worker *worker);
void read_second(struct worker *worker);
void lock_twice(struct worker *worker);
int lock_last(struct worker *worker);
void lock_deep(struct worker *worker);
void lock_and_leave(struct worker *worker);
void hold_and_call(struct worker *worker);
void hold_and_join(struct worker *worker);
void hold_and_pause(struct worker *worker);
void hold_for_seconds(struct worker *worker);
void hold_until_told(struct worker *worker);
/* Returns, or ends, with `first` locked. */
void enter_and_keep(struct worker *worker);
/* Never returns. */
void stay(struct worker *worker);

#endif
