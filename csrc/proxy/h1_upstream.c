/* HTTP/1 towards endpoints: a connection carries one exchange at a time, then idles in the pool.
 *
 * Called by proxy/exchange.c through exchange->up, and by the transport. Never decides what a
 * failure means: it reports kind and whether anything can have reached the application. */
#include "proxy/proxy.h"

#include <errno.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <unistd.h>

#include "proxy/counters.h"
#include "proxy/deadline.h"
#include "proxy/h1_stream.h"

/* An endpoint's head: as large as ours may be, so that nothing that we accept gets stuck. */
static const struct h1_limits ANSWER_LIMITS = {.head_bytes_max = 65536, .target_bytes_max = 0};

/* Interim answers come without being asked for: only their number bounds what waits downstream. */
#define INTERIMS_MAX 100

enum upstream_state { UP_CONNECTING = 1, UP_IDLE, UP_HEAD, UP_BODY, UP_CLOSED };

struct h1_upstream {
    struct transport transport;
    struct proxy *proxy;
    struct list link;
    struct pool_entry entry;
    struct deadline deadline;
    struct h1_sender sender;
    struct h1_reader reader;
    struct exchange *exchange; /* 0: nobody's */
    struct block *head;        /* a head that came in parts */
    size_t head_length, scanned;
    uint32_t read_ms, send_ms, idle_ms;
    uint8_t state;
    uint8_t interims; /* of the present exchange */
    bool reused, receiving, keep_alive, answered;
    bool starved; /* no memory for the next piece: ends at the next turn */
};

static const struct exchange_upstream_ops OPS;

static struct h1_upstream *of(struct transport *transport)
{
    return LIST_OWNER(transport, struct h1_upstream, transport);
}

static void drop(struct h1_upstream *up)
{
    if (up->state == UP_CLOSED)
        return;
    if (up->state == UP_IDLE)
        pool_remove(&up->proxy->pool, &up->entry);
    up->state = UP_CLOSED;
    deadline_release(&up->deadline);
    transport_close(&up->transport);
}

static void closed(struct transport *transport)
{
    struct h1_upstream *up = of(transport);
    list_remove(&up->link);
    up->proxy->upstream_count--;
    h1_sender_release(&up->sender);
    h1_reader_release(&up->reader, &up->proxy->blocks);
    blocks_give(&up->proxy->blocks, up->head);
    free(up);
}

/* RFC 9110 §9.2.2: only these may be sent again without knowing what became of the first. */
static bool idempotent(const struct exchange *exchange)
{
    uint8_t method = exchange->request->method_id;
    return method != METHOD_OTHER && method != METHOD_POST && method != METHOD_PATCH;
}

static void fail(struct h1_upstream *up, uint8_t kind)
{
    struct exchange *exchange = up->exchange;
    bool connecting = up->state == UP_CONNECTING;
    struct exchange_failure failure = {.kind = kind, .side = SIDE_UPSTREAM};
    if (connecting)
        failure.retryable = 1;
    else if (kind == FAILURE_RESET && up->reused && !up->answered && exchange)
        failure.retryable = idempotent(exchange);
    up->exchange = 0;
    drop(up);
    if (exchange)
        exchange_upstream_failed(exchange, failure);
}

static void receive(struct h1_upstream *up)
{
    if (up->receiving)
        return;
    up->receiving = true;
    transport_recv(&up->transport);
}

/* The answer is complete and passed on: back to the pool, or closed. */
static void release(struct h1_upstream *up)
{
    struct exchange *exchange = up->exchange;
    bool clean = up->keep_alive && exchange->request_done && h1_sender_empty(&up->sender);
    up->exchange = 0;
    exchange_upstream_done(exchange);
    h1_reader_release(&up->reader, &up->proxy->blocks);
    if (!clean || !pool_put(&up->proxy->pool, &up->entry)) {
        drop(up);
        return;
    }
    up->state = UP_IDLE;
    deadline_set(&up->deadline, proxy_now_ms(up->proxy), up->idle_ms);
    receive(up);
}

/* ---- the request --------------------------------------------------------------------------- */

static bool write_head(struct h1_upstream *up)
{
    const struct exchange *exchange = up->exchange;
    const struct h1_head *request = exchange->request;
    size_t bytes = request->method.length + request->target.length + 128;
    struct slice upgrade = {0, 0};
    for (uint32_t i = 0; i < request->field_count; i++) {
        bytes += request->field[i].name.length + request->field[i].value.length + 4;
        if (request->upgrade && request->field[i].id == FIELD_UPGRADE)
            upgrade = request->field[i].value;
    }
    for (uint32_t i = 0; i < exchange->added_count; i++)
        bytes += exchange->added[i].name.length + exchange->added[i].value.length + 4;
    struct h1_writer writer;
    if (!h1_sender_open(&up->sender, &writer, bytes + upgrade.length))
        return false;
    /* An absolute target becomes an origin one: its authority is in Host (RFC 9112 §3.2.2). */
    struct slice target = request->target;
    if (request->path.length > 0 && target.at != request->path.at) {
        target.at = request->path.at;
        target.length = (size_t)(request->target.at + request->target.length - target.at);
        if (target.at < request->target.at ||
            target.at > request->target.at + request->target.length)
            target = request->path;
    }
    if (target.at == request->path.at && target.length == 1 && request->query.at) {
        h1_put_slice(&writer, request->method); /* http://host?query: its "/" is not in it */
        h1_put_text(&writer, " /?");
        h1_put_slice(&writer, request->query);
        h1_put_text(&writer, " HTTP/1.1\r\n");
    } else {
        h1_put_request_line(&writer, request->method, target);
    }
    h1_put_field(&writer, exchange->added[0].name, exchange->added[0].value); /* Host first */
    h1_put_fields(&writer, request, exchange->skip);
    for (uint32_t i = 1; i < exchange->added_count; i++)
        h1_put_field(&writer, exchange->added[i].name, exchange->added[i].value);
    if (request->body == BODY_CHUNKED)
        h1_put_text(&writer, H1_CHUNKED_FIELD);
    if (upgrade.length > 0) {
        h1_put_text(&writer, "connection: upgrade\r\n");
        h1_put_field(&writer, SLICE("upgrade"), upgrade);
    }
    h1_put_end(&writer);
    if (writer.full)
        return false;
    h1_sender_commit(&up->sender, &writer);
    return true;
}

/* While the client's bytes are awaited, its codec watches the time. */
static void ask_body(struct h1_upstream *up)
{
    if (!up->exchange->tunnel)
        deadline_clear(&up->deadline);
    exchange_request_credit(up->exchange);
}

/* false: no memory; the exchange goes on without this connection. */
static bool begin(struct h1_upstream *up)
{
    struct exchange *exchange = up->exchange;
    up->state = UP_HEAD;
    up->answered = false;
    up->interims = 0;
    up->head_length = up->scanned = 0;
    up->sender.framing = exchange->request->body;
    up->sender.ended = exchange->request_done;
    if (!write_head(up))
        return false;
    deadline_set(&up->deadline, proxy_now_ms(up->proxy), up->read_ms);
    if (!up->sender.ended)
        ask_body(up);
    if (up->exchange == exchange)
        h1_sender_flush(&up->sender);
    return true;
}

static void connected(struct transport *transport, int result)
{
    struct h1_upstream *up = of(transport);
    if (up->state != UP_CONNECTING)
        return;
    if (result < 0) {
        fail(up, result == -ETIMEDOUT ? FAILURE_TIMEOUT : FAILURE_CONNECT);
        return;
    }
    receive(up);
    if (!begin(up))
        fail(up, FAILURE_MEMORY);
}

static void sent(struct transport *transport, int result)
{
    struct h1_upstream *up = of(transport);
    if (up->state == UP_CLOSED)
        return;
    if (result < 0) {
        /* The answer may be there already (413, then a reset): the receive will tell. */
        up->keep_alive = false;
        h1_sender_release(&up->sender);
        if (!up->exchange || up->exchange->tunnel || !up->receiving)
            fail(up, FAILURE_RESET);
        return;
    }
    if (!h1_sender_sent(&up->sender) || !up->exchange)
        return;
    deadline_set(&up->deadline, proxy_now_ms(up->proxy), up->read_ms);
    if (!up->sender.ended)
        ask_body(up);
    else if (up->exchange->tunnel)
        transport_shutdown(&up->transport);
}

/* ---- the answer ---------------------------------------------------------------------------- */

static void pass(struct h1_upstream *up, uint8_t *data, size_t length)
{
    struct exchange *exchange = up->exchange;
    struct exchange_piece piece;
    long used = h1_reader_feed(&up->reader, data, length, &piece);
    if (used < 0) {
        fail(up, FAILURE_BAD_ANSWER);
        return;
    }
    if ((size_t)used < length)
        up->keep_alive = false; /* bytes that nobody asked for */
    if (piece.length > 0 || piece.end)
        exchange_response_body(exchange, &piece);
    if (up->exchange != exchange)
        return;
    bool more = piece.length == 0 && !piece.end;
    if (up->reader.ended)
        release(up);
    else if (!exchange->tunnel)
        deadline_clear(&up->deadline); /* it is the client's turn */
    if (more && up->exchange)
        OPS.credit(exchange);
    exchange_response_flush(exchange);
}

static void begin_answer(struct h1_upstream *up, struct h1_head *head, uint8_t *rest, size_t length)
{
    struct exchange *exchange = up->exchange;
    if (head->status == 101) {
        if (!tunnel_allowed(exchange, head)) {
            fail(up, FAILURE_BAD_ANSWER);
            return;
        }
        head->body = BODY_UNTIL_CLOSE;
        up->sender.framing = BODY_UNTIL_CLOSE;
        up->sender.ended = false;
    }
    up->keep_alive = head->keep_alive && head->body != BODY_UNTIL_CLOSE;
    h1_reader_begin(&up->reader, head);
    up->state = UP_BODY;
    exchange_response_head(exchange, head);
    if (up->exchange != exchange)
        return;
    if (length > 0) {
        pass(up, rest, length);
    } else {
        if (up->reader.ended)
            release(up);
        exchange_response_flush(exchange);
    }
    if (up->exchange == exchange && exchange->tunnel) {
        deadline_set(&up->deadline, proxy_now_ms(up->proxy), up->read_ms);
        exchange_request_credit(exchange);
    }
}

/* Keep what came of a head that is not complete. */
static bool keep(struct h1_upstream *up, const uint8_t *data, size_t length)
{
    size_t need = up->head_length + length;
    if (!up->head || up->head->bytes < need) {
        struct block *larger = blocks_take(&up->proxy->blocks, need);
        if (!larger)
            return false;
        if (up->head)
            memcpy(larger->data, up->head->data, up->head_length);
        blocks_give(&up->proxy->blocks, up->head);
        up->head = larger;
    }
    memcpy(up->head->data + up->head_length, data, length);
    up->head_length = need;
    return true;
}

static void read_head(struct h1_upstream *up, uint8_t *data, size_t length)
{
    struct h1_head *head = &up->proxy->scratch;
    struct block *stash = 0;
    up->answered = true;
    if (up->head) {
        if (!keep(up, data, length)) {
            fail(up, FAILURE_MEMORY);
            return;
        }
        stash = up->head;
        data = stash->data;
        length = up->head_length;
        up->head = 0;
    }
    for (;;) {
        long used = h1_parse_response((const char *)data, length, &ANSWER_LIMITS,
                                      up->exchange->request->method_id, &up->scanned, head);
        if (used > 0 && (head->status >= 200 || head->status == 101)) {
            begin_answer(up, head, data + used, length - (size_t)used);
            break;
        }
        if (used < 0 || (used > 0 && ++up->interims > INTERIMS_MAX)) {
            fail(up, FAILURE_BAD_ANSWER);
            break;
        }
        if (used == 0) {
            up->head_length = 0;
            if (length > 0 && !keep(up, data, length))
                fail(up, FAILURE_MEMORY);
            else
                receive(up);
            break;
        }
        /* RFC 9110 §15.2: passed on, but 100 answered an expectation that was answered by us. */
        if (head->status != 100)
            exchange_interim(up->exchange, head);
        data += used;
        length -= (size_t)used;
        up->scanned = 0;
    }
    blocks_give(&up->proxy->blocks, stash);
}

static void ended(struct h1_upstream *up, int length)
{
    struct exchange *exchange = up->exchange;
    if (!exchange) {
        drop(up);
        return;
    }
    if (up->state != UP_BODY || up->reader.kind != BODY_UNTIL_CLOSE || length < 0) {
        fail(up, FAILURE_RESET);
        return;
    }
    struct exchange_piece end = {.end = true};
    up->reader.ended = true;
    exchange_response_body(exchange, &end);
    if (up->exchange == exchange && !exchange->tunnel)
        release(up);
    exchange_response_flush(exchange);
}

static void received(struct transport *transport, uint8_t *data, int length)
{
    struct h1_upstream *up = of(transport);
    up->receiving = false;
    if (up->state == UP_CLOSED)
        return;
    if (length <= 0 || !up->exchange)
        ended(up, length);
    else if (up->state == UP_HEAD)
        read_head(up, data, (size_t)length);
    else
        pass(up, data, (size_t)length);
}

static void passed(struct deadline *deadline)
{
    struct h1_upstream *up = LIST_OWNER(deadline, struct h1_upstream, deadline);
    if (up->exchange)
        fail(up, up->starved ? FAILURE_MEMORY : FAILURE_TIMEOUT);
    else
        drop(up);
}

/* ---- exchange->up --------------------------------------------------------------------------- */

static void take_body(struct exchange *exchange, const struct exchange_piece *piece)
{
    struct h1_upstream *up = exchange->upstream;
    if (!h1_sender_body(&up->sender, piece))
        fail(up, FAILURE_MEMORY);
    else
        deadline_set(&up->deadline, proxy_now_ms(up->proxy), up->send_ms);
}

static void flush(struct exchange *exchange)
{
    struct h1_upstream *up = exchange->upstream;
    if (up->state == UP_CONNECTING)
        return;
    h1_sender_flush(&up->sender);
    if (exchange->tunnel && up->sender.ended && h1_sender_empty(&up->sender))
        transport_shutdown(&up->transport);
}

static void credit(struct exchange *exchange)
{
    struct h1_upstream *up = exchange->upstream;
    if (up->state != UP_BODY || up->receiving || up->reader.ended)
        return;
    uint8_t *at;
    size_t length;
    if (!h1_reader_room(&up->reader, &up->proxy->blocks, &at, &length)) {
        up->starved = true;
        deadline_set(&up->deadline, proxy_now_ms(up->proxy), 1);
        return;
    }
    up->receiving = true;
    deadline_set(&up->deadline, proxy_now_ms(up->proxy), up->read_ms);
    transport_recv_into(&up->transport, at, length);
}

static void leave(struct exchange *exchange)
{
    struct h1_upstream *up = exchange->upstream;
    up->exchange = 0;
    drop(up);
}

static const struct exchange_upstream_ops OPS = {
    .body = take_body, .flush = flush, .credit = credit, .abort = leave};

static const struct transport_handlers HANDLERS = {
    .received = received, .sent = sent, .connected = connected, .closed = closed};

/* ---- connections ---------------------------------------------------------------------------- */

static socklen_t peer_address(const struct edge_image_endpoint *endpoint,
                              struct sockaddr_storage *peer)
{
    static const uint8_t MAPPED[12] = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff};
    memset(peer, 0, sizeof *peer);
    if (memcmp(endpoint->address, MAPPED, sizeof MAPPED) == 0) {
        struct sockaddr_in *v4 = (struct sockaddr_in *)peer;
        v4->sin_family = AF_INET;
        v4->sin_port = htons(endpoint->port);
        memcpy(&v4->sin_addr, endpoint->address + 12, 4);
        return sizeof *v4;
    }
    struct sockaddr_in6 *v6 = (struct sockaddr_in6 *)peer;
    v6->sin6_family = AF_INET6;
    v6->sin6_port = htons(endpoint->port);
    memcpy(&v6->sin6_addr, endpoint->address, 16);
    return sizeof *v6;
}

/* The pool's connections make room for one that is needed. */
static bool drop_idle(struct proxy *proxy)
{
    if (proxy->pool.idle == 0)
        return false;
    LIST_EACH(at, after, &proxy->upstreams)
    {
        struct h1_upstream *up = LIST_OWNER(at, struct h1_upstream, link);
        if (up->state != UP_IDLE)
            continue;
        drop(up);
        return true;
    }
    return false;
}

/* A descriptor, or the kind of failure as a negative number. */
static int open_socket(struct proxy *proxy, int family)
{
    bool full = proxy->upstreams_max > 0 && proxy->upstream_count >= proxy->upstreams_max;
    if (full && !drop_idle(proxy))
        return -FAILURE_LIMIT;
    int fd = socket(family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    bool limit = fd < 0 && (errno == EMFILE || errno == ENFILE);
    if (limit && drop_idle(proxy)) /* at once over epoll, for the next one over io_uring */
        fd = socket(family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    return fd >= 0 ? fd : limit ? -FAILURE_LIMIT : -FAILURE_MEMORY;
}

/* 0: failure says why. */
static struct h1_upstream *open_connection(struct proxy *proxy,
                                           const struct edge_image_upstream *record,
                                           const struct edge_image_endpoint *endpoint,
                                           struct exchange_failure *failure)
{
    struct sockaddr_storage peer;
    socklen_t length = peer_address(endpoint, &peer);
    int fd = open_socket(proxy, peer.ss_family), on = 1;
    struct h1_upstream *up = fd < 0 ? 0 : calloc(1, sizeof *up);
    if (!up) {
        uint8_t kind = fd < 0 ? (uint8_t)-fd : FAILURE_MEMORY;
        *failure = (struct exchange_failure){.kind = kind, .side = SIDE_INTERNAL};
        if (fd >= 0)
            close(fd);
        return 0;
    }
    proxy->upstream_count++;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    up->proxy = proxy;
    up->state = UP_CONNECTING;
    h1_sender_init(&up->sender, &up->transport, &proxy->blocks);
    deadline_init(&up->deadline, &proxy->wheel, passed);
    list_push_back(&proxy->upstreams, &up->link);
    list_init(&up->entry.link);
    transport_connect_plain(&up->transport, proxy->loop, fd, (struct sockaddr *)&peer, length,
                            &HANDLERS);
    deadline_set(&up->deadline, proxy_now_ms(proxy), record->connect_ms);
    return up;
}

bool h1_upstream_start(struct exchange *exchange, const struct snapshot_upstream *upstream,
                       const struct edge_image_endpoint *endpoint)
{
    struct proxy *proxy = exchange->proxy;
    const struct edge_image_upstream *record = upstream->record;
    struct pool_key key = {
        .slot = record->slot, .generation = record->generation, .port = endpoint->port};
    memcpy(key.address, endpoint->address, sizeof key.address);
    /* After a broken kept connection, its siblings are suspect too. */
    struct pool_entry *entry = exchange->tries_count > 1 ? 0 : pool_take(&proxy->pool, &key);
    struct h1_upstream *up;
    if (entry) {
        up = LIST_OWNER(entry, struct h1_upstream, entry);
    } else {
        COUNT(counters_upstream(exchange)->connects, 1);
        up = open_connection(proxy, record, endpoint, &exchange->failure);
        if (!up)
            return false;
        up->entry.key = key;
    }
    up->reused = entry != 0;
    up->read_ms = record->read_ms;
    up->send_ms = record->send_ms;
    up->idle_ms = record->idle_ms;
    up->exchange = exchange;
    exchange->up = &OPS;
    exchange->upstream = up;
    if (!entry)
        return true;
    if (begin(up))
        return true;
    exchange->up = 0;
    up->exchange = 0;
    up->state = UP_HEAD;
    drop(up);
    exchange->failure = (struct exchange_failure){.kind = FAILURE_MEMORY, .side = SIDE_INTERNAL};
    return false;
}

void h1_upstream_abort_all(struct proxy *proxy)
{
    LIST_EACH(at, after, &proxy->upstreams)
    {
        struct h1_upstream *up = LIST_OWNER(at, struct h1_upstream, link);
        if (up->exchange)
            fail(up, FAILURE_RESET);
        else
            drop(up);
    }
}
