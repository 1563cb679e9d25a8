/*
 * A client of the proxy benchmarks: requests from a file of lines, kept connections with one
 * request in flight, answers counted. Included by load.c (one address, latencies) and turns.c (two
 * addresses in turns, processor time); every program has one set of counters.
 */
#ifndef BENCH_CLIENT_H
#define BENCH_CLIENT_H
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define EVENTS 128

struct connection {
    int fd;
    int busy;
    uint64_t due;
    size_t got;     /* bytes of the answer in buffer */
    size_t expects; /* whole answer, 0 while the head is incomplete */
    char buffer[16384];
};

/* Lines "HOST PATH", each request is for the next of them; at NULL: none. */
struct lines {
    const char *first, *end, *at;
};

static char request[2048];
static size_t request_bytes;
static uint64_t errors, closed;

static uint64_t now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000ull + (uint64_t)t.tv_nsec;
}

static void fail(struct connection *c)
{
    closed++;
    errors += (uint64_t)c->busy;
    close(c->fd);
    c->fd = -1;
}

static void compose(const char *host, int host_bytes, const char *path, int path_bytes)
{
    request_bytes = (size_t)snprintf(request, sizeof(request),
                                     "GET %.*s HTTP/1.1\r\nHost: %.*s\r\nUser-Agent: load/1\r\n"
                                     "Accept: */*\r\nAccept-Encoding: identity\r\n\r\n",
                                     path_bytes, path, host_bytes, host);
}

static void next_line(struct lines *lines)
{
    const char *blank = memchr(lines->at, ' ', (size_t)(lines->end - lines->at));
    const char *end = memchr(lines->at, '\n', (size_t)(lines->end - lines->at));
    if (!blank || !end || blank > end)
        exit(2);
    compose(lines->at, (int)(blank - lines->at), blank + 1, (int)(end - blank - 1));
    lines->at = end + 1 < lines->end ? end + 1 : lines->first;
}

static void read_lines(struct lines *lines, const char *name)
{
    int file = open(name, O_RDONLY | O_CLOEXEC);
    off_t size = file < 0 ? -1 : lseek(file, 0, SEEK_END);
    if (size <= 0)
        exit(2);
    lines->first = mmap(NULL, (size_t)size, PROT_READ, MAP_PRIVATE | MAP_POPULATE, file, 0);
    if (lines->first == MAP_FAILED)
        exit(2);
    lines->end = lines->first + size;
    lines->at = lines->first;
    close(file);
}

static void ask(struct connection *c, struct lines *lines, uint64_t due)
{
    if (lines->at)
        next_line(lines);
    c->busy = 1;
    c->due = due;
    c->got = c->expects = 0;
    if (send(c->fd, request, request_bytes, MSG_NOSIGNAL) != (ssize_t)request_bytes)
        fail(c);
}

/* Whole length of the answer: 0 = head incomplete, (size_t)-1 = not what we asked for. */
static size_t measure(struct connection *c)
{
    char *end = memmem(c->buffer, c->got, "\r\n\r\n", 4);
    if (!end)
        return c->got == sizeof(c->buffer) ? (size_t)-1 : 0;
    if (memcmp(c->buffer, "HTTP/1.1 200", 12) != 0)
        return (size_t)-1;
    for (char *line = c->buffer; line && line < end;) {
        line = memmem(line, (size_t)(end - line), "\r\n", 2);
        if (!line)
            break;
        line += 2;
        if (!strncasecmp(line, "content-length:", 15))
            return (size_t)(end + 4 - c->buffer) + strtoul(line + 15, NULL, 10);
    }
    return (size_t)-1;
}

/* Take what has come; 1 when the answer is whole. */
static int take(struct connection *c)
{
    size_t kept =
        c->got < sizeof(c->buffer) ? c->got : 0; /* body bytes beyond a buffer are dropped */
    ssize_t got = recv(c->fd, c->buffer + kept, sizeof(c->buffer) - kept, 0);
    if (got < 0 && errno == EAGAIN)
        return 0;
    if (got <= 0 || !c->busy) {
        fail(c);
        return 0;
    }
    c->got += (size_t)got;
    if (!c->expects)
        c->expects = measure(c);
    if (c->expects == (size_t)-1 || (c->expects && c->got > c->expects)) {
        fail(c);
        return 0;
    }
    return c->expects && c->got == c->expects;
}

/* Connects and adds it to an epoll set; ends the program when it cannot. */
static void open_connection(struct connection *c, const char *address, const char *port, int loop)
{
    struct sockaddr_in there = {.sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(port))};
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = c};
    int one = 1;

    c->fd = socket(AF_INET, SOCK_STREAM, 0);
    if (inet_pton(AF_INET, address, &there.sin_addr) != 1 ||
        connect(c->fd, (struct sockaddr *)&there, sizeof(there))) {
        perror("connect");
        exit(1);
    }
    fcntl(c->fd, F_SETFL, O_NONBLOCK);
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
    epoll_ctl(loop, EPOLL_CTL_ADD, c->fd, &event);
}

#endif
