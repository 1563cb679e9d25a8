/* Framing decisions. links: http/field.c */
#include "http/framing.c"
#include "tap.h"

static struct h1_head head;
static struct field_seen seen;

static void begin(uint8_t minor, uint16_t status)
{
    memset(&head, 0, sizeof(head));
    memset(&seen, 0, sizeof(seen));
    head.minor = minor;
    head.status = status;
}

static void add(const char *name, const char *value)
{
    struct h1_field *field = &head.field[head.field_count];
    *field = (struct h1_field){{name, strlen(name)}, {value, strlen(value)}, 0, 0};
    field->id = field_lookup(name, strlen(name));
    seen.twice |= seen.once & 1u << field->id;
    seen.once |= 1u << field->id;
    seen.at[field->id] = (uint8_t)head.field_count++;
}

static int request(const char *name, const char *value)
{
    begin(1, 0);
    add(name, value);
    return framing_request(&head, &seen);
}

static void lengths(void)
{
    IS(request("content-length", "0"), 0, "zero");
    IS(head.body, BODY_NONE, "is no body");
    IS(request("content-length", "007"), 0, "leading zeros");
    IS(head.content_length, 7, "count for nothing");
    IS(request("content-length", "9223372036854775807"), 0, "the longest");
    OK(head.content_length == INT64_MAX, "is INT64_MAX");
    IS(request("content-length", "9223372036854775808"), H1_ERR_FRAMING, "one more");
    IS(request("content-length", "99999999999999999999"), H1_ERR_FRAMING, "twenty digits");
    IS(request("content-length", ""), H1_ERR_FRAMING, "none");
    begin(1, 0);
    add("content-length", "1");
    add("content-length", "1");
    IS(framing_request(&head, &seen), H1_ERR_FRAMING, "two");
}

static void codings(void)
{
    static const struct {
        const char *value;
        int rc;
    } cases[] = {{"chunked", 0},
                 {"CHUNKED", 0},
                 {"chunked, chunked", H1_ERR_FRAMING},
                 {"gzip, chunked", H1_ERR_CODING},
                 {"chunked, gzip", H1_ERR_FRAMING},
                 {"gzip", H1_ERR_CODING},
                 {"", H1_ERR_FRAMING},
                 {"chunked,", H1_ERR_FRAMING},
                 {",chunked", H1_ERR_FRAMING},
                 {"chunked;q=1", H1_ERR_FRAMING},
                 {"chunked chunked", H1_ERR_FRAMING}};
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
        IS(request("transfer-encoding", cases[i].value), cases[i].rc, "\"%s\"", cases[i].value);
    begin(0, 0);
    add("transfer-encoding", "chunked");
    IS(framing_request(&head, &seen), H1_ERR_FRAMING, "HTTP/1.0");
}

static void connections(void)
{
    static const struct {
        uint8_t minor;
        const char *value; /* NULL: no field */
        int keep;
    } cases[] = {{1, NULL, 1},
                 {0, NULL, 0},
                 {1, "keep-alive", 1},
                 {0, "keep-alive", 1},
                 {0, "Keep-Alive, x", 1},
                 {1, "close", 0},
                 {0, "close", 0},
                 {1, "keep-alive,close", 0},
                 {1, "keep-alivf", 1},
                 {0, "keep-alivf", 0}};
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        begin(cases[i].minor, 0);
        if (cases[i].value != NULL)
            add("connection", cases[i].value);
        IS(framing_request(&head, &seen), 0, "connection %zu", i);
        IS(head.keep_alive, cases[i].keep, "keeps as it should");
    }
    begin(1, 0);
    add("connection", "close");
    add("connection", "keep-alive");
    framing_request(&head, &seen);
    IS(head.keep_alive, 0, "close in the first of two fields counts");
}

static void upgrades(void)
{
    static const struct {
        const char *protocol;
        int upgrade;
    } cases[] = {{"websocket", 1}, {"h2c", 0},     {"websocket, h2c", 0},
                 {"HTTP/2.0", 0},  {"TLS/1.0", 0}, {"spdy/3, foo/1", 1},
                 {"", 0},          {"a b", 0}};
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        begin(1, 0);
        add("connection", "upgrade");
        add("upgrade", cases[i].protocol);
        IS(framing_request(&head, &seen), 0, "upgrade to \"%s\"", cases[i].protocol);
        IS(head.upgrade, cases[i].upgrade, "allowed or not");
    }
    IS(request("upgrade", "websocket"), 0, "Upgrade that Connection does not name");
    IS(head.upgrade, 0, "does not count");
}

static int response(uint16_t status, uint8_t method, const char *name, const char *value)
{
    begin(1, status);
    if (name != NULL)
        add(name, value);
    return framing_response(&head, &seen, method);
}

static void responses(void)
{
    IS(response(200, METHOD_GET, NULL, NULL), 0, "no length");
    OK(head.body == BODY_UNTIL_CLOSE && !head.keep_alive, "until close");
    IS(response(200, METHOD_GET, "content-length", "0"), 0, "length 0");
    OK(head.body == BODY_NONE && head.keep_alive, "no body, kept");
    IS(response(200, METHOD_HEAD, "content-length", "5"), 0, "HEAD");
    OK(head.body == BODY_NONE && head.keep_alive && !head.field[0].hop_by_hop, "length passed on");
    IS(response(304, METHOD_GET, "transfer-encoding", "chunked"), 0, "304 with chunks");
    OK(head.body == BODY_NONE && head.keep_alive, "has no body");
    IS(response(103, METHOD_GET, "transfer-encoding", "chunked"), H1_ERR_FRAMING, "103 chunked");
    IS(response(204, METHOD_GET, "content-length", "0"), 0, "204 with length 0");
    OK(head.keep_alive && head.field[0].hop_by_hop, "kept, length not passed on");
    IS(response(101, METHOD_GET, NULL, NULL), 0, "101");
    OK(head.body == BODY_NONE && head.keep_alive, "has no body");
}

int main(void)
{
    lengths();
    codings();
    connections();
    upgrades();
    responses();
    return tap_done();
}
