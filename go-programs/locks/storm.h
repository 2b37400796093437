/* Very many locks, of which each is waited for once at least, and a few that are waited for again and again. */
#ifndef STORM_H
#define STORM_H

#include <stdbool.h>
#include <stdint.h>

/* Makes so many locks and lets the threads go. */
void start_storm(int locks);
/* Lets those that stay go once the storm is over. */
void end_storm(void);
/* Locks that somebody has slept for so far. */
long storm_waited(void);
/* How often threads have slept for locks so far, of the storm and of the others. */
long storm_sleeps(void);
/* How many threads are not done yet. */
int storm_threads(void);

/* The others: those that stay. */
int steady_locks(void);
uint64_t steady_address(int steady);
/* For how long one of them is held each time, in milliseconds. */
int steady_held_ms(int steady);
long steady_sleeps(int steady);

#endif
