// starling-writer: the component that the migration benchmark moves. It holds memory that does not
// compress, writes to pages of it drawn uniformly at a set rate, and answers SET and GET in Redis'
// protocol with values that lie in pages spread evenly over that memory, so that a client's reply
// times feel what happens to it.
//
// Every line that it writes can be told from its place and the count of writes at the time: it is
// checked before it is overwritten, and a wrong one ends the program.
//
// usage: starling-writer --mib N --rate PAGES/s --port PORT [--keys N] [--seed N]
//
// Beside SET and GET, "STEPS" answers how many pages were written to so far.

#include <arpa/inet.h>
#include <poll.h>
#include <pthread.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <string_view>
#include <vector>

#include "tools/witness/values.h"

namespace {

using starling::witness::Random;

constexpr size_t kPageBytes = 4096;
// The first half of a page may hold a value (its size first), the second half is lines.
constexpr size_t kValueBytes = kPageBytes / 2;
constexpr size_t kMostValueBytes = kValueBytes - sizeof(uint32_t);
constexpr size_t kLineWords = 8;
constexpr size_t kLines = (kPageBytes - kValueBytes) / (kLineWords * sizeof(uint64_t));
constexpr int64_t kNsPerSecond = 1'000'000'000;
constexpr int64_t kTickNs = 1'000'000;
// What was not written while the program did not run is not caught up.
constexpr int64_t kMostTickNs = 10 * kTickNs;

int64_t Now() {
  timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return now.tv_sec * kNsPerSecond + now.tv_nsec;
}

[[noreturn]] void Die(const char* what) {
  std::fprintf(stderr, "starling-writer: %s\n", what);
  std::exit(1);
}

using Line = std::array<uint64_t, kLineWords>;

class Memory {
 public:
  Memory(size_t mib, uint64_t seed) : pages_(mib * (1 << 20) / kPageBytes), seed_(seed) {
    void* mapped = mmap(nullptr, pages_ * kPageBytes, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (mapped == MAP_FAILED) Die("mmap failed");
    bytes_ = static_cast<unsigned char*>(mapped);
    Random random(seed);
    for (size_t page = 0; page < pages_; ++page) {
      for (size_t at = sizeof(uint64_t); at < kValueBytes; at += sizeof(uint64_t)) {
        const uint64_t word = random.Next();
        std::memcpy(bytes_ + page * kPageBytes + at, &word, sizeof word);
      }
      for (size_t line = 0; line < kLines; ++line) Store(page, line, Made(page, line, 0));
    }
  }
  Memory(const Memory&) = delete;
  Memory& operator=(const Memory&) = delete;
  ~Memory() { munmap(bytes_, pages_ * kPageBytes); }

  size_t pages() const { return pages_; }
  uint64_t steps() const { return steps_.load(std::memory_order_relaxed); }

  // Checks a line of a page, both drawn at random, and writes another one.
  void Step(Random& random) {
    const size_t page = random.Below(pages_);
    const size_t line = random.Below(kLines);
    Line old;
    std::memcpy(old.data(), At(page, line), sizeof old);
    if (old != Made(page, line, old[0] ^ Mask(page, line))) Die("a line is not what was written");
    const uint64_t step = steps() + 1;
    Store(page, line, Made(page, line, step));
    steps_.store(step, std::memory_order_relaxed);
  }

  void Set(size_t page, std::string_view value) {
    const auto size = static_cast<uint32_t>(value.size());
    std::memcpy(bytes_ + page * kPageBytes + sizeof size, value.data(), value.size());
    std::memcpy(bytes_ + page * kPageBytes, &size, sizeof size);
  }

  // Empty: never set.
  std::string_view Get(size_t page) const {
    uint32_t size;
    std::memcpy(&size, bytes_ + page * kPageBytes, sizeof size);
    return {reinterpret_cast<const char*>(bytes_) + page * kPageBytes + sizeof size, size};
  }

 private:
  uint64_t Mask(size_t page, size_t line) const {
    return Random(seed_ ^ (page * kLines + line)).Next();
  }
  Line Made(size_t page, size_t line, uint64_t step) const {
    const uint64_t first = step ^ Mask(page, line);
    Line made = {first};
    Random random(first);
    for (size_t i = 1; i < kLineWords; ++i) made[i] = random.Next();
    return made;
  }
  unsigned char* At(size_t page, size_t line) const {
    return bytes_ + page * kPageBytes + kValueBytes + line * sizeof(Line);
  }
  void Store(size_t page, size_t line, const Line& made) {
    std::memcpy(At(page, line), made.data(), sizeof made);
  }

  size_t pages_;
  uint64_t seed_;
  std::atomic<uint64_t> steps_{0};
  unsigned char* bytes_ = nullptr;
};

struct Pace {
  Memory* memory;
  double steps_per_s;
  uint64_t seed;
};

void* WriteForEver(void* argument) {
  const Pace& pace = *static_cast<Pace*>(argument);
  Random random(pace.seed + 1);
  int64_t last = Now();
  double due = 0;
  for (;;) {
    const timespec tick = {0, kTickNs};
    nanosleep(&tick, nullptr);
    const int64_t now = Now();
    // After a move the clock may be another one.
    const int64_t passed = std::clamp<int64_t>(now - last, 0, kMostTickNs);
    last = now;
    due += pace.steps_per_s * static_cast<double>(passed) / kNsPerSecond;
    for (; due >= 1; due -= 1) pace.memory->Step(random);
  }
}

// As much of Redis' protocol as the witness speaks, for a few clients at a time.
class Server {
 public:
  Server(Memory& memory, uint16_t port, size_t keys)
      : memory_(memory), keys_(keys), stride_(memory.pages() / keys) {
    const int listener = socket(AF_INET, SOCK_STREAM, 0);
    const int one = 1;
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    sockaddr_in address = {};
    address.sin_family = AF_INET;
    address.sin_port = htons(port);
    if (bind(listener, reinterpret_cast<sockaddr*>(&address), sizeof address) != 0 ||
        listen(listener, 8) != 0) {
      Die("cannot listen on that port");
    }
    waiting_.push_back({listener, POLLIN, 0});
    in_.emplace_back();
  }

  [[noreturn]] void Run() {
    for (;;) {
      if (poll(waiting_.data(), waiting_.size(), -1) < 0) continue;
      if (waiting_[0].revents != 0) {
        if (const int client = accept(waiting_[0].fd, nullptr, nullptr); client >= 0) {
          waiting_.push_back({client, POLLIN, 0});
          in_.emplace_back();
        }
      }
      for (size_t i = waiting_.size() - 1; i > 0; --i) {
        if (waiting_[i].revents == 0 || Serve(i)) continue;
        close(waiting_[i].fd);
        waiting_.erase(waiting_.begin() + static_cast<ptrdiff_t>(i));
        in_.erase(in_.begin() + static_cast<ptrdiff_t>(i));
      }
    }
  }

 private:
  // False: this client has gone, or talks nonsense.
  bool Serve(size_t client) {
    std::array<char, 64 * 1024> bytes;
    const ssize_t size = recv(waiting_[client].fd, bytes.data(), bytes.size(), 0);
    if (size <= 0) return size < 0 && errno == EINTR;
    std::string& in = in_[client];
    in.append(bytes.data(), static_cast<size_t>(size));
    out_.clear();
    size_t used = 0;
    for (;;) {
      const std::string_view rest = std::string_view(in).substr(used);
      size_t taken = 0;
      if (!Request(rest, taken)) return false;
      if (taken == 0) break;
      used += taken;
    }
    in.erase(0, used);
    for (size_t sent = 0; sent < out_.size();) {
      const ssize_t now =
          send(waiting_[client].fd, out_.data() + sent, out_.size() - sent, MSG_NOSIGNAL);
      if (now < 0 && errno != EINTR) return false;
      sent += static_cast<size_t>(std::max<ssize_t>(now, 0));
    }
    return true;
  }

  // The line at the front, without its end; false: not all of it is there.
  static bool TakeLine(std::string_view& text, std::string_view& line) {
    const size_t end = text.find("\r\n");
    if (end == std::string_view::npos) return false;
    line = text.substr(0, end);
    text.remove_prefix(end + 2);
    return true;
  }

  // Answers the request at the front of `text`; `taken` stays 0 when not all of it is there.
  bool Request(std::string_view text, size_t& taken) {
    const size_t before = text.size();
    std::string_view line;
    if (!TakeLine(text, line)) return true;
    std::vector<std::string_view> words;
    if (!line.empty() && line[0] == '*') {
      const int count = std::atoi(std::string(line.substr(1)).c_str());
      if (count < 1 || count > 3) return false;
      for (int i = 0; i < count; ++i) {
        if (!TakeLine(text, line)) return true;
        const int size =
            std::atoi(std::string(line.substr(std::min<size_t>(1, line.size()))).c_str());
        if (size < 0 || static_cast<size_t>(size) > kMostValueBytes) return false;
        if (text.size() < static_cast<size_t>(size) + 2) return true;
        words.push_back(text.substr(0, static_cast<size_t>(size)));
        text.remove_prefix(static_cast<size_t>(size) + 2);
      }
    } else {
      words.push_back(line);
    }
    taken = before - text.size();
    return Answer(words);
  }

  bool Answer(const std::vector<std::string_view>& words) {
    if (words[0] == "STEPS") {
      out_ += ":" + std::to_string(memory_.steps()) + "\r\n";
      return true;
    }
    if (words.size() < 2 || words[1].substr(0, 2) != "k:") return false;
    const size_t key = std::strtoul(std::string(words[1].substr(2)).c_str(), nullptr, 10);
    if (key >= keys_) return false;
    const size_t page = key * stride_;
    if (words[0] == "SET" && words.size() == 3) {
      memory_.Set(page, words[2]);
      out_ += "+OK\r\n";
    } else if (words[0] == "GET") {
      const std::string_view value = memory_.Get(page);
      if (value.empty()) {
        out_ += "$-1\r\n";
      } else {
        out_ += "$" + std::to_string(value.size()) + "\r\n";
        out_ += value;
        out_ += "\r\n";
      }
    } else {
      return false;
    }
    return true;
  }

  Memory& memory_;
  size_t keys_;
  size_t stride_;                // pages from one key's to the next one's
  std::vector<pollfd> waiting_;  // the listener first
  std::vector<std::string> in_;  // of each of them
  std::string out_;
};

[[noreturn]] void Usage() {
  std::fputs("usage: starling-writer --mib N --rate PAGES/s --port PORT [--keys N] [--seed N]\n",
             stderr);
  std::exit(64);
}

}  // namespace

int main(int argc, char** argv) {
  double mib = 0, rate = -1, port = 0, keys = 1, seed = 1;
  if (argc % 2 == 0) Usage();
  for (int i = 1; i < argc; i += 2) {
    const std::string_view option = argv[i];
    double* to = option == "--mib"    ? &mib
                 : option == "--rate" ? &rate
                 : option == "--port" ? &port
                 : option == "--keys" ? &keys
                 : option == "--seed" ? &seed
                                      : nullptr;
    char* end = nullptr;
    const double value = std::strtod(argv[i + 1], &end);
    if (to == nullptr || *end != '\0' || !(value >= 0 && value < 1e15)) Usage();
    *to = value;
  }
  const double pages = mib * (1 << 20) / kPageBytes;
  if (mib < 1 || rate < 0 || port < 1 || port > 65535 || keys < 1 || keys > pages) Usage();

  Memory memory(static_cast<size_t>(mib), static_cast<uint64_t>(seed));
  Pace pace = {&memory, rate, static_cast<uint64_t>(seed)};
  pthread_t writer;
  // Without writes to make there is nothing to wake up for.
  if (rate > 0 && pthread_create(&writer, nullptr, WriteForEver, &pace) != 0)
    Die("cannot start a thread");
  Server(memory, static_cast<uint16_t>(port), static_cast<size_t>(keys)).Run();
}
