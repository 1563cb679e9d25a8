/* Request targets and authorities; most cases are tests/wire, here stands what bytes cannot show.
 */
#include "http/target.c"
#include "tap.h"

static void authorities(void)
{
    static const char *const good[] = {
        "a",         "a.b",   "a.b.",       "a:80",          "a:65535",     "a:",
        "127.0.0.1", "[::1]", "[::1]:8443", "xn--bcher-kva", "under_score", "A.B:0"};
    static const char *const bad[] = {"",        ".",         ".a",  "a..b", "a:65536",  "a:123456",
                                      "a:+1",    "a:1:2",     "[",   "[]",   "[::1",     "[::1]x",
                                      "[::1]:x", "[1.2.3.4]", "a/b", "a?b",  "a#b",      "a@b",
                                      "a b",     "a,b",       "%61", "a\\b", "\xc3\xa9", ":80"};
    for (size_t i = 0; i < sizeof(good) / sizeof(good[0]); i++)
        OK(target_authority_valid((struct slice){good[i], strlen(good[i])}), "good: %s", good[i]);
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
        OK(!target_authority_valid((struct slice){bad[i], strlen(bad[i])}), "bad: %zu", i);
    OK(!target_authority_valid((struct slice){"a\0b", 3}), "NUL in a name");
    OK(!target_authority_valid((struct slice){"[::1\0]", 6}), "NUL in an address");
    char name[256];
    memset(name, 'a', sizeof(name));
    OK(target_authority_valid((struct slice){name, 254}), "a name of 254");
    OK(!target_authority_valid((struct slice){name, 255}), "a name of 255");
}

static void paths(void)
{
    int wrong = 0;
    for (int c = 0; c < 256; c++) {
        char text[2] = {'/', (char)c};
        bool good = c > ' ' && c < 0x7f && c != '#' && c != '%' && c != '?' && c != '\\';
        wrong += target_path_valid((struct slice){text, 2}) != good;
    }
    IS(wrong, 0, "every byte in a path");
    OK(target_path_valid(SLICE("/%2F%aF")), "escapes");
    OK(!target_path_valid(SLICE("/%2")), "a cut escape");
    OK(!target_path_valid(SLICE("/%00")), "an escaped NUL");
    OK(target_path_valid(SLICE("/%01%10")), "other escapes with a zero");
    OK(!target_path_valid(SLICE("")), "nothing");
    OK(!target_path_valid(SLICE("a")), "no slash");
}

static int split(struct h1_head *head, const char *target, uint8_t method)
{
    head->target = (struct slice){target, strlen(target)};
    head->authority = (struct slice){NULL, 0};
    head->method_id = method;
    return target_split(head);
}

static void forms(void)
{
    static struct h1_head head;
    IS(split(&head, "/a?", METHOD_GET), 0, "an empty query");
    OK(head.query.at != NULL && head.query.length == 0, "is not the same as none");
    IS(split(&head, "/a", METHOD_GET), 0, "no query");
    OK(head.query.at == NULL, "none");
    IS(split(&head, "https://b:1/x?y", METHOD_GET), 0, "absolute form");
    IS_TEXT(head.authority.at, head.authority.length, "b:1", "its authority");
    IS_TEXT(head.path.at, head.path.length, "/x", "its path");
    IS(split(&head, "http://b", METHOD_GET), 0, "without a path");
    IS_TEXT(head.path.at, head.path.length, "/", "is the root");
    IS(split(&head, "http://b", METHOD_OPTIONS), 0, "OPTIONS without a path");
    IS_TEXT(head.path.at, head.path.length, "*", "is the asterisk");
    IS(split(&head, "http://b?q", METHOD_OPTIONS), 0, "OPTIONS with a query");
    IS_TEXT(head.path.at, head.path.length, "/", "is not");
    IS(split(&head, "", METHOD_GET), H1_ERR_SYNTAX, "no target");
    IS(split(&head, "http:/a", METHOD_GET), H1_ERR_SYNTAX, "half an absolute form");
    IS(split(&head, "http://", METHOD_GET), H1_ERR_HOST, "no authority");
}

int main(void)
{
    authorities();
    paths();
    forms();
    return tap_done();
}
