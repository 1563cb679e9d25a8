/* The timer wheel against a sorted list of times: order, cancel, timeouts that are never late. */
#include "base/wheel.c"

#include <stdlib.h>

#include "tap.h"

enum { TIMERS = 500 };

struct alarm {
    struct wheel_timer timer;
    uint64_t wanted_ms;
    unsigned fired;
};

static struct wheel wheel;
static struct alarm alarms[TIMERS];
static uint64_t clock_ms, last_due_ms;
static unsigned early, unordered, fired_count;

static void ring(struct wheel_timer *timer)
{
    struct alarm *alarm = LIST_OWNER(timer, struct alarm, timer);

    alarm->fired++;
    fired_count++;
    if (alarm->wanted_ms > clock_ms)
        early++;
    if (alarm->wanted_ms < last_due_ms)
        unordered++;
    last_due_ms = alarm->wanted_ms;
}

static void start(uint64_t now_ms)
{
    clock_ms = now_ms;
    last_due_ms = 0;
    early = unordered = fired_count = 0;
    wheel_init(&wheel, now_ms);
    for (unsigned i = 0; i < TIMERS; i++) {
        wheel_timer_init(&alarms[i].timer, ring);
        alarms[i].fired = 0;
    }
}

static void set(unsigned i, uint64_t due_ms)
{
    alarms[i].wanted_ms = due_ms;
    wheel_set(&wheel, &alarms[i].timer, due_ms);
}

static void check_occupied(void)
{
    bool same = true;

    for (unsigned l = 0; l < WHEEL_LEVELS; l++)
        for (unsigned s = 0; s < WHEEL_SLOTS; s++)
            same &= !(wheel.occupied[l] >> s & 1) == list_empty(&wheel.slots[l][s]);
    OK(same, "occupied bits agree with the lists");
}

/* Sleep exactly as long as the wheel says, as a worker does: nothing may be late. */
static void random_times(uint64_t base_ms, uint64_t range_ms, const char *name)
{
    unsigned late = 0, cancelled = 0, steps = 0;

    start(base_ms);
    for (unsigned i = 0; i < TIMERS; i++)
        set(i, base_ms + 1 + (uint64_t)random() % range_ms);
    for (unsigned i = 0; i < TIMERS; i += 5, cancelled++)
        wheel_cancel(&wheel, &alarms[i].timer);
    for (unsigned i = 1; i < TIMERS; i += 5)
        set(i, base_ms + 1 + (uint64_t)random() % range_ms);
    check_occupied();
    for (;;) {
        int wait_ms = wheel_timeout(&wheel, clock_ms);

        if (wait_ms < 0)
            break;
        steps++;
        clock_ms += (uint64_t)wait_ms;
        wheel_advance(&wheel, clock_ms);
        for (unsigned i = 0; i < TIMERS; i++)
            late += wheel_armed(&alarms[i].timer) && alarms[i].wanted_ms <= clock_ms;
    }
    IS(fired_count, TIMERS - cancelled, "%s: all fire but the cancelled", name);
    IS(early + late + unordered, 0, "%s: none early, late or out of order", name);
    OK(steps <= TIMERS * WHEEL_LEVELS, "%s: %u wake-ups are few", name, steps);
    check_occupied();
}

static struct wheel_timer chain[3];
static unsigned chain_fired;

static void cancel_next(struct wheel_timer *timer)
{
    chain_fired++;
    if (timer == &chain[0])
        wheel_cancel(&wheel, &chain[1]);
}

static void set_again(struct wheel_timer *timer)
{
    chain_fired++;
    wheel_set(&wheel, timer, 0);
}

int main(void)
{
    srandom(3);
    start(1000);
    IS(wheel_timeout(&wheel, 1000), -1, "an empty wheel waits without end");
    set(0, 1000);
    IS(wheel_timeout(&wheel, 1000), 0, "what is due now does not wait");
    IS(wheel_advance(&wheel, 1000), 1, "and fires without time passing");
    set(0, 1010);
    IS(wheel_timeout(&wheel, 1000), 10, "ten milliseconds are ten milliseconds");
    IS(wheel_timeout(&wheel, 1004), 6, "counted from the time given");
    IS(wheel_advance(&wheel, 1009), 0, "not before");
    set(0, 1020);
    IS(wheel_advance(&wheel, 1019), 0, "a moved timer keeps its new time");
    IS(wheel_advance(&wheel, 5000), 1, "a late look fires it once");
    wheel_cancel(&wheel, &alarms[0].timer);
    OK(!wheel_armed(&alarms[0].timer), "cancelling what is not armed is harmless");

    random_times(1, 100, "near");
    random_times(4095, 100000, "over a level's edge");
    random_times(123456789, 40000000, "hours");
    random_times((1ULL << 36) - 5000, 1000000, "over the wheel's edge");
    random_times((1ULL << 36) - 5, 1ULL << 34, "far over the wheel's edge");

    start(0);
    for (unsigned i = 0; i < 3; i++) {
        wheel_timer_init(&chain[i], cancel_next);
        wheel_set(&wheel, &chain[i], 50);
    }
    IS(wheel_advance(&wheel, 60), 2, "a timer can cancel another of its own batch");
    OK(chain_fired == 2 && !wheel_armed(&chain[1]), "which then does not fire");

    start(100);
    chain_fired = 0;
    wheel_timer_init(&chain[0], set_again);
    wheel_set(&wheel, &chain[0], 50);
    IS(wheel_advance(&wheel, 100), 1, "a timer that sets itself for the past waits for the next");
    IS(wheel_advance(&wheel, 100), 1, "call");
    wheel_cancel(&wheel, &chain[0]);

    start(7);
    set(0, UINT64_MAX);
    OK(wheel_timeout(&wheel, 7) > 0, "the far future is cut, not wrapped");
    return tap_done();
}
