/* A circular doubly linked list whose links are embedded in the members.
 *
 * Used for timers, pools and idle connections. Never allocates; a member is in one list at a
 * time, and a link that list_init() was called on may be removed at any time. */
#ifndef EDGE_BASE_LIST_H
#define EDGE_BASE_LIST_H

#include <stdbool.h>
#include <stddef.h>

struct list {
    struct list *next, *previous;
};

/* The member that holds this link. */
#define LIST_OWNER(link, type, member) ((type *)((char *)(link) - offsetof(type, member)))

/* Safe against removal of the member at hand, not of its successor. */
#define LIST_EACH(at, after, head)                                                                 \
    for (struct list *at = (head)->next, *after = at->next; at != (head);                          \
         at = after, after = at->next)

static inline void list_init(struct list *list)
{
    list->next = list->previous = list;
}

static inline bool list_empty(const struct list *list)
{
    return list->next == list;
}

static inline void list_insert_between(struct list *link, struct list *previous, struct list *next)
{
    link->previous = previous;
    link->next = next;
    previous->next = link;
    next->previous = link;
}

static inline void list_push_back(struct list *head, struct list *link)
{
    list_insert_between(link, head->previous, head);
}

static inline void list_push_front(struct list *head, struct list *link)
{
    list_insert_between(link, head, head->next);
}

/* Leaves the link pointing at itself, so that a second removal is harmless. */
static inline void list_remove(struct list *link)
{
    link->previous->next = link->next;
    link->next->previous = link->previous;
    list_init(link);
}

/* 0 when the list is empty. */
static inline struct list *list_pop_front(struct list *head)
{
    struct list *link = head->next;

    if (link == head)
        return 0;
    list_remove(link);
    return link;
}

/* Move all members of `from` behind those of `head`. */
static inline void list_splice(struct list *head, struct list *from)
{
    if (list_empty(from))
        return;
    from->next->previous = head->previous;
    head->previous->next = from->next;
    from->previous->next = head;
    head->previous = from->previous;
    list_init(from);
}

#endif
