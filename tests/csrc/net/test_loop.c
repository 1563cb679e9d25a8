/* Both loops through net/loop.h: the same cases over uring and epoll. Peers are plain blocking
 * sockets of this process, or a second set of loop sockets.
 *
 * links: net/loop_epoll.c net/loop_uring.c
 * marks: slow */
#define _GNU_SOURCE
#include "net/loop.c"

#include <arpa/inet.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/wait.h>

#include "loop_fixture.h"
#include "tap.h"

static void case_echo(void)
{
    struct conn conn;
    char answer[8] = "";
    int peer = pair(&conn);

    ask_recv(&conn);
    loop_run_once(loop, 0);
    IS(conn.received, 0, "%s: nothing came, nothing is said", kind_name);
    OK(send(peer, "hello", 5, 0) == 5 && RUN_UNTIL(conn.received), "%s: bytes come", kind_name);
    IS_TEXT(conn.data, (size_t)conn.length, "hello", "%s: the right ones", kind_name);
    loop_run_once(loop, 0);
    IS(conn.received, 1, "%s: one receive asked, one told", kind_name);
    ask_send(&conn, "answer", 6);
    OK(RUN_UNTIL(conn.sent) && conn.sent_result == 0, "%s: sent", kind_name);
    IS(recv(peer, answer, sizeof(answer), 0), 6, "%s: and arrived", kind_name);
    /* Sent before the receive is asked for, and once more after a short read. */
    OK(send(peer, "two", 3, 0) == 3, "%s: early bytes", kind_name);
    loop_run_once(loop, 10);
    ask_recv(&conn);
    OK(RUN_UNTIL(conn.received == 2) && conn.length == 3, "%s: are not lost", kind_name);
    shutdown(peer, SHUT_WR);
    ask_recv(&conn);
    OK(RUN_UNTIL(conn.received == 3) && conn.length == 0, "%s: the end is 0", kind_name);
    ask_send(&conn, "late", 4);
    OK(RUN_UNTIL(conn.sent == 2) && recv(peer, answer, 8, 0) == 4, "%s: half-open", kind_name);
    loop_shutdown(&conn.socket);
    IS(recv(peer, answer, 8, 0), 0, "%s: shutdown sends FIN", kind_name);
    finish(&conn, peer);
    IS(conn.closed, 1, "%s: closed once", kind_name);
}

static void case_data_with_end(void)
{
    struct conn conn;
    int peer = pair(&conn);

    OK(send(peer, "last", 4, 0) == 4, "%s: last bytes", kind_name);
    close(peer);
    loop_run_once(loop, 10);
    ask_recv(&conn);
    OK(RUN_UNTIL(conn.received == 1) && conn.length == 4, "%s: come before", kind_name);
    ask_recv(&conn);
    OK(RUN_UNTIL(conn.received == 2) && conn.length == 0, "%s: the end", kind_name);
    finish(&conn, -1);
}

static void case_reset(void)
{
    struct linger hard = {.l_onoff = 1};
    struct conn conn;
    int peer = pair(&conn);

    ask_recv(&conn);
    loop_run_once(loop, 0);
    setsockopt(peer, SOL_SOCKET, SO_LINGER, &hard, sizeof(hard));
    close(peer);
    OK(RUN_UNTIL(conn.received), "%s: a reset ends the receive", kind_name);
    IS(conn.length, -ECONNRESET, "%s: with its errno", kind_name);
    ask_send(&conn, "x", 1);
    OK(RUN_UNTIL(conn.sent) && conn.sent_result == -EPIPE, "%s: and fails the send", kind_name);
    finish(&conn, -1);
}

struct reader {
    int fd;
    size_t wanted, got;
    bool same;
};

static void *read_all(void *argument)
{
    struct reader *reader = argument;
    static uint8_t part[100000];

    reader->same = true;
    while (reader->got < reader->wanted) {
        ssize_t n = recv(reader->fd, part, sizeof(part), 0);

        if (n <= 0)
            break;
        for (ssize_t i = 0; i < n; i++)
            reader->same &= part[i] == (uint8_t)((reader->got + (size_t)i) * 7 % 251);
        reader->got += (size_t)n;
    }
    return 0;
}

static void case_big_send(void)
{
    struct reader reader = {.wanted = 16 << 20};
    uint8_t *data = malloc(reader.wanted);
    struct conn conn;
    pthread_t thread;

    for (size_t i = 0; i < reader.wanted; i++)
        data[i] = (uint8_t)(i * 7 % 251);
    reader.fd = pair(&conn);
    ask_send(&conn, data, reader.wanted);
    for (int i = 0; i < 5; i++)
        loop_run_once(loop, 1);
    IS(conn.sent, 0, "%s: a full socket delays sent()", kind_name);
    loop_shutdown(&conn.socket);
    pthread_create(&thread, 0, read_all, &reader);
    OK(RUN_UNTIL(conn.sent) && conn.sent_result == 0, "%s: 16 MiB are sent", kind_name);
    pthread_join(thread, 0);
    OK(reader.got == reader.wanted && reader.same, "%s: whole and in order", kind_name);
    IS(recv(reader.fd, data, 1, 0), 0, "%s: a shutdown waits for the send", kind_name);
    finish(&conn, reader.fd);
    free(data);
}

static void *write_all(void *argument)
{
    struct reader *writer = argument;
    static uint8_t part[50000];

    while (writer->got < writer->wanted) {
        ssize_t n = send(writer->fd, part, sizeof(part), MSG_NOSIGNAL);

        if (n <= 0)
            break;
        writer->got += (size_t)n;
    }
    shutdown(writer->fd, SHUT_WR);
    return 0;
}

static void case_big_receive(void)
{
    struct reader writer = {.wanted = 10000000};
    struct conn conn;
    pthread_t thread;

    writer.fd = pair(&conn);
    conn.bulk = true;
    conn.stop_at = SIZE_MAX;
    pthread_create(&thread, 0, write_all, &writer);
    ask_recv(&conn);
    OK(RUN_UNTIL(conn.length == 0 && conn.received), "%s: 10 MB come to their end", kind_name);
    pthread_join(thread, 0);
    IS(conn.total, writer.got, "%s: all of them", kind_name);
    finish(&conn, writer.fd);
}

static void case_connect(void)
{
    struct sockaddr_in address;
    struct conn conn = {0};
    int door_fd = listening(&address), fd;

    loop_socket_init(loop, &conn.socket, socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0),
                     &handlers);
    inside++;
    loop_connect(&conn.socket, (struct sockaddr *)&address, sizeof(address));
    inside--;
    OK(RUN_UNTIL(conn.connected) && conn.connect_result == 0, "%s: connected", kind_name);
    fd = accept(door_fd, 0, 0);
    ask_recv(&conn);
    ask_send(&conn, "hi", 2);
    OK(RUN_UNTIL(conn.sent) && recv(fd, conn.data, 2, 0) == 2, "%s: and sends", kind_name);
    OK(send(fd, "yo", 2, 0) == 2 && RUN_UNTIL(conn.received), "%s: and receives", kind_name);
    finish(&conn, fd);

    close(door_fd);
    memset(&conn, 0, sizeof(conn));
    loop_socket_init(loop, &conn.socket, socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0),
                     &handlers);
    loop_connect(&conn.socket, (struct sockaddr *)&address, sizeof(address));
    OK(RUN_UNTIL(conn.connected), "%s: a refused connect ends", kind_name);
    IS(conn.connect_result, -ECONNREFUSED, "%s: with its errno", kind_name);
    finish(&conn, -1);
}

static void case_close_outstanding(void)
{
    uint8_t *data = calloc(1, 8 << 20);
    struct conn conn;
    int peer = pair(&conn), told;

    ask_recv(&conn);
    ask_send(&conn, data, 8 << 20);
    loop_run_once(loop, 5);
    told = conn.received + conn.sent;
    ask_close(&conn);
    OK(RUN_UNTIL(conn.closed), "%s: closes with a receive and a send outstanding", kind_name);
    IS(conn.received + conn.sent, told, "%s: which are not told any more", kind_name);
    memset(&conn.socket, 0xee, sizeof(conn.socket)); /* ours again */
    loop_run_once(loop, 1);
    close(peer);
    free(data);

    /* Asked and closed before the loop ran at all; bytes are there already. */
    peer = pair(&conn);
    OK(send(peer, "x", 1, 0) == 1, "%s: bytes wait", kind_name);
    ask_recv(&conn);
    ask_close(&conn);
    OK(RUN_UNTIL(conn.closed) && conn.received == 0, "%s: closed before its first run", kind_name);
    close(peer);
}

static void case_many(void)
{
    static struct conn conns[MANY];
    static int peers[MANY];
    struct sockaddr_in address;
    int one = 0, good = 0, gone = 0;
    socklen_t length = sizeof(one);
    char answer[8];

    memset(&door, 0, sizeof(door));
    memset(conns, 0, sizeof(conns));
    door.listener.fd = listening(&address);
    door.listener.accepted = accepted;
    inside++;
    loop_listen(loop, &door.listener);
    inside--;
    for (int i = 0; i < MANY; i++)
        peers[i] = dial(&address);
    OK(RUN_UNTIL(door.count == MANY), "%s: %d accepted", kind_name, MANY);
    getsockopt(door.fds[0], IPPROTO_TCP, TCP_NODELAY, &one, &length);
    OK(one && fcntl(door.fds[0], F_GETFL) & O_NONBLOCK, "%s: NODELAY, non-blocking", kind_name);
    OK(fcntl(door.fds[0], F_GETFD) & FD_CLOEXEC, "%s: closed on exec", kind_name);
    for (int i = 0; i < MANY; i++) {
        conns[i].echo = true;
        loop_socket_init(loop, &conns[i].socket, door.fds[i], &handlers);
        ask_recv(&conns[i]);
    }
    /* All at once, with eight shared buffers: whoever finds none is served in a later batch. */
    for (int round = 0; round < 3; round++)
        for (int i = 0; i < MANY; i++)
            good += send(peers[i], "ping", 4, 0) == 4;
    for (int i = 0; i < MANY; i++)
        good += RUN_UNTIL(conns[i].total == 12 && !(conns[i].socket.pending & PENDING_SEND));
    for (int i = 0; i < MANY; i++)
        for (int got = 0, n = 1; n > 0 && got < 12; got += n)
            good += (n = (int)recv(peers[i], answer, sizeof(answer), 0)) > 0 ? n : 0;
    IS(good, 3 * MANY + MANY + 12 * MANY, "%s: all of %d are answered", kind_name, MANY);
    for (int i = 0; i < MANY; i++)
        close(peers[i]);
    for (int i = 0; i < MANY; i++)
        gone += RUN_UNTIL(conns[i].closed == 1);
    IS(gone, MANY, "%s: all end", kind_name);

    loop_unlisten(&door.listener);
    OK(RUN_UNTIL(!door.listener.loop), "%s: the listener is let go", kind_name);
    peers[0] = dial(&address);
    door.count = 0;
    loop_run_once(loop, 20);
    IS(door.count, 0, "%s: a later connection stays in the queue", kind_name);
    loop_listen(loop, &door.listener);
    OK(RUN_UNTIL(door.count == 1), "%s: until somebody listens again", kind_name);
    close(peers[0]);
    close(door.fds[0]);
    loop_unlisten(&door.listener);
    loop_listen(loop, &door.listener);
    peers[0] = dial(&address);
    OK(RUN_UNTIL(door.count == 2), "%s: unlisten and listen in one breath", kind_name);
    close(peers[0]);
    close(door.fds[1]);
    loop_unlisten(&door.listener);
    OK(RUN_UNTIL(!door.listener.loop), "%s: and go", kind_name);
    close(door.listener.fd);
}

static void case_descriptors_out(void)
{
    struct rlimit was, tight;
    struct sockaddr_in address;
    int peers[2];
    uint64_t began;

    memset(&door, 0, sizeof(door));
    door.listener.fd = listening(&address);
    door.listener.accepted = accepted;
    peers[0] = dial(&address);
    getrlimit(RLIMIT_NOFILE, &was);
    tight = was;
    tight.rlim_cur = (rlim_t)peers[0] + 1;
    setrlimit(RLIMIT_NOFILE, &tight);
    loop_listen(loop, &door.listener);
    OK(RUN_UNTIL(door.failed), "%s: out of descriptors is told", kind_name);
    IS(door.failed, -EMFILE, "%s: as EMFILE", kind_name);
    setrlimit(RLIMIT_NOFILE, &was);
    began = now_ms();
    OK(RUN_UNTIL(door.count), "%s: accepting goes on by itself", kind_name);
    OK(now_ms() - began >= 50, "%s: after a pause", kind_name);
    loop_unlisten(&door.listener);
    RUN_UNTIL(!door.listener.loop);
    close(door.fds[0]);
    close(peers[0]);
    close(door.listener.fd);
}

static void *wake(void *argument)
{
    loop_wake(argument);
    return 0;
}

static void case_wake(void)
{
    pthread_t thread;
    uint64_t began = now_ms();

    for (int i = 0; i < 3; i++) {
        pthread_create(&thread, 0, wake, loop);
        while (loop_run_once(loop, DEADLINE_MS) == 0 && now_ms() < began + DEADLINE_MS)
            continue;
        pthread_join(thread, 0);
    }
    OK(now_ms() < began + DEADLINE_MS, "%s: woken from another thread", kind_name);
    began = now_ms();
    while (now_ms() < began + 30)
        loop_run_once(loop, 30);
    OK(now_ms() < began + DEADLINE_MS, "%s: a timeout ends the wait", kind_name);
    OK(loop_now_ns(loop) / 1000000 + 1000 > now_ms(), "%s: the clock is read", kind_name);
}

/* A process that accepts one connection and dies: what it left in the queue is its successor's. */
static void case_queue_survives(enum edge_loop_kind kind)
{
    enum { WAITING = 20 };
    struct loop_options options = {kind, 8, BUFFER_BYTES};
    struct sockaddr_in address;
    struct edge_error err;
    int peers[WAITING + 1], fd, good = 0, status;
    pid_t child;

    memset(&door, 0, sizeof(door));
    fd = door.listener.fd = listening(&address);
    door.listener.accepted = accepted;
    child = fork();
    if (child == 0) {
        if (loop_create(&options, &loop, &err) || loop_enable(loop, &err))
            _exit(3);
        loop_listen(loop, &door.listener);
        RUN_UNTIL(door.count == 1);
        raise(SIGSTOP);
        _exit(0);
    }
    peers[0] = dial(&address);
    waitpid(child, &status, WUNTRACED);
    OK(WIFSTOPPED(status), "%s: an acceptor took one and stands still", kind_name);
    for (int i = 1; i <= WAITING; i++) {
        peers[i] = dial(&address);
        good += send(peers[i], "q", 1, 0) == 1;
    }
    kill(child, SIGKILL);
    waitpid(child, &status, 0);
    loop_listen(loop, &door.listener);
    OK(RUN_UNTIL(door.count == WAITING), "%s: those that waited are taken over", kind_name);
    for (int i = 0; i < door.count; i++) {
        char byte;

        good += recv(door.fds[i], &byte, 1, 0) == 1;
        close(door.fds[i]);
    }
    IS(good, 2 * WAITING, "%s: with what they had sent", kind_name);
    loop_unlisten(&door.listener);
    RUN_UNTIL(!door.listener.loop);
    for (int i = 0; i <= WAITING; i++)
        close(peers[i]);
    close(fd);
}

static void run_all(enum edge_loop_kind kind, const char *name)
{
    struct loop_options options = {kind, 8, BUFFER_BYTES};
    struct edge_error err;

    kind_name = name;
    if (!OK(loop_create(&options, &loop, &err) == EDGE_OK, "%s: made", name)) {
        printf("#   %s\n", err.reason);
        return;
    }
    IS(loop_kind(loop), kind, "%s: of that kind", name);
    OK(loop_enable(loop, &err) == EDGE_OK, "%s: enabled", name);
    case_echo();
    case_data_with_end();
    case_reset();
    case_big_send();
    case_big_receive();
    case_connect();
    case_close_outstanding();
    case_many();
    case_descriptors_out();
    case_wake();
    case_queue_survives(kind);
    IS(rule_broken, 0, "%s: no callback inside the call that asked", name);
    loop_destroy(loop);
}

int main(void)
{
    struct loop_options wrong = {EDGE_LOOP_AUTO, 6, 4096};
    struct loop_options automatic = {EDGE_LOOP_AUTO, 8, 4096};
    struct edge_error err;
    struct rlimit files;

    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max < 4096 ? files.rlim_max : 4096;
    setrlimit(RLIMIT_NOFILE, &files);
    IS(loop_create(&wrong, &loop, &err), EDGE_ERR_INVALID, "six buffers are refused");
    run_all(EDGE_LOOP_EPOLL, "epoll");
    run_all(EDGE_LOOP_URING, "uring");
    OK(loop_create(&automatic, &loop, &err) == EDGE_OK, "automatic");
    IS(loop_kind(loop), EDGE_LOOP_URING, "prefers uring where it can be had");
    loop_destroy(loop);
    return tap_done();
}
