/* Round robin: endpoints in turn, references in turn by weight. Called by proxy/exchange.c.
 *
 * Each worker starts at another place, so that few requests over many workers still spread. */
#include "upstream/balance.h"

#include <stdlib.h>

int balance_init(struct balance *balance, uint64_t seed)
{
    balance->next_endpoint = calloc(EDGE_UPSTREAM_SLOTS, sizeof(uint32_t));
    balance->next_reference = calloc(EDGE_ROUTE_SLOTS, sizeof(uint32_t));
    balance->start = (uint32_t)seed;
    if (balance->next_endpoint && balance->next_reference)
        return EDGE_OK;
    balance_release(balance);
    return EDGE_ERR_NOMEM;
}

void balance_release(struct balance *balance)
{
    free(balance->next_endpoint);
    free(balance->next_reference);
    balance->next_endpoint = balance->next_reference = 0;
}

int32_t balance_reference(struct balance *balance, uint32_t route_slot,
                          const struct edge_image_reference *references, uint32_t count)
{
    uint64_t total = 0;
    if (count == 1)
        return references[0].weight > 0 ? 0 : -1;
    for (uint32_t i = 0; i < count; i++)
        total += references[i].weight;
    if (total == 0)
        return -1;
    /* A step that shares no factor with most totals mixes the references instead of sending runs
     * of `weight` requests to one of them. */
    uint64_t turn = ((uint64_t)balance->next_reference[route_slot]++ * 2654435761u) % total;
    for (uint32_t i = 0; i < count; i++) {
        if (turn < references[i].weight)
            return (int32_t)i;
        turn -= references[i].weight;
    }
    return -1;
}

int32_t balance_endpoint(struct balance *balance, const struct snapshot_upstream *upstream,
                         bool (*tried)(const void *owner,
                                       const struct edge_image_endpoint *endpoint),
                         const void *owner)
{
    uint32_t count = upstream->record->endpoint_count;
    if (count == 0)
        return -1;
    uint32_t *next = &balance->next_endpoint[upstream->record->slot];
    /* 0: never used; kept values are one more than the index. */
    uint32_t at = *next == 0 ? balance->start % count : (*next - 1) % count;
    for (uint32_t i = 0; i < count; i++) {
        const struct edge_image_endpoint *endpoint = &upstream->endpoints[at];
        uint32_t index = at;
        at = at + 1 == count ? 0 : at + 1;
        if (endpoint->state != EDGE_ENDPOINT_READY || (tried && tried(owner, endpoint)))
            continue;
        *next = at + 1;
        return (int32_t)index;
    }
    return -1;
}
