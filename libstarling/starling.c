#include "starling.h"

#include <errno.h>
#include <math.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "wire.h"

_Static_assert(sizeof(struct starling_wire) == 80, "the agent reads exactly this");

/* The second in the upper half, calls within it in the lower. */
static _Atomic uint64_t window;

static int within_rate(void) {
  struct timespec now;
  if (clock_gettime(CLOCK_MONOTONIC, &now) != 0) return 0;
  const uint64_t second = (uint64_t)now.tv_sec << 32;
  uint64_t old = atomic_load(&window);
  for (;;) {
    const uint64_t next = (old & ~UINT64_C(0xffffffff)) == second ? old + 1 : second | 1;
    if ((next & UINT64_C(0xffffffff)) > STARLING_MOST_PER_S) return 0;
    if (atomic_compare_exchange_weak(&window, &old, next)) return 1;
  }
}

static int send_hint(struct starling_wire* hint) {
  const char* path = getenv(STARLING_HINTS_VARIABLE);
  struct sockaddr_un address = {.sun_family = AF_UNIX};
  if (path == NULL || *path == '\0') {
    errno = ENOENT;
    return -1;
  }
  if (strlen(path) >= sizeof(address.sun_path)) {
    errno = ENAMETOOLONG;
    return -1;
  }
  if (!within_rate()) {
    errno = EAGAIN;
    return -1;
  }
  strcpy(address.sun_path, path);
  hint->magic = STARLING_WIRE_MAGIC;
  const int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (fd < 0) return -1;
  const ssize_t sent = sendto(fd, hint, sizeof(*hint), MSG_DONTWAIT | MSG_NOSIGNAL,
                              (const struct sockaddr*)&address, sizeof(address));
  const int error = errno;
  close(fd);
  errno = error;
  return sent == (ssize_t)sizeof(*hint) ? 0 : -1;
}

static int invalid(void) {
  errno = EINVAL;
  return -1;
}

int starling_need(enum starling_resource resource, double amount, double in_s) {
  if ((int)resource < STARLING_CPU || resource > STARLING_GPU_MEMORY || !isfinite(amount) ||
      amount < 0 || !isfinite(in_s) || in_s < 0) {
    return invalid();
  }
  struct starling_wire hint = {.kind = STARLING_WIRE_NEED,
                               .resource = (uint16_t)resource,
                               .amount = amount,
                               .seconds = in_s};
  return send_hint(&hint);
}

int starling_activity(const struct starling_activity* activity) {
  if (activity == NULL) return invalid();
  struct starling_wire hint = {.kind = STARLING_WIRE_ACTIVITY,
                               .moves = activity->moves,
                               .clicks = activity->clicks,
                               .scrolls = activity->scrolls,
                               .keys = activity->keys,
                               .frames = activity->frames};
  return send_hint(&hint);
}

int starling_good_moment(double for_s) {
  if (!isfinite(for_s) || for_s < 0) return invalid();
  struct starling_wire hint = {.kind = STARLING_WIRE_GOOD_MOMENT, .seconds = for_s};
  return send_hint(&hint);
}

int starling_not_now(double for_s) {
  if (!isfinite(for_s) || for_s < 0 || for_s > STARLING_MOST_NOT_NOW_S) return invalid();
  struct starling_wire hint = {.kind = STARLING_WIRE_NOT_NOW, .seconds = for_s};
  return send_hint(&hint);
}

int starling_phase(const char* name) {
  if (name == NULL || strlen(name) > STARLING_MOST_PHASE) return invalid();
  struct starling_wire hint = {.kind = STARLING_WIRE_PHASE};
  strcpy(hint.phase, name);
  return send_hint(&hint);
}

static int send_user(enum starling_wire_kind kind, const char* user) {
  if (user == NULL || *user == '\0' || strlen(user) > STARLING_MOST_USER) return invalid();
  struct starling_wire hint = {.kind = (uint16_t)kind};
  strcpy(hint.phase, user);
  return send_hint(&hint);
}

int starling_connected(const char* user) { return send_user(STARLING_WIRE_CONNECTED, user); }

int starling_disconnected(const char* user) { return send_user(STARLING_WIRE_DISCONNECTED, user); }
