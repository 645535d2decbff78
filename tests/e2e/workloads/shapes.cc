// starling-shapes: workloads whose memory has an awkward shape. Every one of them writes all the
// time in an order that follows from the count of its steps alone, can work out from that count
// what its memory has to hold, and tells a digest of it.
//
// usage: starling-shapes SHAPE --listen PORT
//   threads  64 threads, each with memory of its own
//   shared   three processes that write to one shared memory in turns, each with memory of its own
//   churn    one that maps, fills, moves, gives back and unmaps, and forks children that check it
//   sysv     two processes with System V shared memory, a semaphore and a message queue
//   sparse   2 GiB of which one page in a hundred is touched
//   huge     huge pages of hugetlbfs, and transparent ones
//
// Lines over TCP: "pause" and "resume" -> "STEPS"; "digest" (while paused) -> "STEPS DIGEST";
// "check" -> "STEPS ok" or "STEPS WHAT-IS-WRONG".

#include <arpa/inet.h>
#include <signal.h>
#include <sys/ipc.h>
#include <sys/mman.h>
#include <sys/msg.h>
#include <sys/prctl.h>
#include <sys/sem.h>
#include <sys/shm.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#include <xxhash.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "tools/witness/values.h"

namespace {

using starling::witness::Random;

constexpr size_t kPage = 4096;
constexpr size_t kMiB = size_t{1} << 20;
constexpr size_t kHuge = 2 * kMiB;

[[noreturn]] void Die(const char* what) {
  std::fprintf(stderr, "starling-shapes: %s: %s\n", what, std::strerror(errno));
  std::exit(1);
}

void Sleep(int64_t us) {
  const timespec time = {us / 1'000'000, us % 1'000'000 * 1000};
  nanosleep(&time, nullptr);
}

unsigned char* Map(size_t bytes, int flags) {
  void* mapped = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_ANONYMOUS | flags, -1, 0);
  if (mapped == MAP_FAILED) Die("mmap");
  return static_cast<unsigned char*>(mapped);
}

// What a page holds that was last written to by `step`.
void Fill(unsigned char* page, uint64_t seed, uint64_t step) {
  Random random(Random(seed).Next() ^ step);
  for (size_t at = 0; at < kPage; at += sizeof(uint64_t)) {
    const uint64_t word = random.Next();
    std::memcpy(page + at, &word, sizeof word);
  }
}

bool Holds(const unsigned char* page, uint64_t seed, uint64_t step) {
  unsigned char expected[kPage];
  Fill(expected, seed, step);
  return std::memcmp(page, expected, kPage) == 0;
}

// Pages that are written to one after the other, drawn by the step's number.
class Region {
 public:
  Region(unsigned char* bytes, size_t pages, size_t stride, uint64_t seed)
      : bytes_(bytes), pages_(pages), stride_(stride), seed_(seed) {
    for (size_t page = 0; page < pages_; ++page) Fill(At(page), seed_ + page, 0);
  }

  void Step(uint64_t step) {
    const size_t page = Drawn(step);
    Fill(At(page), seed_ + page, step);
  }

  // The first page that is not what it has to be after so many steps, or -1.
  long Wrong(uint64_t steps) const {
    std::vector<uint64_t> last(pages_, 0);
    for (uint64_t step = 1; step <= steps; ++step) last[Drawn(step)] = step;
    for (size_t page = 0; page < pages_; ++page) {
      if (!Holds(At(page), seed_ + page, last[page])) return static_cast<long>(page);
    }
    return -1;
  }

  uint64_t Digest(uint64_t before) const {
    for (size_t page = 0; page < pages_; ++page)
      before = XXH3_64bits_withSeed(At(page), kPage, before);
    return before;
  }

 private:
  size_t Drawn(uint64_t step) const { return Random(seed_ ^ step).Below(pages_); }
  unsigned char* At(size_t page) const { return bytes_ + page * stride_ * kPage; }

  unsigned char* bytes_;
  size_t pages_;
  size_t stride_;
  uint64_t seed_;
};

// One that writes, in a thread or a process: stops between two steps when it is told to.
struct Worker {
  std::atomic<uint64_t> steps{0};
  std::atomic<bool> pause{false};
  std::atomic<bool> paused{false};
  std::atomic<bool> failed{false};  // it found something wrong by itself

  template <typename Step>
  [[noreturn]] void Work(const Step& step) {
    for (;;) {
      paused = pause.load();
      if (!paused) {
        step(steps + 1);
        ++steps;
      }
      Sleep(2000);
    }
  }
  void Pause() {
    pause = true;
    while (!paused) Sleep(1000);
  }
};

class Shape {
 public:
  virtual ~Shape() = default;
  virtual std::vector<Worker*> workers() = 0;
  // While all workers are paused.
  virtual std::string Wrong() = 0;
  virtual uint64_t Digest() = 0;
};

class Threads final : public Shape {
 public:
  Threads() {
    for (size_t i = 0; i < kThreads; ++i) {
      regions_.emplace_back(Map(kPages * kPage, MAP_PRIVATE), kPages, 1, 1000 * (i + 1));
    }
    for (size_t i = 0; i < kThreads; ++i) {
      std::thread([this, i] {
        workers_[i].Work([&](uint64_t step) { regions_[i].Step(step); });
      }).detach();
    }
  }
  std::vector<Worker*> workers() override {
    std::vector<Worker*> all;
    for (Worker& worker : workers_) all.push_back(&worker);
    return all;
  }
  std::string Wrong() override {
    for (size_t i = 0; i < kThreads; ++i) {
      if (const long page = regions_[i].Wrong(workers_[i].steps); page >= 0)
        return "page " + std::to_string(page) + " of thread " + std::to_string(i);
    }
    return "";
  }
  uint64_t Digest() override {
    uint64_t digest = 0;
    for (const Region& region : regions_) digest = region.Digest(digest);
    return digest;
  }

 private:
  static constexpr size_t kThreads = 64;
  static constexpr size_t kPages = 32;
  std::vector<Region> regions_;
  Worker workers_[kThreads];
};

class Shared final : public Shape {
 public:
  Shared() {
    workers_ = reinterpret_cast<Worker*>(Map(kPage, MAP_SHARED));
    static_assert(kProcesses * sizeof(Worker) <= kPage);
    for (size_t i = 0; i < kProcesses; ++i) new (workers_ + i) Worker;
    unsigned char* bytes = Map(kProcesses * kPages * kPage, MAP_SHARED);
    // Each has every third page, so that no two of its pages lie side by side.
    for (size_t i = 0; i < kProcesses; ++i)
      regions_.emplace_back(bytes + i * kPage, kPages, kProcesses, 1000 * (i + 1));
    for (size_t i = 1; i < kProcesses; ++i) {
      const pid_t child = fork();
      if (child < 0) Die("fork");
      if (child == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        Work(i);
      }
    }
    std::thread([this] { Work(0); }).detach();
  }
  std::vector<Worker*> workers() override {
    std::vector<Worker*> all;
    for (size_t i = 0; i < kProcesses; ++i) all.push_back(workers_ + i);
    return all;
  }
  std::string Wrong() override {
    for (size_t i = 0; i < kProcesses; ++i) {
      if (workers_[i].failed) return "process " + std::to_string(i) + " found its own memory wrong";
      if (const long page = regions_[i].Wrong(workers_[i].steps); page >= 0)
        return "shared page " + std::to_string(page) + " of process " + std::to_string(i);
    }
    return "";
  }
  uint64_t Digest() override {
    uint64_t digest = 0;
    for (const Region& region : regions_) digest = region.Digest(digest);
    return digest;
  }

 private:
  [[noreturn]] void Work(size_t i) {
    Region own(Map(kOwnPages * kPage, MAP_PRIVATE), kOwnPages, 1, 77 + i);
    uint64_t own_steps = 0;
    workers_[i].Work([&](uint64_t step) {
      regions_[i].Step(step);
      own.Step(step);
      // Its count in its own memory and the one in shared memory go together.
      if (++own_steps != step || (step % 500 == 0 && own.Wrong(step) >= 0))
        workers_[i].failed = true;
    });
  }

  static constexpr size_t kProcesses = 3;
  static constexpr size_t kPages = 512;
  static constexpr size_t kOwnPages = 64;
  Worker* workers_ = nullptr;
  std::vector<Region> regions_;
};

class SystemV final : public Shape {
 public:
  SystemV() {
    memory_ = shmget(IPC_PRIVATE, kPages * kPage, IPC_CREAT | 0600);
    semaphore_ = semget(IPC_PRIVATE, 1, IPC_CREAT | 0600);
    queue_ = msgget(IPC_PRIVATE, IPC_CREAT | 0600);
    if (memory_ < 0 || semaphore_ < 0 || queue_ < 0) Die("make System V objects");
    void* attached = shmat(memory_, nullptr, 0);
    if (attached == reinterpret_cast<void*>(-1)) Die("shmat");
    workers_ = reinterpret_cast<Worker*>(Map(kPage, MAP_SHARED));
    for (size_t i = 0; i < 2; ++i) new (workers_ + i) Worker;
    region_.emplace_back(static_cast<unsigned char*>(attached), kPages, 1, 5);
    for (uint64_t number = 1; number <= kWaiting; ++number) Send(number);
    if (semctl(semaphore_, 0, SETVAL, 1) != 0) Die("semctl");
    const pid_t child = fork();
    if (child < 0) Die("fork");
    if (child == 0) {
      prctl(PR_SET_PDEATHSIG, SIGKILL);
      workers_[1].Work([this](uint64_t step) { Pass(step); });
    }
    std::thread([this] {
      workers_[0].Work([this](uint64_t step) {
        Take(-1);
        region_[0].Step(step);
        Take(1);
      });
    }).detach();
  }
  std::vector<Worker*> workers() override { return {workers_, workers_ + 1}; }
  std::string Wrong() override {
    if (workers_[1].failed) return "the queue lost or changed a message";
    if (semctl(semaphore_, 0, GETVAL) != 1) return "the semaphore is not what it was";
    if (const long page = region_[0].Wrong(workers_[0].steps); page >= 0)
      return "page " + std::to_string(page) + " of the shared memory";
    return "";
  }
  uint64_t Digest() override { return region_[0].Digest(0); }

 private:
  struct Message {
    long type = 1;
    uint64_t number = 0;
  };
  void Send(uint64_t number) const {
    const Message message = {1, number};
    if (msgsnd(queue_, &message, sizeof(message.number), 0) != 0) Die("msgsnd");
  }
  void Take(short by) const {
    sembuf operation = {0, by, 0};
    while (semop(semaphore_, &operation, 1) != 0) {
      if (errno != EINTR) Die("semop");
    }
  }
  // There are always as many messages waiting, in the order of their numbers.
  void Pass(uint64_t step) {
    Take(-1);
    Message message;
    if (msgrcv(queue_, &message, sizeof(message.number), 0, IPC_NOWAIT) < 0 ||
        message.number != step)
      workers_[1].failed = true;
    Send(step + kWaiting);
    Take(1);
  }

  static constexpr size_t kPages = 64;
  static constexpr uint64_t kWaiting = 8;
  int memory_ = -1, semaphore_ = -1, queue_ = -1;
  Worker* workers_ = nullptr;
  std::vector<Region> region_;
};

class Churn final : public Shape {
 public:
  Churn() {
    std::thread([this] { worker_.Work([this](uint64_t step) { Step(step); }); }).detach();
  }
  std::vector<Worker*> workers() override { return {&worker_}; }
  std::string Wrong() override {
    if (worker_.failed) return "a child found what it inherited wrong";
    if (worker_.steps > 200 && children_ == 0) return "no child was ever made";
    for (const Piece& piece : pieces_) {
      if (!Right(piece)) return "a piece of " + std::to_string(piece.pages) + " pages";
    }
    return "";
  }
  uint64_t Digest() override {
    uint64_t digest = 0;
    for (const Piece& piece : pieces_)
      digest = XXH3_64bits_withSeed(piece.bytes, piece.pages * kPage, digest);
    return digest;
  }

 private:
  struct Piece {
    unsigned char* bytes;
    size_t pages;
    uint64_t step;          // that filled it
    size_t given_back = 0;  // so many pages at its end read as zeros
  };

  static bool Right(const Piece& piece) {
    static const unsigned char zeros[kPage] = {};
    for (size_t page = 0; page < piece.pages; ++page) {
      const unsigned char* at = piece.bytes + page * kPage;
      const bool right = page + piece.given_back < piece.pages ? Holds(at, page, piece.step)
                                                               : std::memcmp(at, zeros, kPage) == 0;
      if (!right) return false;
    }
    return true;
  }

  void Step(uint64_t step) {
    Random random(step);
    if (pieces_.size() < kPieces || random.Below(3) == 0) {
      Piece piece = {nullptr, 8 + random.Below(57), step};
      piece.bytes = Map(piece.pages * kPage, MAP_PRIVATE);
      for (size_t page = 0; page < piece.pages; ++page)
        Fill(piece.bytes + page * kPage, page, step);
      pieces_.push_back(piece);
    }
    const size_t drawn = random.Below(pieces_.size());
    Piece& piece = pieces_[drawn];
    switch (random.Below(4)) {
      case 0:
        munmap(piece.bytes, piece.pages * kPage);
        pieces_.erase(pieces_.begin() + static_cast<ptrdiff_t>(drawn));
        break;
      case 1: {
        // Half of it, elsewhere: the rest is unmapped.
        const size_t half = std::max<size_t>(piece.pages / 2, 1);
        unsigned char* place = Map(half * kPage, MAP_PRIVATE);
        munmap(piece.bytes + half * kPage, (piece.pages - half) * kPage);
        if (mremap(piece.bytes, half * kPage, half * kPage, MREMAP_MAYMOVE | MREMAP_FIXED, place) ==
            MAP_FAILED) {
          Die("mremap");
        }
        piece.given_back -= std::min(piece.given_back, piece.pages - half);
        piece.bytes = place;
        piece.pages = half;
        break;
      }
      case 2:
        piece.given_back = std::min(piece.given_back + 3, piece.pages);
        madvise(piece.bytes + (piece.pages - piece.given_back) * kPage, piece.given_back * kPage,
                MADV_DONTNEED);
        break;
      default:
        break;
    }
    if (pieces_.size() > 2 * kPieces) {
      munmap(pieces_.front().bytes, pieces_.front().pages * kPage);
      pieces_.erase(pieces_.begin());
    }
    if (step % 10 == 0) Fork();
    Reap();
  }

  // A child looks at everything that it inherited, writes to some of it, and lives for a while, so
  // that it may be moved as well.
  void Fork() {
    if (alive_ >= kMostChildren) return;
    const pid_t child = fork();
    if (child < 0) return;  // as many as the host allows
    if (child > 0) {
      ++children_;
      ++alive_;
      return;
    }
    bool right = true;
    for (int look = 0; look < 3; ++look) {
      for (size_t i = 0; i < pieces_.size(); ++i) {
        right = right && Right(pieces_[i]);
        if (i % 4 == 0 && look == 0) {
          pieces_[i].step = 1'000'000 + i;
          pieces_[i].given_back = 0;
          for (size_t page = 0; page < pieces_[i].pages; ++page)
            Fill(pieces_[i].bytes + page * kPage, page, pieces_[i].step);
        }
        Sleep(5000);
      }
    }
    _exit(right ? 0 : 1);
  }

  void Reap() {
    int status;
    while (waitpid(-1, &status, WNOHANG) > 0) {
      --alive_;
      if (status != 0) worker_.failed = true;
    }
  }

  static constexpr size_t kPieces = 24;
  static constexpr int kMostChildren = 3;
  std::vector<Piece> pieces_;
  int children_ = 0;
  int alive_ = 0;
  Worker worker_;
};

// Pages of one mapping, so far apart from one another; those between are never touched.
class Spread : public Shape {
 public:
  Spread(unsigned char* bytes, size_t pages, size_t stride)
      : bytes_(bytes), pages_(pages), stride_(stride), region_(bytes, pages, stride, 5) {
    std::thread([this] { worker_.Work([this](uint64_t step) { region_.Step(step); }); }).detach();
  }
  std::vector<Worker*> workers() override { return {&worker_}; }
  std::string Wrong() override {
    if (const long page = region_.Wrong(worker_.steps); page >= 0)
      return "touched page " + std::to_string(page);
    if (stride_ == 1) return "";
    // Some of those that were not touched: looking at one makes it exist.
    static const unsigned char zeros[kPage] = {};
    for (size_t i = 0; i < pages_; i += 100) {
      if (std::memcmp(bytes_ + (i * stride_ + 1) * kPage, zeros, kPage) != 0)
        return "the page after touched page " + std::to_string(i) + " is not zero";
    }
    return "";
  }
  uint64_t Digest() override { return region_.Digest(0); }

 private:
  unsigned char* bytes_;
  size_t pages_;
  size_t stride_;
  Region region_;
  Worker worker_;
};

class Huge final : public Shape {
 public:
  Huge() {
    unsigned char* thp = Map(5 * kHuge, MAP_PRIVATE);
    // Aligned, or there are none.
    thp += kHuge - reinterpret_cast<uintptr_t>(thp) % kHuge;
    madvise(thp, 4 * kHuge, MADV_HUGEPAGE);
    parts_.push_back(std::make_unique<Spread>(thp, 4 * kHuge / kPage, 1));
    parts_.push_back(
        std::make_unique<Spread>(Map(4 * kHuge, MAP_PRIVATE | MAP_HUGETLB), 4 * kHuge / kPage, 1));
  }
  std::vector<Worker*> workers() override {
    return {parts_[0]->workers()[0], parts_[1]->workers()[0]};
  }
  std::string Wrong() override {
    const std::string wrong = parts_[0]->Wrong();
    return wrong.empty() ? parts_[1]->Wrong() : wrong;
  }
  uint64_t Digest() override { return parts_[0]->Digest() ^ (parts_[1]->Digest() * 3); }

 private:
  std::vector<std::unique_ptr<Spread>> parts_;
};

std::unique_ptr<Shape> Make(std::string_view name) {
  if (name == "threads") return std::make_unique<Threads>();
  if (name == "shared") return std::make_unique<Shared>();
  if (name == "sysv") return std::make_unique<SystemV>();
  if (name == "churn") return std::make_unique<Churn>();
  if (name == "huge") return std::make_unique<Huge>();
  if (name != "sparse") return nullptr;
  constexpr size_t kBytes = size_t{2} << 30;
  constexpr size_t kStride = 100;
  unsigned char* bytes = Map(kBytes, MAP_PRIVATE | MAP_NORESERVE);
  // With transparent huge pages a touched page would bring 511 others with it.
  madvise(bytes, kBytes, MADV_NOHUGEPAGE);
  return std::make_unique<Spread>(bytes, kBytes / kPage / kStride, kStride);
}

std::string Answer(Shape& shape, std::string_view line, bool& paused) {
  const auto steps = [&] {
    uint64_t all = 0;
    for (const Worker* worker : shape.workers()) all += worker->steps;
    return std::to_string(all);
  };
  const auto stop = [&] {
    for (Worker* worker : shape.workers()) worker->pause = true;
    for (Worker* worker : shape.workers()) worker->Pause();
  };
  const auto go_on = [&] {
    for (Worker* worker : shape.workers()) worker->pause = false;
    for (Worker* worker : shape.workers()) {
      while (worker->paused) Sleep(1000);
    }
  };
  if (line == "pause") {
    stop();
    paused = true;
    return steps();
  }
  if (line == "resume") {
    go_on();
    paused = false;
    return steps();
  }
  if (line == "digest" && paused) {
    char digest[32];
    std::snprintf(digest, sizeof digest, " %016lx", shape.Digest());
    return steps() + digest;
  }
  if (line != "check") return "unknown";
  stop();
  const std::string wrong = shape.Wrong();
  const std::string told = steps() + " " + (wrong.empty() ? "ok" : wrong);
  if (!paused) go_on();
  return told;
}

// One client at a time.
[[noreturn]] void Serve(Shape& shape, int listener) {
  bool paused = false;
  for (;;) {
    const int client = accept(listener, nullptr, nullptr);
    if (client < 0) continue;
    std::string in;
    char bytes[256];
    for (ssize_t size; (size = recv(client, bytes, sizeof bytes, 0)) > 0 || errno == EINTR;) {
      in.append(bytes, static_cast<size_t>(std::max<ssize_t>(size, 0)));
      for (size_t end = in.find('\n'); end != std::string::npos; end = in.find('\n')) {
        const std::string answer = Answer(shape, in.substr(0, end), paused) + "\n";
        in.erase(0, end + 1);
        if (send(client, answer.data(), answer.size(), MSG_NOSIGNAL) < 0) break;
      }
      if (size == 0) break;
    }
    close(client);
  }
}

}  // namespace

int main(int argc, char** argv) {
  const long port = argc == 4 && std::string_view(argv[2]) == "--listen" ? std::atol(argv[3]) : 0;
  if (port < 1 || port > 65535) {
    std::fputs("usage: starling-shapes threads|shared|churn|sysv|sparse|huge --listen PORT\n", stderr);
    return 64;
  }
  const std::unique_ptr<Shape> shape = Make(argv[1]);
  if (shape == nullptr) {
    std::fprintf(stderr, "starling-shapes: there is no shape %s\n", argv[1]);
    return 64;
  }
  const int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  const int one = 1;
  setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
  sockaddr_in address = {};
  address.sin_family = AF_INET;
  address.sin_port = htons(static_cast<uint16_t>(port));
  if (bind(listener, reinterpret_cast<sockaddr*>(&address), sizeof address) != 0 ||
      listen(listener, 4) != 0) {
    Die("listen");
  }
  Serve(*shape, listener);
}
