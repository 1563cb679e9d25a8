/* The two halves of an HTTP/1 connection that both codecs share: sending and reading bodies.
 *
 * The sender puts heads and pieces of a body into as few sends as it can; the reader cuts what
 * was received into pieces. Neither knows whether it stands downstream or upstream. */
#ifndef EDGE_PROXY_H1_STREAM_H
#define EDGE_PROXY_H1_STREAM_H

#include "http/exchange.h"
#include "http/h1_chunked.h"
#include "http/h1_write.h"
#include "net/transport.h"
#include "proxy/blocks.h"

/* Order on the wire: flight, out, borrowed, last chunk. */
struct h1_sender {
    struct transport *transport;
    struct blocks *blocks;
    struct block *flight; /* being sent; a borrowed piece flies without one */
    struct block *out;    /* being filled */
    uint32_t out_length;
    uint8_t framing; /* enum h1_body: of the body being sent */
    bool sending;
    bool borrowed_flies;
    bool last_chunk_due;
    bool ended; /* the body's last byte was taken */
    struct exchange_piece borrowed;
    uint64_t bytes; /* handed to the transport, ever */
};

void h1_sender_init(struct h1_sender *sender, struct transport *transport, struct blocks *blocks);
void h1_sender_release(struct h1_sender *sender);
/* Room for a head of at most so many bytes behind what is there already; then commit what was
 * written. false: no memory. */
bool h1_sender_open(struct h1_sender *sender, struct h1_writer *writer, size_t bytes);
void h1_sender_commit(struct h1_sender *sender, const struct h1_writer *writer);
bool h1_sender_body(struct h1_sender *sender, const struct exchange_piece *piece);
void h1_sender_flush(struct h1_sender *sender);
/* Text that stays where it is, to an empty sender. Takes no memory. */
void h1_sender_text(struct h1_sender *sender, const char *text, size_t length);
/* From the transport's sent(). true: all is sent, the owner may ask for more or finish. */
bool h1_sender_sent(struct h1_sender *sender);
static inline bool h1_sender_empty(const struct h1_sender *sender)
{
    return !sender->sending && !sender->out && !sender->borrowed.at && !sender->last_chunk_due;
}

/* h1_answer.c: exchange->response into the sender. interim: a 1xx; last: no request follows it on
 * this connection. false: no memory, nothing was written. */
bool h1_answer_write(struct h1_sender *sender, const struct exchange *exchange, bool interim,
                     bool last);

struct h1_reader {
    struct h1_chunked chunked;
    struct block *buffer; /* for receive-into, while a body is read */
    uint64_t left;
    uint8_t kind; /* enum h1_body */
    uint8_t full_reads;
    bool ended;
};

void h1_reader_begin(struct h1_reader *reader, const struct h1_head *head);
/* Cut a piece out of received bytes, moved together in place where chunks lie between. Returns
 * how many bytes it used; negative: the framing is broken. piece->length may be 0; one with bytes
 * that lie in the reader's own buffer takes that along. */
long h1_reader_feed(struct h1_reader *reader, uint8_t *data, size_t length,
                    struct exchange_piece *piece);
/* Where to receive next, with room around it; a buffer that was full twice is made larger. */
bool h1_reader_room(struct h1_reader *reader, struct blocks *blocks, uint8_t **at, size_t *length);
void h1_reader_release(struct h1_reader *reader, struct blocks *blocks);

#endif
