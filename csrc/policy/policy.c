/* The table of filters. Called by proxy/exchange.c. Holds no state. */
#include "policy/policy.h"

static const struct filter_hooks *const HOOKS[] = {
    [EDGE_FILTER_DELAY] = &policy_delay,
};

const struct filter_hooks *policy_hooks(uint32_t kind)
{
    return kind < sizeof HOOKS / sizeof *HOOKS ? HOOKS[kind] : 0;
}
