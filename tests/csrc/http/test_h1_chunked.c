/* The chunked decoder; broken bodies are tests/wire/smuggling. links: http/field.c */
#include <stdlib.h>

#include "http/h1_chunked.c"
#include "tap.h"

static int decode(const char *text, size_t step, char *out, size_t *used)
{
    struct h1_chunked decoder;
    size_t length = strlen(text), decoded = 0;
    int rc = CHUNKED_MORE;
    h1_chunked_init(&decoder);
    *used = 0;
    while (*used < length && rc >= 0 && rc != CHUNKED_END) {
        size_t taken, piece = length - *used < step ? length - *used : step;
        struct slice data;
        rc = h1_chunked_next(&decoder, text + *used, piece, &taken, &data);
        *used += taken;
        if (rc == CHUNKED_DATA) {
            memcpy(out + decoded, data.at, data.length);
            decoded += data.length;
        }
    }
    out[decoded] = '\0';
    return rc;
}

static void whole(void)
{
    static const char text[] = "5;a=b\r\nhello\r\n1\r\n!\r\n0\r\nX: y\r\n\r\nGET";
    char out[64];
    size_t used;
    for (size_t step = 1; step < sizeof(text); step++) {
        IS(decode(text, step, out, &used), CHUNKED_END, "by %zu", step);
        IS_TEXT(out, strlen(out), "hello!", "content");
        IS(used, sizeof(text) - 4, "the next request is left");
    }
}

static void ends(void)
{
    struct h1_chunked decoder;
    struct slice data;
    size_t used;
    h1_chunked_init(&decoder);
    IS(h1_chunked_next(&decoder, "0\r\n\r\n", 5, &used, &data), CHUNKED_END, "end");
    IS(h1_chunked_next(&decoder, "x", 1, &used, &data), CHUNKED_END, "stays the end");
    IS(used, 0, "and uses nothing");
    h1_chunked_init(&decoder);
    IS(h1_chunked_next(&decoder, "x", 1, &used, &data), CHUNKED_ERROR, "error");
    IS(h1_chunked_next(&decoder, "0", 1, &used, &data), CHUNKED_ERROR, "stays an error");
    h1_chunked_init(&decoder);
    IS(h1_chunked_next(&decoder, "", 0, &used, &data), CHUNKED_MORE, "no bytes: more");
    IS(used, 0, "nothing used");
}

static void sizes(void)
{
    struct h1_chunked decoder;
    struct slice data;
    size_t used;
    static const char most[] = "7fffffffffffffff\r\nab";
    h1_chunked_init(&decoder);
    IS(h1_chunked_next(&decoder, most, sizeof(most) - 1, &used, &data), CHUNKED_DATA, "2^63 - 1");
    IS(data.length, 2, "what is there of it");
    OK(decoder.remaining == (uint64_t)INT64_MAX - 2, "the rest");
    h1_chunked_init(&decoder);
    IS(h1_chunked_next(&decoder, "8000000000000000\r\n", 18, &used, &data), CHUNKED_ERROR, "2^63");
}

static void limits(void)
{
    char *text = malloc(20000);
    char *out = malloc(20000);
    size_t used;
    memcpy(text, "1;", 2);
    memset(text + 2, 'a', 4094);
    strcpy(text + 2 + 4094, "\r\nx\r\n0\r\n\r\n");
    IS(decode(text, 100, out, &used), CHUNKED_END, "an extension of 4094");
    memset(text + 2, 'a', 4096);
    strcpy(text + 2 + 4096, "\r\nx\r\n0\r\n\r\n");
    IS(decode(text, 100, out, &used), CHUNKED_ERROR, "one too long");
    size_t at = 3;
    memcpy(text, "0\r\n", 3);
    while (at < 3 + 8192) {
        memcpy(text + at, "X: y\r\n", 6);
        at += 6;
    }
    strcpy(text + at, "\r\n");
    IS(decode(text, 100, out, &used), CHUNKED_ERROR, "trailers of more than 8 KiB");
    strcpy(text + at - 12, "\r\n");
    IS(decode(text, 100, out, &used), CHUNKED_END, "trailers of less");
    free(text);
    free(out);
}

int main(void)
{
    whole();
    ends();
    sizes();
    limits();
    return tap_done();
}
