// starling-worker: one of the many components that perf/run overhead has an agent watch. It waits;
// after SIGUSR1 it works a little twice a second (a millisecond of its processor, a share of its
// memory written to), after SIGUSR2 it waits again.
//
// usage: starling-worker [MIB]

#include <signal.h>
#include <time.h>

#include <cstdint>
#include <cstdlib>
#include <vector>

namespace {

volatile sig_atomic_t busy = 0;

void OnSignal(int number) { busy = number == SIGUSR1; }

int64_t CpuNow_ns() {
  timespec now;
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return now.tv_sec * int64_t{1'000'000'000} + now.tv_nsec;
}

}  // namespace

int main(int argc, char** argv) {
  constexpr size_t kPage = 4096;
  constexpr int64_t kWork_ns = 1'000'000;
  constexpr timespec kPause = {0, 500'000'000};
  const int mib = argc > 1 ? std::atoi(argv[1]) : 1;
  std::vector<uint8_t> memory(static_cast<size_t>(mib > 0 ? mib : 1) << 20, 1);
  signal(SIGUSR1, OnSignal);
  signal(SIGUSR2, OnSignal);
  sigset_t blocked, open;
  sigemptyset(&blocked);
  sigaddset(&blocked, SIGUSR1);
  sigprocmask(SIG_BLOCK, &blocked, &open);
  size_t at = 0;
  while (true) {
    while (busy == 0) sigsuspend(&open);
    const int64_t until = CpuNow_ns() + kWork_ns;
    do {
      memory[at] = static_cast<uint8_t>(memory[at] + 1);
      at = (at + kPage) % memory.size();
    } while (CpuNow_ns() < until);
    sigprocmask(SIG_SETMASK, &open, nullptr);
    nanosleep(&kPause, nullptr);
    sigprocmask(SIG_BLOCK, &blocked, nullptr);
  }
}
