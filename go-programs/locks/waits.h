/* Waits that are no deadlocks: nobody has what they wait for. */
#ifndef WAITS_H
#define WAITS_H

#include "lock.h"

void wait_for_condition(struct worker *worker);
void wait_condition_timed(struct worker *worker);
void wait_for_semaphore(struct worker *worker);
void wait_at_barrier(struct worker *worker);
/* The first of the two runs what is to run once, and never ends it. */
void be_first(struct worker *worker);
void wait_for_first(struct worker *worker);
void hold_file(struct worker *worker);
void wait_for_file(struct worker *worker);

#endif
