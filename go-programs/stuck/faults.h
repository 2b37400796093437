/* A supplier's library: it takes fault codes off the vehicle's bus and keeps them, with a lock for each. */
#ifndef FAULTS_H
#define FAULTS_H

#include <stdbool.h>

/* Before all else. */
void open_faults(void);
/* Takes one fault code off the bus; returns how many are kept now. */
int record_fault(void);
/* Forgets all fault codes, and says so on the bus if told to; returns how many there were. */
int clear_faults(bool confirm);

#endif
