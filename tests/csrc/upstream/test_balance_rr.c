/* Round robin: every READY endpoint in turn, weights over many requests, nothing when none is left.
 */
#include "upstream/balance_rr.c"

#include "tap.h"

static bool first_tried(const void *owner, const struct edge_image_endpoint *endpoint)
{
    return endpoint == owner;
}

int main(void)
{
    struct edge_image_endpoint endpoints[3] = {{.state = EDGE_ENDPOINT_READY},
                                               {.state = EDGE_ENDPOINT_DRAINING},
                                               {.state = EDGE_ENDPOINT_READY}};
    struct edge_image_upstream record = {.slot = 7, .endpoint_count = 3};
    struct snapshot_upstream upstream = {&record, endpoints, ""};
    struct edge_image_reference references[3] = {{1, 1}, {2, 0}, {3, 3}};
    struct balance balance;
    int seen[3] = {0}, chosen[3] = {0};

    OK(balance_init(&balance, 5) == EDGE_OK, "it is made");
    for (int i = 0; i < 100; i++)
        seen[balance_endpoint(&balance, &upstream, 0, 0)]++;
    OK(seen[0] == 50 && seen[1] == 0 && seen[2] == 50, "READY endpoints share evenly");
    IS(balance_endpoint(&balance, &upstream, first_tried, &endpoints[0]), 2,
       "a tried one is left out");
    endpoints[0].state = endpoints[2].state = EDGE_ENDPOINT_DRAINING;
    IS(balance_endpoint(&balance, &upstream, 0, 0), -1, "none is ready");
    record.endpoint_count = 0;
    IS(balance_endpoint(&balance, &upstream, 0, 0), -1, "none is there");
    for (int i = 0; i < 400; i++)
        chosen[balance_reference(&balance, 3, references, 3)]++;
    OK(chosen[0] == 100 && chosen[1] == 0 && chosen[2] == 300, "references by weight");
    references[0].weight = 0;
    IS(balance_reference(&balance, 3, references, 1), -1, "a single reference of weight zero");
    balance_release(&balance);
    return tap_done();
}
