/* Drops everything the data plane does not need: uid, groups, capabilities, system calls.
 *
 * The filter is a list of system calls that may pass, some with a look at their arguments; all
 * else gets EPERM, so that a library that probes goes on and a mistake shows in a log, not in a
 * restart loop. Another architecture's call numbers kill. seccomp does not see what a ring does:
 * the rings are restricted when they are made (net/loop_uring.c), and no other can be made here.
 * Called by worker/runtime.c and by the sandbox test. */
#define _GNU_SOURCE
#include "net/sandbox.h"

#include <errno.h>
#include <grp.h>
#include <netinet/in.h>
#include <linux/audit.h>
#include <linux/capability.h>
#include <linux/filter.h>
#include <linux/io_uring.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#if defined(__x86_64__)
#define SANDBOX_ARCH AUDIT_ARCH_X86_64
#elif defined(__aarch64__)
#define SANDBOX_ARCH AUDIT_ARCH_AARCH64
#endif

/* ---- The filter -------------------------------------------------------------------------- */

#define LOAD(field)                                                                                \
    BPF_STMT(BPF_LD | BPF_W | BPF_ABS, (uint32_t)offsetof(struct seccomp_data, field))
/* Little-endian: the low half of an argument comes first. All arguments looked at are int or
 * flags whose high half the kernel ignores or refuses. */
#define LOAD_ARGUMENT(n)                                                                           \
    BPF_STMT(BPF_LD | BPF_W | BPF_ABS,                                                             \
             (uint32_t)offsetof(struct seccomp_data, args) + 8 * (uint32_t)(n))
#define IF_EQUAL(value, yes, no) BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (uint32_t)(value), (yes), (no))
#define IF_ANY(bits, yes, no) BPF_JUMP(BPF_JMP | BPF_JSET | BPF_K, (uint32_t)(bits), (yes), (no))
#define PASS BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW)
#define REFUSE(error) BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | (error))
#define KILL BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS)

#define PASS_CALL(name) IF_EQUAL(__NR_##name, 0, 1), PASS

/* The accumulator holds the call's number again after each block that looked at arguments,
 * because every such block ends in a return. */
static const struct sock_filter filter[] = {
    LOAD(arch),
    IF_EQUAL(SANDBOX_ARCH, 1, 0),
    KILL,
    LOAD(nr),
#if defined(__x86_64__)
    /* The x32 table has the same AUDIT_ARCH and its own numbers from bit 30 on. */
    BPF_JUMP(BPF_JMP | BPF_JGE | BPF_K, 0x40000000, 0, 1),
    KILL,
#endif
    /* The hot path first. */
    PASS_CALL(io_uring_enter),
    PASS_CALL(recvfrom),
    PASS_CALL(sendto),
#ifdef __NR_epoll_wait
    PASS_CALL(epoll_wait),
#endif
    PASS_CALL(epoll_pwait),
    PASS_CALL(epoll_ctl),
    PASS_CALL(close),
    PASS_CALL(read),
    PASS_CALL(write),
    PASS_CALL(readv),
    PASS_CALL(writev),
    PASS_CALL(recvmsg),
    PASS_CALL(sendmsg),
    PASS_CALL(accept4),
    PASS_CALL(connect),
    PASS_CALL(shutdown),
    PASS_CALL(setsockopt),
    PASS_CALL(getsockopt),
    PASS_CALL(getsockname),
    PASS_CALL(getpeername),
    PASS_CALL(ppoll),
#ifdef __NR_poll
    PASS_CALL(poll),
#endif
    PASS_CALL(eventfd2),
    PASS_CALL(epoll_create1),
    /* Memory. No MAP_PRIVATE file is executable, because nothing is. */
    PASS_CALL(munmap),
    PASS_CALL(mremap),
    PASS_CALL(madvise),
    PASS_CALL(brk),
    PASS_CALL(fstat),
    PASS_CALL(newfstatat), /* glibc's fstat(); a path only tells, it opens nothing */
    PASS_CALL(lseek),
    PASS_CALL(fcntl),
    /* Threads, time, signals. */
    PASS_CALL(futex),
    PASS_CALL(set_robust_list),
    PASS_CALL(rseq),
    PASS_CALL(sched_yield),
    PASS_CALL(sched_getaffinity),
    PASS_CALL(sched_setaffinity),
    PASS_CALL(gettid),
    PASS_CALL(getpid),
    PASS_CALL(getuid),
    PASS_CALL(geteuid),
    PASS_CALL(getgid),
    PASS_CALL(getegid),
    PASS_CALL(getppid),
    PASS_CALL(tgkill), /* abort(): only our own uid's processes, and only those we may signal */
    PASS_CALL(sigaltstack),
    PASS_CALL(rt_sigaction),
    PASS_CALL(rt_sigprocmask),
    PASS_CALL(rt_sigreturn),
    PASS_CALL(rt_sigtimedwait),
    PASS_CALL(restart_syscall),
    PASS_CALL(clock_gettime),
    PASS_CALL(clock_getres),
    PASS_CALL(clock_nanosleep),
    PASS_CALL(nanosleep),
    PASS_CALL(gettimeofday),
    PASS_CALL(getrandom),
    PASS_CALL(getrusage),
    PASS_CALL(sysinfo), /* qsort(3) of glibc sizes its memory by it */
    PASS_CALL(exit),
    PASS_CALL(exit_group),

    /* clone3's flags are behind a pointer: glibc falls back to clone on ENOSYS. */
    IF_EQUAL(__NR_clone3, 0, 1),
    REFUSE(ENOSYS),

    IF_EQUAL(__NR_clone, 0, 5),
    LOAD_ARGUMENT(0),
    IF_ANY(CLONE_NEWUSER | CLONE_NEWNS | CLONE_NEWNET | CLONE_NEWPID | CLONE_NEWIPC | CLONE_NEWUTS |
               CLONE_NEWCGROUP,
           2, 0),
    IF_ANY(CLONE_THREAD, 0, 1),
    PASS,
    REFUSE(EPERM),

    IF_EQUAL(__NR_mmap, 0, 4),
    LOAD_ARGUMENT(2),
    IF_ANY(PROT_EXEC, 1, 0),
    PASS,
    REFUSE(EPERM),

    /* malloc's arenas and thread stacks grow by it. */
    IF_EQUAL(__NR_mprotect, 0, 4),
    LOAD_ARGUMENT(2),
    IF_ANY(PROT_EXEC, 1, 0),
    PASS,
    REFUSE(EPERM),

    IF_EQUAL(__NR_prctl, 0, 4),
    LOAD_ARGUMENT(0),
    IF_EQUAL(PR_SET_NAME, 0, 1),
    PASS,
    REFUSE(EPERM),

    /* Upstream sockets: AF_INET or AF_INET6, a stream whatever its flags, TCP (not SCTP, MPTCP). */
    IF_EQUAL(__NR_socket, 0, 11),
    LOAD_ARGUMENT(0),
    IF_EQUAL(AF_INET, 1, 0),
    IF_EQUAL(AF_INET6, 0, 7),
    LOAD_ARGUMENT(1),
    BPF_STMT(BPF_ALU | BPF_AND | BPF_K, (uint32_t)~(SOCK_NONBLOCK | SOCK_CLOEXEC)),
    IF_EQUAL(SOCK_STREAM, 0, 4),
    LOAD_ARGUMENT(2),
    IF_EQUAL(0, 1, 0),
    IF_EQUAL(IPPROTO_TCP, 0, 1),
    PASS,
    REFUSE(EPERM),

    IF_EQUAL(__NR_io_uring_register, 0, 6),
    LOAD_ARGUMENT(1),
    IF_EQUAL(IORING_REGISTER_ENABLE_RINGS, 2, 0),
    IF_EQUAL(IORING_REGISTER_PBUF_RING, 1, 0),
    IF_EQUAL(IORING_REGISTER_RING_FDS, 0, 1),
    PASS,
    REFUSE(EPERM),

    REFUSE(EPERM),
};

/* ---- Entering ---------------------------------------------------------------------------- */

static int fail(struct edge_error *err, const char *step)
{
    int sys_errno = errno;

    memset(err, 0, sizeof(*err));
    err->code = EDGE_ERR_SANDBOX;
    err->sys_errno = sys_errno;
    snprintf(err->field, sizeof(err->field), "%s", step);
    snprintf(err->reason, sizeof(err->reason), "sandbox: %s: %s", step, strerror(sys_errno));
    return EDGE_ERR_SANDBOX;
}

/* Without SETPCAP this is refused; capabilities can then not come back either, because nothing
 * is ever executed again and no_new_privs holds. */
static void drop_bounding_set(void)
{
    for (int capability = 0; prctl(PR_CAPBSET_READ, capability, 0, 0, 0) >= 0; capability++)
        prctl(PR_CAPBSET_DROP, capability, 0, 0, 0);
}

static int drop_capabilities(void)
{
    struct __user_cap_header_struct head = {.version = _LINUX_CAPABILITY_VERSION_3};
    struct __user_cap_data_struct none[2] = {{0}};

    prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0);
    return (int)syscall(SYS_capset, &head, none);
}

int sandbox_enter(const struct sandbox_options *options, struct edge_error *err)
{
    struct sock_fprog program = {.len = sizeof(filter) / sizeof(filter[0]),
                                 .filter = (struct sock_filter *)filter};
    uid_t uid = options->uid;
    gid_t gid = options->gid;

    if (uid) {
        drop_bounding_set();
        if (setgroups(0, 0) < 0)
            return fail(err, "setgroups");
        if (setresgid(gid, gid, gid) < 0)
            return fail(err, "setresgid");
        if (setresuid(uid, uid, uid) < 0)
            return fail(err, "setresuid");
    }
    if (drop_capabilities() < 0)
        return fail(err, "capset");
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
        return fail(err, "no_new_privs");
    /* Own uid, but no other process of it may read keys from our memory. */
    if (prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) < 0)
        return fail(err, "dumpable");
    if (syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_TSYNC, &program) != 0)
        return fail(err, "seccomp");
    if (uid && (getuid() != uid || geteuid() != uid || setuid(0) == 0)) {
        errno = EPERM;
        return fail(err, "setresuid");
    }
    return EDGE_OK;
}
