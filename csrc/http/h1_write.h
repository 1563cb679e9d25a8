/* HTTP/1.1 heads, written into a buffer of the caller. Sans-IO, no allocation.
 *
 * proxy/ writes request heads for upstream and response heads for downstream with these
 * appenders; proxy/synth.c writes answers of our own. A writer that has no room left sets `full`
 * and writes nothing more: the caller looks once, at the end. Nothing is escaped or checked here:
 * what is passed on was checked by h1_parse.c, the rest is text of our own. */
#ifndef EDGE_HTTP_H1_WRITE_H
#define EDGE_HTTP_H1_WRITE_H

#include "base/slice.h"
#include "http/h1_parse.h"

struct h1_writer {
    char *at; /* where the next byte goes */
    char *end;
    char *start;
    bool full; /* something did not fit: what stands there is no head */
};

/* Set of enum field_id, for "leave these out". */
#define H1_FIELD_BIT(id) (1u << (id))

#define H1_DATE_BYTES 29 /* "Sun, 06 Nov 1994 08:49:37 GMT" */

static inline void h1_writer_init(struct h1_writer *writer, char *buffer, size_t capacity)
{
    writer->at = buffer;
    writer->start = buffer;
    writer->end = buffer + capacity;
    writer->full = false;
}

static inline size_t h1_writer_length(const struct h1_writer *writer)
{
    return (size_t)(writer->at - writer->start);
}

static inline void h1_put(struct h1_writer *writer, const char *bytes, size_t length)
{
    if (__builtin_expect(length > (size_t)(writer->end - writer->at), 0)) {
        writer->full = true;
        writer->end = writer->at; /* nothing after the hole either */
        return;
    }
    memcpy(writer->at, bytes, length);
    writer->at += length;
}

static inline void h1_put_slice(struct h1_writer *writer, struct slice text)
{
    if (text.length > 0)
        h1_put(writer, text.at, text.length);
}

/* A string literal; its length is known when compiling, so the copy is a few moves. */
#define h1_put_text(writer, literal) h1_put((writer), (literal), sizeof(literal) - 1)

/* "name: value\r\n" */
static inline void h1_put_field(struct h1_writer *writer, struct slice name, struct slice value)
{
    if (__builtin_expect(name.length + value.length + 4 > (size_t)(writer->end - writer->at), 0)) {
        writer->full = true;
        writer->end = writer->at;
        return;
    }
    char *at = writer->at;
    memcpy(at, name.at, name.length);
    at += name.length;
    *at++ = ':';
    *at++ = ' ';
    if (value.length > 0)
        memcpy(at, value.at, value.length);
    at += value.length;
    *at++ = '\r';
    *at++ = '\n';
    writer->at = at;
}

/* Decimal, and hexadecimal without leading zeros. */
void h1_put_number(struct h1_writer *writer, uint64_t number);
void h1_put_hex(struct h1_writer *writer, uint64_t number);

/* "GET /x?y HTTP/1.1\r\n" */
void h1_put_request_line(struct h1_writer *writer, struct slice method, struct slice target);
/* "HTTP/1.1 200 OK\r\n"; a known status with an empty reason gets the registered one. */
void h1_put_status_line(struct h1_writer *writer, uint16_t status, struct slice reason);

/* The fields of a parsed head in their order, without those that are hop by hop and without
 * those in `skip` (H1_FIELD_BIT()). Content-Length stays unless skipped; Transfer-Encoding is hop
 * by hop, so a chunked body needs H1_CHUNKED_FIELD after this. */
void h1_put_fields(struct h1_writer *writer, const struct h1_head *head, uint32_t skip);

#define H1_CHUNKED_FIELD "transfer-encoding: chunked\r\n"
#define H1_CLOSE_FIELD "connection: close\r\n"

/* The empty line. */
#define h1_put_end(writer) h1_put_text((writer), "\r\n")

/* One chunk is h1_put_chunk_head(), the bytes, "\r\n"; the body ends with H1_LAST_CHUNK. */
#define H1_CHUNK_HEAD_MAX 18
#define H1_LAST_CHUNK "0\r\n\r\n"
static inline void h1_put_chunk_head(struct h1_writer *writer, uint64_t bytes)
{
    h1_put_hex(writer, bytes);
    h1_put_text(writer, "\r\n");
}

/* An answer of our own, head and (unless head_only) body. */
struct h1_answer {
    uint16_t status;
    bool close;                /* says Connection: close */
    bool head_only;            /* answer to HEAD: the length stands, the body does not follow */
    uint8_t minor;             /* of the request; 1.0 with keep-alive is told so */
    struct slice date;         /* H1_DATE_BYTES, or empty: no Date field */
    struct slice content_type; /* empty: no Content-Type field */
    struct slice location;     /* empty: no Location field */
    struct slice body;
};
void h1_put_answer(struct h1_writer *writer, const struct h1_answer *answer);

/* The registered reason phrase (RFC 9110 §15), empty when there is none. */
struct slice h1_reason(uint16_t status);

/* IMF-fixdate (RFC 9110 §5.6.7) of Unix seconds, not terminated. Workers cache it per second. */
void h1_format_date(int64_t unix_seconds, char out[H1_DATE_BYTES]);

#endif
