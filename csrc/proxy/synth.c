/* The one place that chooses an error status, from what failed and on which side.
 *
 * Called by proxy/exchange.c and by the downstream codec for heads that cannot be read. Never
 * sends anything: respond.c does. */
#include "proxy/proxy.h"

static const struct {
    const char *name; /* in the access log */
    uint16_t downstream, upstream, internal;
} STATUSES[FAILURE_COUNT] = {
    /* name                                down  up   internal */
    [FAILURE_NONE] = {"-", 400, 502, 500},
    [FAILURE_SYNTAX] = {"syntax", 400, 502, 500},
    [FAILURE_HEAD_TOO_LARGE] = {"head", 431, 502, 500},
    [FAILURE_TARGET_TOO_LONG] = {"target", 414, 502, 500},
    [FAILURE_VERSION] = {"version", 505, 502, 500},
    [FAILURE_UNSUPPORTED] = {"unsupported", 501, 502, 501},
    [FAILURE_BODY_TOO_LARGE] = {"body", 413, 502, 500},
    [FAILURE_NO_ROUTE] = {"route", 404, 404, 404},
    [FAILURE_NO_ENDPOINT] = {"endpoint", 503, 503, 503},
    [FAILURE_CONNECT] = {"connect", 502, 502, 503},
    [FAILURE_TIMEOUT] = {"timeout", 408, 504, 504},
    [FAILURE_RESET] = {"reset", 400, 502, 502},
    [FAILURE_BAD_ANSWER] = {"answer", 502, 502, 502},
    [FAILURE_MEMORY] = {"memory", 503, 503, 503},
    [FAILURE_FILTER] = {"filter", 500, 500, 500},
    [FAILURE_LIMIT] = {"limit", 503, 503, 503},
    [FAILURE_GRACE] = {"grace", 503, 503, 503},
};

uint16_t synth_status(const struct exchange_failure *failure)
{
    if (failure->side == SIDE_DOWNSTREAM)
        return STATUSES[failure->kind].downstream;
    return failure->side == SIDE_UPSTREAM ? STATUSES[failure->kind].upstream
                                          : STATUSES[failure->kind].internal;
}

const char *synth_name(uint8_t failure_kind)
{
    return STATUSES[failure_kind].name;
}
