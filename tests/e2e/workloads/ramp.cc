// starling-ramp: a workload whose memory grows steadily, a page's worth of fresh bytes at a time,
// and which tells its agent what it is about. On SIGUSR1 it keeps what it has; on SIGUSR2 it goes
// on. What it has is checked, a page a step, and its size told once a second.
//
// usage: starling-ramp --kib-per-s N [--most-mib N]

#include <signal.h>
#include <sys/mman.h>
#include <time.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>

#include "libstarling/starling.h"
#include "tools/witness/values.h"

namespace {

using starling::witness::Random;

constexpr size_t kPageBytes = 4096;
constexpr long kStepNs = 100'000'000;
constexpr int kStepsPerSecond = 10;

volatile sig_atomic_t holding = 0;

void Hold(int) { holding = 1; }
void GoOn(int) { holding = 0; }

uint64_t WordOf(size_t page) { return Random(page).Next(); }

}  // namespace

int main(int argc, char** argv) {
  size_t kib_per_s = 0, most_mib = 1024;
  for (int i = 1; i + 1 < argc; i += 2) {
    const std::string option = argv[i];
    const size_t value = std::strtoul(argv[i + 1], nullptr, 10);
    if (option == "--kib-per-s") kib_per_s = value;
    if (option == "--most-mib") most_mib = value;
  }
  if (kib_per_s == 0) {
    std::fprintf(stderr, "usage: starling-ramp --kib-per-s N [--most-mib N]\n");
    return 2;
  }
  signal(SIGUSR1, Hold);
  signal(SIGUSR2, GoOn);
  const size_t bytes = most_mib << 20;
  void* mapped = mmap(nullptr, bytes, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (mapped == MAP_FAILED) {
    std::perror("starling-ramp: mmap");
    return 1;
  }
  auto* memory = static_cast<unsigned char*>(mapped);
  size_t pages = 0, owed = 0, checked = 0;
  for (uint64_t step = 0;; ++step) {
    if (!holding) owed += kib_per_s * 1024 / kStepsPerSecond;
    for (; owed >= kPageBytes && (pages + 1) * kPageBytes <= bytes; owed -= kPageBytes, ++pages) {
      Random random(pages);
      for (size_t at = 0; at < kPageBytes; at += sizeof(uint64_t)) {
        const uint64_t word = random.Next();
        std::memcpy(memory + pages * kPageBytes + at, &word, sizeof(word));
      }
    }
    if (pages > 0) {
      checked = (checked + 1) % pages;
      uint64_t word = 0;
      std::memcpy(&word, memory + checked * kPageBytes, sizeof(word));
      if (word != WordOf(checked)) {
        std::printf("page %zu is not what it was\n", checked);
        return 3;
      }
    }
    if (step % kStepsPerSecond == 0) {
      starling_phase(holding ? "holding" : "growing");
      std::printf("%zu MiB\n", pages * kPageBytes >> 20);
      std::fflush(stdout);
    }
    const timespec pause = {0, kStepNs};
    nanosleep(&pause, nullptr);
  }
}
