/* The timer wheel of base/wheel.h.
 *
 * A timer stands in the level of the highest 6-bit digit in which its time differs from the
 * wheel's, in the slot of that digit. So every timer of a level is due before every timer of the
 * next level, and the first occupied slot of the lowest occupied level says when to look again.
 * Called by workers; never allocates. */
#include "base/wheel.h"

#include <assert.h>
#include <limits.h>

enum { WHEEL_DIGIT_BITS = 6, WHEEL_NO_LEVEL = 0xff };

#define WHEEL_AHEAD_MAX ((1ULL << 35) - 1) /* half of the wheel's range: 397 days */

static unsigned shift_of(unsigned level)
{
    return level * WHEEL_DIGIT_BITS;
}

static void unlink_timer(struct wheel *wheel, struct wheel_timer *timer)
{
    list_remove(&timer->link);
    if (timer->level != WHEEL_NO_LEVEL && list_empty(&wheel->slots[timer->level][timer->slot]))
        wheel->occupied[timer->level] &= ~(1ULL << timer->slot);
    timer->level = WHEEL_NO_LEVEL;
}

/* due_ms > now_ms. */
static void link_timer(struct wheel *wheel, struct wheel_timer *timer)
{
    uint64_t differs = wheel->now_ms ^ timer->due_ms;
    unsigned level = (63 - (unsigned)__builtin_clzll(differs)) / WHEEL_DIGIT_BITS;

    /* Only when the clock is about to wrap the top digit; its slots are then read as a ring. */
    if (level >= WHEEL_LEVELS)
        level = WHEEL_LEVELS - 1;
    timer->level = (uint8_t)level;
    timer->slot = (timer->due_ms >> shift_of(level)) & (WHEEL_SLOTS - 1);
    list_push_back(&wheel->slots[level][timer->slot], &timer->link);
    wheel->occupied[level] |= 1ULL << timer->slot;
}

/* When the first occupied slot begins, and which it is. Returns false for an empty wheel. */
static bool next_slot(const struct wheel *wheel, unsigned *level, unsigned *slot, uint64_t *at_ms)
{
    for (unsigned l = 0; l < WHEEL_LEVELS; l++) {
        uint64_t occupied = wheel->occupied[l];
        unsigned digit = (wheel->now_ms >> shift_of(l)) & (WHEEL_SLOTS - 1);
        uint64_t round_ms = 1ULL << shift_of(l + 1);

        if (!occupied)
            continue;
        if (digit)
            occupied = occupied >> digit | occupied << (WHEEL_SLOTS - digit);
        *level = l;
        *slot = (digit + (unsigned)__builtin_ctzll(occupied)) & (WHEEL_SLOTS - 1);
        *at_ms = (wheel->now_ms & ~(round_ms - 1)) + ((uint64_t)*slot << shift_of(l));
        if (*at_ms <= wheel->now_ms)
            *at_ms += round_ms;
        return true;
    }
    return false;
}

void wheel_init(struct wheel *wheel, uint64_t now_ms)
{
    wheel->now_ms = now_ms;
    list_init(&wheel->due);
    for (unsigned l = 0; l < WHEEL_LEVELS; l++) {
        wheel->occupied[l] = 0;
        for (unsigned s = 0; s < WHEEL_SLOTS; s++)
            list_init(&wheel->slots[l][s]);
    }
}

void wheel_timer_init(struct wheel_timer *timer, void (*fired)(struct wheel_timer *timer))
{
    list_init(&timer->link);
    timer->due_ms = 0;
    timer->fired = fired;
    timer->level = WHEEL_NO_LEVEL;
    timer->slot = 0;
    timer->armed = 0;
}

void wheel_set(struct wheel *wheel, struct wheel_timer *timer, uint64_t due_ms)
{
    assert(timer->fired);
    if (timer->armed)
        unlink_timer(wheel, timer);
    timer->armed = 1;
    timer->due_ms = due_ms;
    if (due_ms <= wheel->now_ms) {
        list_push_back(&wheel->due, &timer->link);
        return;
    }
    if (due_ms - wheel->now_ms > WHEEL_AHEAD_MAX)
        timer->due_ms = wheel->now_ms + WHEEL_AHEAD_MAX;
    link_timer(wheel, timer);
}

void wheel_cancel(struct wheel *wheel, struct wheel_timer *timer)
{
    if (!timer->armed)
        return;
    unlink_timer(wheel, timer);
    timer->armed = 0;
}

int wheel_timeout(const struct wheel *wheel, uint64_t now_ms)
{
    unsigned level, slot;
    uint64_t at_ms;

    if (!list_empty(&wheel->due))
        return 0;
    if (!next_slot(wheel, &level, &slot, &at_ms))
        return -1;
    if (at_ms <= now_ms)
        return 0;
    return at_ms - now_ms > INT_MAX ? INT_MAX : (int)(at_ms - now_ms);
}

unsigned wheel_advance(struct wheel *wheel, uint64_t now_ms)
{
    struct list batch, slot_list, *link;
    unsigned level, slot, count = 0;
    uint64_t at_ms;

    list_init(&batch);
    list_splice(&batch, &wheel->due);
    while (next_slot(wheel, &level, &slot, &at_ms) && at_ms <= now_ms) {
        wheel->now_ms = at_ms;
        wheel->occupied[level] &= ~(1ULL << slot);
        list_init(&slot_list);
        list_splice(&slot_list, &wheel->slots[level][slot]);
        while ((link = list_pop_front(&slot_list))) {
            struct wheel_timer *timer = LIST_OWNER(link, struct wheel_timer, link);

            timer->level = WHEEL_NO_LEVEL;
            if (timer->due_ms <= at_ms)
                list_push_back(&batch, &timer->link);
            else
                link_timer(wheel, timer);
        }
    }
    if (now_ms > wheel->now_ms)
        wheel->now_ms = now_ms;
    while ((link = list_pop_front(&batch))) {
        struct wheel_timer *timer = LIST_OWNER(link, struct wheel_timer, link);

        timer->armed = 0;
        count++;
        timer->fired(timer);
    }
    return count;
}
