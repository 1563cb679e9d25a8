/* HTTP/1 towards clients: a connection is a sequence of exchanges, answered in their order.
 *
 * Called by the transport, and by proxy/exchange.c through the table at the end; connections begin
 * and end in h1_life.c. Reads heads from the shared buffers into a stash of its own, watches head,
 * body and idle timeouts, writes answers. Never routes and never chooses a status. */
#include "proxy/h1_downstream.h"

#include <strings.h>

#include "match/matcher.h"

static const struct exchange_downstream_ops OPS;

static struct h1_downstream *of(struct transport *transport)
{
    return LIST_OWNER(transport, struct h1_downstream, transport);
}

static struct h1_downstream *of_exchange(struct exchange *exchange)
{
    return LIST_OWNER(exchange, struct h1_downstream, exchange);
}

void h1_downstream_receive(struct h1_downstream *down)
{
    if (down->receiving || down->eof)
        return;
    down->receiving = true;
    transport_recv(&down->transport);
}

static bool append(struct h1_downstream *down, struct block **block, size_t *have,
                   const uint8_t *data, size_t length)
{
    if (!*block || (*block)->bytes < *have + length) {
        struct block *larger = blocks_take(&down->proxy->blocks, *have + length);
        if (!larger)
            return false;
        if (*block)
            memcpy(larger->data, (*block)->data, *have);
        blocks_give(&down->proxy->blocks, *block);
        *block = larger;
    }
    memcpy((*block)->data + *have, data, length);
    *have += length;
    return true;
}

/* ---- heads ----------------------------------------------------------------------------------- */

void h1_downstream_read_settings(struct h1_downstream *down)
{
    const struct snapshot_view *view = down->proxy->view;
    if (!view || down->settings_version == view->version)
        return;
    int32_t index = match_listener(&view->image, down->client.listener_slot);
    if (index < 0)
        return;
    const struct edge_image_listener *listener = &view->image.listeners[index];
    down->settings_version = view->version;
    down->limits.head_bytes_max = listener->head_bytes_max;
    down->limits.target_bytes_max = listener->target_bytes_max;
    down->idle_ms = listener->idle_ms;
    down->head_ms = listener->head_ms;
    down->client.trusted =
        forward_trusts(&view->image, down->client.listener_slot, down->client.address);
}

static void refuse(struct h1_downstream *down, uint8_t kind)
{
    down->state = DOWN_EXCHANGE;
    down->close = true;
    down->reader.ended = false; /* whatever follows is not understood */
    down->reader.kind = BODY_UNTIL_CLOSE;
    down->sent_before = down->sender.bytes;
    exchange_init(&down->exchange, down->proxy, &OPS, &down->client);
    exchange_begin_refused(&down->exchange, kind);
}

static uint8_t failure_of(long error)
{
    switch (error) {
    case H1_ERR_HEAD_TOO_LARGE:
    case H1_ERR_FIELD_COUNT:
        return FAILURE_HEAD_TOO_LARGE;
    case H1_ERR_TARGET_TOO_LONG:
        return FAILURE_TARGET_TOO_LONG;
    case H1_ERR_VERSION:
        return FAILURE_VERSION;
    case H1_ERR_METHOD:
    case H1_ERR_CODING:
        return FAILURE_UNSUPPORTED;
    }
    return FAILURE_SYNTAX;
}

static void begin(struct h1_downstream *down, const struct h1_head *head,
                  const struct match_hint *hint)
{
    struct exchange *exchange = &down->exchange;
    size_t bytes = offsetof(struct h1_head, field) + head->field_count * sizeof(struct h1_field);

    match_expect_more(hint);
    deadline_clear(&down->deadline);
    down->state = DOWN_EXCHANGE;
    down->close = !head->keep_alive;
    down->expects = head->expect_continue;
    down->replayable = head->body == BODY_LENGTH;
    down->sent_before = down->sender.bytes;
    h1_reader_begin(&down->reader, head);
    exchange_init(exchange, down->proxy, &OPS, &down->client);
    struct h1_head *copy = arena_alloc(&exchange->arena, bytes);
    if (!copy) {
        down->close = true;
        exchange_begin_refused(exchange, FAILURE_MEMORY);
        return;
    }
    memcpy(copy, head, bytes);
    /* Watch for the client's end, and for the next request, while the answer is made. */
    if (head->body == BODY_NONE && down->taken == down->stash_length)
        h1_downstream_receive(down);
    exchange_begin(exchange, copy);
}

/* The host, where it stands in the second line as most clients have it. It was not judged yet. */
static struct slice peek_host(const char *at, size_t length)
{
    const char *line = length > 0 ? memchr(at, '\n', length) : 0, *name, *end;
    size_t left = line ? length - (size_t)(line + 1 - at) : 0;

    if (left < 7 || strncasecmp(line + 1, "host: ", 6) != 0)
        return (struct slice){0, 0};
    name = line + 7;
    end = memchr(name, '\r', left - 6);
    return (struct slice){name, end ? (size_t)(end - name) : 0};
}

/* What the matcher will read comes from far where there are many hosts, so it is asked for before
 * the head is parsed. Only a hint: what counts is what the parser finds. */
static struct match_hint expect_route(const struct h1_downstream *down)
{
    const struct snapshot_view *view = down->proxy->view;
    struct slice host = {0, 0};
    int32_t listener = -1;
    if (down->scanned == 0) /* once a head, however slowly it comes */
        host = peek_host((const char *)down->stash->data, down->stash_length);
    if (host.length > 0 && view)
        listener = match_listener(&view->image, down->client.listener_slot);
    if (listener < 0)
        return (struct match_hint){0};
    return match_expect(&view->image, (uint32_t)listener, host);
}

static void read_head(struct h1_downstream *down)
{
    struct h1_head *head = &down->proxy->scratch;
    h1_downstream_read_settings(down);
    const struct match_hint hint = expect_route(down);
    long used = h1_parse_request((const char *)down->stash->data, down->stash_length, &down->limits,
                                 &down->scanned, head);
    if (used > 0) {
        down->scanned = 0;
        down->taken = down->head_end = (size_t)used;
        begin(down, head, &hint);
    } else if (used < 0) {
        refuse(down, failure_of(used));
    } else if (down->eof) {
        h1_downstream_drop(down);
    } else {
        if (down->head_end == 0) /* the head's time runs from its first byte */
            deadline_set(&down->deadline, proxy_now_ms(down->proxy), down->head_ms);
        down->head_end = 1;
        h1_downstream_receive(down);
    }
}

/* No memory for what comes next: a body without its head must never leave. Where nothing of the
 * answer was said, 503 is, which takes none. Ended later, because an exchange is under way above.
 */
static void starve(struct h1_downstream *down)
{
    if (down->starved)
        return;
    COUNT(down->proxy->lane->memory_errors, 1);
    down->starved = down->close = true;
    down->apologised = !down->sender.sending && down->sender.bytes == down->sent_before;
    uint32_t wait_ms = down->apologised ? down->idle_ms : 1;
    if (down->apologised) {
        h1_sender_release(&down->sender); /* a head that has not left */
        h1_sender_text(&down->sender, SYNTH_NO_MEMORY, sizeof SYNTH_NO_MEMORY - 1);
    }
    deadline_set(&down->deadline, proxy_now_ms(down->proxy), wait_ms);
}

/* What a starved connection had to say has left, or cannot. */
static void end_starved(struct h1_downstream *down, bool said)
{
    struct exchange *exchange = &down->exchange;
    if (!said || !down->apologised || down->state != DOWN_EXCHANGE) {
        h1_downstream_fail(down, FAILURE_MEMORY);
        return;
    }
    exchange->tunnel = 0;
    exchange->local = 1;
    exchange->failure.kind = FAILURE_MEMORY;
    exchange->status = synth_status(&exchange->failure);
    exchange_response_sent(exchange);
    h1_downstream_linger(down, LINGER_MS);
}

/* The answer has left: what came behind the request is the next one. */
static void next_request(struct h1_downstream *down)
{
    struct blocks *blocks = &down->proxy->blocks;
    size_t rest = down->stash_length - down->taken;
    if (down->reader.kind == BODY_LENGTH && !down->reader.ended) {
        size_t skipped = down->reader.left < rest ? (size_t)down->reader.left : rest;
        down->taken += skipped;
        rest -= skipped;
    }
    h1_reader_release(&down->reader, blocks);
    down->state = DOWN_HEAD;
    down->scanned = down->head_end = 0;
    down->wants_body = false;
    if (rest > 0)
        memmove(down->stash->data, down->stash->data + down->taken, rest);
    down->stash_length = rest;
    down->taken = 0;
    if (down->ahead) {
        bool kept =
            append(down, &down->stash, &down->stash_length, down->ahead->data, down->ahead_length);
        blocks_give(blocks, down->ahead);
        down->ahead = 0;
        down->ahead_length = 0;
        if (!kept) {
            h1_downstream_fail(down, FAILURE_MEMORY);
            return;
        }
    }
    if (down->stash_length > 0) {
        read_head(down);
        return;
    }
    blocks_give(blocks, down->stash);
    down->stash = 0;
    if (down->eof) {
        h1_downstream_drop(down);
        return;
    }
    if (down->proxy->ending) { /* its answer began before and promised more */
        h1_downstream_linger(down, LINGER_MS);
        return;
    }
    deadline_set(&down->deadline, proxy_now_ms(down->proxy), down->idle_ms);
    h1_downstream_receive(down);
}

/* All of the answer was handed to the kernel. */
static void complete(struct h1_downstream *down)
{
    struct exchange *exchange = &down->exchange;
    exchange_response_sent(exchange);
    if (!exchange->finished) { /* half of a tunnel */
        transport_shutdown(&down->transport);
        return;
    }
    if (!down->close) {
        next_request(down);
        return;
    }
    /* Where the end is our idea, the next request may be on its way already. */
    bool unread = !down->reader.ended || down->taken < down->stash_length || down->ahead ||
                  down->proxy->closing;
    if (!unread || down->eof || exchange->tunnel) {
        h1_downstream_drop(down);
        return;
    }
    h1_downstream_linger(down, LINGER_MS);
}

/* ---- the transport's events ------------------------------------------------------------------ */

static void refuse_body(struct h1_downstream *down)
{
    down->close = true;
    exchange_refuse(&down->exchange, FAILURE_SYNTAX);
}

static void pass_body(struct h1_downstream *down, uint8_t *data, size_t length)
{
    struct exchange_piece piece;
    down->wants_body = false;
    long used = h1_reader_feed(&down->reader, data, length, &piece);
    if (used < 0) {
        if (down->exchange.response_begun) {
            h1_downstream_fail(down, FAILURE_SYNTAX);
            return;
        }
        refuse_body(down);
        return;
    }
    if ((size_t)used < length && /* the next request's */
        !append(down, &down->ahead, &down->ahead_length, data + used, length - (size_t)used)) {
        blocks_give(&down->proxy->blocks, piece.block);
        h1_downstream_fail(down, FAILURE_MEMORY);
        return;
    }
    if (piece.length > 0 || piece.end)
        exchange_request_body(&down->exchange, &piece);
    else
        OPS.credit(&down->exchange); /* framing only: go on */
}

static void ended(struct h1_downstream *down, int length)
{
    down->eof = true;
    if (down->state != DOWN_EXCHANGE) {
        h1_downstream_drop(down);
        return;
    }
    if (length == 0 && down->exchange.tunnel) {
        struct exchange_piece end = {.end = true};
        down->reader.ended = true;
        down->wants_body = false;
        exchange_request_body(&down->exchange, &end);
        if (down->exchange.response_done && h1_sender_empty(&down->sender))
            complete(down);
        return;
    }
    /* A half-closed client still waits for its answer; one that broke off does not. */
    if (length < 0 || down->wants_body)
        h1_downstream_fail(down, FAILURE_RESET);
}

static void received(struct transport *transport, uint8_t *data, int length)
{
    struct h1_downstream *down = of(transport);
    down->receiving = false;
    if (down->state == DOWN_CLOSED)
        return;
    if (length <= 0) {
        ended(down, length);
        return;
    }
    COUNT(down->proxy->lane->bytes_in, (uint64_t)length);
    if (down->state == DOWN_LINGER || down->starved) {
        h1_downstream_receive(down);
    } else if (down->state == DOWN_EXCHANGE && down->wants_body) {
        deadline_clear(&down->deadline);
        pass_body(down, data, (size_t)length);
    } else if (down->state == DOWN_EXCHANGE) {
        if (!append(down, &down->ahead, &down->ahead_length, data, (size_t)length))
            h1_downstream_fail(down, FAILURE_MEMORY);
    } else if (append(down, &down->stash, &down->stash_length, data, (size_t)length)) {
        read_head(down);
    } else {
        refuse(down, FAILURE_MEMORY);
    }
}

static void sent(struct transport *transport, int result)
{
    struct h1_downstream *down = of(transport);
    if (down->state == DOWN_CLOSED)
        return;
    if (result < 0 || down->starved) {
        if (down->starved)
            end_starved(down, result == 0);
        else
            h1_downstream_fail(down, FAILURE_RESET);
        return;
    }
    if (!h1_sender_sent(&down->sender) || down->state != DOWN_EXCHANGE)
        return;
    /* A tunnel asks for bytes all the time; how long it may be quiet is its upstream's read_ms. */
    if (!down->wants_body || down->exchange.tunnel)
        deadline_clear(&down->deadline);
    if (down->exchange.response_done)
        complete(down);
    else
        exchange_response_credit(&down->exchange);
}

static void secured(struct transport *transport, int result)
{
    struct edge_lane *lane = of(transport)->proxy->lane;
    of(transport)->secured = result == 0;
    if (result == 0)
        COUNT(lane->tls_handshakes, 1);
    else
        COUNT(lane->tls_errors, 1);
}

void h1_downstream_passed(struct deadline *deadline)
{
    struct h1_downstream *down = LIST_OWNER(deadline, struct h1_downstream, deadline);
    if (down->starved)
        end_starved(down, false);
    else if (down->state == DOWN_HEAD && down->stash_length > 0)
        refuse(down, FAILURE_TIMEOUT);
    else
        h1_downstream_fail(down, FAILURE_TIMEOUT);
}

/* ---- what the exchange asks ---------------------------------------------------------------------
 */

/* May another request follow on this connection? */
static bool keeps(const struct h1_downstream *down)
{
    const struct h1_reader *reader = &down->reader;
    bool read = reader->ended ||
                (reader->kind == BODY_LENGTH && reader->left <= down->stash_length - down->taken);
    return !down->close && !down->proxy->closing && read;
}

static void send_interim(struct exchange *exchange)
{
    struct h1_downstream *down = of_exchange(exchange);
    if (!h1_answer_write(&down->sender, exchange, true, false))
        down->close = true;
}

static void send_head(struct exchange *exchange)
{
    struct h1_downstream *down = of_exchange(exchange);
    const struct h1_head *head = exchange->response;
    down->expects = false;
    if (!keeps(down))
        down->close = true;
    uint8_t framing = exchange->body_expected ? head->body : BODY_NONE;
    if (exchange->tunnel) {
        down->close = true;
        down->reader.kind = framing = BODY_UNTIL_CLOSE;
        down->reader.ended = false;
        down->replayable = false;
    } else if (framing == BODY_UNTIL_CLOSE || framing == BODY_CHUNKED) {
        framing = exchange->request->minor == 0 ? BODY_UNTIL_CLOSE : BODY_CHUNKED;
        if (framing == BODY_UNTIL_CLOSE)
            down->close = true;
    }
    down->sender.framing = framing;
    down->sender.ended = framing == BODY_NONE;
    if (!h1_answer_write(&down->sender, exchange, false, down->close))
        starve(down);
}

static void send_body(struct exchange *exchange, const struct exchange_piece *piece)
{
    struct h1_downstream *down = of_exchange(exchange);
    if (down->starved) {
        blocks_give(&down->proxy->blocks, piece->block);
        return;
    }
    COUNT(down->proxy->lane->bytes_out, piece->length);
    if (!h1_sender_body(&down->sender, piece))
        starve(down);
}

static void flush(struct exchange *exchange)
{
    struct h1_downstream *down = of_exchange(exchange);
    if (down->state != DOWN_EXCHANGE || down->starved)
        return;
    h1_sender_flush(&down->sender);
    if (!h1_sender_empty(&down->sender))
        deadline_set(&down->deadline, proxy_now_ms(down->proxy), down->idle_ms);
    else if (exchange->response_done)
        complete(down);
}

static void break_off(struct exchange *exchange)
{
    h1_downstream_drop(of_exchange(exchange));
}

static void credit(struct exchange *exchange)
{
    struct h1_downstream *down = of_exchange(exchange);
    uint8_t *at;
    size_t length;
    if (down->state != DOWN_EXCHANGE || down->starved || down->wants_body || exchange->request_done)
        return;
    if (down->reader.ended && !exchange->tunnel) { /* Content-Length: 0 */
        struct exchange_piece end = {.end = true};
        exchange_request_body(exchange, &end);
        return;
    }
    if (down->taken < down->stash_length) {
        uint8_t *data = down->stash->data + down->taken;
        struct exchange_piece piece;
        long used = h1_reader_feed(&down->reader, data, down->stash_length - down->taken, &piece);
        if (used < 0) {
            refuse_body(down);
            return;
        }
        down->taken += (size_t)used;
        if (piece.length > 0 || piece.end) {
            exchange_request_body(exchange, &piece);
            return;
        }
    }
    if (down->ahead && exchange->tunnel) {
        struct exchange_piece piece = {.at = down->ahead->data, .length = down->ahead_length};
        struct block *block = down->ahead;
        down->ahead = 0;
        down->ahead_length = 0;
        exchange_request_body(exchange, &piece);
        blocks_give(&down->proxy->blocks, block);
        return;
    }
    if (down->eof) {
        ended(down, exchange->tunnel ? 0 : -1);
        return;
    }
    if (down->expects) { /* RFC 9110 §10.1.1 */
        struct h1_writer writer;
        down->expects = false;
        if (h1_sender_open(&down->sender, &writer, 64)) {
            h1_put_text(&writer, "HTTP/1.1 100 Continue\r\n\r\n");
            h1_sender_commit(&down->sender, &writer);
            h1_sender_flush(&down->sender);
        }
    }
    down->wants_body = true;
    down->replayable = false;
    if (!exchange->tunnel)
        deadline_set(&down->deadline, proxy_now_ms(down->proxy), down->head_ms);
    if (down->receiving)
        return;
    if (!h1_reader_room(&down->reader, &down->proxy->blocks, &at, &length)) {
        starve(down);
        return;
    }
    down->receiving = true;
    transport_recv_into(&down->transport, at, length);
}

static bool rewind_body(struct exchange *exchange)
{
    struct h1_downstream *down = of_exchange(exchange);
    if (!down->replayable || down->wants_body)
        return false;
    down->taken = down->head_end;
    h1_reader_begin(&down->reader, exchange->request);
    return true;
}

static const struct exchange_downstream_ops OPS = {.interim = send_interim,
                                                   .head = send_head,
                                                   .body = send_body,
                                                   .flush = flush,
                                                   .abort = break_off,
                                                   .credit = credit,
                                                   .rewind = rewind_body};

const struct transport_handlers h1_downstream_handlers = {
    .received = received, .sent = sent, .closed = h1_downstream_closed, .secured = secured};
