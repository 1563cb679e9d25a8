/* Runs wire cases through the head parsers and the chunked decoder, and prints what came out.
 *
 * Built with sanitizers and started by tests/wire/test_wire.py. Reads frames "kind bytes\n" and the
 * bytes from stdin, answers each with lines and a final ".". Every case is parsed whole, one byte
 * at a time, and in two pieces cut at every place; the results must be the same. */
#include <stdio.h>
#include <stdlib.h>

#include "http/h1_chunked.h"
#include "http/h1_parse.h"

static const struct h1_limits limits = {32768, 8192};

static const char *const errors[] = {"",
                                     "400 SYNTAX",
                                     "431 HEAD_TOO_LARGE",
                                     "414 TARGET_TOO_LONG",
                                     "431 FIELD_COUNT",
                                     "505 VERSION",
                                     "501 METHOD",
                                     "501 CODING",
                                     "400 FRAMING",
                                     "400 HOST"};
static const char *const bodies[] = {"none", "length", "chunked", "until-close"};

static void fail(const char *why, size_t at)
{
    printf("DIFFERS: %s at %zu\n.\n", why, at);
    fflush(stdout);
    exit(1);
}

static int parse(const char *kind, const char *bytes, size_t length, size_t *scanned,
                 struct h1_head *head)
{
    /* exactly as long as said, so that a read behind it is seen */
    char *copy = malloc(length + 1);
    memcpy(copy + 1, bytes, length);
    int rc;
    if (strcmp(kind, "request") == 0)
        rc = h1_parse_request(copy + 1, length, &limits, scanned, head);
    else
        rc = h1_parse_response(copy + 1, length, &limits,
                               strcmp(kind, "response-to-head") == 0 ? METHOD_HEAD : METHOD_GET,
                               scanned, head);
    free(copy);
    return rc;
}

static void print(const char *label, struct slice text)
{
    printf("%s: %.*s\n", label, (int)text.length, text.length > 0 ? text.at : "");
}

/* Decodes by pieces of at most `step` bytes; returns the decoder's last word. */
static int decode(const char *bytes, size_t length, size_t step, char *out, size_t *decoded,
                  size_t *used)
{
    struct h1_chunked decoder;
    int rc = CHUNKED_MORE;
    h1_chunked_init(&decoder);
    *used = *decoded = 0;
    while (*used < length && (rc == CHUNKED_MORE || rc == CHUNKED_DATA)) {
        size_t piece = length - *used < step ? length - *used : step;
        size_t taken;
        struct slice data;
        rc = h1_chunked_next(&decoder, bytes + *used, piece, &taken, &data);
        if (taken > piece)
            fail("chunked used too much", *used);
        if (rc == CHUNKED_DATA) {
            memcpy(out + *decoded, data.at, data.length);
            *decoded += data.length;
        }
        *used += taken;
    }
    return rc == CHUNKED_DATA ? CHUNKED_MORE : rc;
}

static void show_body(const struct h1_head *head, const char *bytes, size_t length)
{
    if (head->body == BODY_LENGTH) {
        bool whole = length >= head->content_length;
        size_t shown = whole ? (size_t)head->content_length : length;
        printf("message: %s\n", whole ? "complete" : "incomplete");
        print("content", (struct slice){bytes, shown});
        printf("rest: %zu\n", length - shown);
    } else if (head->body == BODY_CHUNKED) {
        char *out = malloc(length + 1), *again = malloc(length + 1);
        size_t decoded, used, decoded_again, used_again;
        int rc = decode(bytes, length, length + 1, out, &decoded, &used);
        int rc_again = decode(bytes, length, 1, again, &decoded_again, &used_again);
        if (rc != rc_again || used != used_again || decoded != decoded_again ||
            memcmp(out, again, decoded) != 0)
            fail("chunked by bytes", used);
        printf("message: %s\n", rc == CHUNKED_END    ? "complete"
                                : rc == CHUNKED_MORE ? "incomplete"
                                                     : "broken");
        print("content", (struct slice){out, decoded});
        printf("rest: %zu\n", length - used);
        free(out);
        free(again);
    } else {
        printf("message: complete\nrest: %zu\n", head->body == BODY_NONE ? length : (size_t)0);
    }
}

static void show(const char *kind, const char *bytes, size_t length)
{
    static struct h1_head head;
    size_t scanned = 0;
    int rc = parse(kind, bytes, length, &scanned, &head);
    int piecewise = 0;
    scanned = 0;
    for (size_t i = 1; i <= length && piecewise == 0; i++)
        piecewise = parse(kind, bytes, i, &scanned, &head);
    if (piecewise != rc)
        fail("result by bytes", 0);
    for (size_t cut = 1; cut < length && length <= 4096; cut++) {
        scanned = 0;
        int cut_rc = parse(kind, bytes, cut, &scanned, &head);
        if (cut_rc == 0)
            cut_rc = parse(kind, bytes, length, &scanned, &head);
        if (cut_rc != rc)
            fail("result in two pieces", cut);
    }
    if (rc < 0) {
        printf("refused: %s\n", errors[-rc]);
        return;
    }
    if (rc == 0) {
        printf("incomplete\n");
        return;
    }
    scanned = 0;
    if (strcmp(kind, "request") == 0) {
        h1_parse_request(bytes, length, &limits, &scanned, &head);
        print("method", head.method);
        print("target", head.target);
        print("path", head.path);
        print("query", head.query);
        print("authority", head.authority);
    } else {
        h1_parse_response(bytes, length, &limits,
                          strcmp(kind, "response-to-head") == 0 ? METHOD_HEAD : METHOD_GET,
                          &scanned, &head);
        printf("status: %u\n", head.status);
        print("reason", head.reason);
    }
    printf("accepted\nhead: %d\nminor: %u\nbody: %s\nkeep-alive: %u\n", rc, head.minor,
           bodies[head.body], head.keep_alive);
    printf("expect-continue: %u\nupgrade: %u\nte-trailers: %u\n", head.expect_continue,
           head.upgrade, head.te_trailers);
    for (uint32_t i = 0; i < head.field_count; i++)
        printf("%s: %.*s=%.*s\n", head.field[i].hop_by_hop ? "hop" : "field",
               (int)head.field[i].name.length, head.field[i].name.at,
               (int)head.field[i].value.length, head.field[i].value.at);
    show_body(&head, bytes + rc, length - (size_t)rc);
}

int main(void)
{
    char kind[32];
    size_t length;
    while (scanf("%31s %zu", kind, &length) == 2 && getchar() == '\n') {
        char *bytes = malloc(length + 1);
        if (fread(bytes, 1, length, stdin) != length)
            return 1;
        show(kind, bytes, length);
        free(bytes);
        printf(".\n");
        fflush(stdout);
    }
    return 0;
}
