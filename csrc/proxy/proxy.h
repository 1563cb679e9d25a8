/* One worker's proxy: what the phases and codecs of its exchanges share.
 *
 * Embedded in struct worker, which fills it, moves `view` at the top of its loop, and drains it.
 * One thread only: no lock, and counters are plain stores that others may read. */
#ifndef EDGE_PROXY_PROXY_H
#define EDGE_PROXY_PROXY_H

#include "base/arena.h"
#include "base/list.h"
#include "base/wheel.h"
#include "http/exchange.h"
#include "http/h1_write.h"
#include "net/loop.h"
#include "net/tls.h"
#include "proxy/blocks.h"
#include "snapshot/view.h"
#include "upstream/balance.h"
#include "upstream/pool.h"

struct proxy {
    struct loop *loop;
    struct wheel wheel;
    const struct snapshot_view *view; /* only until the next return to the loop */
    struct tls_server *const *tls;    /* by listener slot, of the same version */
    struct blocks blocks;
    struct arena_cache arenas;
    struct pool pool;
    struct balance balance;
    struct list downstreams; /* every open client connection */
    struct list upstreams;   /* every open connection to an endpoint */
    uint32_t upstream_count;
    uint32_t downstreams_max,
        upstreams_max; /* this worker's share of the descriptors; 0: no bound */

    struct edge_lane *lane;
    struct edge_route_cell *route_cells;
    struct edge_upstream_cell *upstream_cells;
    struct edge_upstream_cell late; /* counts of exchanges whose upstream is gone */
    void (*log)(struct proxy *proxy, const struct exchange *exchange); /* 0: off */

    struct h1_head scratch; /* a head between parser and arena */
    uint64_t random[2];
    int64_t date_s;
    char date[H1_DATE_BYTES];
    int64_t wall_offset_ns; /* wall clock = loop clock + this */
    bool closing;           /* an answer is its connection's last */
    bool ending;            /* and a connection without a request ends at once */
};

/* A counter that only this thread writes and others read at any time. */
#define COUNT(counter, by) __atomic_store_n(&(counter), (counter) + (by), __ATOMIC_RELAXED)

int proxy_init(struct proxy *proxy, struct loop *loop, uint64_t seed);
void proxy_release(struct proxy *proxy);
/* Once an iteration: timers, the Date field. */
void proxy_tick(struct proxy *proxy);
static inline uint64_t proxy_now_ms(const struct proxy *proxy)
{
    return loop_now_ns(proxy->loop) / 1000000;
}
uint64_t proxy_random(struct proxy *proxy);
/* The address behind a connection, as bytes and as text. */
void proxy_name_client(struct exchange_client *client, int fd);
/* Connections without a request end now, the others after their answer. */
void proxy_end_idle(struct proxy *proxy);
/* The grace period is over: exchanges and tunnels are cut; who waits for the other side's end may
 * for so long (0: no more). */
void proxy_cut(struct proxy *proxy, uint32_t linger_ms);
static inline bool proxy_idle(const struct proxy *proxy)
{
    return list_empty(&proxy->downstreams) && list_empty(&proxy->upstreams);
}

/* ---- h1_life.c ---- */
void h1_downstream_accept(struct proxy *proxy, uint32_t listener_slot, int fd);
void h1_downstream_end_idle(struct proxy *proxy);
void h1_downstream_cut(struct proxy *proxy, uint32_t linger_ms);

/* ---- h1_upstream.c ---- */
/* Take a pooled connection or open one, send the request's head, and serve exchange->up. The
 * result comes by exchange_upstream_*(). false: failure is in exchange->failure. */
bool h1_upstream_start(struct exchange *exchange, const struct snapshot_upstream *upstream,
                       const struct edge_image_endpoint *endpoint);
void h1_upstream_abort_all(struct proxy *proxy);

/* ---- exchange.c: called by codecs ---- */
void exchange_init(struct exchange *exchange, struct proxy *proxy,
                   const struct exchange_downstream_ops *ops, const struct exchange_client *client);
/* A head whose slices stay valid until finish. */
void exchange_begin(struct exchange *exchange, const struct h1_head *request);
/* A head that could not be read: only its answer and its log line are made. */
void exchange_begin_refused(struct exchange *exchange, uint8_t failure_kind);
/* The rest of a request turned out to be wrong before its answer began. */
void exchange_refuse(struct exchange *exchange, uint8_t failure_kind);
void exchange_request_body(struct exchange *exchange, struct exchange_piece *piece);
/* The client can ask for more of the answer's body. */
void exchange_response_credit(struct exchange *exchange);
/* The last byte of the answer left us. */
void exchange_response_sent(struct exchange *exchange);
void exchange_downstream_failed(struct exchange *exchange, uint8_t failure_kind);

/* The upstream codec has everything of the answer and leaves. */
void exchange_upstream_done(struct exchange *exchange);
void exchange_request_credit(struct exchange *exchange);
void exchange_interim(struct exchange *exchange, const struct h1_head *head);
void exchange_response_head(struct exchange *exchange, const struct h1_head *head);
void exchange_response_body(struct exchange *exchange, struct exchange_piece *piece);
void exchange_response_flush(struct exchange *exchange);
void exchange_upstream_failed(struct exchange *exchange, struct exchange_failure failure);

/* ---- forward.c ---- */
bool forward_edit(struct exchange *exchange);
bool forward_trusts(const struct image *image, uint32_t listener_slot, const uint8_t address[16]);

/* ---- synth.c ---- */
uint16_t synth_status(const struct exchange_failure *failure);
const char *synth_name(uint8_t failure_kind);
/* FAILURE_MEMORY's answer as it stands on the wire of HTTP/1: saying it takes no memory. */
#define SYNTH_NO_MEMORY                                                                            \
    "HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"

/* ---- respond.c ---- */
/* The present exchange's own answer, by its downstream codec. */
void respond(struct exchange *exchange, uint16_t status);

/* ---- tunnel.c ---- */
/* Is this 101 an answer to an upgrade that was asked for? */
bool tunnel_allowed(const struct exchange *exchange, const struct h1_head *head);
void tunnel_begin(struct exchange *exchange);

#endif
