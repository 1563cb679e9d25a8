/* Filter "delay": holds a request for so many milliseconds before it is sent on (Envoy's fault
 * delay). Called through the table in policy.c. Pauses and resumes; never blocks the loop. */
#include "policy/policy.h"

static void wake(struct wheel_timer *timer)
{
    struct exchange *exchange = LIST_OWNER(timer, struct exchange, filter_timer);
    exchange->resume(exchange);
}

static enum filter_result hold(struct exchange *exchange, struct exchange_filter *filter)
{
    if (filter->argument == 0)
        return FILTER_CONTINUE;
    wheel_timer_init(&exchange->filter_timer, wake);
    wheel_set(exchange->wheel, &exchange->filter_timer, exchange->wheel->now_ms + filter->argument);
    return FILTER_PAUSE;
}

const struct filter_hooks policy_delay = {.name = "delay", .request_head = hold};
