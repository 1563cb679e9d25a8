/*
 * The client of the survival program: five kinds of traffic from one thread, at fixed rates and
 * with time limits, so that a proxy that hangs shows. It never retries: each failure is written
 * down with the moment, the connection and the point it had reached, and the next request that is
 * due opens another connection. `Connection: close` is obeyed. Started by traffic.py, built by
 * compile_tool; prints "ready" after the first answer of each kind, and one JSON line after
 * SIGTERM. It judges nothing.
 *
 * usage: client ADDRESS PORT HOST KEPT KEPT_RATE FRESH_RATE ECHO_RATE TIMEOUT_S SECONDS_MAX
 *
 * kept      GET / over KEPT connections                        answer: BODY times 'x'
 * fresh     GET / over a connection each; every other one asks the proxy to close it
 * echo      POST /echo over 4 kept connections, numbered       answer: the number
 * download  GET /bytes, one a second, a connection each        answer: 1 MiB, its pattern checked
 * tunnel    Upgrade, then a number each 10 ms                  answer: the same numbers in order
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "record.h"

#define BODY 128
#define DOWNLOAD (1 << 20)
#define ECHOES 4
#define CONNECTIONS_MAX 8192
#define SCAN_NS 50000000ull
#define TUNNEL_NS 10000000ull
#define REOPEN_NS 50000000ull /* a tunnel that broke is opened again after this */

enum phase { NONE, CONNECTING, IDLE, HEAD, CONTENT, OPEN, LINGER };

struct connection {
    int fd;
    enum kind kind;
    enum phase phase;
    int close_after;     /* the answer said so */
    uint16_t port;       /* ours: what the proxy's side knows it by */
    uint64_t opened;     /* connect began */
    uint64_t sent;       /* the request under way, or the last one */
    uint64_t due;        /* next request of a kept connection */
    uint64_t answers;    /* whole ones on this connection */
    uint64_t number;     /* echo: of this request; tunnel: next to send */
    uint64_t echoed;     /* tunnel: next number that must come back */
    size_t got, expects; /* bytes of the head, then of the body */
    char head[4096];
};

static struct connection *connections;
static uint64_t numbers;
static int poll_fd, kept_count, first_fresh;
static int ready_said;
static uint64_t timeout_ns;
static volatile sig_atomic_t stopping;
static uint64_t stopped; /* when the last request was due */
static struct sockaddr_in address;
static const char *host;

static void stop(int number)
{
    (void)number;
    stopping = 1;
}

/* ---- What is written down ----------------------------------------------------------------- */

static void note(const struct connection *c, const char *what, int status)
{
    int in_flight = c->phase == HEAD || c->phase == CONTENT || c->phase == OPEN;
    if (event_count < EVENTS_MAX)
        events[event_count] = (struct event){
            .kind = c->kind,
            .what = what,
            .status = status,
            .port = c->port,
            .in_flight = in_flight,
            .at = now(),
            .opened = c->opened,
            .sent = c->sent,
            .answers = c->answers,
            .bytes = c->phase == OPEN ? 8 * (c->number - c->echoed) : c->got,
        };
    event_count++;
}

static void drop(struct connection *c)
{
    if (c->fd >= 0)
        close(c->fd);
    c->fd = -1;
    c->phase = NONE;
}

static void fail(struct connection *c, const char *what, int status)
{
    note(c, what, status);
    drop(c);
    if (c->kind == TUNNEL)
        c->due = now() + REOPEN_NS;
}

/* The other side ended it: by FIN (error 0) or by an error of the socket. */
static void ended(struct connection *c, int error)
{
    int reset = error == ECONNRESET || error == EPIPE;
    if (error && !reset)
        return fail(c, strerrorname_np(error), 0);
    switch (c->phase) {
    case IDLE:
    case LINGER:
        if (reset) {
            note(c, "idle-reset", 0);
        } else if (c->phase == IDLE) {
            idle_closed++;
        }
        drop(c);
        break;
    case HEAD:
        fail(c,
             c->got  ? reset ? "reset-within" : "closed-within"
             : reset ? "reset-before"
                     : "closed-before",
             0);
        break;
    default:
        fail(c, reset ? "reset-within" : "closed-within", 0);
    }
}

static void succeed(struct connection *c)
{
    record_answer(c->kind, c->sent, now());
    c->answers++;
}

/* ---- Asking ------------------------------------------------------------------------------- */

static void watch(struct connection *c, int operation, uint32_t mask)
{
    struct epoll_event event = {.events = mask, .data.ptr = c};
    epoll_ctl(poll_fd, operation, c->fd, &event);
}

static void ask(struct connection *c)
{
    char request[1024];
    int length;
    const char *last =
        c->kind == LOAD || (c->kind == FRESH && numbers % 2) ? "Connection: close\r\n" : "";
    c->number = c->kind == TUNNEL ? 0 : ++numbers;
    c->echoed = 0;
    if (c->kind == ECHO)
        length = snprintf(request, sizeof(request),
                          "POST /echo HTTP/1.1\r\nHost: %s\r\nContent-Length: 20\r\n\r\n%020llu",
                          host, (unsigned long long)c->number);
    else if (c->kind == TUNNEL)
        length = snprintf(request, sizeof(request),
                          "GET /tunnel HTTP/1.1\r\nHost: %s\r\nConnection: upgrade\r\n"
                          "Upgrade: numbers\r\n\r\n",
                          host);
    else
        length = snprintf(request, sizeof(request), "GET %s HTTP/1.1\r\nHost: %s\r\n%s\r\n",
                          c->kind == LOAD ? "/bytes?n=1048576" : "/", host, last);
    asked[c->kind]++;
    c->sent = now();
    c->got = c->expects = 0;
    c->close_after = *last != 0;
    c->phase = HEAD;
    ssize_t sent = send(c->fd, request, (size_t)length, MSG_NOSIGNAL);
    if (sent != length)
        ended(c, sent < 0 ? errno : EMSGSIZE);
}

static void begin(struct connection *c, uint64_t t)
{
    int one = 1;
    c->opened = c->sent = t;
    c->answers = c->got = 0;
    c->port = 0;
    c->phase = CONNECTING;
    c->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (c->fd < 0)
        return fail(c, "no socket", 0);
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
    int result = connect(c->fd, (struct sockaddr *)&address, sizeof(address));
    int error = result ? errno : 0;
    if (error && error != EINPROGRESS) {
        if (error != ECONNREFUSED)
            return fail(c, strerrorname_np(error), 0);
        record_refusal(t);
        drop(c);
        return;
    }
    struct sockaddr_in own;
    socklen_t size = sizeof(own);
    if (!getsockname(c->fd, (struct sockaddr *)&own, &size))
        c->port = ntohs(own.sin_port);
    watch(c, EPOLL_CTL_ADD, EPOLLOUT | EPOLLIN);
}

static void connected(struct connection *c)
{
    int error = 0;
    socklen_t size = sizeof(error);
    getsockopt(c->fd, SOL_SOCKET, SO_ERROR, &error, &size);
    if (error == ECONNREFUSED) {
        record_refusal(now());
        drop(c);
        if (c->kind == TUNNEL)
            c->due = now() + REOPEN_NS;
    } else if (error) {
        fail(c, error == ECONNRESET ? "connect-reset" : strerrorname_np(error), 0);
    } else {
        watch(c, EPOLL_CTL_MOD, EPOLLIN);
        ask(c);
    }
}

/* ---- Reading ------------------------------------------------------------------------------ */

static char expected(const struct connection *c, size_t at)
{
    char number[24];
    if (c->kind == LOAD)
        return "0123456789abcdef"[at % 16];
    if (c->kind != ECHO)
        return 'x';
    snprintf(number, sizeof(number), "%020llu", (unsigned long long)c->number);
    return number[at];
}

static int check(struct connection *c, const char *data, size_t bytes)
{
    for (size_t i = 0; i < bytes; i++)
        if (c->got + i >= c->expects || data[i] != expected(c, c->got + i))
            return -1;
    c->got += bytes;
    return 0;
}

static void whole(struct connection *c)
{
    succeed(c);
    c->phase = IDLE;
    if (c->kind == LOAD || c->close_after)
        c->phase = LINGER; /* until the proxy closes it, as it said */
    else if (c->kind == FRESH)
        drop(c);
}

/* Read the head when it is whole. Returns what follows it in the buffer, NULL when there is none.
 */
static const char *read_head(struct connection *c, size_t *rest)
{
    char *end = memmem(c->head, c->got, "\r\n\r\n", 4);
    if (!end) {
        if (c->got == sizeof(c->head))
            fail(c, "wrong", 0);
        return NULL;
    }
    int status = c->got > 12 && !memcmp(c->head, "HTTP/1.1 ", 9) ? atoi(c->head + 9) : 0;
    if (status != (c->kind == TUNNEL ? 101 : 200)) {
        fail(c, status ? "status" : "wrong", status);
        return NULL;
    }
    size_t wanted = c->kind == LOAD ? DOWNLOAD : c->kind == ECHO ? 20 : BODY;
    c->expects = c->kind == TUNNEL ? 0 : (size_t)-1;
    for (char *line = memmem(c->head, c->got, "\r\n", 2); line && line < end;
         line = memmem(line, (size_t)(end + 2 - line), "\r\n", 2)) {
        line += 2;
        if (!strncasecmp(line, "content-length:", 15))
            c->expects = strtoul(line + 15, NULL, 10);
        else if (!strncasecmp(line, "connection: close", 17))
            c->close_after = 1;
    }
    if (c->kind != TUNNEL && c->expects != wanted) {
        fail(c, "wrong", status);
        return NULL;
    }
    *rest = c->got - (size_t)(end + 4 - c->head);
    c->got = 0;
    c->phase = c->kind == TUNNEL ? OPEN : CONTENT;
    if (c->phase == OPEN) {
        succeed(c);
        c->due = now();
    }
    return end + 4;
}

static void echo(struct connection *c, const char *data, size_t bytes)
{
    for (size_t i = 0; i < bytes; i++) {
        uint64_t number = c->echoed + (c->got + i) / 8;
        if (number >= c->number || data[i] != (char)(number >> (8 * ((c->got + i) % 8))))
            return fail(c, "wrong", 0);
    }
    c->got += bytes;
    c->echoed += c->got / 8;
    if (c->got >= 8)
        c->sent = now();
    c->got %= 8;
    tunnel_bytes += bytes;
}

/* Take what came; 0 when the socket is empty, or the connection is gone. */
static int take(struct connection *c)
{
    static char buffer[256 * 1024];
    int head = c->phase == HEAD;
    ssize_t got = head ? recv(c->fd, c->head + c->got, sizeof(c->head) - c->got, 0)
                       : recv(c->fd, buffer, sizeof(buffer), 0);
    if (got < 0 && (errno == EAGAIN || errno == EINTR))
        return 0;
    if (got <= 0) {
        ended(c, got ? errno : 0);
        return 0;
    }
    const char *data = buffer;
    size_t bytes = (size_t)got;
    if (c->phase == IDLE || c->phase == LINGER) {
        fail(c, "wrong", 0); /* bytes that nobody asked for */
        return 0;
    }
    if (head) {
        c->got += bytes;
        data = read_head(c, &bytes);
        if (!data)
            return c->fd >= 0;
    }
    if (c->phase == OPEN) {
        echo(c, data, bytes);
    } else if (check(c, data, bytes)) {
        fail(c, "wrong", 200);
    } else if (c->got == c->expects) {
        whole(c);
    }
    return c->fd >= 0;
}

static void on_event(struct connection *c, uint32_t mask)
{
    if (c->fd < 0)
        return;
    if (c->phase == CONNECTING) {
        if (mask & (EPOLLOUT | EPOLLERR | EPOLLHUP))
            connected(c);
        return;
    }
    while (take(c))
        ;
}

/* ---- Time --------------------------------------------------------------------------------- */

/* Connections that are kept: one request each period, none while the last one is not answered. */
static void serve_kept(struct connection *c, uint64_t t, uint64_t period)
{
    if (stopping || c->due > t)
        return;
    c->due += period;
    if (c->due + SECOND < t)
        c->due = t;
    if (c->phase == NONE)
        begin(c, t);
    else if (c->phase == IDLE)
        ask(c);
    else if (c->phase == LINGER) {
        drop(c);
        begin(c, t);
    } else
        late++;
}

static void serve_tunnel(struct connection *c, uint64_t t)
{
    if (stopping || c->due > t)
        return;
    if (c->phase == NONE) {
        begin(c, t);
    } else if (c->phase == OPEN) {
        uint64_t number = c->number++;
        if (number == c->echoed)
            c->sent = t; /* since when an echo is owed */
        ssize_t sent = send(c->fd, &number, 8, MSG_NOSIGNAL);
        if (sent != 8)
            ended(c, sent < 0 ? errno : EMSGSIZE);
    }
    if (c->phase != NONE)
        c->due = t + TUNNEL_NS;
}

static void open_fresh(enum kind kind, uint64_t t)
{
    static int next;
    for (int tries = CONNECTIONS_MAX - first_fresh; tries > 0; tries--) {
        struct connection *c = &connections[first_fresh + next];
        next = (next + 1) % (CONNECTIONS_MAX - first_fresh);
        if (c->phase == NONE) {
            c->kind = kind;
            begin(c, t);
            return;
        }
    }
    late++;
}

/* End what takes too long; returns how many exchanges are under way. */
static int scan(uint64_t t)
{
    int under_way = 0;
    for (int i = 0; i < CONNECTIONS_MAX; i++) {
        struct connection *c = &connections[i];
        if (c->phase == LINGER && t > c->sent + timeout_ns)
            drop(c);
        if (c->phase == OPEN && c->number != c->echoed && t > c->sent + timeout_ns)
            fail(c, "timeout-within", 0);
        if (c->phase != CONNECTING && c->phase != HEAD && c->phase != CONTENT)
            continue;
        if (t > c->sent + timeout_ns)
            fail(c,
                 c->phase == CONNECTING          ? "connect-timeout"
                 : c->got || c->phase == CONTENT ? "timeout-within"
                                                 : "timeout-before",
                 0);
        else
            under_way++;
    }
    struct connection *tunnel = &connections[kept_count + ECHOES];
    return under_way + (tunnel->phase == OPEN && tunnel->number != tunnel->echoed);
}

int main(int argc, char **argv)
{
    if (argc != 10) {
        fprintf(stderr,
                "usage: client ADDRESS PORT HOST KEPT KEPT_RATE FRESH_RATE ECHO_RATE TIMEOUT_S "
                "SECONDS_MAX\n");
        return 2;
    }
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    alarm((unsigned)atoi(argv[9]) + 30);
    signal(SIGTERM, stop);
    setlinebuf(stdout);
    host = argv[3];
    kept_count = atoi(argv[4]);
    first_fresh = kept_count + ECHOES + 1;
    timeout_ns = (uint64_t)(atof(argv[8]) * 1e9);
    address =
        (struct sockaddr_in){.sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(argv[2]))};
    struct rlimit limit = {CONNECTIONS_MAX + 64, CONNECTIONS_MAX + 64};
    connections = calloc(CONNECTIONS_MAX, sizeof(*connections));
    poll_fd = epoll_create1(EPOLL_CLOEXEC);
    if (inet_pton(AF_INET, argv[1], &address.sin_addr) != 1 || kept_count < 1 ||
        kept_count > 1024 || !connections || setrlimit(RLIMIT_NOFILE, &limit))
        return 2;
    uint64_t began = now(), kept_period = (uint64_t)(1e9 * kept_count / atof(argv[5])),
             fresh_period = (uint64_t)(1e9 / atof(argv[6])),
             echo_period = (uint64_t)(1e9 * ECHOES / atof(argv[7])),
             end = began + (uint64_t)atoi(argv[9]) * SECOND;
    for (int i = 0; i < CONNECTIONS_MAX; i++) {
        connections[i].fd = -1;
        connections[i].kind = i < kept_count ? KEPT : ECHO;
        connections[i].due =
            began + (i < kept_count ? kept_period * (uint64_t)i / (uint64_t)kept_count
                                    : echo_period * (uint64_t)(i - kept_count) / ECHOES);
    }
    struct connection *tunnel = &connections[kept_count + ECHOES];
    tunnel->kind = TUNNEL;
    tunnel->due = began;
    uint64_t fresh_due = began, load_due = began, scan_due = began;
    for (;;) {
        uint64_t t = now(), next = scan_due;
        if (t > end)
            stopping = 1;
        if (stopping && !stopped)
            stopped = t;
        for (int i = 0; i < kept_count + ECHOES; i++) {
            serve_kept(&connections[i], t, i < kept_count ? kept_period : echo_period);
            if (!stopping && connections[i].due < next)
                next = connections[i].due;
        }
        serve_tunnel(tunnel, t);
        for (; !stopping && fresh_due <= t; fresh_due += fresh_period)
            open_fresh(FRESH, t);
        if (!stopping && load_due <= t) {
            open_fresh(LOAD, t);
            load_due += SECOND;
        }
        if (scan_due <= t) {
            scan_due = t + SCAN_NS;
            if (!scan(t) && stopping)
                break;
        }
        if (!stopping) {
            next = fresh_due < next ? fresh_due : next;
            next = tunnel->due < next ? tunnel->due : next;
        }
        t = now();
        uint64_t left = next > t ? next - t : 0;
        struct timespec wait = {.tv_sec = (time_t)(left / SECOND),
                                .tv_nsec = (long)(left % SECOND)};
        struct epoll_event ready[256];
        int count = epoll_pwait2(poll_fd, ready, 256, &wait, NULL);
        uint64_t woke = now();
        if (woke > t + left + 1000000)
            record_lag(woke - t - left);
        for (int i = 0; i < count; i++)
            on_event(ready[i].data.ptr, ready[i].events);
        if (!ready_said && answered[KEPT] && answered[FRESH] && answered[ECHO] && answered[LOAD] &&
            answered[TUNNEL]) {
            ready_said = 1;
            printf("ready\n");
        }
    }
    record_gap(stopped);
    print_all(began);
    return 0;
}
