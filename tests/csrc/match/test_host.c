/* Host names: what becomes of a Host field. Lookups are tested in test_matcher.c.
 *
 * links: base/hash.c */
#include "match/host.c"

#include "tap.h"

static const struct {
    const char *written, *name; /* name NULL: invalid */
} cases[] = {
    {"", ""},
    {"example.com", "example.com"},
    {"A-long.EXAMPLE.com", "a-long.example.com"},
    {"A-long_.EXAMPLE.com", "a-long_.example.com"},
    {"@-longer.example.com", NULL},
    {"[-longer.example.com", NULL},
    {"longer-z{.example.com", NULL},
    {"longer-`.example.com", NULL},
    {"longer-/.example.com", NULL},
    {"longer-:.example.com", NULL},
    {"abcdefgh", "abcdefgh"},
    {"abcdefgH9", "abcdefgh9"},
    {"abcdefg\x80z", NULL},
    {"abcdefghijklmn.", "abcdefghijklmn"},
    {"EXAMPLE.com:8080", "example.com"},
    {"example.com.", "example.com"},
    {"example.com.:80", "example.com"},
    {"example.com:", "example.com"},
    {"10.0.0.1:80", "10.0.0.1"},
    {"[::1]", "[::1]"},
    {"[FE80::1]:443", "[fe80::1]"},
    {".", ""},
    {"a_b-c~.x", "a_b-c~.x"},
    {"example.com:8o", NULL},
    {"example.com:80:80", NULL},
    {"exa mple.com", NULL},
    {"user@example.com", NULL},
    {"a/b", NULL},
    {":80", NULL},
    {"[::1", NULL},
    {"[]", NULL},
    {"[::1]x", NULL},
    {"[::g]", NULL},
    {"\x80.com", NULL},
};

/* Names of every length that a fast path may cut, with every byte at every place. */
static uint32_t wrong_bytes(void)
{
    static const char allowed[] = "-._~!$&'()*+,;=%";
    struct host_name name;
    uint32_t wrong = 0;
    char text[40], expected[40];

    for (size_t length = 1; length <= sizeof(text); length++)
        for (size_t at = 0; at < length; at++)
            for (int c = 1; c < 256; c++) {
                const bool letter = (c | 0x20) >= 'a' && (c | 0x20) <= 'z' && c < 0x80;
                const bool good = letter || (c >= '0' && c <= '9') || strchr(allowed, c) != NULL;
                const bool last = at == length - 1 && (c == '.' || (c == ':' && at > 0));
                memset(text, 'x', length);
                text[at] = (char)c;
                memcpy(expected, text, length);
                expected[at] = (char)(letter ? c | 0x20 : c);
                if (host_normalise((struct slice){text, length}, &name) != HOST_OK)
                    wrong += good || last;
                else
                    wrong += !(good || last) || name.length != length - last ||
                             memcmp(name.text, expected, name.length) != 0 ||
                             name.hash != edge_text_hash(name.text, name.length);
            }
    return wrong;
}

int main(void)
{
    struct host_name name;
    char longer[400];

    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct slice written = {cases[i].written, strlen(cases[i].written)};
        enum host_result result = host_normalise(written, &name);
        IS(result, cases[i].name == NULL ? HOST_INVALID : HOST_OK, "\"%s\"", cases[i].written);
        if (cases[i].name != NULL)
            IS(name.hash, edge_text_hash(name.text, name.length), "its hash");
        if (cases[i].name != NULL)
            IS_TEXT(name.text, name.length, cases[i].name, "name of \"%s\"", cases[i].written);
    }
    memset(longer, 'a', sizeof(longer));
    IS(host_normalise((struct slice){longer, sizeof(longer)}, &name), HOST_OK, "400 letters");
    IS(name.length, 0, "are no name");
    IS(host_normalise((struct slice){longer, 253}, &name), HOST_OK, "253 letters");
    IS(name.length, 253, "are one");
    IS(wrong_bytes(), 0, "every byte at every place");
    IS(host_normalise((struct slice){"a\0b", 3}, &name), HOST_INVALID, "a NUL");
    return tap_done();
}
