/* Prints test results as TAP lines; every tests/csrc/test_X.c ends main() with tap_done().
 *
 * A failed check prints its place and goes on. Never exits by itself: a sanitizer may. */
#ifndef TESTS_TAP_H
#define TESTS_TAP_H

#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

static int tap_count, tap_failed;

__attribute__((format(printf, 4, 5))) static inline bool tap_line(bool ok, const char *file,
                                                                  int line, const char *name, ...)
{
    va_list arguments;
    va_start(arguments, name);
    printf("%s %d - ", ok ? "ok" : "not ok", ++tap_count);
    vprintf(name, arguments);
    printf("\n");
    va_end(arguments);
    if (!ok) {
        tap_failed++;
        printf("#   at %s:%d\n", file, line);
    }
    fflush(stdout);
    return ok;
}

/* OK(condition, "name with %d", ...): one line. The value is the condition. */
#define OK(condition, ...) tap_line((condition), __FILE__, __LINE__, __VA_ARGS__)

/* IS(got, wanted, name): integers; shows both when they differ. */
#define IS(got, wanted, ...)                                                                       \
    do {                                                                                           \
        long long tap_got = (long long)(got), tap_wanted = (long long)(wanted);                    \
        if (!tap_line(tap_got == tap_wanted, __FILE__, __LINE__, __VA_ARGS__))                     \
            printf("#   got %lld, wanted %lld\n", tap_got, tap_wanted);                            \
    } while (0)

/* IS_TEXT(at, length, wanted, name): bytes against a C string. */
#define IS_TEXT(at, length, wanted, ...)                                                           \
    do {                                                                                           \
        const char *tap_at = (const char *)(at), *tap_wanted = (wanted);                           \
        size_t tap_length = (length);                                                              \
        bool tap_same = tap_length == strlen(tap_wanted) &&                                        \
                        (tap_length == 0 || memcmp(tap_at, tap_wanted, tap_length) == 0);          \
        if (!tap_line(tap_same, __FILE__, __LINE__, __VA_ARGS__))                                  \
            printf("#   got \"%.*s\", wanted \"%s\"\n", (int)tap_length, tap_length ? tap_at : "", \
                   tap_wanted);                                                                    \
    } while (0)

static inline int tap_done(void)
{
    printf("1..%d\n", tap_count);
    return tap_failed != 0 || tap_count == 0;
}

#endif
