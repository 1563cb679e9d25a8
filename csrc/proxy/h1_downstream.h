/* A client's HTTP/1 connection, as the codec (h1_downstream.c) and its life (h1_life.c) share it.
 *
 * Included by these two only; everybody else uses proxy/proxy.h. */
#ifndef EDGE_PROXY_H1_DOWNSTREAM_H
#define EDGE_PROXY_H1_DOWNSTREAM_H

#include "proxy/deadline.h"
#include "proxy/h1_stream.h"
#include "proxy/proxy.h"

#define LINGER_MS 2000 /* unread bytes would make close() destroy the answer */

enum downstream_state { DOWN_HEAD = 1, DOWN_EXCHANGE, DOWN_LINGER, DOWN_CLOSED };

struct h1_downstream {
    struct transport transport;
    struct proxy *proxy;
    struct list link;
    struct deadline deadline;
    struct exchange_client client;
    uint64_t settings_version; /* image version that the next four were read from */
    struct h1_limits limits;
    uint32_t idle_ms, head_ms;
    struct h1_sender sender;
    uint64_t sent_before; /* the present answer */
    struct h1_reader reader;
    struct block *stash; /* the present head, then what came with it */
    size_t stash_length, taken, head_end, scanned;
    struct block *ahead; /* came while an exchange was under way */
    size_t ahead_length;
    uint8_t state;
    bool receiving;  /* a receive is outstanding */
    bool wants_body; /* what it brings belongs to the request body */
    bool replayable; /* all of the body that was passed on still stands in the stash */
    bool eof;        /* the client ended its side */
    bool expects;    /* 100 Continue was asked for and not yet sent */
    bool close;      /* the present answer is the last */
    bool starved;    /* no memory for the rest of an answer: ends at the next turn */
    bool apologised; /* with 503, while starved */
    bool secured;    /* its TLS handshake is done */
    struct exchange exchange;
};

extern const struct transport_handlers h1_downstream_handlers;

/* ---- h1_downstream.c ---- */
void h1_downstream_receive(struct h1_downstream *down);
/* Limits and trust follow the image, also on connections that are older than it. */
void h1_downstream_read_settings(struct h1_downstream *down);
/* Its time has passed. */
void h1_downstream_passed(struct deadline *deadline);

/* ---- h1_life.c ---- */
void h1_downstream_drop(struct h1_downstream *down);
/* The connection is of no use any more; an exchange on it ends as the client's fault. */
void h1_downstream_fail(struct h1_downstream *down, uint8_t kind);
/* FIN now; what still comes is read and forgotten, so that no RST takes our last answer back. */
void h1_downstream_linger(struct h1_downstream *down, uint32_t ms);
void h1_downstream_closed(struct transport *transport);

#endif
