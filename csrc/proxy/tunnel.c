/* A 101 turns an exchange into an opaque two-way stream. Called by proxy/exchange.c and the
 * upstream codec.
 *
 * Both bodies begin anew, without framing and without an end but that of the connections; the
 * credits between the codecs stay as they are, so back-pressure does too. */
#include "proxy/proxy.h"

bool tunnel_allowed(const struct exchange *exchange, const struct h1_head *head)
{
    return exchange->request->upgrade && head->upgrade && exchange->request_done;
}

void tunnel_begin(struct exchange *exchange)
{
    exchange->tunnel = 1;
    COUNT(exchange->proxy->lane->tunnels, 1);
    exchange->request_done = 0;
    exchange->response_done = 0;
}
