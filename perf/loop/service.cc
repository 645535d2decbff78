// starling-service: the component of perf/run loop. Each request costs a stated time of a
// processor, counted by the thread's own clock, so that it is as much on a slow or shared processor
// as on a fast one; while it works it writes to pages all over its memory.
//
// usage: starling-service --port PORT --mib N
//
// A request is a line "NUMBER MICROSECONDS", its reply the line "NUMBER SERVED", SERVED being how
// many requests were answered so far: one that was lost, or answered by another copy, shows. Pages
// hold a word that can be told from their place, which is checked before a page is written to; a
// wrong one ends the program.

#include <arpa/inet.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <string_view>

#include "tools/witness/values.h"

namespace {

using starling::witness::Random;

constexpr size_t kPageBytes = 4096;
constexpr size_t kPageWords = kPageBytes / sizeof(uint64_t);
constexpr uint64_t kMostMib = 4096;
// How much is asked for at once at most: a request is not to keep the service for good.
constexpr uint64_t kMostMicroseconds = 10'000'000;
// Pages written to in a request: as many are sent again in a move, whatever the request costs.
constexpr size_t kPagesPerRequest = 16;

[[noreturn]] void Die(const char* what) {
  std::fprintf(stderr, "starling-service: %s\n", what);
  std::exit(1);
}

int64_t Worked_ns() {
  timespec now;
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return now.tv_sec * int64_t{1'000'000'000} + now.tv_nsec;
}

class Service {
 public:
  explicit Service(size_t mib) : pages_(mib * (1 << 20) / kPageBytes) {
    void* mapped = mmap(nullptr, pages_ * kPageBytes, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (mapped == MAP_FAILED) Die("mmap failed");
    words_ = static_cast<uint64_t*>(mapped);
    for (size_t page = 0; page < pages_; ++page) {
      Random random(page);
      for (size_t word = 0; word < kPageWords; ++word)
        words_[page * kPageWords + word] = random.Next();
    }
  }
  Service(const Service&) = delete;
  Service& operator=(const Service&) = delete;
  ~Service() { munmap(words_, pages_ * kPageBytes); }

  // Answers one client until it goes, or talks nonsense.
  void Serve(int client) {
    std::string in;
    std::array<char, 4096> bytes;
    for (;;) {
      const ssize_t size = recv(client, bytes.data(), bytes.size(), 0);
      if (size < 0 && errno == EINTR) continue;
      if (size <= 0) return;
      in.append(bytes.data(), static_cast<size_t>(size));
      size_t used = 0;
      for (size_t end; (end = in.find('\n', used)) != std::string::npos; used = end + 1) {
        if (!Answer(client, in.substr(used, end - used))) return;
      }
      in.erase(0, used);
    }
  }

 private:
  bool Answer(int client, const std::string& line) {
    char* end = nullptr;
    const uint64_t number = std::strtoull(line.c_str(), &end, 10);
    if (*end != ' ') return false;
    const uint64_t microseconds = std::strtoull(end + 1, &end, 10);
    if (*end != '\0' || microseconds > kMostMicroseconds) return false;
    Work(static_cast<int64_t>(microseconds) * 1000);
    const std::string reply = std::to_string(number) + " " + std::to_string(++served_) + "\n";
    for (size_t sent = 0; sent < reply.size();) {
      const ssize_t now = send(client, reply.data() + sent, reply.size() - sent, MSG_NOSIGNAL);
      if (now < 0 && errno != EINTR) return false;
      if (now > 0) sent += static_cast<size_t>(now);
    }
    return true;
  }

  void Work(int64_t for_ns) {
    int64_t left = for_ns, before = Worked_ns();
    for (size_t i = 0; i < kPagesPerRequest; ++i) Touch();
    // Nothing but time: what is written does not hang on how fast this processor is.
    while (left > 0) {
      for (int i = 0; i < 1000; ++i) sink_ = sink_ + static_cast<uint64_t>(i);
      // A move has the thread's clock begin anew.
      const int64_t now = Worked_ns();
      left -= std::max<int64_t>(0, now - before);
      before = now;
    }
  }

  void Touch() {
    uint64_t* page = words_ + at_ * kPageWords;
    Random random(at_);
    random.Next();  // the first word is the one that changes
    if (page[1] != random.Next()) Die("a page is not what was written");
    ++page[0];
    // A stride that meets every page before it meets one again.
    at_ = (at_ + kStride) % pages_;
  }

  static constexpr size_t kStride =
      7919;  // a prime above kMostMib: no divisor of any number of pages

  size_t pages_;
  uint64_t* words_ = nullptr;
  size_t at_ = 0;
  uint64_t served_ = 0;
  volatile uint64_t sink_ = 0;
};

[[noreturn]] void Usage() {
  std::fputs("usage: starling-service --port PORT --mib N\n", stderr);
  std::exit(64);
}

}  // namespace

int main(int argc, char** argv) {
  uint64_t port = 0, mib = 0;
  if (argc % 2 == 0) Usage();
  for (int i = 1; i < argc; i += 2) {
    const std::string_view option = argv[i];
    uint64_t* to = option == "--port" ? &port : option == "--mib" ? &mib : nullptr;
    char* end = nullptr;
    const uint64_t value = std::strtoull(argv[i + 1], &end, 10);
    if (to == nullptr || *end != '\0') Usage();
    *to = value;
  }
  if (port < 1 || port > 65535 || mib < 1 || mib > kMostMib) Usage();

  Service service(mib);
  const int listener = socket(AF_INET, SOCK_STREAM, 0);
  const int one = 1;
  setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
  sockaddr_in address = {};
  address.sin_family = AF_INET;
  address.sin_port = htons(static_cast<uint16_t>(port));
  if (bind(listener, reinterpret_cast<sockaddr*>(&address), sizeof address) != 0 ||
      listen(listener, 8) != 0) {
    Die("cannot listen on that port");
  }
  for (;;) {
    const int client = accept(listener, nullptr, nullptr);
    if (client < 0) continue;
    service.Serve(client);
    close(client);
  }
}
