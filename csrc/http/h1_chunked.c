/* The chunked transfer coding, read strictly, a byte at a time outside of chunk data.
 *
 * Called by proxy/ for request and response bodies. Extensions and trailers are checked and
 * dropped: what is passed on is chunked anew. Refused: blanks around a size, a bare CR or LF,
 * controls, a size above INT64_MAX or of more than 16 digits, an obsolete fold in trailers. */
#include "http/h1_chunked.h"
#include "http/field.h"

#define SIZE_DIGITS_MAX 16
#define EXTENSION_BYTES_MAX 4096 /* of one chunk line */
#define TRAILER_BYTES_MAX 8192

enum state {
    SIZE_FIRST,
    SIZE,
    EXTENSION,
    SIZE_LF,
    DATA,
    DATA_CR,
    DATA_LF,
    TRAILER_FIRST,
    TRAILER_NAME,
    TRAILER_VALUE,
    TRAILER_LF,
    END_LF,
    DONE,
    FAILED
};

static int hex(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    c = ascii_lower(c);
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

static bool is_text(char c)
{
    return c == '\t' || ((uint8_t)c >= 0x20 && c != 0x7f);
}

void h1_chunked_init(struct h1_chunked *decoder)
{
    *decoder = (struct h1_chunked){.state = SIZE_FIRST};
}

static int size_step(struct h1_chunked *decoder, char c)
{
    int digit = hex(c);
    if (digit >= 0) {
        if (++decoder->digits > SIZE_DIGITS_MAX || decoder->remaining > (INT64_MAX >> 4))
            return FAILED;
        decoder->remaining = decoder->remaining << 4 | (uint64_t)digit;
        return SIZE;
    }
    if (decoder->state == SIZE_FIRST)
        return FAILED;
    if (c == '\r')
        return SIZE_LF;
    return c == ';' ? EXTENSION : FAILED;
}

static int trailer_step(struct h1_chunked *decoder, char c)
{
    if (++decoder->trailer_bytes > TRAILER_BYTES_MAX)
        return FAILED;
    switch (decoder->state) {
    case TRAILER_FIRST:
        if (c == '\r')
            return END_LF;
        return field_is_token_char(c) ? TRAILER_NAME : FAILED;
    case TRAILER_NAME:
        if (c == ':')
            return TRAILER_VALUE;
        return field_is_token_char(c) ? TRAILER_NAME : FAILED;
    case TRAILER_VALUE:
        if (c == '\r')
            return TRAILER_LF;
        return is_text(c) ? TRAILER_VALUE : FAILED;
    case TRAILER_LF:
        return c == '\n' ? TRAILER_FIRST : FAILED;
    default:
        return c == '\n' ? DONE : FAILED; /* END_LF */
    }
}

/* The state after one byte that is no chunk data. */
static int step(struct h1_chunked *decoder, char c)
{
    switch (decoder->state) {
    case SIZE_FIRST:
    case SIZE:
        return size_step(decoder, c);
    case EXTENSION:
        if (c == '\r')
            return SIZE_LF;
        return ++decoder->line_bytes < EXTENSION_BYTES_MAX && is_text(c) ? EXTENSION : FAILED;
    case SIZE_LF:
        if (c != '\n')
            return FAILED;
        return decoder->remaining > 0 ? DATA : TRAILER_FIRST;
    case DATA_CR:
        return c == '\r' ? DATA_LF : FAILED;
    case DATA_LF:
        decoder->digits = 0;
        decoder->line_bytes = 0;
        return c == '\n' ? SIZE_FIRST : FAILED;
    case TRAILER_FIRST:
    case TRAILER_NAME:
    case TRAILER_VALUE:
    case TRAILER_LF:
    case END_LF:
        return trailer_step(decoder, c);
    default:
        return FAILED;
    }
}

int h1_chunked_next(struct h1_chunked *decoder, const char *bytes, size_t length, size_t *used,
                    struct slice *data)
{
    size_t at = 0;
    *data = (struct slice){NULL, 0};
    while (decoder->state != DONE && decoder->state != FAILED && at < length) {
        if (decoder->state == DATA) {
            size_t left = length - at;
            size_t piece = decoder->remaining < left ? (size_t)decoder->remaining : left;
            *data = (struct slice){bytes + at, piece};
            decoder->remaining -= piece;
            if (decoder->remaining == 0)
                decoder->state = DATA_CR;
            *used = at + piece;
            return CHUNKED_DATA;
        }
        decoder->state = (uint8_t)step(decoder, bytes[at++]);
    }
    *used = at;
    if (decoder->state == FAILED)
        return CHUNKED_ERROR;
    return decoder->state == DONE ? CHUNKED_END : CHUNKED_MORE;
}
