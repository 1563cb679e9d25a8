/* The one user of PCRE2: see pattern.h.
 *
 * Matching needs memory for its state: each thread has one of its own from its first match until
 * it ends. Depth and heap are limited with the steps, so that memory is bounded too. */
#define PCRE2_CODE_UNIT_WIDTH 8
#include "base/pattern.h"

#include <pcre2.h>
#include <pthread.h>
#include <stdlib.h>

#include "base/error.h"

#define TEXT_BYTES_MAX 1024
#define COMPILED_BYTES_MAX 65536
#define PARENTHESES_MAX 50
#define STEPS_MAX 100000
#define DEPTH_MAX 1000
#define HEAP_KIBIBYTES_MAX 1024

struct pattern {
    pcre2_code *code;
};

struct state {
    pcre2_match_data *data;
    pcre2_match_context *context;
};

static pthread_once_t once = PTHREAD_ONCE_INIT;
static pthread_key_t key;
static bool have_key;

static void state_release(void *owned)
{
    struct state *state = owned;

    pcre2_match_data_free(state->data);
    pcre2_match_context_free(state->context);
    free(state);
}

static void make_key(void)
{
    have_key = pthread_key_create(&key, state_release) == 0;
}

static struct state *own_state(void)
{
    struct state *state;

    pthread_once(&once, make_key);
    if (!have_key)
        return NULL;
    state = pthread_getspecific(key);
    if (state != NULL)
        return state;
    state = calloc(1, sizeof(*state));
    if (state == NULL)
        return NULL;
    state->data = pcre2_match_data_create(1, NULL);
    state->context = pcre2_match_context_create(NULL);
    if (state->data == NULL || state->context == NULL || pthread_setspecific(key, state) != 0) {
        state_release(state);
        return NULL;
    }
    pcre2_set_match_limit(state->context, STEPS_MAX);
    pcre2_set_depth_limit(state->context, DEPTH_MAX);
    pcre2_set_heap_limit(state->context, HEAP_KIBIBYTES_MAX);
    return state;
}

int pattern_compile(struct slice text, struct pattern **out, struct edge_error *err)
{
    const uint32_t options = PCRE2_ANCHORED | PCRE2_ENDANCHORED | PCRE2_NEVER_BACKSLASH_C;
    pcre2_compile_context *context;
    PCRE2_SIZE at, bytes = 0;
    int code = 0;

    if (text.length > TEXT_BYTES_MAX)
        return error_set(err, EDGE_ERR_LIMIT, "an expression of %zu bytes", text.length);
    *out = calloc(1, sizeof(**out));
    context = pcre2_compile_context_create(NULL);
    if (*out != NULL && context != NULL) {
        pcre2_set_parens_nest_limit(context, PARENTHESES_MAX);
        (*out)->code =
            pcre2_compile((PCRE2_SPTR)text.at, text.length, options, &code, &at, context);
    }
    pcre2_compile_context_free(context);
    if (*out == NULL || ((*out)->code == NULL && code == 0)) {
        free(*out);
        return error_set(err, EDGE_ERR_NOMEM, "no memory for an expression");
    }
    if ((*out)->code == NULL) {
        PCRE2_UCHAR words[100];
        if (pcre2_get_error_message(code, words, sizeof(words)) < 0)
            words[0] = 0;
        free(*out);
        return error_set(err, EDGE_ERR_INVALID, "at character %zu: %s", (size_t)at,
                         (const char *)words);
    }
    pcre2_pattern_info((*out)->code, PCRE2_INFO_SIZE, &bytes);
    if (bytes > COMPILED_BYTES_MAX) {
        pattern_release(*out);
        return error_set(err, EDGE_ERR_LIMIT, "an expression of %zu bytes when compiled",
                         (size_t)bytes);
    }
    return EDGE_OK;
}

void pattern_release(struct pattern *pattern)
{
    if (pattern == NULL)
        return;
    pcre2_code_free(pattern->code);
    free(pattern);
}

bool pattern_matches(const struct pattern *pattern, struct slice subject)
{
    struct state *state = own_state();

    return state != NULL && pcre2_match(pattern->code, (PCRE2_SPTR)subject.at, subject.length, 0, 0,
                                        state->data, state->context) >= 0;
}

int edge_pattern_check(const char *text, size_t length, struct edge_error *err)
{
    struct pattern *pattern;
    int rc = pattern_compile((struct slice){text, length}, &pattern, err);

    if (rc == EDGE_OK)
        pattern_release(pattern);
    return rc;
}
