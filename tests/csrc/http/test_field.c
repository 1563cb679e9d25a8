/* Field names, lists and what Connection names. */
#include "http/field.c"
#include "tap.h"

static const struct {
    const char *name;
    uint8_t id;
} known[] = {{"host", FIELD_HOST},
             {"connection", FIELD_CONNECTION},
             {"keep-alive", FIELD_KEEP_ALIVE},
             {"proxy-connection", FIELD_PROXY_CONNECTION},
             {"te", FIELD_TE},
             {"trailer", FIELD_TRAILER},
             {"transfer-encoding", FIELD_TRANSFER_ENCODING},
             {"content-length", FIELD_CONTENT_LENGTH},
             {"upgrade", FIELD_UPGRADE},
             {"expect", FIELD_EXPECT},
             {"x-forwarded-for", FIELD_X_FORWARDED_FOR},
             {"x-forwarded-proto", FIELD_X_FORWARDED_PROTO},
             {"x-forwarded-host", FIELD_X_FORWARDED_HOST},
             {"x-forwarded-port", FIELD_X_FORWARDED_PORT},
             {"x-request-id", FIELD_X_REQUEST_ID},
             {"x-real-ip", FIELD_X_REAL_IP},
             {"forwarded", FIELD_FORWARDED},
             {"date", FIELD_DATE},
             {"server", FIELD_SERVER}};
#define KNOWN (sizeof(known) / sizeof(known[0]))

static void lookup(void)
{
    IS(KNOWN, FIELD_COUNT - 1, "every known field is listed here");
    for (size_t i = 0; i < KNOWN; i++) {
        size_t length = strlen(known[i].name);
        char text[32], upper[32], wrong[32];
        bool one_off = false;
        memcpy(text, known[i].name, length + 1);
        for (size_t j = 0; j <= length; j++)
            upper[j] = (char)(text[j] >= 'a' && text[j] <= 'z' ? text[j] - 32 : text[j]);
        IS(field_lookup(text, length), known[i].id, "%s", text);
        IS(field_lookup(upper, length), known[i].id, "%s", upper);
        for (size_t j = 0; j < length; j++) {
            memcpy(wrong, text, sizeof(wrong));
            wrong[j] = text[j] == 'q' ? 'z' : 'q';
            one_off |= field_lookup(wrong, length) != FIELD_OTHER;
        }
        one_off |= field_lookup(text, length - 1) != FIELD_OTHER;
        text[length] = 'x';
        one_off |= field_lookup(text, length + 1) != FIELD_OTHER;
        OK(!one_off, "nothing one character away from %s", known[i].name);
    }
    IS(field_lookup("a", 1), FIELD_OTHER, "a name of one character");
}

static void aliases(void)
{
    OK(field_is_alias("X_Forwarded_For", 15), "X_Forwarded_For");
    OK(field_is_alias("X_Forwarded-For", 15), "mixed");
    OK(field_is_alias("transfer_encoding", 17), "transfer_encoding");
    OK(!field_is_alias("X-Forwarded-For", 15), "the name itself is none");
    OK(!field_is_alias("X_Other", 7), "an unknown name");
    OK(!field_is_alias("_", 1), "one underscore");
    OK(!field_is_alias("a_name_that_is_much_longer_than_any", 35), "a long name");
}

static void tokens(void)
{
    static const char all[] = "!#$%&'*+-.^_`|~0123456789"
                              "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
    int wrong = 0;
    for (int c = 0; c < 256; c++)
        wrong += field_is_token_char((char)c) != (c != 0 && strchr(all, c) != NULL);
    IS(wrong, 0, "token characters are those of RFC 9110 5.6.2");
    OK(field_is_token(SLICE("a-b")), "a token");
    OK(!field_is_token(SLICE("")), "nothing is no token");
    OK(!field_is_token(SLICE("a b")), "a blank is in no token");
}

static void lists(void)
{
    struct field_list list;
    struct slice element;
    field_list_init(&list, SLICE(" a ,,\tb c ,"));
    OK(field_list_next(&list, &element), "first");
    IS_TEXT(element.at, element.length, "a", "without blanks");
    OK(field_list_next(&list, &element) && element.length == 0, "empty element");
    OK(field_list_next(&list, &element), "third");
    IS_TEXT(element.at, element.length, "b c", "blanks inside stay");
    OK(field_list_next(&list, &element) && element.length == 0, "empty at the end");
    OK(!field_list_next(&list, &element), "and no more");
    field_list_init(&list, SLICE(""));
    OK(field_list_next(&list, &element) && element.length == 0, "nothing has one empty element");
    OK(!field_list_next(&list, &element), "only one");
}

static void options(void)
{
    static struct h1_head head;
    head.field_count = 3;
    head.field[0] = (struct h1_field){SLICE("Host"), SLICE("a"), FIELD_HOST, 0};
    head.field[1] = (struct h1_field){SLICE("X-A"), SLICE("1"), FIELD_OTHER, 0};
    head.field[2] = (struct h1_field){SLICE("x-a"), SLICE("2"), FIELD_OTHER, 0};
    field_mark_option(&head, SLICE("X-a"));
    field_mark_option(&head, SLICE("host"));
    IS(head.field[0].hop_by_hop, 0, "Host cannot be named");
    IS(head.field[1].hop_by_hop + head.field[2].hop_by_hop, 2, "every field of the name");
}

int main(void)
{
    lookup();
    aliases();
    tokens();
    lists();
    options();
    return tap_done();
}
