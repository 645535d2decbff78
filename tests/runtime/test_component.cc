// What the keeper's tests run as a component.
//   test_component exit STATUS           says "hello" and ends
//   test_component sleep                 until a signal ends it
//   test_component trap FILE             writes "term" to FILE on SIGTERM and ends with 7
//   test_component stubborn FILE         ignores SIGTERM, and writes "ready" to FILE once it does
//   test_component daemon FILE           ends with 3 once a daemonised grandchild wrote its pid and its
//                                        parent's, as it sees them, to FILE; that one ends on SIGTERM
//   test_component spawner FILE          on each SIGUSR1 leaves a daemon behind, as above; on each
//                                        SIGUSR2 one whose session's leader lives on, beside it
//   test_component beat ADDRESS PORT     sends a numbered datagram every millisecond and answers each
//                                        datagram it gets at its own PORT with "got <number of it>"
//   test_component talk ADDRESS PORT     connects there and sends the letters of the alphabet in turn,
//                                        one every 10 ms; ends with 4 when the connection breaks

#include <arpa/inet.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace {

const char* g_file;

void WriteTo(const char* path, const char* text) {
  const int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0644);
  (void)!write(fd, text, strlen(text));
  close(fd);
}

void OnTerm(int) {
  WriteTo(g_file, "term");
  _exit(7);
}

volatile sig_atomic_t g_spawn = 0;
void OnUsr1(int) { g_spawn = 1; }

volatile sig_atomic_t g_spawn_heir = 0;
void OnUsr2(int) { g_spawn_heir = 1; }

// `heir`: the leader of the daemon's session lives on, a process in between does not.
int Daemon(const char* file, bool heir) {
  int gate[2];
  if (pipe(gate) != 0) return 1;
  const pid_t child = fork();
  if (child == 0) {
    setsid();
    if (heir && fork() > 0) {
      close(gate[0]);
      close(gate[1]);
      while (true) pause();
    }
    const pid_t between = getpid();
    if (fork() > 0) _exit(0);
    close(gate[0]);
    // Until the parent in between has gone and we were given a new one.
    while (getppid() == between) usleep(1000);
    char text[64];
    snprintf(text, sizeof(text), "%d %d", getpid(), getppid());
    WriteTo(file, text);
    close(gate[1]);
    pause();
    _exit(0);
  }
  close(gate[1]);
  char c;
  (void)!read(gate[0], &c, 1);
  return 3;
}

int Spawner(const char* file) {
  sigset_t mine, none;
  sigemptyset(&none);
  sigemptyset(&mine);
  sigaddset(&mine, SIGUSR1);
  sigaddset(&mine, SIGUSR2);
  sigprocmask(SIG_BLOCK, &mine, nullptr);
  signal(SIGUSR1, OnUsr1);
  signal(SIGUSR2, OnUsr2);
  signal(SIGCHLD, SIG_IGN);
  WriteTo(file, "ready");
  while (true) {
    sigsuspend(&none);
    if (g_spawn != 0) {
      g_spawn = 0;
      (void)Daemon(file, false);
    }
    if (g_spawn_heir != 0) {
      g_spawn_heir = 0;
      (void)Daemon(file, true);
    }
  }
}

int Beat(const char* address, int port) {
  const int fd = socket(AF_INET, SOCK_DGRAM, 0);
  sockaddr_in local = {};
  local.sin_family = AF_INET;
  local.sin_port = htons(static_cast<unsigned short>(port));
  if (bind(fd, reinterpret_cast<sockaddr*>(&local), sizeof(local)) != 0) return 1;
  sockaddr_in to = local;
  inet_pton(AF_INET, address, &to.sin_addr);
  unsigned long beats = 0, got = 0;
  while (true) {
    char text[64];
    const int n = snprintf(text, sizeof(text), "beat %lu", beats++);
    sendto(fd, text, static_cast<size_t>(n), 0, reinterpret_cast<sockaddr*>(&to), sizeof(to));
    pollfd poller = {fd, POLLIN, 0};
    while (poll(&poller, 1, 1) > 0) {
      sockaddr_in from = {};
      socklen_t size = sizeof(from);
      if (recvfrom(fd, text, sizeof(text), 0, reinterpret_cast<sockaddr*>(&from), &size) < 0) break;
      const int m = snprintf(text, sizeof(text), "got %lu", ++got);
      sendto(fd, text, static_cast<size_t>(m), 0, reinterpret_cast<sockaddr*>(&from), size);
    }
  }
}

int Talk(const char* address, int port) {
  signal(SIGPIPE, SIG_IGN);
  const int fd = socket(AF_INET, SOCK_STREAM, 0);
  sockaddr_in to = {};
  to.sin_family = AF_INET;
  to.sin_port = htons(static_cast<unsigned short>(port));
  inet_pton(AF_INET, address, &to.sin_addr);
  if (connect(fd, reinterpret_cast<sockaddr*>(&to), sizeof(to)) != 0) return 5;
  for (char c = 'a';; c = c == 'z' ? 'a' : static_cast<char>(c + 1)) {
    if (send(fd, &c, 1, 0) != 1) return 4;
    usleep(10000);
  }
}

}  // namespace

int main(int argc, char** argv) {
  const char* mode = argc > 1 ? argv[1] : "";
  if (strcmp(mode, "exit") == 0) {
    (void)!write(1, "hello\n", 6);
    return atoi(argv[2]);
  }
  if (strcmp(mode, "sleep") == 0) return pause();
  if (strcmp(mode, "trap") == 0) {
    g_file = argv[2];
    signal(SIGTERM, OnTerm);
    WriteTo(g_file, "ready");
    while (true) pause();
  }
  if (strcmp(mode, "stubborn") == 0) {
    signal(SIGTERM, SIG_IGN);
    WriteTo(argv[2], "ready");
    while (true) pause();
  }
  if (strcmp(mode, "spawner") == 0) return Spawner(argv[2]);
  if (strcmp(mode, "daemon") == 0) return Daemon(argv[2], false);
  if (strcmp(mode, "talk") == 0) return Talk(argv[2], atoi(argv[3]));
  if (strcmp(mode, "beat") == 0) return Beat(argv[2], atoi(argv[3]));
  return 2;
}
