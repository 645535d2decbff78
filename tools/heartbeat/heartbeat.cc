// starling-heartbeat: sends a numbered datagram at a fixed pace from inside a component, so that an
// observer outside sees when the component ran and when it did not. Linked statically and without
// the C++ library, so that it adds only a handful of mappings to whatever is checkpointed with it.

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <initializer_list>

#include "tools/heartbeat/beat.h"

namespace {

constexpr int64_t kNsPerSecond = 1000000000;
constexpr int kUsageError = 64;
constexpr int kCannotRun = 127;  // as shells have it

volatile sig_atomic_t g_child = 0;
volatile sig_atomic_t g_stop = 0;

constexpr char kUsage[] =
    "usage: starling-heartbeat --to IP:PORT [--every TIME] [-- COMMAND...]\n"
    "\n"
    "Sends one numbered UDP datagram to IP:PORT every TIME (default 1ms; units us, ms, s).\n"
    "With COMMAND: runs it as a child, hands SIGTERM, SIGINT and SIGHUP on to it, ends when it\n"
    "ends and with its status (128 + signal if a signal ended it). Without COMMAND: beats until\n"
    "a signal ends it. Beats that could not be sent in time are not caught up.\n";

[[noreturn]] void UsageError(const char* what, const char* value) {
  fprintf(stderr, "starling-heartbeat: %s%s%s\n\n%s", what, value != nullptr ? ": " : "",
          value != nullptr ? value : "", kUsage);
  exit(kUsageError);
}

bool ParseAddress(char* text, sockaddr_in* address) {
  char* colon = strrchr(text, ':');
  if (colon == nullptr) return false;
  *colon = '\0';
  char* end = nullptr;
  const long port = strtol(colon + 1, &end, 10);
  *address = {};
  address->sin_family = AF_INET;
  address->sin_port = htons(static_cast<uint16_t>(port));
  const bool ok = *end == '\0' && end != colon + 1 && port > 0 && port < 65536 &&
                  inet_pton(AF_INET, text, &address->sin_addr) == 1;
  *colon = ':';
  return ok;
}

bool ParsePeriod(const char* text, int64_t* period_ns) {
  char* end = nullptr;
  const long count = strtol(text, &end, 10);
  int64_t unit = 0;
  if (strcmp(end, "us") == 0) unit = 1000;
  if (strcmp(end, "ms") == 0) unit = 1000000;
  if (strcmp(end, "s") == 0) unit = kNsPerSecond;
  if (count <= 0 || count > 1000000 || unit == 0) return false;
  *period_ns = count * unit;
  return *period_ns <= 3600 * kNsPerSecond;
}

int64_t Now() {
  timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return now.tv_sec * kNsPerSecond + now.tv_nsec;
}

void OnSignal(int signal_number) {
  if (signal_number == SIGCHLD) return;  // it only has to interrupt the sleep
  if (g_child > 0) {
    kill(g_child, signal_number);
  } else {
    g_stop = signal_number;
  }
}

void CatchSignals() {
  struct sigaction action = {};
  action.sa_handler = OnSignal;
  for (const int signal_number : {SIGCHLD, SIGTERM, SIGINT, SIGHUP}) {
    sigaction(signal_number, &action, nullptr);
  }
}

void Run(char** command) {
  const pid_t child = fork();
  if (child < 0) {
    fprintf(stderr, "starling-heartbeat: cannot fork: %s\n", strerror(errno));
    exit(kCannotRun);
  }
  if (child == 0) {
    execvp(command[0], command);
    fprintf(stderr, "starling-heartbeat: cannot run %s: %s\n", command[0], strerror(errno));
    _exit(kCannotRun);
  }
  g_child = child;
}

// Returns true and the exit status once COMMAND has ended.
bool Ended(int* exit_status) {
  int status = 0;
  const pid_t child = g_child;
  for (;;) {
    const pid_t pid = waitpid(-1, &status, WNOHANG);
    if (pid == 0 || (pid < 0 && errno != EINTR)) return false;
    if (pid == child) break;
  }
  *exit_status = WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
  return true;
}

// The deadlines are absolute, so the pace does not drift; the sleep towards them is relative and
// never longer than one period. An absolute sleep would be restarted at the host the process was
// moved to, whose monotonic clock may be hours behind, and would last as long.
int BeatUntilEnd(int fd, int64_t period_ns) {
  starling::Beat beat = {starling::kBeatMagic, 0, 0};
  if (getrandom(&beat.sender, sizeof beat.sender, 0) != sizeof beat.sender) beat.sender = 1;
  int64_t deadline = Now();
  for (;;) {
    ++beat.number;
    // A full queue or an absent observer loses this beat; the next one is due anyway.
    (void)send(fd, &beat, sizeof beat, MSG_DONTWAIT | MSG_NOSIGNAL);
    deadline += period_ns;
    for (;;) {
      const int64_t now = Now();
      if (deadline <= now - period_ns || deadline > now + period_ns) {
        deadline = now;  // held up, or moved to another clock: start over from here
      }
      if (deadline <= now) break;
      const int64_t rest = deadline - now;
      const timespec sleep = {rest / kNsPerSecond, rest % kNsPerSecond};
      clock_nanosleep(CLOCK_MONOTONIC, 0, &sleep, nullptr);
      int exit_status = 0;
      if (g_child > 0 && Ended(&exit_status)) return exit_status;
      if (g_stop != 0) return 128 + g_stop;
    }
  }
}

}  // namespace

int main(int argc, char** argv) {
  sockaddr_in address = {};
  int64_t period_ns = 1000000;
  char** command = nullptr;
  for (int i = 1; i < argc; ++i) {
    if (strcmp(argv[i], "--help") == 0) {
      fputs(kUsage, stdout);
      return 0;
    }
    if (strcmp(argv[i], "--") == 0) {
      if (i + 1 == argc) UsageError("no COMMAND after --", nullptr);
      command = argv + i + 1;
      break;
    }
    if (i + 1 < argc && strcmp(argv[i], "--to") == 0) {
      if (!ParseAddress(argv[++i], &address)) UsageError("not an IPv4 address and port", argv[i]);
    } else if (i + 1 < argc && strcmp(argv[i], "--every") == 0) {
      if (!ParsePeriod(argv[++i], &period_ns)) UsageError("not a time (1us to 1h)", argv[i]);
    } else {
      UsageError("unknown or incomplete option", argv[i]);
    }
  }
  if (address.sin_port == 0) UsageError("--to is missing", nullptr);

  const int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  if (fd < 0 || connect(fd, reinterpret_cast<sockaddr*>(&address), sizeof address) != 0) {
    fprintf(stderr, "starling-heartbeat: cannot reach the observer: %s\n", strerror(errno));
    return kCannotRun;
  }
  CatchSignals();
  if (command != nullptr) Run(command);
  // The default slack of 50 us would show up in every gap.
  prctl(PR_SET_TIMERSLACK, 1000);
  return BeatUntilEnd(fd, period_ns);
}
