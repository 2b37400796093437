/* Locks that many want, and that everybody gets in the end: always in the same order, never held for ever. */
#ifndef RHYTHM_H
#define RHYTHM_H

#include <stdbool.h>

#include "lock.h"

int rhythms(void);
const char *rhythm_name(int rhythm);
/* How many threads of C's own and how many goroutines take part. */
int rhythm_threads(int rhythm);
int rhythm_goroutines(int rhythm);
/* How often a lock was taken, and how often somebody else had it then. */
long rhythm_locks(int rhythm);
long rhythm_waited(int rhythm);

/* Before all else: how many times longer everything takes than at full speed, with sleeps instead of work. */
void set_pace(unsigned times);
/* Before the first turn. */
void prepare_rhythms(void);
/* A few dozen turns. */
void rhythm_turns(int rhythm);
/* Turns for ever, on a thread of C's own. */
void start_rhythm(int rhythm);

/* The lock that is held while C calls Go, and while Go does without. */
void lock_for_call(void);
bool lock_if_free_for_call(void);
void unlock_for_call(void);
void call_with_lock(int number);

#endif
