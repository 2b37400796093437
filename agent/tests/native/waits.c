// Threads that wait for ever in C, each by another way. Before it waits each thread notes which functions it is
// in and where each of them returns to: that is what has to be read from outside.
//
// Prints for each thread `STACK way tid mutex function=return-address ...`, the innermost function first, then
// `READY pid`; ends with its standard input.
#define _GNU_SOURCE
#include <alloca.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#define DEEP 12
#define KEPT __attribute__((noinline))

struct note {
    const char *way;
    const char *function[64];
    void *returns[64];
    int depth;
    long tid;
    atomic_int ready;
};

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static __thread struct note *mine;
volatile int sink;

static void enter(const char *function, void *returns) {
    mine->function[mine->depth] = function;
    mine->returns[mine->depth++] = returns;
}
#define ENTER enter(__func__, __builtin_return_address(0))

// From here on nothing changes but that it waits.
static void noted(void) {
    mine->tid = syscall(SYS_gettid);
    atomic_store(&mine->ready, 1);
}

// An ordinary chain of calls.
KEPT int third(int x) { ENTER; noted(); int result = pthread_mutex_lock(&mutex); return result + x + sink; }
KEPT int second(int x) { ENTER; return third(x * 2) + sink; }
KEPT int first(int x) { ENTER; return second(x + 1) * 3 + sink; }

// The same, deeper.
KEPT int again(int left) {
    ENTER;
    if (left > 0) return again(left - 1) + sink;
    noted();
    int result = pthread_mutex_lock(&mutex);
    return result + sink;
}

// Its last act is the call: with optimisation a jump.
KEPT int hold(void) { ENTER; noted(); return pthread_mutex_lock(&mutex); }
KEPT int pass_on(void) { ENTER; return hold(); }
KEPT int keeps(void) { ENTER; int result = pass_on(); return result + sink; }

// Frames of a size that only the frame pointer tells.
KEPT int sized(int size) {
    ENTER;
    volatile char *room = alloca((size_t)size);
    for (int i = 0; i < size; i++) room[i] = (char)i;
    noted();
    int result = pthread_mutex_lock(&mutex);
    return result + room[0] + sink;
}
KEPT int large(int size) {
    ENTER;
    volatile char room[20000];
    memset((void *)room, size, sizeof room);
    int result = sized(size);
    return result + room[3] + sink;
}

// Called through a pointer, and by the C library.
KEPT int compare(const void *a, const void *b) {
    ENTER;
    noted();
    int result = pthread_mutex_lock(&mutex);
    return result + (*(const int *)a > *(const int *)b) + sink;
}
KEPT int sorted(void) {
    ENTER;
    int values[2] = {2, 1};
    qsort(values, 2, sizeof values[0], compare);
    return values[0] + sink;
}

// In the handler of a signal.
static void handler(int number) {
    ENTER;
    noted();
    sink += number + pthread_mutex_lock(&mutex);
}
KEPT int interrupted(void) {
    ENTER;
    signal(SIGUSR1, handler);
    pthread_kill(pthread_self(), SIGUSR1);
    return sink;
}

static int chain(void) { return first(3); }
static int deep(void) { return again(DEEP); }
static int tail(void) { return keeps(); }
static int frames(void) { return large(100 + sink); }
static int pointer(void) { return sorted(); }
static int in_handler(void) { return interrupted(); }

static struct way { const char *name; int (*run)(void); } ways[] = {
    {"chain", chain}, {"deep", deep}, {"tail", tail}, {"frames", frames}, {"pointer", pointer},
    {"signal", in_handler},
};
#define WAYS (sizeof ways / sizeof ways[0])
static struct note notes[WAYS];

static void *run(void *argument) {
    struct way *way = argument;
    mine = &notes[way - ways];
    mine->way = way->name;
    sink += way->run();
    return NULL;
}

int main(void) {
    pthread_mutex_lock(&mutex);
    for (size_t i = 0; i < WAYS; i++) {
        pthread_t thread;
        if (pthread_create(&thread, NULL, run, &ways[i]) != 0) return 1;
        while (!atomic_load(&notes[i].ready)) usleep(100);
        struct note *note = &notes[i];
        printf("STACK %s %ld %p", note->way, note->tid, (void *)&mutex);
        for (int at = note->depth - 1; at >= 0; at--) printf(" %s=%p", note->function[at], note->returns[at]);
        printf("\n");
    }
    printf("READY %d\n", (int)getpid());
    fflush(stdout);
    while (getchar() != EOF) {}
    return 0;
}
