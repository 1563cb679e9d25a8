/* Receiving, reading and sending control messages. Called by control.c. Trusts nothing: a key
 * that is missing or no number has its default, a datagram that is too long is cut by the kernel.
 */
#define _GNU_SOURCE
#include "worker/message.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

int message_receive(int socket, struct message *message)
{
    union {
        char bytes[CMSG_SPACE(sizeof message->fds)];
        struct cmsghdr align;
    } control;
    struct iovec io = {.iov_base = message->text, .iov_len = MESSAGE_BYTES_MAX};
    struct msghdr header = {.msg_iov = &io,
                            .msg_iovlen = 1,
                            .msg_control = control.bytes,
                            .msg_controllen = sizeof control.bytes};
    message->fd_count = 0;
    ssize_t length = recvmsg(socket, &header, MSG_CMSG_CLOEXEC);
    if (length < 0)
        return -errno;
    message->text[length] = 0;
    for (struct cmsghdr *at = CMSG_FIRSTHDR(&header); at; at = CMSG_NXTHDR(&header, at)) {
        if (at->cmsg_level != SOL_SOCKET || at->cmsg_type != SCM_RIGHTS)
            continue;
        size_t bytes = at->cmsg_len - CMSG_LEN(0);
        memcpy(message->fds, CMSG_DATA(at), bytes);
        message->fd_count = (int)(bytes / sizeof(int));
    }
    return length > 0;
}

bool message_is(const struct message *message, const char *verb)
{
    size_t length = strlen(verb);
    return strncmp(message->text, verb, length) == 0 &&
           (message->text[length] == ' ' || message->text[length] == 0);
}

uint64_t message_number(const struct message *message, const char *key, uint64_t otherwise)
{
    size_t length = strlen(key);
    for (const char *at = strchr(message->text, ' '); at; at = strchr(at, ' ')) {
        at++;
        if (strncmp(at, key, length) != 0 || at[length] != '=')
            continue;
        char *end;
        const char *digits = at + length + 1;
        errno = 0;
        uint64_t number = strtoull(digits, &end, 10);
        bool whole = end != digits && (*end == ' ' || *end == 0) && *digits != '-' && errno == 0;
        return whole ? number : otherwise;
    }
    return otherwise;
}

int message_take(struct message *message, int index)
{
    if (index >= message->fd_count)
        return -1;
    int fd = message->fds[index];
    message->fds[index] = -1;
    return fd;
}

void message_release(struct message *message)
{
    for (int i = 0; i < message->fd_count; i++)
        if (message->fds[i] >= 0)
            close(message->fds[i]);
    message->fd_count = 0;
}

int message_send(int socket, const char *text, size_t length)
{
    return send(socket, text, length, MSG_NOSIGNAL) < 0 ? -errno : 0;
}

size_t message_escape(const char *text, char *out, size_t capacity)
{
    static const char HEX[] = "0123456789ABCDEF";
    size_t at = 0;
    for (; *text && at + 4 < capacity; text++) {
        unsigned char byte = (unsigned char)*text;
        bool plain = (byte >= 'a' && byte <= 'z') || (byte >= 'A' && byte <= 'Z') ||
                     (byte >= '0' && byte <= '9') || strchr("-._~", byte);
        if (plain) {
            out[at++] = (char)byte;
        } else {
            out[at++] = '%';
            out[at++] = HEX[byte >> 4];
            out[at++] = HEX[byte & 15];
        }
    }
    out[at] = 0;
    return at;
}
