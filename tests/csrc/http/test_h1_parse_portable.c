/* The head parser without SSE2 beside the one with it, on random changes of a request.
 * links: http/h1_parse.c http/field.c http/target.c http/framing.c */
#include <stdlib.h>

#include "http/h1_parse.h" /* the names of the vector version, before they are changed */

#undef __SSE2__
#define h1_parse_request portable_request
#define h1_parse_response portable_response
#include "http/h1_parse.c"
#undef h1_parse_request
#undef h1_parse_response
#include "tap.h"

static uint64_t state = 0x9e3779b97f4a7c15u;

static uint32_t next_random(void)
{
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return (uint32_t)(state >> 32);
}

static bool same_fields(const struct h1_head *a, const struct h1_head *b)
{
    if (a->field_count != b->field_count)
        return false;
    for (uint32_t i = 0; i < a->field_count; i++) {
        const struct h1_field *x = &a->field[i], *y = &b->field[i];
        if (x->name.at != y->name.at || x->name.length != y->name.length || x->id != y->id ||
            x->value.at != y->value.at || x->value.length != y->value.length ||
            x->hop_by_hop != y->hop_by_hop)
            return false;
    }
    return true;
}

int main(void)
{
    static const char base[] = "POST /a?b HTTP/1.1\r\nHost: example.com\r\nX_Forwarded_For: 1\r\n"
                               "Content-Length: 5\r\nA-Name-Longer-Than-Sixteen-Bytes:  x \r\n\r\n";
    static const char words[] = "\r\n:\t -_aZ09\x7f\x80\x01";
    static struct h1_head one, two;
    struct h1_limits limits = {4096, 64};
    int accepted = 0, differ = 0;
    for (int i = 0; i < 40000; i++) {
        char text[sizeof(base)];
        memcpy(text, base, sizeof(base));
        for (uint32_t changes = next_random() % 3; changes > 0; changes--)
            text[next_random() % (sizeof(base) - 1)] = words[next_random() % (sizeof(words) - 1)];
        size_t length = sizeof(base) - 1 - (next_random() % 4 == 0 ? next_random() % 60 : 0);
        size_t scanned_one = 0, scanned_two = 0;
        int rc = h1_parse_request(text, length, &limits, &scanned_one, &one);
        int portable = portable_request(text, length, &limits, &scanned_two, &two);
        differ += rc != portable || scanned_one != scanned_two;
        differ += rc > 0 && !same_fields(&one, &two);
        accepted += rc > 0;
    }
    IS(differ, 0, "the same result and the same slices");
    OK(accepted > 1000 && accepted < 39000, "some were accepted, some refused");
    return tap_done();
}
