// Loaded into CRIU for a restore (LD_PRELOAD): makes the root of the tree a child subreaper before
// it has children.
//
// A process whose session's leader is dead, or is not among its ancestors, gets its session back
// from a helper process: CRIU forks the helper, the helper forks the process, and then the helper
// ends. The process falls to its nearest subreaper. The root was one when the tree was dumped, but
// CRIU before 4.0 forgets that, and so the process would be the child of the pid namespace's first
// process: outside the tree, and in no later dump. See docs/decisions/0004-subreaper-by-preload.md.
//
// The root leads a session, and so it calls setsid(2) before it makes its first child.

#define _GNU_SOURCE
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

static pid_t criu;

__attribute__((constructor)) static void Remember(void) { criu = getpid(); }

pid_t setsid(void);
__attribute__((visibility("default"))) pid_t setsid(void) {
  // The root is CRIU's own child, and no other restored process is.
  if (getppid() == criu) (void)prctl(PR_SET_CHILD_SUBREAPER, 1);
  return (pid_t)syscall(SYS_setsid);
}
