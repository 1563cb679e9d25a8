/* What a request looks like to an endpoint: forwarding fields and the request id.
 *
 * Called once an exchange, before the first try. X-Forwarded-* of clients outside the listener's
 * trusted prefixes are replaced; a trusted one's are kept and the list is appended to (as
 * ingress-nginx does with use-forwarded-headers). Host is passed on as written. Hop-by-hop fields
 * were marked by the parser and are left out by the codec. */
#include "proxy/proxy.h"

#include "match/matcher.h"

bool forward_trusts(const struct image *image, uint32_t listener_slot, const uint8_t address[16])
{
    int32_t index = match_listener(image, listener_slot);
    if (index < 0)
        return false;
    const struct edge_image_listener *listener = &image->listeners[index];
    for (uint32_t i = 0; i < listener->trusted_count; i++) {
        const struct edge_image_prefix *prefix = &image->prefixes[listener->first_trusted + i];
        uint32_t whole = prefix->bits / 8, rest = prefix->bits % 8;
        if (memcmp(prefix->address, address, whole) != 0)
            continue;
        if (rest == 0 || ((prefix->address[whole] ^ address[whole]) >> (8 - rest)) == 0)
            return true;
    }
    return false;
}

static struct slice find(const struct h1_head *head, uint8_t id)
{
    for (uint32_t i = 0; i < head->field_count; i++)
        if (head->field[i].id == id)
            return head->field[i].value;
    return (struct slice){0, 0};
}

static void add(struct exchange *exchange, uint8_t id, struct slice name, struct slice value)
{
    exchange->added[exchange->added_count++] =
        (struct h1_field){.name = name, .value = value, .id = id};
    exchange->skip |= H1_FIELD_BIT(id);
}

/* All of the client's list, then the client. */
static bool append_client(struct exchange *exchange, struct slice client, struct slice *out)
{
    const struct h1_head *request = exchange->request;
    size_t bytes = client.length;
    for (uint32_t i = 0; i < request->field_count; i++)
        if (request->field[i].id == FIELD_X_FORWARDED_FOR)
            bytes += request->field[i].value.length + 2;
    char *text = arena_alloc(&exchange->arena, bytes);
    if (!text)
        return false;
    struct h1_writer writer;
    h1_writer_init(&writer, text, bytes);
    for (uint32_t i = 0; i < request->field_count; i++) {
        if (request->field[i].id != FIELD_X_FORWARDED_FOR)
            continue;
        h1_put_slice(&writer, request->field[i].value);
        h1_put_text(&writer, ", ");
    }
    h1_put_slice(&writer, client);
    *out = (struct slice){text, h1_writer_length(&writer)};
    return true;
}

/* 128 random bits as 32 hexadecimal digits. */
static bool make_request_id(struct exchange *exchange)
{
    static const char DIGITS[] = "0123456789abcdef";
    char *text = arena_alloc(&exchange->arena, 32);
    if (!text)
        return false;
    for (int half = 0; half < 2; half++) {
        uint64_t bits = proxy_random(exchange->proxy);
        for (int i = 0; i < 16; i++, bits >>= 4)
            text[half * 16 + i] = DIGITS[bits & 15];
    }
    exchange->request_id = (struct slice){text, 32};
    return true;
}

bool forward_edit(struct exchange *exchange)
{
    const struct h1_head *request = exchange->request;
    const struct exchange_client *client = exchange->client;
    struct slice address = {client->text, client->text_length};
    struct slice scheme = client->tls ? SLICE("https") : SLICE("http");

    /* Answered by the downstream codec itself. */
    exchange->skip = H1_FIELD_BIT(FIELD_EXPECT) | H1_FIELD_BIT(FIELD_HOST);
    add(exchange, FIELD_HOST, SLICE("host"), request->authority);
    if (client->trusted) {
        struct slice list;
        if (!append_client(exchange, address, &list))
            return false;
        exchange->request_id = find(request, FIELD_X_REQUEST_ID);
        if (find(request, FIELD_X_FORWARDED_PROTO).length == 0)
            add(exchange, FIELD_X_FORWARDED_PROTO, SLICE("x-forwarded-proto"), scheme);
        if (find(request, FIELD_X_FORWARDED_HOST).length == 0)
            add(exchange, FIELD_X_FORWARDED_HOST, SLICE("x-forwarded-host"), request->authority);
        if (find(request, FIELD_X_REAL_IP).length == 0)
            add(exchange, FIELD_X_REAL_IP, SLICE("x-real-ip"), address);
        add(exchange, FIELD_X_FORWARDED_FOR, SLICE("x-forwarded-for"), list);
    } else {
        add(exchange, FIELD_X_FORWARDED_FOR, SLICE("x-forwarded-for"), address);
        add(exchange, FIELD_X_FORWARDED_PROTO, SLICE("x-forwarded-proto"), scheme);
        add(exchange, FIELD_X_FORWARDED_HOST, SLICE("x-forwarded-host"), request->authority);
        add(exchange, FIELD_X_REAL_IP, SLICE("x-real-ip"), address);
        /* They say the same as the four above and would contradict them. */
        exchange->skip |= H1_FIELD_BIT(FIELD_FORWARDED) | H1_FIELD_BIT(FIELD_X_FORWARDED_PORT);
    }
    if (exchange->request_id.length > 0)
        return true;
    if (!make_request_id(exchange))
        return false;
    add(exchange, FIELD_X_REQUEST_ID, SLICE("x-request-id"), exchange->request_id);
    return true;
}
