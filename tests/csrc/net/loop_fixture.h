/* What test_loop.c stands on: connections that note what their callbacks said, blocking peers, a
 * wait for a condition. Included after net/loop.c, by one test program only. */
#ifndef TESTS_LOOP_FIXTURE_H
#define TESTS_LOOP_FIXTURE_H

enum { DEADLINE_MS = 20000, BUFFER_BYTES = 4096, MANY = 500 };

/* A connection under test and everything that its callbacks said. */
struct conn {
    struct loop_socket socket;
    uint8_t data[BUFFER_BYTES];
    int length;   /* of the last received() */
    int received; /* calls */
    int sent, sent_result;
    int connected, connect_result;
    int closed;
    size_t total;
    size_t stop_at; /* bulk: close when that much came */
    bool echo, bulk;
};

static struct loop *loop;
static const char *kind_name;
static unsigned inside; /* a call of ours is running: callbacks must not come */
static unsigned rule_broken;
static uint8_t bulk_buffer[65536];

static struct conn *of_socket(struct loop_socket *socket)
{
    return (struct conn *)((char *)socket - offsetof(struct conn, socket));
}

static void ask_recv(struct conn *conn)
{
    inside++;
    if (conn->bulk)
        loop_recv_into(&conn->socket, bulk_buffer, sizeof(bulk_buffer));
    else
        loop_recv(&conn->socket);
    inside--;
}

static void ask_send(struct conn *conn, const void *data, size_t length)
{
    inside++;
    loop_send(&conn->socket, data, length);
    inside--;
}

static void ask_close(struct conn *conn)
{
    inside++;
    loop_close(&conn->socket);
    inside--;
}

static void received(struct loop_socket *socket, uint8_t *data, int length)
{
    struct conn *conn = of_socket(socket);

    rule_broken += inside;
    conn->received++;
    conn->length = length;
    if (length > 0) {
        conn->total += (size_t)length;
        memcpy(conn->data, data, length > BUFFER_BYTES ? BUFFER_BYTES : (size_t)length);
        if (conn->echo)
            ask_send(conn, conn->data, (size_t)length);
        else if (conn->bulk && conn->total < conn->stop_at)
            ask_recv(conn);
    } else if (conn->echo) {
        ask_close(conn);
    }
}

static void sent(struct loop_socket *socket, int result)
{
    struct conn *conn = of_socket(socket);

    rule_broken += inside;
    conn->sent++;
    conn->sent_result = result;
    if (conn->echo && result == 0)
        ask_recv(conn);
}

static void connected(struct loop_socket *socket, int result)
{
    struct conn *conn = of_socket(socket);

    rule_broken += inside;
    conn->connected++;
    conn->connect_result = result;
}

static void closed(struct loop_socket *socket)
{
    rule_broken += inside;
    of_socket(socket)->closed++;
}

static const struct loop_handlers handlers = {received, sent, connected, closed};

static struct {
    struct loop_listener listener;
    int fds[MANY];
    int count, failed;
} door;

static void accepted(struct loop_listener *listener, int fd)
{
    (void)listener;
    rule_broken += inside;
    if (fd < 0)
        door.failed = fd;
    else if (door.count < MANY)
        door.fds[door.count++] = fd;
    else
        close(fd);
}

#define RUN_UNTIL(condition)                                                                       \
    ({                                                                                             \
        uint64_t until = now_ms() + DEADLINE_MS;                                                   \
        while (!(condition) && now_ms() < until)                                                   \
            loop_run_once(loop, 20);                                                               \
        (condition);                                                                               \
    })

static uint64_t now_ms(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

static int listening(struct sockaddr_in *address)
{
    socklen_t length = sizeof(*address);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

    *address = (struct sockaddr_in){.sin_family = AF_INET, .sin_addr.s_addr = htonl(0x7f000001)};
    if (bind(fd, (struct sockaddr *)address, length) < 0 || listen(fd, 1024) < 0 ||
        getsockname(fd, (struct sockaddr *)address, &length) < 0)
        abort();
    return fd;
}

static int dial(const struct sockaddr_in *address)
{
    struct timeval limit = {.tv_sec = DEADLINE_MS / 1000};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

    if (fd < 0 || connect(fd, (const struct sockaddr *)address, sizeof(*address)) < 0)
        abort();
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
    return fd;
}

/* A connected pair: ours is non-blocking and in `conn`, the peer's descriptor is returned. */
static int pair(struct conn *conn)
{
    struct sockaddr_in address;
    int door_fd = listening(&address);
    int peer = dial(&address);
    int fd = accept4(door_fd, 0, 0, SOCK_NONBLOCK | SOCK_CLOEXEC);

    close(door_fd);
    memset(conn, 0, sizeof(*conn));
    loop_socket_init(loop, &conn->socket, fd, &handlers);
    return peer;
}

static void finish(struct conn *conn, int peer)
{
    ask_close(conn);
    RUN_UNTIL(conn->closed);
    if (peer >= 0)
        close(peer);
}

#endif
