/* The bucket's arithmetic, natively: rate.h has no map, clock or kernel call. */
#include "rate.h"

#include "tap.h"

#define SECOND (1000000000ULL << EDGE_RATE_SHIFT)

static unsigned take(uint64_t *paid, uint64_t now, uint64_t interval, uint64_t slack,
                     unsigned tries)
{
    unsigned taken = 0;
    for (unsigned i = 0; i < tries; i++)
        taken += (unsigned)rate_take(paid, now, interval, slack);
    return taken;
}

static int burst(void)
{
    uint64_t interval = SECOND / 10, paid = 0;
    return take(&paid, SECOND, interval, 4 * interval, 100) == 5;
}

static int refusals_are_free(void)
{
    uint64_t interval = SECOND / 10, paid = 0;
    take(&paid, SECOND, interval, 0, 100);
    return take(&paid, SECOND + interval, interval, 0, 100) == 1;
}

static int steady(void)
{
    /* 3 Mpps offered for a second against 1,000,000 a second, burst of 100. */
    uint64_t interval = SECOND / 1000000, paid = 0, taken = 0;
    for (uint64_t i = 0; i < 3000000; i++)
        taken +=
            (uint64_t)rate_take(&paid, SECOND + i * (SECOND / 3000000), interval, 99 * interval);
    return taken >= 999000 && taken <= 1000200;
}

static int first_unit_counts(void)
{
    uint64_t interval = SECOND, paid = rate_first(SECOND, interval);
    return take(&paid, SECOND, interval, 2 * interval, 10) == 2;
}

static int slower_past_is_forgiven(void)
{
    /* A thousand seconds ahead under an old policy; today a second's slack at 1,000 a second. */
    uint64_t interval = SECOND / 1000, paid = 1000 * SECOND, now = SECOND;
    int refused = !rate_take(&paid, now, interval, SECOND);
    return refused && take(&paid, now + 2 * SECOND, interval, SECOND, 10) == 10;
}

static int clock_may_step_back(void)
{
    uint64_t interval = SECOND / 10, paid = 0;
    take(&paid, 2 * SECOND, interval, 0, 1);
    return take(&paid, 2 * SECOND - interval / 2, interval, 0, 5) == 0;
}

int main(void)
{
    OK(burst(), "a new source gets its burst and no more");
    OK(refusals_are_free(), "what is refused is not charged");
    OK(steady(), "three million a second become one million");
    OK(first_unit_counts(), "the first unit of a new bucket counts");
    OK(slower_past_is_forgiven(), "nobody waits for what an older, slower rate charged");
    OK(clock_may_step_back(), "a clock that steps back gives nothing away");
    return tap_done();
}
