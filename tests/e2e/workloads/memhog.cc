// starling-memhog: a workload that is nothing but memory. It holds seeded pages, rewrites them at a
// set rate in an order that depends on the seed and the count of steps alone, and tells the digest
// of all of it, so that anybody can work out what a moved copy must hold: `starling-memhog --expect
// STEPS` computes the same digest from scratch.
//
// usage: starling-memhog --mib N [--seed N] [--rate PAGES/s] --listen PORT
//        starling-memhog --mib N [--seed N] --expect STEPS
//
// Lines over TCP: "digest" -> "STEPS DIGEST" (of one moment); "pause", "resume" -> "STEPS".

#include <arpa/inet.h>
#include <poll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>
#include <xxhash.h>

#include <cerrno>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>

#include "tools/witness/values.h"

namespace {

using starling::witness::Random;

constexpr size_t kPageBytes = 4096;
constexpr int64_t kNsPerSecond = 1'000'000'000;
constexpr int64_t kTickNs = 1'000'000;
constexpr uint64_t kMostStepsPerTick = 4096;  // so that a digest is never long in coming

int64_t Now() {
  timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return now.tv_sec * kNsPerSecond + now.tv_nsec;
}

class Memory {
 public:
  Memory(size_t mib, uint64_t seed) : pages_(mib * (1 << 20) / kPageBytes), seed_(seed) {
    void* mapped = mmap(nullptr, pages_ * kPageBytes, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (mapped == MAP_FAILED) {
      std::perror("starling-memhog: mmap");
      std::exit(1);
    }
    bytes_ = static_cast<unsigned char*>(mapped);
    for (size_t page = 0; page < pages_; ++page) Fill(page, 0);
  }
  Memory(const Memory&) = delete;
  Memory& operator=(const Memory&) = delete;
  ~Memory() { munmap(bytes_, pages_ * kPageBytes); }

  void Step() {
    ++steps_;
    Fill(Random(seed_ ^ steps_).Below(pages_), steps_);
  }

  uint64_t steps() const { return steps_; }
  uint64_t Digest() const { return XXH3_64bits(bytes_, pages_ * kPageBytes); }

 private:
  void Fill(size_t page, uint64_t step) {
    Random random(Random(seed_ + page).Next() ^ step);
    for (size_t at = 0; at < kPageBytes; at += sizeof(uint64_t)) {
      const uint64_t word = random.Next();
      std::memcpy(bytes_ + page * kPageBytes + at, &word, sizeof word);
    }
  }

  size_t pages_;
  uint64_t seed_;
  uint64_t steps_ = 0;
  unsigned char* bytes_ = nullptr;
};

// Serves one client at a time between the steps; one thread, so that a digest is of one moment.
class Server {
 public:
  Server(Memory& memory, uint16_t port, double steps_per_s)
      : memory_(memory), steps_per_s_(steps_per_s), listener_(socket(AF_INET, SOCK_STREAM, 0)) {
    const int one = 1;
    setsockopt(listener_, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    sockaddr_in address = {};
    address.sin_family = AF_INET;
    address.sin_port = htons(port);
    if (bind(listener_, reinterpret_cast<sockaddr*>(&address), sizeof address) != 0 ||
        listen(listener_, 4) != 0) {
      std::fprintf(stderr, "starling-memhog: cannot listen on port %u: %s\n", port,
                   std::strerror(errno));
      std::exit(1);
    }
  }

  [[noreturn]] void Run() {
    int64_t last = Now();
    double due = 0;
    for (;;) {
      const int64_t now = Now();
      // After a move the clock may be another one; what was not done then is not caught up.
      if (now > last && now - last < kNsPerSecond && !paused_) {
        due += steps_per_s_ * static_cast<double>(now - last) / kNsPerSecond;
      }
      last = now;
      for (uint64_t done = 0; due >= 1 && done < kMostStepsPerTick; ++done, due -= 1)
        memory_.Step();
      Serve();
    }
  }

 private:
  void Serve() {
    pollfd waiting = {client_ >= 0 ? client_ : listener_, POLLIN, 0};
    const timespec tick = {0, kTickNs};
    if (ppoll(&waiting, 1, &tick, nullptr) <= 0) return;
    if (client_ < 0) {
      client_ = accept(listener_, nullptr, nullptr);
      return;
    }
    char bytes[256];
    const ssize_t size = recv(client_, bytes, sizeof bytes, 0);
    if (size <= 0) {
      close(client_);
      client_ = -1;
      in_.clear();
      return;
    }
    in_.append(bytes, static_cast<size_t>(size));
    for (size_t end = in_.find('\n'); end != std::string::npos; end = in_.find('\n')) {
      Answer(in_.substr(0, end));
      in_.erase(0, end + 1);
    }
  }

  void Answer(const std::string& line) {
    char answer[64];
    if (line == "digest") {
      std::snprintf(answer, sizeof answer, "%lu %016lx\n", memory_.steps(), memory_.Digest());
    } else if (line == "pause" || line == "resume") {
      paused_ = line == "pause";
      std::snprintf(answer, sizeof answer, "%lu\n", memory_.steps());
    } else {
      std::snprintf(answer, sizeof answer, "unknown\n");
    }
    if (send(client_, answer, std::strlen(answer), MSG_NOSIGNAL) < 0) {
      std::fprintf(stderr, "starling-memhog: answering: %s\n", std::strerror(errno));
    }
  }

  Memory& memory_;
  double steps_per_s_;
  int listener_;
  int client_ = -1;
  bool paused_ = false;
  std::string in_;
};

[[noreturn]] void Usage() {
  std::fputs(
      "usage: starling-memhog --mib N [--seed N] [--rate PAGES/s] --listen PORT\n"
      "       starling-memhog --mib N [--seed N] --expect STEPS\n",
      stderr);
  std::exit(64);
}

}  // namespace

int main(int argc, char** argv) {
  size_t mib = 0;
  uint64_t seed = 1;
  double rate = 1000;
  long port = 0;
  uint64_t expect = 0;
  bool expecting = false;
  if (argc % 2 == 0) Usage();
  for (int i = 1; i < argc; i += 2) {
    const std::string option = argv[i];
    char* end = nullptr;
    const double value = std::strtod(argv[i + 1], &end);
    if (*end != '\0' || value < 0) Usage();
    if (option == "--mib") {
      mib = static_cast<size_t>(value);
    } else if (option == "--seed") {
      seed = static_cast<uint64_t>(value);
    } else if (option == "--rate") {
      rate = value;
    } else if (option == "--listen") {
      port = static_cast<long>(value);
    } else if (option == "--expect") {
      expect = static_cast<uint64_t>(value);
      expecting = true;
    } else {
      Usage();
    }
  }
  if (mib == 0 || expecting == (port != 0) || port > 65535) Usage();

  Memory memory(mib, seed);
  if (expecting) {
    while (memory.steps() < expect) memory.Step();
    std::printf("%lu %016lx\n", memory.steps(), memory.Digest());
    return 0;
  }
  Server(memory, static_cast<uint16_t>(port), rate).Run();
}
