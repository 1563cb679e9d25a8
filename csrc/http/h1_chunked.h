/* The chunked transfer coding (RFC 9112 §7.1), decoded as it streams. Sans-IO. */
#ifndef EDGE_HTTP_H1_CHUNKED_H
#define EDGE_HTTP_H1_CHUNKED_H

#include "base/slice.h"

struct h1_chunked {
    uint8_t state;
    uint8_t digits;
    uint16_t line_bytes; /* of the present chunk line, its extension included */
    uint32_t trailer_bytes;
    uint64_t remaining; /* of the present chunk */
};

enum h1_chunked_result {
    CHUNKED_MORE = 0, /* all bytes were used, the body goes on */
    CHUNKED_DATA = 1, /* *data is the next piece of body */
    CHUNKED_END = 2,  /* the body and its trailers ended; *used tells where */
    CHUNKED_ERROR = -1
};

void h1_chunked_init(struct h1_chunked *decoder);
/* Looks at bytes, says what is next, and in *used how many bytes that took. Trailers are checked
 * and dropped. Extensions and trailers are limited (4 KiB and 8 KiB). */
int h1_chunked_next(struct h1_chunked *decoder, const char *bytes, size_t length, size_t *used,
                    struct slice *data);

#endif
