/* Exact and Prefix as the table of the Kubernetes Ingress documentation has them. */
#include "match/path.c"

#include "tap.h"

static const struct {
    uint32_t type;
    const char *pattern, *path;
    bool matches;
} cases[] = {
    {EDGE_PATH_PREFIX, "/", "/", true},
    {EDGE_PATH_PREFIX, "/", "/anything/at/all", true},
    {EDGE_PATH_PREFIX, "/", "*", false},
    {EDGE_PATH_PREFIX, "/", "", false},
    {EDGE_PATH_EXACT, "/foo", "/foo", true},
    {EDGE_PATH_EXACT, "/foo", "/bar", false},
    {EDGE_PATH_EXACT, "/foo", "/foo/", false},
    {EDGE_PATH_EXACT, "/foo/", "/foo", false},
    {EDGE_PATH_PREFIX, "/foo", "/foo", true},
    {EDGE_PATH_PREFIX, "/foo", "/foo/", true},
    {EDGE_PATH_PREFIX, "/foo/", "/foo", true},
    {EDGE_PATH_PREFIX, "/foo/", "/foo/", true},
    {EDGE_PATH_PREFIX, "/foo", "/foobar", false},
    {EDGE_PATH_PREFIX, "/foo/", "/foobar", false},
    {EDGE_PATH_PREFIX, "/foo", "/Foo", false},
    {EDGE_PATH_PREFIX, "/aaa/bb", "/aaa/bbb", false},
    {EDGE_PATH_PREFIX, "/aaa/bbb", "/aaa/bbb", true},
    {EDGE_PATH_PREFIX, "/aaa/bbb/", "/aaa/bbb", true},
    {EDGE_PATH_PREFIX, "/aaa/bbb", "/aaa/bbb/", true},
    {EDGE_PATH_PREFIX, "/aaa/bbb", "/aaa/bbb/ccc", true},
    {EDGE_PATH_PREFIX, "/aaa/bbb", "/aaa/bbbxyz", false},
    {EDGE_PATH_PREFIX, "/aaa/bbb", "/aaa", false},
    {EDGE_PATH_REGEX, "/aaa", "/aaa", false},
    {EDGE_PATH_STRING_PREFIX, "/foo", "/foobar", true},
    {EDGE_PATH_STRING_PREFIX, "/foo/", "/foo", false},
    {EDGE_PATH_STRING_PREFIX, "/foo", "/fo", false},
};

int main(void)
{
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct slice pattern = {cases[i].pattern, strlen(cases[i].pattern)};
        struct slice path = {cases[i].path, strlen(cases[i].path)};
        IS(path_match(cases[i].type, pattern, path), cases[i].matches, "%u %s on \"%s\"",
           cases[i].type, cases[i].pattern, cases[i].path);
    }
    return tap_done();
}
