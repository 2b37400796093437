#define _GNU_SOURCE
#include "storm.h"

#include <pthread.h>
#include <sys/resource.h>
#include <unistd.h>

#include "worker.h"

/* Each has a share of the locks: as many as leave two processors some rest. */
enum { PAIRS = 4 };
/* For how long a lock of the storm is held. The kernel's timers make it twice as much. */
enum { HELD_US = 50 };

/* One thread leads and takes each lock before it gives back the one before; the other follows and so finds each lock
 * taken, unless it has fallen behind. */
struct pair {
	pthread_mutex_t *locks;
	bool *waited;
	int count;
	/* Whether the follower is there, and whether it has come to the end of this walk. */
	bool follows, followed;
};

static struct pair pairs[PAIRS];
static long waited, sleeps;
static int running, storming;
static bool released;

struct steady {
	pthread_mutex_t lock;
	int held_ms;
	long sleeps;
	/* How many locks of the storm had been waited for when this one was last waited for. */
	long at;
};

static struct steady steadies[] = {
	{ PTHREAD_MUTEX_INITIALIZER, 3, 0, 0 },
	{ PTHREAD_MUTEX_INITIALIZER, 1, 0, 0 },
};

enum { STEADIES = sizeof steadies / sizeof steadies[0] };
/* The storm does not run away from them, as it would when one of their threads is kept from its processor: so many locks
 * at most are new between two waits for one that stays. */
enum { AHEAD = 128 };

/* How often this thread has given up its processor to wait for something. */
static long own_sleeps(void)
{
	struct rusage usage;

	must(getrusage(RUSAGE_THREAD, &usage), "getrusage");
	return usage.ru_nvcsw;
}

/* How often it slept for that lock. */
static long take(pthread_mutex_t *lock)
{
	long before = own_sleeps(), slept;

	must(pthread_mutex_lock(lock), "pthread_mutex_lock");
	slept = own_sleeps() - before;
	__atomic_add_fetch(&sleeps, slept, __ATOMIC_RELAXED);
	return slept;
}

static void release(pthread_mutex_t *lock)
{
	must(pthread_mutex_unlock(lock), "pthread_mutex_unlock");
}

static void start_thread(void *(*run)(void *), void *argument)
{
	pthread_t thread;

	must(pthread_create(&thread, NULL, run, argument), "pthread_create");
	must(pthread_detach(thread), "pthread_detach");
}

/* The next lock that nobody has slept for, from this one on. */
static int next(const struct pair *pair, int from)
{
	while (from < pair->count && pair->waited[from])
		from++;
	return from;
}

static void *follow(void *argument)
{
	struct pair *pair = argument;

	__atomic_store_n(&pair->follows, true, __ATOMIC_RELEASE);
	for (int i = next(pair, 0); i < pair->count; i = next(pair, i + 1)) {
		if (take(&pair->locks[i])) {
			pair->waited[i] = true;
			__atomic_add_fetch(&waited, 1, __ATOMIC_RELAXED);
		}
		release(&pair->locks[i]);
	}
	__atomic_store_n(&pair->followed, true, __ATOMIC_RELEASE);
	return NULL;
}

/* Waits without a lock. */
static void rest(void)
{
	usleep(HELD_US);
}

static void until(const bool *flag)
{
	while (!__atomic_load_n(flag, __ATOMIC_ACQUIRE))
		rest();
}

static void keep_pace(void)
{
	for (int i = 0; i < STEADIES; i++)
		while (__atomic_load_n(&waited, __ATOMIC_RELAXED)
				- __atomic_load_n(&steadies[i].at, __ATOMIC_RELAXED) > AHEAD)
			rest();
}

/* Walks along all locks that nobody has slept for, until there is none. */
static void *lead(void *argument)
{
	struct pair *pair = argument;
	int i, after;

	while ((i = next(pair, 0)) < pair->count) {
		take(&pair->locks[i]);
		pair->follows = pair->followed = false;
		start_thread(follow, pair);
		until(&pair->follows);
		for (; i < pair->count; i = after) {
			after = next(pair, i + 1);
			rest();
			keep_pace();
			if (after < pair->count)
				take(&pair->locks[after]);
			release(&pair->locks[i]);
		}
		until(&pair->followed);
	}
	__atomic_sub_fetch(&storming, 1, __ATOMIC_RELAXED);
	__atomic_sub_fetch(&running, 1, __ATOMIC_RELEASE);
	return NULL;
}

static bool is_over(void)
{
	return !__atomic_load_n(&storming, __ATOMIC_RELAXED) && __atomic_load_n(&released, __ATOMIC_RELAXED);
}

/* Shares a lock with another thread for as long as the storm lasts, and until it is let go. */
static void *share(void *argument)
{
	struct steady *steady = argument;

	while (!is_over()) {
		long slept = take(&steady->lock);

		__atomic_add_fetch(&steady->sleeps, slept, __ATOMIC_RELAXED);
		if (slept)
			__atomic_store_n(&steady->at, __atomic_load_n(&waited, __ATOMIC_RELAXED), __ATOMIC_RELAXED);
		usleep(steady->held_ms * 1000);
		release(&steady->lock);
		rest();
	}
	__atomic_sub_fetch(&running, 1, __ATOMIC_RELEASE);
	return NULL;
}

void start_storm(int locks)
{
	running = PAIRS + 2 * STEADIES;
	storming = PAIRS;
	for (int i = 0; i < PAIRS; i++) {
		struct pair *pair = &pairs[i];

		pair->count = locks / PAIRS + (i < locks % PAIRS);
		pair->locks = allocate(pair->count * sizeof *pair->locks);
		pair->waited = allocate(pair->count * sizeof *pair->waited);
		for (int n = 0; n < pair->count; n++)
			must(pthread_mutex_init(&pair->locks[n], NULL), "pthread_mutex_init");
	}
	for (int i = 0; i < STEADIES; i++)
		for (int n = 0; n < 2; n++)
			start_thread(share, &steadies[i]);
	for (int i = 0; i < PAIRS; i++)
		start_thread(lead, &pairs[i]);
}

void end_storm(void)
{
	__atomic_store_n(&released, true, __ATOMIC_RELAXED);
}

long storm_waited(void)
{
	return __atomic_load_n(&waited, __ATOMIC_RELAXED);
}

long storm_sleeps(void)
{
	return __atomic_load_n(&sleeps, __ATOMIC_RELAXED);
}

int storm_threads(void)
{
	return __atomic_load_n(&running, __ATOMIC_ACQUIRE);
}

int steady_locks(void)
{
	return STEADIES;
}

uint64_t steady_address(int steady)
{
	return (uintptr_t)&steadies[steady].lock;
}

int steady_held_ms(int steady)
{
	return steadies[steady].held_ms;
}

long steady_sleeps(int steady)
{
	return __atomic_load_n(&steadies[steady].sleeps, __ATOMIC_RELAXED);
}
