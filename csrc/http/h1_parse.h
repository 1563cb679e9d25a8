/* HTTP/1.1 heads, parsed strictly (RFC 9112): request head, response head. Sans-IO.
 *
 * Bytes in; slices into them out. No allocation. Anything ambiguous is an error, never repaired:
 * bare LF, obs-fold, space before a colon, two lengths, length with chunked, unknown
 * transfer codings, control characters, a second Host. */
#ifndef EDGE_HTTP_H1_PARSE_H
#define EDGE_HTTP_H1_PARSE_H

#include "base/slice.h"

#define H1_FIELDS_MAX 100

enum h1_error { /* negative results of the parsers; proxy/synth.c gives the status in brackets */
                H1_ERR_SYNTAX = -1,          /* 400 */
                H1_ERR_HEAD_TOO_LARGE = -2,  /* 431 */
                H1_ERR_TARGET_TOO_LONG = -3, /* 414 */
                H1_ERR_FIELD_COUNT = -4,     /* 431 */
                H1_ERR_VERSION = -5,         /* 505 */
                H1_ERR_METHOD = -6,  /* 501: CONNECT, or longer than any registered method */
                H1_ERR_CODING = -7,  /* 501: transfer coding other than chunked */
                H1_ERR_FRAMING = -8, /* 400: lengths that contradict */
                H1_ERR_HOST = -9     /* 400: none, two, or not a host */
};

/* Fields that the data plane looks at itself; all others are FIELD_OTHER. */
enum field_id {
    FIELD_OTHER = 0,
    FIELD_HOST,
    FIELD_CONNECTION,
    FIELD_KEEP_ALIVE,
    FIELD_PROXY_CONNECTION,
    FIELD_TE,
    FIELD_TRAILER,
    FIELD_TRANSFER_ENCODING,
    FIELD_CONTENT_LENGTH,
    FIELD_UPGRADE,
    FIELD_EXPECT,
    FIELD_X_FORWARDED_FOR,
    FIELD_X_FORWARDED_PROTO,
    FIELD_X_FORWARDED_HOST,
    FIELD_X_FORWARDED_PORT,
    FIELD_X_REQUEST_ID,
    FIELD_X_REAL_IP,
    FIELD_FORWARDED,
    FIELD_DATE,
    FIELD_SERVER,
    FIELD_COUNT
};

struct h1_field {
    struct slice name;  /* as written */
    struct slice value; /* without surrounding blanks */
    uint8_t id;         /* enum field_id */
    uint8_t hop_by_hop; /* 1: named by Connection, or one of RFC 9110 §7.6.1: not passed on */
};

enum h1_method {
    METHOD_OTHER = 0,
    METHOD_GET,
    METHOD_HEAD,
    METHOD_POST,
    METHOD_PUT,
    METHOD_DELETE,
    METHOD_OPTIONS,
    METHOD_TRACE,
    METHOD_PATCH
};

enum h1_body { BODY_NONE = 0, BODY_LENGTH, BODY_CHUNKED, BODY_UNTIL_CLOSE };

struct h1_limits {
    uint32_t head_bytes_max;
    uint32_t target_bytes_max;
};

struct h1_head {
    /* request */
    struct slice method;
    struct slice target;    /* as written */
    struct slice path;      /* of an origin or absolute form, up to '?'; "*" for OPTIONS *; of an
                               absolute form without a path "/" or "*", not from the input */
    struct slice query;     /* after '?', may be empty; at is NULL without a '?' */
    struct slice authority; /* Host, or of the absolute form (RFC 9112 §3.2.2); at is NULL for
                               HTTP/1.0 without either */
    uint8_t method_id;      /* enum h1_method */
    /* response */
    uint16_t status;
    struct slice reason;
    /* both */
    uint8_t minor; /* HTTP/1.minor, 0 or 1 */
    uint8_t body;  /* enum h1_body; a length of 0 is BODY_NONE */
    uint8_t keep_alive;
    uint8_t expect_continue;
    uint8_t upgrade; /* Connection: upgrade and an Upgrade field are both there */
    uint8_t te_trailers;
    uint64_t content_length; /* of BODY_LENGTH */
    uint32_t field_count;
    struct h1_field field[H1_FIELDS_MAX];
};

/* Bytes of the head (> 0), 0: need more, negative: enum h1_error. `scanned` speeds a retry up: 0
 * at first, kept unread by the caller between calls with the same growing bytes. Of *out only
 * what a result > 0 left may be read. */
int h1_parse_request(const char *bytes, size_t length, const struct h1_limits *limits,
                     size_t *scanned, struct h1_head *out);
/* request_method_id: the answer to HEAD has no body (RFC 9112 §6.3). */
int h1_parse_response(const char *bytes, size_t length, const struct h1_limits *limits,
                      uint8_t request_method_id, size_t *scanned, struct h1_head *out);

#endif
