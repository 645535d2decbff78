// starling-init: the two small processes around a component, in one static program without a heap of
// libraries, because the second of them is dumped and restored with every component.
//
//   starling-init ns SOCKET INIT-PATH TREE-ARGUMENTS...
//     First process of the component's pid namespace. Never dumped: it belongs to the keeper of this
//     host. Reaps what is orphaned beyond the tree's root, waits for that root, and ends with its
//     status, which takes the rest of the namespace with it. When its keeper is gone it ends the
//     component and then itself.
//     SOCKET is a SOCK_SEQPACKET descriptor to the keeper; requests and answers are one byte and text:
//       "L" with descriptors (cgroup.procs, report pipe)  start the tree       -> "L<pid inside>"
//       "A<pid inside>"                                   adopt a restored root -> "A0" or "A<errno>"
//       "H" with descriptor (userfaultfd)                 hold it for its keeper -> "H0" or "H<errno>"
//       "D"                                               close all that is held -> "D0"
//
//   starling-init tree --report FD --output FILE --user UID:GID:GROUP,... --directory DIR -- COMMAND...
//     Root of the dumped tree: its own session, child subreaper, so that what daemonises stays in the
//     tree. Starts COMMAND (an absolute path), hands SIGTERM, SIGINT, SIGHUP, SIGQUIT, SIGUSR1 and
//     SIGUSR2 on to it, and ends when no child is left, with COMMAND's status (128 + signal).
//     REPORT is a pipe that tells the keeper "<errno> <what failed>", or nothing when COMMAND runs.

#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

extern char** environ;

// At the target, CRIU and this program's namespace process take the lowest pids of a fresh namespace.
// The component's own start above them, and the kernel never goes below 300 when pids wrap around.
#define FIRST_PID "1000"

enum { kFailed = 125, kKeeperGone = 137, kMaxGroups = 256, kMaxHeld = 4096 };

static int Usage(void) {
  static const char text[] =
      "starling-init is started by starling-keeper, not by hand:\n"
      "  starling-init ns SOCKET INIT-PATH TREE-ARGUMENTS...\n"
      "  starling-init tree --report FD --output FILE --user UID:GID:GROUPS --directory DIR "
      "-- COMMAND...\n";
  (void)!write(2, text, sizeof(text) - 1);
  return 2;
}

static int StatusOf(int status) {
  return WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
}

// Decimal digits of `value` (not negative) into `out`; returns their end.
static char* PutNumber(char* out, int value) {
  char digits[12];
  int n = 0;
  do {
    digits[n++] = (char)('0' + value % 10);
    value /= 10;
  } while (value > 0);
  while (n > 0) *out++ = digits[--n];
  *out = 0;
  return out;
}

// ---------------------------------------------------------------------------------------- ns

static void Answer(int socket, char kind, int value) {
  char text[16] = {kind};
  char* end = PutNumber(text + 1, value);
  (void)!send(socket, text, (size_t)(end - text), MSG_NOSIGNAL);
}

static int RaiseLastPid(void) {
  const int fd = open("/proc/sys/kernel/ns_last_pid", O_RDWR | O_CLOEXEC);
  if (fd < 0) return -1;
  char now[16] = {0};
  int rc = (int)read(fd, now, sizeof(now) - 1);
  // Never lowered: a component that has come by more than one host keeps its place.
  if (rc >= 0 && atoi(now) < atoi(FIRST_PID)) rc = (int)pwrite(fd, FIRST_PID, strlen(FIRST_PID), 0);
  close(fd);
  return rc < 0 ? -1 : 0;
}

// The child's side of a launch: into the cgroup, then starling-init tree with the report pipe as
// descriptor 3.
static void StartTree(int procs, int report, const sigset_t* mask, char** arguments) {
  int failed = 0;
  if (write(procs, "0", 1) != 1) failed = errno;
  if (report != 3 && dup3(report, 3, 0) < 0) _exit(kFailed);
  if (report == 3) fcntl(3, F_SETFD, 0);
  syscall(SYS_close_range, 4u, ~0u, 0u);
  if (failed == 0) {
    sigprocmask(SIG_SETMASK, mask, NULL);
    execve(arguments[0], arguments, environ);
    failed = errno;
  }
  char text[64];
  char* end = PutNumber(text, failed);
  strcpy(end, " start starling-init tree");
  (void)!write(3, text, strlen(text));
  _exit(kFailed);
}

// Descriptors held for the keeper: the userfaultfds of a component whose memory is not all in place.
static int held[kMaxHeld];
static int held_count = 0;

// The keeper is gone. Nobody serves the component's memory any more, and with the last userfaultfd
// closed it would read zeros: so it ends first, all of it, and then this process, which holds them.
static int EndWithoutKeeper(void) {
  kill(-1, SIGKILL);
  while (waitpid(-1, NULL, 0) > 0 || errno == EINTR) {
  }
  return kKeeperGone;
}

static int RunNamespace(int socket, char** arguments) {
  // By hand this would remount the host's own file systems.
  if (getpid() != 1) return Usage();
  // The component sees its own processes, and no mount made here reaches the host.
  if (mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) != 0 ||
      mount("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL) != 0) {
    Answer(socket, 'E', errno);
    return kFailed;
  }
  sigset_t mask, old;
  sigemptyset(&mask);
  sigaddset(&mask, SIGCHLD);
  sigprocmask(SIG_BLOCK, &mask, &old);
  const int signals = signalfd(-1, &mask, SFD_CLOEXEC | SFD_NONBLOCK);
  if (signals < 0) return kFailed;
  Answer(socket, 'O', 0);

  pid_t root = 0;
  while (1) {
    struct pollfd polls[2] = {{socket, POLLIN, 0}, {signals, POLLIN, 0}};
    if (poll(polls, 2, -1) < 0 && errno != EINTR) return kFailed;

    struct signalfd_siginfo drained;
    while (read(signals, &drained, sizeof(drained)) > 0) {
    }
    int status;
    pid_t pid;
    while ((pid = waitpid(-1, &status, WNOHANG)) > 0) {
      if (pid == root) return StatusOf(status);
    }

    if (polls[0].revents == 0) continue;
    char text[32] = {0};
    char control[CMSG_SPACE(2 * sizeof(int))] __attribute__((aligned(sizeof(long))));
    struct iovec iov = {text, sizeof(text) - 1};
    struct msghdr message = {0};
    message.msg_iov = &iov;
    message.msg_iovlen = 1;
    message.msg_control = control;
    message.msg_controllen = sizeof(control);
    const ssize_t n = recvmsg(socket, &message, MSG_CMSG_CLOEXEC);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return EndWithoutKeeper();
    if (text[0] == 'L') {
      const struct cmsghdr* header = CMSG_FIRSTHDR(&message);
      if (header == NULL || header->cmsg_len != CMSG_LEN(2 * sizeof(int)) || RaiseLastPid() != 0) {
        Answer(socket, 'E', errno != 0 ? errno : EINVAL);
        continue;
      }
      int fds[2];
      memcpy(fds, CMSG_DATA(header), sizeof(fds));
      const pid_t child = fork();
      if (child == 0) StartTree(fds[0], fds[1], &old, arguments);
      const int error = errno;
      close(fds[0]);
      close(fds[1]);
      if (child < 0) {
        Answer(socket, 'E', error);
      } else {
        root = child;
        Answer(socket, 'L', child);
      }
    } else if (text[0] == 'H') {
      const struct cmsghdr* header = CMSG_FIRSTHDR(&message);
      if (header == NULL || header->cmsg_len != CMSG_LEN(sizeof(int)) || held_count == kMaxHeld) {
        Answer(socket, 'H', header == NULL ? EINVAL : EMFILE);
        continue;
      }
      memcpy(&held[held_count++], CMSG_DATA(header), sizeof(int));
      Answer(socket, 'H', 0);
    } else if (text[0] == 'D') {
      while (held_count > 0) close(held[--held_count]);
      Answer(socket, 'D', 0);
    } else if (text[0] == 'A') {
      root = atoi(text + 1);
      // A root that has died meanwhile has been reaped above, or never was a child of ours.
      pid = waitpid(root, &status, WNOHANG);
      if (pid < 0) {
        Answer(socket, 'A', ECHILD);
        root = 0;
      } else {
        Answer(socket, 'A', RaiseLastPid() == 0 ? 0 : errno);
        if (pid == root) return StatusOf(status);
      }
    } else {
      Answer(socket, 'E', EINVAL);
    }
  }
}

// -------------------------------------------------------------------------------------- tree

static void Report(int fd, const char* what) {
  char text[256];
  char* end = PutNumber(text, errno);
  *end++ = ' ';
  strncpy(end, what, sizeof(text) - (size_t)(end - text) - 1);
  text[sizeof(text) - 1] = 0;
  (void)!write(fd, text, strlen(text));
}

struct Tree {
  int report;
  const char* output;
  const char* user;
  const char* directory;
  char** command;
};

static int BecomeUser(const char* user) {
  gid_t groups[kMaxGroups];
  size_t count = 0;
  char* end;
  const unsigned long uid = strtoul(user, &end, 10);
  if (*end != ':') return errno = EINVAL, -1;
  const unsigned long gid = strtoul(end + 1, &end, 10);
  while (*end == ':' || *end == ',') {
    if (end[1] == 0) break;
    if (count == kMaxGroups) return errno = E2BIG, -1;
    groups[count++] = (gid_t)strtoul(end + 1, &end, 10);
  }
  if (setgroups(count, groups) != 0 || setresgid((gid_t)gid, (gid_t)gid, (gid_t)gid) != 0 ||
      setresuid((uid_t)uid, (uid_t)uid, (uid_t)uid) != 0) {
    return -1;
  }
  return 0;
}

static int OpenOutput(const char* path) {
  const int null = open("/dev/null", O_RDONLY);
  // Append-only, so that CRIU does not compare its size when it opens it again on another host.
  const int out = open(path, O_WRONLY | O_APPEND);
  if (null < 0 || out < 0) return -1;
  if (dup2(null, 0) < 0 || dup2(out, 1) < 0 || dup2(out, 2) < 0) return -1;
  if (null > 2) close(null);
  if (out > 2) close(out);
  return 0;
}

static int RunTree(const struct Tree* tree) {
  setsid();
  if (OpenOutput(tree->output) != 0) {
    Report(tree->report, tree->output);
    return kFailed;
  }
  // The keeper is shielded from the out-of-memory killer; the component is not.
  const int score = open("/proc/self/oom_score_adj", O_WRONLY);
  if (score >= 0) {
    (void)!write(score, "0", 1);
    close(score);
  }
  umask(022);
  if (BecomeUser(tree->user) != 0) {
    Report(tree->report, "become the component's user");
    return kFailed;
  }
  if (chdir(tree->directory) != 0) {
    Report(tree->report, tree->directory);
    return kFailed;
  }
  sigset_t all, old;
  sigfillset(&all);
  sigprocmask(SIG_BLOCK, &all, &old);
  if (prctl(PR_SET_CHILD_SUBREAPER, 1) != 0) {
    Report(tree->report, "become a child subreaper");
    return kFailed;
  }
  fcntl(tree->report, F_SETFD, FD_CLOEXEC);
  const pid_t command = fork();
  if (command < 0) {
    Report(tree->report, "fork");
    return kFailed;
  }
  if (command == 0) {
    setpgid(0, 0);
    sigprocmask(SIG_SETMASK, &old, NULL);
    execve(tree->command[0], tree->command, environ);
    Report(tree->report, tree->command[0]);
    _exit(127);
  }
  // Nothing of the keeper's may be in the dump.
  syscall(SYS_close_range, 3u, ~0u, 0u);

  int result = 0;
  int running = 1;
  while (1) {
    int status;
    pid_t pid;
    while ((pid = waitpid(-1, &status, WNOHANG)) > 0) {
      if (pid == command) {
        result = StatusOf(status);
        running = 0;
      }
    }
    if (pid < 0 && errno == ECHILD) return result;
    const int signal = sigwaitinfo(&all, NULL);
    // CRIU before 4.0 does not restore this attribute. Setting it again is one cheap call, and the
    // keeper wakes us with a signal when it thaws a restored tree.
    prctl(PR_SET_CHILD_SUBREAPER, 1);
    switch (signal) {
      case SIGTERM:
      case SIGINT:
      case SIGHUP:
      case SIGQUIT:
      case SIGUSR1:
      case SIGUSR2:
        if (running) kill(command, signal);
        break;
      default:
        break;
    }
  }
}

// -------------------------------------------------------------------------------------- main

int main(int argc, char** argv) {
  if (argc >= 4 && strcmp(argv[1], "ns") == 0) return RunNamespace(atoi(argv[2]), argv + 3);
  if (argc < 2 || strcmp(argv[1], "tree") != 0) return Usage();
  struct Tree tree = {-1, NULL, NULL, NULL, NULL};
  for (int i = 2; i + 1 < argc; i += 2) {
    if (strcmp(argv[i], "--") == 0) {
      tree.command = argv + i + 1;
      break;
    }
    if (strcmp(argv[i], "--report") == 0) tree.report = atoi(argv[i + 1]);
    if (strcmp(argv[i], "--output") == 0) tree.output = argv[i + 1];
    if (strcmp(argv[i], "--user") == 0) tree.user = argv[i + 1];
    if (strcmp(argv[i], "--directory") == 0) tree.directory = argv[i + 1];
  }
  if (tree.report < 0 || tree.output == NULL || tree.user == NULL || tree.directory == NULL ||
      tree.command == NULL || tree.command[0] == NULL) {
    return Usage();
  }
  return RunTree(&tree);
}
