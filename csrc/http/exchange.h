/* An exchange: one request and its answer, neutral to the protocol on either side.
 *
 * A downstream codec (proxy/h1_downstream.c, later HTTP/2, the codec of the tests) makes one for
 * each request, proxy/exchange.c runs it through its phases, an upstream codec carries it to an
 * endpoint. The codecs know each other only through the two tables of functions below. Filters
 * (policy/) hook into it. Nothing here knows a socket.
 *
 * Heads are struct h1_head whatever the codec: method, target, fields as slices. Bodies travel in
 * pieces, and by asking: a piece is given only after credit for it was asked, one at a time, so
 * a slow side stops the fast one after one buffer. */
#ifndef EDGE_HTTP_EXCHANGE_H
#define EDGE_HTTP_EXCHANGE_H

#include "base/arena.h"
#include "base/slice.h"
#include "base/wheel.h"
#include "http/h1_parse.h"
#include "include/edge.h"

struct block;
struct exchange;
struct proxy;

/* Writable bytes before and after a piece that comes with its block: a chunk's head and tail. */
#define EXCHANGE_HEADROOM 24
#define EXCHANGE_TAILROOM 8
#define EXCHANGE_TRIES_MAX 3
#define EXCHANGE_FILTERS_MAX 8

struct exchange_piece {
    uint8_t *at;
    size_t length;
    struct block *block; /* the memory it lies in, the taker's from now on; 0: valid in this call
                            only, the taker copies */
    bool end;            /* the body ends with it */
};

/* What went wrong. proxy/synth.c alone makes a status of it. */
enum failure_kind {
    FAILURE_NONE = 0,
    FAILURE_SYNTAX,
    FAILURE_HEAD_TOO_LARGE,
    FAILURE_TARGET_TOO_LONG,
    FAILURE_VERSION,
    FAILURE_UNSUPPORTED, /* method or transfer coding */
    FAILURE_BODY_TOO_LARGE,
    FAILURE_NO_ROUTE,
    FAILURE_NO_ENDPOINT,
    FAILURE_CONNECT,
    FAILURE_TIMEOUT,
    FAILURE_RESET,
    FAILURE_BAD_ANSWER,
    FAILURE_MEMORY,
    FAILURE_FILTER, /* a filter asked for what this version cannot do */
    FAILURE_LIMIT,  /* no descriptor for a connection to an endpoint */
    FAILURE_GRACE,  /* a drain's time was over */
    FAILURE_COUNT
};
enum failure_side { SIDE_DOWNSTREAM = 1, SIDE_UPSTREAM = 2, SIDE_INTERNAL = 3 };

struct exchange_failure {
    uint8_t kind;
    uint8_t side;
    uint8_t retryable; /* nothing of it can have reached an application */
};

/* What the exchange asks of the side of the client. */
struct exchange_downstream_ops {
    /* 1xx other than 101. */
    void (*interim)(struct exchange *exchange);
    /* exchange->response; without a body it is complete. 101: pieces are opaque from now on. */
    void (*head)(struct exchange *exchange);
    void (*body)(struct exchange *exchange, const struct exchange_piece *piece);
    /* Everything said so far may go out. */
    void (*flush)(struct exchange *exchange);
    /* The answer cannot be completed: break what carries it. exchange_finish() was called. */
    void (*abort)(struct exchange *exchange);
    /* The last piece of the request body is done with: give the next by exchange_request_body(). */
    void (*credit)(struct exchange *exchange);
    /* Start the request body from its first byte again; false: it is gone. */
    bool (*rewind)(struct exchange *exchange);
};

/* What the exchange asks of the side of the endpoint. */
struct exchange_upstream_ops {
    void (*body)(struct exchange *exchange, const struct exchange_piece *piece);
    void (*flush)(struct exchange *exchange);
    /* The last piece of the answer's body is done with. */
    void (*credit)(struct exchange *exchange);
    /* The exchange leaves; nothing of it may be touched afterwards. */
    void (*abort)(struct exchange *exchange);
};

enum filter_result {
    FILTER_CONTINUE = 0,
    FILTER_ANSWER = 1,     /* exchange->answer_status was set: answer with it */
    FILTER_PAUSE = 2,      /* exchange->resume() will be called */
    FILTER_SUBREQUEST = 3, /* authorisation, mirror, error page: no filter of this version asks */
    FILTER_FAIL = 4
};

struct exchange_filter;

/* A filter is a table of hooks; an absent one continues. Body hooks may not pause. */
struct filter_hooks {
    const char *name;
    enum filter_result (*request_head)(struct exchange *exchange, struct exchange_filter *filter);
    enum filter_result (*request_body)(struct exchange *exchange, struct exchange_filter *filter,
                                       struct exchange_piece *piece);
    enum filter_result (*response_head)(struct exchange *exchange, struct exchange_filter *filter);
    enum filter_result (*response_body)(struct exchange *exchange, struct exchange_filter *filter,
                                        struct exchange_piece *piece);
    void (*log)(struct exchange *exchange, struct exchange_filter *filter);
};

struct exchange_filter {
    const struct filter_hooks *hooks;
    uint64_t argument;
    uint64_t state;
};

struct exchange_try {
    uint8_t address[16];
    uint16_t port;
    uint16_t status; /* 0: none came */
    uint8_t failure; /* enum failure_kind */
};

/* How the client stands to us; made once a connection by the codec. */
struct exchange_client {
    uint8_t address[16];
    char text[48]; /* address for people and X-Forwarded-For */
    uint8_t text_length;
    uint8_t trusted; /* its forwarding fields are believed */
    uint8_t tls;
    uint32_t listener_slot;
};

/* Invariant: while `phase` is not finished, lane.in_flight counts this exchange. */
struct exchange {
    const struct exchange_downstream_ops *down;
    const struct exchange_upstream_ops *up; /* 0: no endpoint has it */
    void *upstream;                         /* the upstream codec's own */
    struct proxy *proxy;
    struct wheel *wheel; /* for filters */
    void (*resume)(struct exchange *exchange);
    const struct exchange_client *client;

    /* Memory that lives as long as the exchange. */
    struct arena arena;

    uint8_t phase; /* enum exchange_phase of proxy/exchange.c */
    uint8_t paused;
    uint8_t request_done;   /* its last piece was passed on */
    uint8_t response_begun; /* its head was passed downstream */
    uint8_t response_done;  /* its last piece was passed downstream */
    uint8_t tunnel;
    uint8_t local; /* the answer is our own */
    uint8_t finished;
    uint8_t body_expected; /* the answer has a body to come */
    uint8_t has_held;
    uint8_t outcome;
    uint8_t tries_count;
    uint8_t filter_count;
    uint8_t filter_next;

    const struct h1_head *request;
    const struct h1_head *response; /* valid while its head is being passed on */
    uint16_t answer_status;         /* of our own answer */
    uint16_t status;                /* as sent */
    struct exchange_failure failure;
    struct exchange_piece held; /* came while a filter paused the answer */

    /* Copied from the image when the route was chosen. */
    uint32_t route_slot, route_generation;
    uint32_t unnamed_route; /* index + 1 in the image while its name is not copied */
    uint32_t upstream_slot, upstream_generation;
    uint64_t body_bytes_max;
    struct slice route_name;    /* "namespace/name" */
    struct slice upstream_name; /* "namespace/service:port" */
    uint8_t has_route;
    struct slice location; /* of our own answer */

    /* What forward.c adds to the request. */
    struct h1_field added[8];
    uint32_t added_count;
    uint32_t skip; /* H1_FIELD_BIT()s that `added` replaces */
    struct slice request_id;

    struct exchange_filter filters[EXCHANGE_FILTERS_MAX];
    struct wheel_timer filter_timer; /* one filter at a time waits */
    struct exchange_try tries[EXCHANGE_TRIES_MAX];

    /* Timing marks of the loop's clock; 0: not reached. */
    uint64_t began_ns, upstream_ns, answered_ns;
    uint64_t request_bytes, response_bytes; /* of the bodies */
};

#endif
