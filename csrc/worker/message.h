/* One message of the control socket, as C needs it: a verb, numbers, descriptors.
 *
 * The form stands in edge/messages.py. Used by control.c alone. */
#ifndef EDGE_WORKER_MESSAGE_H
#define EDGE_WORKER_MESSAGE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define MESSAGE_BYTES_MAX 16384
#define MESSAGE_DESCRIPTORS_MAX 250

struct message {
    char text[MESSAGE_BYTES_MAX + 1];
    int fds[MESSAGE_DESCRIPTORS_MAX]; /* -1 once taken */
    int fd_count;
};

/* 1: one came; 0: the peer is gone; negative: -errno. */
int message_receive(int socket, struct message *message);
bool message_is(const struct message *message, const char *verb);
uint64_t message_number(const struct message *message, const char *key, uint64_t otherwise);
/* The descriptor at an index becomes the caller's; -1: there is none. */
int message_take(struct message *message, int index);
/* Closes what was not taken. */
void message_release(struct message *message);

/* `text` already has its form; see message_escape() for values that are words of people. */
int message_send(int socket, const char *text, size_t length);
/* Percent-encode all but letters, digits and -._~ ; returns the length, cut to what fits. */
size_t message_escape(const char *text, char *out, size_t capacity);

#endif
