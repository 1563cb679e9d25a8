/* Fuzzes the head parsers and the chunked decoder: libFuzzer, address and undefined behaviour.
 *
 * Built by tests/fuzz/run.py. sources: http/h1_parse.c http/h1_chunked.c http/field.c
 * http/target.c http/framing.c http/h1_write.c
 * The first byte says what is parsed and where the input is cut. Held true: never more is used
 * than is there, slices lie inside the input, the result is the same wherever the input is cut,
 * and a head written again is read as the same message. */
#include <stdlib.h>

#include "http/h1_chunked.h"
#include "http/h1_write.h"

#define MUST(condition)                                                                            \
    do {                                                                                           \
        if (!(condition))                                                                          \
            abort();                                                                               \
    } while (0)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const struct h1_limits limits = {4096, 512};

static int parse(bool request, const char *bytes, size_t length, size_t *scanned,
                 struct h1_head *head)
{
    return request ? h1_parse_request(bytes, length, &limits, scanned, head)
                   : h1_parse_response(bytes, length, &limits, METHOD_GET, scanned, head);
}

static void check_inside(struct slice text, const char *bytes, size_t length)
{
    if (text.at != NULL && text.length > 0)
        MUST(text.at >= bytes && text.length <= length &&
             (size_t)(text.at - bytes) <= length - text.length);
}

static void check_head(const struct h1_head *head, const char *bytes, size_t length)
{
    check_inside(head->method, bytes, length);
    check_inside(head->target, bytes, length);
    check_inside(head->authority, bytes, length);
    check_inside(head->query, bytes, length);
    check_inside(head->reason, bytes, length);
    if (head->target.length > 0 && head->target.at[0] == '/')
        check_inside(head->path, bytes, length); /* else it may be "/" or "*" of ours */
    MUST(head->field_count <= H1_FIELDS_MAX);
    for (uint32_t i = 0; i < head->field_count; i++) {
        MUST(head->field[i].name.length > 0);
        check_inside(head->field[i].name, bytes, length);
        check_inside(head->field[i].value, bytes, length);
    }
}

/* What the proxy would write is itself a good head with the same framing. */
static void check_again(bool request, const struct h1_head *head)
{
    static struct h1_head again;
    char buffer[8192];
    size_t scanned = 0;
    struct h1_writer writer;
    h1_writer_init(&writer, buffer, sizeof(buffer));
    if (request) {
        h1_put_request_line(&writer, head->method, head->target);
        if (head->minor == 0 && head->authority.at == NULL)
            h1_put_field(&writer, SLICE("host"), SLICE("a"));
        else if (head->minor == 0)
            h1_put_field(&writer, SLICE("host"), head->authority);
    } else {
        h1_put_status_line(&writer, head->status, head->reason);
    }
    h1_put_fields(&writer, head, head->minor == 0 ? H1_FIELD_BIT(FIELD_HOST) : 0);
    if (head->body == BODY_CHUNKED)
        h1_put_text(&writer, H1_CHUNKED_FIELD);
    h1_put_end(&writer);
    MUST(!writer.full);
    int rc = parse(request, buffer, h1_writer_length(&writer), &scanned, &again);
    if (rc == H1_ERR_FIELD_COUNT || rc == H1_ERR_HEAD_TOO_LARGE)
        return; /* the fields that we add */
    MUST(rc == (int)h1_writer_length(&writer));
    MUST(again.body == head->body && again.content_length == head->content_length);
    MUST(again.path.length == head->path.length && again.query.length == head->query.length);
}

static void fuzz_head(bool request, size_t cut, const char *bytes, size_t length)
{
    static struct h1_head head, split;
    size_t scanned = 0;
    int rc = parse(request, bytes, length, &scanned, &head);
    MUST(rc <= (int)length);
    if (rc > 0)
        check_head(&head, bytes, length);
    scanned = 0;
    int pieces = 0;
    for (size_t at = cut + 1; pieces == 0 && at < length; at += cut + 1)
        pieces = parse(request, bytes, at, &scanned, &split);
    if (pieces == 0)
        pieces = parse(request, bytes, length, &scanned, &split);
    MUST(pieces == rc);
    if (rc <= 0)
        return;
    MUST(split.field_count == head.field_count && split.body == head.body &&
         split.content_length == head.content_length && split.keep_alive == head.keep_alive);
    for (uint32_t i = 0; i < head.field_count; i++)
        MUST(split.field[i].name.length == head.field[i].name.length &&
             split.field[i].value.length == head.field[i].value.length &&
             split.field[i].id == head.field[i].id &&
             split.field[i].hop_by_hop == head.field[i].hop_by_hop);
    check_again(request, &head);
}

struct decoded {
    int rc;
    size_t used;
    size_t content;
    uint64_t sum;
};

static struct decoded decode(const char *bytes, size_t length, size_t step)
{
    struct decoded out = {CHUNKED_MORE, 0, 0, 0};
    struct h1_chunked decoder;
    h1_chunked_init(&decoder);
    while (out.used < length && (out.rc == CHUNKED_MORE || out.rc == CHUNKED_DATA)) {
        size_t piece = length - out.used < step ? length - out.used : step;
        size_t used;
        struct slice data;
        out.rc = h1_chunked_next(&decoder, bytes + out.used, piece, &used, &data);
        MUST(used <= piece && (used > 0 || out.rc == CHUNKED_ERROR));
        MUST(out.rc != CHUNKED_MORE || used == piece);
        if (out.rc == CHUNKED_DATA) {
            check_inside(data, bytes + out.used, used);
            MUST(data.length > 0);
            out.content += data.length;
            for (size_t i = 0; i < data.length; i++)
                out.sum = out.sum * 31 + (uint8_t)data.at[i];
        }
        out.used += used;
    }
    if (out.rc == CHUNKED_DATA)
        out.rc = CHUNKED_MORE;
    return out;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 2)
        return 0;
    size_t length = size - 1;
    size_t cut = data[0] >> 2;
    char *bytes = malloc(length); /* exactly as long: a read behind it is seen */
    memcpy(bytes, data + 1, length);
    switch (data[0] & 3) {
    case 0:
    case 1:
        fuzz_head(true, cut, bytes, length);
        break;
    case 2:
        fuzz_head(false, cut, bytes, length);
        break;
    default: {
        struct decoded whole = decode(bytes, length, length);
        struct decoded split = decode(bytes, length, cut + 1);
        MUST(whole.rc == split.rc && whole.used == split.used && whole.content == split.content &&
             whole.sum == split.sum);
    }
    }
    free(bytes);
    return 0;
}
