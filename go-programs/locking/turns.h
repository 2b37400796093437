/* Threads of C that do nothing but take locks, and count how often. */
#ifndef TURNS_H
#define TURNS_H

/* Turns so far, of all threads. */
long turns(void);

/* One thread with a lock that nobody else wants. */
void run_uncontended(void);
/* Two threads that want the same lock nearly all the time. */
void run_contended(void);
/* Two threads that wake each other by bare futexes, in turns. */
void run_futex(void);
/* So many threads that wait for a lock for ever. */
void run_waiting(int threads);

#endif
