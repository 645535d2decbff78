/* libstarling: what a component may tell the agent that runs it. Hints, not orders: the agent
 * listens as far as they came true before.
 *
 * Every call returns at once and never blocks. What cannot be handed over is dropped: without an
 * agent, or with one that is restarting, a component runs as it would without this library. Nothing
 * is held open between calls, so that nothing stands in the way of a move; after one the next call
 * reaches the agent of the new host. At most STARLING_MOST_PER_S calls a second are handed over.
 *
 * All calls may be made from any thread. They answer 0, or -1 with errno:
 *   ENOENT, ECONNREFUSED  there is no agent, or this is no component of one
 *   EAGAIN                too many, or the agent is behind
 *   EINVAL                an argument that makes no sense
 */
#ifndef STARLING_H
#define STARLING_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define STARLING_MOST_PER_S 100

/* The longest that one call can ask to be left alone for; the agent also bounds the sum. */
#define STARLING_MOST_NOT_NOW_S 60.0

/* The longest name of a phase, in bytes. */
#define STARLING_MOST_PHASE 31

/* The longest name of a user, in bytes. */
#define STARLING_MOST_USER 31

enum starling_resource {
  STARLING_CPU = 0,        /* processors */
  STARLING_MEMORY = 1,     /* bytes */
  STARLING_DISK = 2,       /* bytes */
  STARLING_NETWORK = 3,    /* bytes a second */
  STARLING_STORAGE = 4,    /* bytes a second */
  STARLING_GPU = 5,        /* GPUs */
  STARLING_GPU_MEMORY = 6, /* bytes */
};

/* In `in_s` seconds this component will use `amount` of a resource, all told. */
int starling_need(enum starling_resource resource, double amount, double in_s);

/* What came from the user, and what was shown, since the last call. */
struct starling_activity {
  uint32_t moves, clicks, scrolls, keys; /* input events */
  uint32_t frames;                       /* rendered */
};
int starling_activity(const struct starling_activity* activity);

/* For the next `for_s` seconds a short stop would hardly be noticed; 0: no longer. */
int starling_good_moment(double for_s);

/* For the next `for_s` seconds, please do not move this component; 0: no longer. */
int starling_not_now(double for_s);

/* A new phase of work begins, named in up to STARLING_MOST_PHASE bytes. */
int starling_phase(const char* name);

/* This user works with the component from now on, or does no longer. Names are of A-Z, a-z, 0-9,
 * '.', '_', '@' and '-', up to STARLING_MOST_USER bytes, beginning with a letter or digit. Nothing
 * is kept of a user who has not consented. An agent that is started anew, or another one after a
 * move, knows of nobody: tell it again now and then. */
int starling_connected(const char* user);
int starling_disconnected(const char* user);

#ifdef __cplusplus
}
#endif
#endif
