/* Control messages: numbers by key, descriptors, escaping; what is malformed has its default. */
#include "worker/message.c"

#include "tap.h"

int main(void)
{
    static struct message message;
    int pair[2];
    char out[32];

    OK(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, pair) == 0, "a pair of sockets");
    const char *text = "image version=18446744073709551615 kind=2 bad=12x slot=-1";
    message_send(pair[0], text, strlen(text));
    IS(message_receive(pair[1], &message), 1, "a message arrives");
    OK(message_is(&message, "image") && !message_is(&message, "imag"), "its verb is whole");
    OK(message_number(&message, "version", 0) == UINT64_MAX, "the largest number");
    IS(message_number(&message, "kind", 1), 2, "another number");
    IS(message_number(&message, "bad", 7), 7, "a malformed one has its default");
    IS(message_number(&message, "slot", 64), 64, "so has a negative one");
    IS(message_number(&message, "ind", 5), 5, "a key is whole too");
    IS(message_take(&message, 0), -1, "there is no descriptor");
    size_t length = message_escape("a b=%", out, sizeof out);
    IS_TEXT(out, length, "a%20b%3D%25", "words of people are escaped");
    OK(message_escape("          ", out, 8) < 8, "and cut to what fits");
    close(pair[0]);
    IS(message_receive(pair[1], &message), 0, "the peer is gone");
    close(pair[1]);
    return tap_done();
}
