/* Expressions: the whole subject, limits on what they may cost, words for what is wrong.
 *
 * links: base/error.c */
#include "base/pattern.c"

#include "tap.h"

static const struct {
    const char *text, *subject;
    bool matches;
} cases[] = {
    {"/a+", "/aaa", true},      {"/a+", "/aaab", false},
    {"/a+", "x/aaa", false},    {"", "", true},
    {".*", "", true},           {"a|ab", "ab", true},
    {"(?i)/FOO", "/foo", true}, {"(a+)+b", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaac", false},
};

static void *match_elsewhere(void *pattern)
{
    return pattern_matches(pattern, SLICE("/aaa")) ? pattern : NULL;
}

int main(void)
{
    struct pattern *pattern;
    struct edge_error err;
    pthread_t thread;
    void *found;
    char longer[1100];

    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct slice text = {cases[i].text, strlen(cases[i].text)};
        struct slice subject = {cases[i].subject, strlen(cases[i].subject)};
        IS(pattern_compile(text, &pattern, &err), EDGE_OK, "%s", cases[i].text);
        IS(pattern_matches(pattern, subject), cases[i].matches, "on %s", cases[i].subject);
        pattern_release(pattern);
    }
    IS(pattern_compile(SLICE("/a+"), &pattern, &err), EDGE_OK, "for two threads");
    pthread_create(&thread, NULL, match_elsewhere, pattern);
    OK(pattern_matches(pattern, SLICE("/a")), "one");
    pthread_join(thread, &found);
    OK(found == pattern, "the other, which leaves nothing behind");
    pattern_release(pattern);
    pattern_release(NULL);
    memset(longer, 'a', sizeof(longer));
    IS(edge_pattern_check(longer, sizeof(longer), &err), EDGE_ERR_LIMIT, "too long");
    IS(edge_pattern_check("(a", 2, &err), EDGE_ERR_INVALID, "no expression");
    OK(strstr(err.reason, "missing closing parenthesis") != NULL, "%s", err.reason);
    IS(edge_pattern_check("(a)", 3, NULL), EDGE_OK, "one");
    state_release(pthread_getspecific(key)); /* the main thread's outlives main() otherwise */
    pthread_setspecific(key, NULL);
    return tap_done();
}
