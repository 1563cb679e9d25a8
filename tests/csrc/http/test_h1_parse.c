/* The head parsers: limits and mechanics; what is accepted is tests/wire.
 * links: http/field.c http/target.c http/framing.c */
#include <stdlib.h>

#include "http/h1_parse.c"
#include "tap.h"

static struct h1_head head;

static int parse(const char *text, size_t length, uint32_t head_max, uint32_t target_max)
{
    struct h1_limits limits = {head_max, target_max};
    size_t scanned = 0;
    char *exact = malloc(length + 1); /* a read behind the end is seen */
    memcpy(exact + 1, text, length);
    int rc = h1_parse_request(exact + 1, length, &limits, &scanned, &head);
    free(exact);
    return rc;
}

static void limits(void)
{
    static const char text[] = "GET /12345 HTTP/1.1\r\nHost: a\r\n\r\n";
    size_t length = sizeof(text) - 1;
    IS(parse(text, length, (uint32_t)length, 6), (int)length, "just as large as allowed");
    IS(parse(text, length, (uint32_t)length - 1, 6), H1_ERR_HEAD_TOO_LARGE, "a byte too large");
    IS(parse(text, length, 4096, 5), H1_ERR_TARGET_TOO_LONG, "target a byte too long");
    IS(parse(text, length - 1, 4096, 6), 0, "a byte missing");
    IS(parse(text, 0, 4096, 6), 0, "nothing at all");
    IS(parse(text, 12, 12, 6), H1_ERR_HEAD_TOO_LARGE, "a start line that fills the head");
}

/* Every length of head around the 64-byte steps, with binary bytes behind it. */
static void steps(void)
{
    bool good = true, waits = true, refused = true;
    for (size_t pad = 0; pad < 300; pad++) {
        char text[512];
        size_t length = (size_t)sprintf(text, "GET / HTTP/1.1\r\nHost: a\r\nX: ");
        memset(text + length, 'a', pad);
        length += pad;
        memcpy(text + length, "\r\n\r\n\x01\n\r\n\n\x7f", 10);
        good &= parse(text, length + 10, 4096, 64) == (int)length + 4;
        good &= parse(text, length + 4, 4096, 64) == (int)length + 4;
        for (size_t cut = 0; cut < length + 4; cut++)
            waits &= parse(text, cut, 4096, 64) == 0;
        memcpy(text + length, "\r\n\n", 3);
        refused &= parse(text, length + 3, 4096, 64) == H1_ERR_SYNTAX;
        memcpy(text + length, "\r\r\n", 3);
        refused &= parse(text, length + 3, 4096, 64) == H1_ERR_SYNTAX;
        memcpy(text + length, "\n", 1);
        refused &= parse(text, length + 1, 4096, 64) == H1_ERR_SYNTAX;
    }
    OK(good, "the head ends where it ends, whatever follows");
    OK(waits, "every part of it is incomplete");
    OK(refused, "a bad line end is seen at every place");
}

static void every_byte(void)
{
    int wrong_name = 0, wrong_value = 0, wrong_method = 0;
    for (int c = 0; c < 256; c++) {
        char text[] = "G?T / HTTP/1.1\r\nHost: a\r\nN?N: v\r\n\r\n";
        text[1] = 'E';
        text[26] = (char)c;
        bool token = field_is_token_char((char)c);
        wrong_name += (parse(text, sizeof(text) - 1, 4096, 64) > 0) != (token || c == ':');
        char value[] = "GET / HTTP/1.1\r\nHost: a\r\nN: v?v\r\n\r\n";
        value[29] = (char)c;
        wrong_value += (parse(value, sizeof(value) - 1, 4096, 64) > 0) !=
                       (c == '\t' || (c >= ' ' && c != 0x7f));
        char method[] = "G?T / HTTP/1.1\r\nHost: a\r\n\r\n";
        method[1] = (char)c;
        wrong_method += (parse(method, sizeof(method) - 1, 4096, 64) > 0) != token;
    }
    IS(wrong_name, 0, "every byte in a name");
    IS(wrong_value, 0, "every byte in a value");
    IS(wrong_method, 0, "every byte in a method");
}

static void resumed(void)
{
    static const char text[] = "GET / HTTP/1.1\r\nHost: a\r\nA: b\r\n\r\n";
    struct h1_limits limits = {4096, 64};
    size_t scanned = 0;
    IS(h1_parse_request(text, 20, &limits, &scanned, &head), 0, "half");
    IS(scanned & ~START_LINE_DONE, 20, "is not looked at again");
    IS(h1_parse_request(text, sizeof(text) - 1, &limits, &scanned, &head), sizeof(text) - 1, "all");
    IS(head.field_count, 2, "with the fields of the first half");
    IS_TEXT(head.authority.at, head.authority.length, "a", "and its host");
}

static void responses(void)
{
    struct h1_limits limits = {96, 0};
    size_t scanned = 0;
    static const char text[] =
        "HTTP/1.1 200 A reason of more bytes than a request line without any "
        "target\r\nA: b\r\n\r\nbody";
    IS(h1_parse_response(text, sizeof(text) - 1, &limits, METHOD_GET, &scanned, &head),
       sizeof(text) - 5, "a response");
    OK(head.method.at == NULL && head.authority.at == NULL, "has no request's parts");
    char long_line[128];
    memset(long_line, 'a', sizeof(long_line));
    scanned = 0;
    IS(h1_parse_response(long_line, sizeof(long_line), &limits, METHOD_GET, &scanned, &head),
       H1_ERR_HEAD_TOO_LARGE, "a status line without end");
}

int main(void)
{
    limits();
    steps();
    every_byte();
    resumed();
    responses();
    return tap_done();
}
