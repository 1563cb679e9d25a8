/* sandbox_enter() from inside: what is refused by system call, what by the ring, what still works.
 *
 * Each case runs in a child (there is no way back); it writes its findings to shared memory. Run
 * as root it also gives up root, run as anybody else it keeps its uid: no case is left out.
 *
 * links: net/loop.c net/loop_epoll.c net/tls_context.c */
#define _GNU_SOURCE
#include "net/sandbox.c"

/* Included for the ring inside: the refusals by the ring are asked for by hand. */
#include "net/loop_uring.c"

#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <openssl/pem.h>
#include <openssl/ssl.h>
#include <pthread.h>
#include <sys/wait.h>
#include <time.h>

#include "net/tls.h"
#include "net/tls_context.h"
#include "tap.h"

enum { FINDINGS_MAX = 200, NOBODY = 65534 };

struct finding {
    char name[80];
    int ok, got;
};

static struct {
    struct finding all[FINDINGS_MAX];
    int count;
    int entered;
} *shared;

static struct {
    char chain[4096], key[4096];
    size_t chain_bytes, key_bytes;
} *secrets;

static void find(int ok, int got, const char *name)
{
    struct finding *finding = &shared->all[shared->count++];

    snprintf(finding->name, sizeof(finding->name), "%s", name);
    finding->ok = ok;
    finding->got = got;
}

/* The call must fail with EPERM, whatever else is wrong with its arguments. */
#define REFUSED(call, name)                                                                        \
    do {                                                                                           \
        errno = 0;                                                                                 \
        long result = (long)(call);                                                                \
        find(result == -1 && errno == EPERM, errno, "refused: " name);                             \
    } while (0)
#define ALLOWED(call, name)                                                                        \
    do {                                                                                           \
        errno = 0;                                                                                 \
        long result = (long)(call);                                                                \
        find(result >= 0, errno, "works: " name);                                                  \
    } while (0)

static void enter(void)
{
    struct sandbox_options options = {geteuid() == 0 ? NOBODY : 0, geteuid() == 0 ? NOBODY : 0};
    struct edge_error err = {0};
    int rc = sandbox_enter(&options, &err);

    find(rc == EDGE_OK, rc, "entered");
    shared->entered = rc == EDGE_OK;
}

static void try_calls(void)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(0x7f000001)};
    struct io_uring_params params = {0};
    char *none[] = {0};
    int tcp, both[2];

    enter();
    REFUSED(open("/etc/passwd", O_RDONLY), "open a file");
    REFUSED(syscall(SYS_openat2, AT_FDCWD, "/", 0, 0), "openat2");
    REFUSED(syscall(SYS_open_by_handle_at, -1, 0, 0), "open_by_handle_at");
    REFUSED(creat("/tmp/never", 0600), "make a file");
    REFUSED(unlink("/tmp/never"), "remove a file");
    REFUSED(syscall(SYS_memfd_create, "x", 0), "memfd_create");
    REFUSED(syscall(SYS_io_uring_setup, 8, &params), "a new ring");
    REFUSED(syscall(SYS_io_uring_register, 0, IORING_REGISTER_BUFFERS, 0, 0), "ring: buffers");
    REFUSED(syscall(SYS_io_uring_register, 0, IORING_REGISTER_PERSONALITY, 0, 0), "personality");
    REFUSED(socket(AF_UNIX, SOCK_STREAM, 0), "AF_UNIX");
    REFUSED(socket(AF_NETLINK, SOCK_RAW, 0), "AF_NETLINK");
    REFUSED(socket(AF_PACKET, SOCK_RAW, 0), "AF_PACKET");
    REFUSED(socket(AF_VSOCK, SOCK_STREAM, 0), "AF_VSOCK");
    REFUSED(socket(AF_INET, SOCK_DGRAM, 0), "datagram");
    REFUSED(socket(AF_INET6, SOCK_DGRAM | SOCK_NONBLOCK, 0), "datagram over IPv6");
    REFUSED(socket(AF_INET, SOCK_RAW, IPPROTO_ICMP), "raw");
    REFUSED(socket(AF_INET, SOCK_SEQPACKET, 0), "seqpacket");
    REFUSED(socket(AF_INET, SOCK_STREAM, 132), "SCTP");
    REFUSED(socket(AF_INET, SOCK_STREAM, 262), "MPTCP");
    REFUSED(socketpair(AF_UNIX, SOCK_STREAM, 0, both), "socketpair");
    tcp = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    find(tcp >= 0, errno, "works: a TCP socket");
    ALLOWED(socket(AF_INET6, SOCK_STREAM, IPPROTO_TCP), "a TCP socket over IPv6");
    REFUSED(bind(tcp, (struct sockaddr *)&address, sizeof(address)), "bind");
    REFUSED(listen(tcp, 1), "listen");
    REFUSED(execve("/bin/true", none, none), "execve");
    REFUSED(syscall(SYS_execveat, -1, "/bin/true", none, none, 0), "execveat");
    REFUSED(syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0), "fork");
    REFUSED(unshare(CLONE_NEWUSER), "unshare");
    REFUSED(setns(0, 0), "setns");
    REFUSED(setuid(0), "setuid");
    REFUSED(kill(1, 0), "kill");
    REFUSED(syscall(SYS_ptrace, 0, 0, 0, 0), "ptrace");
    REFUSED(syscall(SYS_bpf, 0, 0, 0), "bpf");
    REFUSED(syscall(SYS_perf_event_open, 0, 0, 0, 0, 0), "perf_event_open");
    REFUSED(syscall(SYS_userfaultfd, 0), "userfaultfd");
    REFUSED(syscall(SYS_keyctl, 0, 0, 0, 0, 0), "keyctl");
    REFUSED(syscall(SYS_mount, 0, 0, 0, 0, 0), "mount");
    REFUSED(syscall(SYS_pidfd_getfd, -1, 0, 0), "pidfd_getfd");
    REFUSED(syscall(SYS_process_vm_readv, 1, 0, 0, 0, 0, 0), "process_vm_readv");
    REFUSED(prctl(PR_SET_DUMPABLE, 1, 0, 0, 0), "prctl other than a name");
    ALLOWED(prctl(PR_SET_NAME, "worker", 0, 0, 0), "a thread's name");
    find(mmap(0, 4096, PROT_READ | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) == MAP_FAILED,
         errno, "refused: executable memory");
    find(mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) != MAP_FAILED,
         errno, "works: memory");
    REFUSED(mprotect((void *)((uintptr_t)shared & ~4095UL), 4096, PROT_READ | PROT_EXEC),
            "making memory executable");
    errno = 0;
    find(syscall(SYS_clone3, 0, 0) == -1 && errno == ENOSYS, errno, "clone3 is not there");
}

static void *run_thread(void *argument)
{
    /* Seccomp and no_new_privs hold on every thread. */
    *(int *)argument = open("/etc/passwd", O_RDONLY) == -1 && errno == EPERM;
    return 0;
}

static int total, ended;

static void on_received(struct loop_socket *socket, uint8_t *data, int length)
{
    (void)data;
    total += length > 0 ? length : 0;
    loop_close(socket);
}

static void on_connected(struct loop_socket *socket, int result)
{
    total += result == 0 ? 1 : 1000;
    loop_send(socket, (const uint8_t *)"hello", 5);
}

static void on_sent(struct loop_socket *socket, int result)
{
    total += result == 0 ? 10 : 1000;
    loop_close(socket);
}

static void on_closed(struct loop_socket *socket)
{
    (void)socket;
    ended++;
}

static const struct loop_handlers handlers = {
    .received = on_received, .sent = on_sent, .connected = on_connected, .closed = on_closed};

static struct loop *inner;
static struct loop_socket incoming, outgoing;

static void on_accepted(struct loop_listener *listener, int fd)
{
    (void)listener;
    if (fd < 0)
        return;
    loop_socket_init(inner, &incoming, fd, &handlers);
    loop_recv(&incoming);
}

/* A listener from outside, a thread, a connection from its connect to its end. */
static void use_loop(enum edge_loop_kind kind)
{
    struct loop_options options = {kind, 8, 4096};
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(0x7f000001)};
    socklen_t length = sizeof(address);
    struct loop_listener listener = {.accepted = on_accepted};
    struct edge_error err = {0};
    pthread_t thread;
    int refused = 0;

    listener.fd = socket(AF_INET, SOCK_STREAM, 0);
    find(!bind(listener.fd, (struct sockaddr *)&address, length) && !listen(listener.fd, 8) &&
             !getsockname(listener.fd, (struct sockaddr *)&address, &length),
         errno, "a listener from outside");
    find(loop_create(&options, &inner, &err) == EDGE_OK, err.sys_errno, "a loop from outside");
    enter();
    if (!shared->entered)
        return;
    find(pthread_create(&thread, 0, run_thread, &refused) == 0, errno, "works: a thread");
    pthread_join(thread, 0);
    find(refused, refused, "refused: a file, on another thread");
    find(loop_enable(inner, &err) == EDGE_OK, err.sys_errno, "works: enabling the loop");
    loop_listen(inner, &listener);
    loop_socket_init(inner, &outgoing, socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0), &handlers);
    loop_connect(&outgoing, (struct sockaddr *)&address, length);
    for (int i = 0; i < 500 && ended < 2; i++)
        loop_run_once(inner, 10);
    find(total == 16 && ended == 2, total, "works: accept, connect, send, receive, close");
}

static void use_epoll(void)
{
    use_loop(EDGE_LOOP_EPOLL);
}

static void use_uring(void)
{
    use_loop(EDGE_LOOP_URING);
}

static int ask_ring(struct uring_loop *self, int operation, int flags)
{
    struct io_uring_sqe *sqe = io_uring_get_sqe(&self->ring);
    struct io_uring_cqe *cqe;
    int result;

    memset(sqe, 0, sizeof(*sqe));
    sqe->opcode = (uint8_t)operation;
    sqe->flags = (uint8_t)flags;
    sqe->fd = -1;
    sqe->user_data = 99 << 3;
    do {
        if (io_uring_submit_and_wait(&self->ring, 1) < 0 || io_uring_peek_cqe(&self->ring, &cqe))
            return -1;
        result = cqe->user_data == 99 << 3 ? cqe->res : 1;
        io_uring_cqe_seen(&self->ring, cqe);
    } while (result == 1);
    return result;
}

/* Numbers of include/uapi/linux/io_uring.h; the newer ones are not in Debian 12's header. */
static void ask_rings(void)
{
    static const struct {
        int number;
        const char *name;
    } operations[] = {
        {18, "OPENAT"},
        {28, "OPENAT2"},
        {45, "SOCKET"},
        {56, "BIND"},
        {57, "LISTEN"},
        {46, "URING_CMD"},
        {80, "URING_CMD128"},
        {22, "READ"},
        {23, "WRITE"},
        {9, "SENDMSG"},
        {10, "RECVMSG"},
        {21, "STATX"},
        {35, "RENAMEAT"},
        {36, "UNLINKAT"},
        {37, "MKDIRAT"},
        {30, "SPLICE"},
        {40, "MSG_RING"},
        {29, "EPOLL_CTL"},
        {20, "FILES_UPDATE"},
        {31, "PROVIDE_BUFFERS"},
        {54, "FIXED_FD_INSTALL"},
        {0, "NOP"},
    };
    struct loop_options options = {EDGE_LOOP_URING, 8, 4096};
    struct edge_error err = {0};
    char name[64];

    find(loop_create(&options, &inner, &err) == EDGE_OK, err.sys_errno, "a ring from outside");
    enter();
    find(loop_enable(inner, &err) == EDGE_OK, err.sys_errno, "enabled inside");
    for (size_t i = 0; i < sizeof(operations) / sizeof(operations[0]); i++) {
        int result = ask_ring(of(inner), operations[i].number, 0);
        /* An operation that this kernel does not know is refused as EINVAL. */
        bool refused = result == -EACCES || result == -EINVAL;

        snprintf(name, sizeof(name), "by the ring: %s", operations[i].name);
        if (operations[i].number == IORING_OP_READ) {
            find(result == -EBADF, result, "the ring reads (its eventfd): allowed");
            continue;
        }
        find(refused, result, name);
    }
    find(ask_ring(of(inner), IORING_OP_RECV, IOSQE_ASYNC) == -EACCES, 0, "by the ring: ASYNC");
    find(ask_ring(of(inner), IORING_OP_RECV, IOSQE_FIXED_FILE) == -EACCES, 0,
         "by the ring: FIXED_FILE");
    find(ask_ring(of(inner), IORING_OP_RECV, IOSQE_IO_LINK) == -EACCES, 0, "by the ring: LINK");
}

/* In a process of its own: the one that is tested must meet OpenSSL in the sandbox first. */
static void make_secrets(void)
{
    EVP_PKEY *key = EVP_EC_gen("P-256");
    X509 *x509 = X509_new();
    BIO *chain = BIO_new(BIO_s_mem()), *secret = BIO_new(BIO_s_mem());

    ASN1_INTEGER_set(X509_get_serialNumber(x509), 1);
    X509_gmtime_adj(X509_getm_notBefore(x509), -60);
    X509_gmtime_adj(X509_getm_notAfter(x509), 3600);
    X509_set_pubkey(x509, key);
    X509_sign(x509, key, EVP_sha256());
    PEM_write_bio_X509(chain, x509);
    PEM_write_bio_PrivateKey(secret, key, 0, 0, 0, 0, 0);
    secrets->chain_bytes = (size_t)BIO_read(chain, secrets->chain, sizeof(secrets->chain));
    secrets->key_bytes = (size_t)BIO_read(secret, secrets->key, sizeof(secrets->key));
}

static struct tls_certificate *choose(void *owner, struct slice name)
{
    (void)name;
    return owner;
}

/* Images are prepared inside: OpenSSL must start, load a key and shake hands without a file. */
static void use_tls(void)
{
    struct tls_certificate *certificate = 0;
    struct tls_server *server;
    struct edge_error err = {0};
    SSL *ours, *theirs;
    BIO *ours_bio, *theirs_bio;

    enter();
    tls_certificate_create((uint8_t *)secrets->chain, secrets->chain_bytes, (uint8_t *)secrets->key,
                           secrets->key_bytes, &certificate, &err);
    find(certificate != 0, err.code, "works: a certificate");
    if (!certificate)
        return;
    server = tls_server_create(choose, certificate, 0);
    ours = tls_server_session(server);
    theirs = SSL_new(SSL_CTX_new(TLS_client_method()));
    BIO_new_bio_pair(&ours_bio, 0, &theirs_bio, 0);
    SSL_set_bio(ours, ours_bio, ours_bio);
    SSL_set_bio(theirs, theirs_bio, theirs_bio);
    SSL_set_accept_state(ours);
    SSL_set_connect_state(theirs);
    for (int i = 0; i < 10; i++) {
        SSL_do_handshake(theirs);
        SSL_do_handshake(ours);
    }
    find(SSL_is_init_finished(ours) && SSL_is_init_finished(theirs), 0, "works: a handshake");
}

/* Read by the parent, as tests/e2e do: the child cannot open its own /proc. */
static void read_status(pid_t child)
{
    char path[64], line[200];
    FILE *file;
    int found = 0;

    snprintf(path, sizeof(path), "/proc/%d/status", child);
    file = fopen(path, "r");
    while (file && fgets(line, sizeof(line), file)) {
        found += !strcmp(line, "CapEff:\t0000000000000000\n");
        found += !strcmp(line, "CapPrm:\t0000000000000000\n");
        found += !strcmp(line, "CapInh:\t0000000000000000\n");
        found += !strcmp(line, "CapAmb:\t0000000000000000\n");
        found += !strcmp(line, "NoNewPrivs:\t1\n");
        found += !strcmp(line, "Seccomp:\t2\n");
        if (geteuid() == 0) {
            found += !strcmp(line, "CapBnd:\t0000000000000000\n");
            found += !strcmp(line, "Uid:\t65534\t65534\t65534\t65534\n");
            found += !strcmp(line, "Gid:\t65534\t65534\t65534\t65534\n");
            found += !strncmp(line, "Groups:\t", 8) && strspn(line + 8, " \n") == strlen(line + 8);
        }
    }
    if (file)
        fclose(file);
    IS(found, geteuid() == 0 ? 10 : 6, "status: no capability, no_new_privs, seccomp, own uid");
}

static void stand_still(void)
{
    enter();
    tgkill(getpid(), gettid(), SIGSTOP);
}

static void run_child(const char *title, void (*what)(void))
{
    pid_t child;
    int status = 0;

    memset(shared, 0, sizeof(*shared));
    fflush(stdout);
    child = fork();
    if (child == 0) {
        what();
        _exit(0);
    }
    waitpid(child, &status, WUNTRACED);
    if (WIFSTOPPED(status)) {
        read_status(child);
        kill(child, SIGKILL);
        waitpid(child, &status, 0);
        status = 0;
    }
    for (int i = 0; i < shared->count; i++)
        if (!OK(shared->all[i].ok, "%s: %s", title, shared->all[i].name))
            printf("#   got %d\n", shared->all[i].got);
    IS(status, 0, "%s: ended by itself", title);
}

int main(void)
{
    shared = mmap(0, sizeof(*shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    secrets = mmap(0, sizeof(*secrets), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    run_child("secrets", make_secrets);
    run_child("tls", use_tls);
    run_child("status", stand_still);
    run_child("calls", try_calls);
    run_child("ring", ask_rings);
    run_child("epoll", use_epoll);
    run_child("uring", use_uring);
    return tap_done();
}
