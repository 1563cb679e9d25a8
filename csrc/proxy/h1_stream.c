/* Sending and reading bodies of HTTP/1. Called by h1_downstream.c and h1_upstream.c. Never looks
 * at a head's meaning, never keeps a piece after its credit was asked for. */
#include "proxy/h1_stream.h"

#include <string.h>

void h1_sender_init(struct h1_sender *sender, struct transport *transport, struct blocks *blocks)
{
    memset(sender, 0, sizeof *sender);
    sender->transport = transport;
    sender->blocks = blocks;
}

void h1_sender_release(struct h1_sender *sender)
{
    blocks_give(sender->blocks, sender->flight);
    blocks_give(sender->blocks, sender->out);
    blocks_give(sender->blocks, sender->borrowed.block);
    sender->borrowed.block = 0;
    sender->flight = sender->out = 0;
    sender->out_length = 0;
    sender->borrowed.at = 0;
    sender->last_chunk_due = false;
}

/* At least so much free room in `out`. */
static bool reserve(struct h1_sender *sender, size_t bytes)
{
    if (sender->out && sender->out->bytes - sender->out_length >= bytes)
        return true;
    struct block *larger = blocks_take(sender->blocks, sender->out_length + bytes);
    if (!larger)
        return false;
    if (sender->out) {
        memcpy(larger->data, sender->out->data, sender->out_length);
        blocks_give(sender->blocks, sender->out);
    }
    sender->out = larger;
    return true;
}

bool h1_sender_open(struct h1_sender *sender, struct h1_writer *writer, size_t bytes)
{
    if (!reserve(sender, bytes))
        return false;
    h1_writer_init(writer, (char *)sender->out->data + sender->out_length,
                   sender->out->bytes - sender->out_length);
    return true;
}

void h1_sender_commit(struct h1_sender *sender, const struct h1_writer *writer)
{
    sender->out_length += (uint32_t)h1_writer_length(writer);
}

static bool append(struct h1_sender *sender, const struct exchange_piece *piece)
{
    struct h1_writer writer;
    if (!h1_sender_open(sender, &writer, piece->length + EXCHANGE_HEADROOM + EXCHANGE_TAILROOM))
        return false;
    bool chunked = sender->framing == BODY_CHUNKED;
    if (piece->length > 0) {
        if (chunked)
            h1_put_chunk_head(&writer, piece->length);
        h1_put(&writer, (const char *)piece->at, piece->length);
        if (chunked)
            h1_put_text(&writer, "\r\n");
    }
    if (chunked && piece->end)
        h1_put_text(&writer, H1_LAST_CHUNK);
    h1_sender_commit(sender, &writer);
    return true;
}

/* Chunk head and tail go into the room around the piece, so that it leaves in one send. */
static void frame(struct h1_sender *sender, const struct exchange_piece *piece)
{
    sender->borrowed = *piece;
    if (sender->framing != BODY_CHUNKED)
        return;
    char head[EXCHANGE_HEADROOM];
    struct h1_writer writer;
    h1_writer_init(&writer, head, sizeof head);
    h1_put_chunk_head(&writer, piece->length);
    size_t bytes = h1_writer_length(&writer);
    uint8_t *tail = piece->at + piece->length;
    memcpy(piece->at - bytes, head, bytes);
    memcpy(tail, "\r\n", 2);
    tail += 2;
    if (piece->end) {
        memcpy(tail, H1_LAST_CHUNK, sizeof H1_LAST_CHUNK - 1);
        tail += sizeof H1_LAST_CHUNK - 1;
    }
    sender->borrowed.at = piece->at - bytes;
    sender->borrowed.length = (size_t)(tail - sender->borrowed.at);
}

bool h1_sender_body(struct h1_sender *sender, const struct exchange_piece *piece)
{
    bool fine = true;
    sender->ended = piece->end;
    if (sender->borrowed.at) { /* an end that comes after its last piece */
        sender->last_chunk_due = piece->end && sender->framing == BODY_CHUNKED;
        fine = piece->length == 0;
    } else if (piece->length == 0 && !(piece->end && sender->framing == BODY_CHUNKED)) {
        fine = true;
    } else if (!piece->block || (piece->length <= 4096 && (sender->out || piece->length == 0))) {
        /* A small piece behind a head that waits is cheaper copied than sent on its own. */
        fine = append(sender, piece);
    } else {
        frame(sender, piece);
        return true;
    }
    blocks_give(sender->blocks, piece->block);
    return fine;
}

void h1_sender_text(struct h1_sender *sender, const char *text, size_t length)
{
    sender->sending = true;
    sender->bytes += length;
    transport_send(sender->transport, (const uint8_t *)text, length);
}

void h1_sender_flush(struct h1_sender *sender)
{
    if (sender->sending)
        return;
    if (sender->out) {
        sender->flight = sender->out;
        uint32_t length = sender->out_length;
        sender->out = 0;
        sender->out_length = 0;
        sender->sending = true;
        sender->bytes += length;
        transport_send(sender->transport, sender->flight->data, length);
    } else if (sender->borrowed.at) {
        sender->borrowed_flies = sender->sending = true;
        sender->bytes += sender->borrowed.length;
        transport_send(sender->transport, sender->borrowed.at, sender->borrowed.length);
    } else if (sender->last_chunk_due) {
        sender->last_chunk_due = false;
        h1_sender_text(sender, H1_LAST_CHUNK, sizeof H1_LAST_CHUNK - 1);
    }
}

bool h1_sender_sent(struct h1_sender *sender)
{
    sender->sending = false;
    blocks_give(sender->blocks, sender->flight);
    sender->flight = 0;
    if (sender->borrowed_flies) {
        sender->borrowed_flies = false;
        blocks_give(sender->blocks, sender->borrowed.block);
        sender->borrowed.at = 0;
        sender->borrowed.block = 0;
    }
    h1_sender_flush(sender);
    return !sender->sending;
}

void h1_reader_begin(struct h1_reader *reader, const struct h1_head *head)
{
    reader->kind = head->body;
    reader->left = head->body == BODY_LENGTH ? head->content_length : 0;
    reader->ended = head->body == BODY_NONE || (head->body == BODY_LENGTH && reader->left == 0);
    reader->full_reads = 0;
    if (head->body == BODY_CHUNKED)
        h1_chunked_init(&reader->chunked);
}

static long cut(struct h1_reader *reader, uint8_t *data, size_t length,
                struct exchange_piece *piece)
{
    *piece = (struct exchange_piece){.at = data};
    if (reader->ended)
        return 0;
    if (reader->kind == BODY_LENGTH) {
        size_t used = length < reader->left ? length : (size_t)reader->left;
        reader->left -= used;
        piece->length = used;
        piece->end = reader->ended = reader->left == 0;
        return (long)used;
    }
    if (reader->kind == BODY_UNTIL_CLOSE) {
        piece->length = length;
        return (long)length;
    }
    size_t done = 0;
    while (done < length) {
        size_t used = 0;
        struct slice part;
        int result = h1_chunked_next(&reader->chunked, (const char *)data + done, length - done,
                                     &used, &part);
        if (result == CHUNKED_ERROR)
            return -1;
        done += used;
        if (result == CHUNKED_DATA) {
            if (piece->length == 0)
                piece->at = (uint8_t *)part.at;
            else
                memmove(piece->at + piece->length, part.at, part.length);
            piece->length += part.length;
        } else if (result == CHUNKED_END) {
            piece->end = reader->ended = true;
            break;
        } else {
            break; /* CHUNKED_MORE: all bytes were used */
        }
    }
    return (long)done;
}

long h1_reader_feed(struct h1_reader *reader, uint8_t *data, size_t length,
                    struct exchange_piece *piece)
{
    struct block *own = reader->buffer;
    bool in_own = own && data >= own->data && data < own->data + own->bytes;
    if (in_own && length == own->bytes - EXCHANGE_HEADROOM - EXCHANGE_TAILROOM &&
        reader->full_reads < 2)
        reader->full_reads++;
    long used = cut(reader, data, length, piece);
    if (in_own && used >= 0 && piece->length > 0) {
        piece->block = own;
        reader->buffer = 0;
    }
    return used;
}

bool h1_reader_room(struct h1_reader *reader, struct blocks *blocks, uint8_t **at, size_t *length)
{
    if (!reader->buffer)
        reader->buffer = blocks_take(blocks, reader->full_reads >= 2 ? BLOCK_LARGE : BLOCK_MEDIUM);
    if (!reader->buffer)
        reader->buffer = blocks_take(blocks, BLOCK_SMALL);
    if (!reader->buffer)
        return false;
    *at = reader->buffer->data + EXCHANGE_HEADROOM;
    *length = reader->buffer->bytes - EXCHANGE_HEADROOM - EXCHANGE_TAILROOM;
    return true;
}

void h1_reader_release(struct h1_reader *reader, struct blocks *blocks)
{
    blocks_give(blocks, reader->buffer);
    reader->buffer = 0;
}
