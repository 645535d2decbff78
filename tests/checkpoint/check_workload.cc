#include "tests/checkpoint/check_workload.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <span>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "base/fd.h"
#include "base/file.h"
#include "base/status.h"
#include "checkpoint/arena.h"
#include "checkpoint/page_stream.h"
#include "tests/checkpoint/check_pages.h"
#include "tests/checkpoint/check_sandbox.h"

namespace starling::checkpoint {
namespace {

constexpr int kProcesses = 3;
constexpr size_t kHugePage = 2 << 20;
struct Region {
  uint64_t* pages;
  size_t count;
  std::vector<uint64_t> expected;  // what each page must hold
};

// Never returns: a wrong byte aborts.
void WriteForEver(uint64_t* counters, int number, Region shared, Region own) {
  // A mapping that cannot be read once it is written, a page of a private file mapping that was
  // copied, pages given back: each is its own case for a checkpointer.
  auto* hidden = static_cast<uint64_t*>(
      ::mmap(nullptr, 4 * kPageSize, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
  for (size_t i = 0; i < 4; ++i) WritePage(hidden + i * kWordsAPage, Mix(number + i));
  ::mprotect(hidden, 4 * kPageSize, PROT_NONE);
  const int file = ::open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
  auto* copied = static_cast<uint64_t*>(
      ::mmap(nullptr, 8 * kPageSize, PROT_READ | PROT_WRITE, MAP_PRIVATE, file, 0));
  ::close(file);
  WritePage(copied + 3 * kWordsAPage, Mix(77));
  // What no tracker owns: shared memory that is a file, and a huge page where there is one.
  const int anonymous = ::memfd_create("checked", MFD_CLOEXEC);
  if (anonymous < 0 || ::ftruncate(anonymous, 4 * kPageSize) != 0) std::abort();
  auto* file_memory = static_cast<uint64_t*>(
      ::mmap(nullptr, 4 * kPageSize, PROT_READ | PROT_WRITE, MAP_SHARED, anonymous, 0));
  auto* huge = static_cast<uint64_t*>(::mmap(nullptr, kHugePage, PROT_READ | PROT_WRITE,
                                             MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB, -1, 0));
  if (huge == MAP_FAILED) huge = nullptr;
  std::printf("huge page %s\n", huge != nullptr ? "yes" : "no");
  std::fflush(stdout);
  for (uint64_t step = 1;; ++step) {
    for (uint64_t* foreign : {file_memory, huge}) {
      if (foreign == nullptr) continue;
      if (step > 1) CheckPage(foreign + 2 * kWordsAPage, Mix(step - 1) | 1);
      WritePage(foreign + 2 * kWordsAPage, Mix(step) | 1);
    }
    for (Region* region : {&shared, &own}) {
      const size_t at = Mix(step * 3 + number) % region->count;
      uint64_t* page = region->pages + at * kWordsAPage;
      CheckPage(page, region->expected[at]);
      if (region == &own && step % 50 == 0) {
        ::madvise(page, kPageSize, MADV_DONTNEED);
        region->expected[at] = 0;
      } else {
        const uint64_t seed = Mix(step * 1000003 + static_cast<uint64_t>(number)) | 1;
        WritePage(page, seed);
        region->expected[at] = seed;
      }
    }
    if (step % 1000 == 0) {
      ::mprotect(hidden, 4 * kPageSize, PROT_READ);
      for (size_t i = 0; i < 4; ++i) CheckPage(hidden + i * kWordsAPage, Mix(number + i));
      ::mprotect(hidden, 4 * kPageSize, PROT_NONE);
      CheckPage(copied + 3 * kWordsAPage, Mix(77));
    }
    // Slow enough that rounds and the dump see many pages at rest.
    if (step % 4 == 0) ::usleep(20000);
    __atomic_store_n(&counters[number], step, __ATOMIC_RELAXED);
  }
}

struct Mapping {
  uint64_t start, end;
  std::string permissions, name;
};

absl::StatusOr<std::vector<Mapping>> Mappings(pid_t pid) {
  ASSIGN_OR_RETURN(const std::string maps, ReadFile(absl::StrCat("/proc/", pid, "/maps")));
  std::vector<Mapping> mappings;
  for (absl::string_view line : absl::StrSplit(maps, '\n', absl::SkipWhitespace())) {
    const std::vector<std::string> fields =
        absl::StrSplit(line, absl::MaxSplits(' ', 5), absl::SkipEmpty());
    const std::vector<std::string> ends = absl::StrSplit(fields[0], '-');
    Mapping mapping;
    if (ends.size() != 2 || fields.size() < 5 || !absl::SimpleHexAtoi(ends[0], &mapping.start) ||
        !absl::SimpleHexAtoi(ends[1], &mapping.end)) {
      return absl::InternalError(absl::StrCat("maps line: ", std::string(line)));
    }
    mapping.permissions = fields[1];
    // CRIU 3.17 gives a writable mapping of a forked child the protection that its parent's has
    // now, made writable. To the processor what can be written can be read.
    if (mapping.permissions[1] == 'w') mapping.permissions[0] = 'r';
    if (fields.size() > 5) {
      absl::string_view name = absl::StripAsciiWhitespace(fields[5]);
      // CRIU makes anonymous shared memory again as a memfd of that name.
      absl::ConsumePrefix(&name, "/memfd:");
      mapping.name = std::string(name);
    }
    // Neighbours that the kernel keeps apart for its own reasons may be one mapping after a
    // restore.
    if (!mappings.empty() && mappings.back().end == mapping.start &&
        mappings.back().permissions == mapping.permissions &&
        mappings.back().name == mapping.name) {
      mappings.back().end = mapping.end;
      continue;
    }
    mappings.push_back(mapping);
  }
  return mappings;
}

}  // namespace

int RunSharedMemoryWorkload(int megabytes) {
  ::prctl(PR_SET_CHILD_SUBREAPER, 1);
  // The counters' page first, then each process's stripe.
  const size_t stripe = std::max<size_t>(1, (size_t{1} << 20) * megabytes / 6 / kPageSize);
  const size_t shared_pages = 1 + stripe * kProcesses;
  auto* shared =
      static_cast<uint64_t*>(::mmap(nullptr, shared_pages * kPageSize, PROT_READ | PROT_WRITE,
                                    MAP_SHARED | MAP_ANONYMOUS, -1, 0));
  if (shared == MAP_FAILED) return 1;
  for (int number = 0; number < kProcesses; ++number) {
    if (number < kProcesses - 1) {
      const pid_t child = ::fork();
      if (child < 0) return 1;
      if (child > 0) continue;
    }
    auto* own = static_cast<uint64_t*>(::mmap(nullptr, stripe * kPageSize, PROT_READ | PROT_WRITE,
                                              MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    if (own == MAP_FAILED) return 1;
    uint64_t* own_stripe = shared + kWordsAPage * (1 + stripe * static_cast<size_t>(number));
    WriteForEver(shared, number, {own_stripe, stripe, std::vector<uint64_t>(stripe)},
                 {own, stripe, std::vector<uint64_t>(stripe)});
  }
  return 1;
}

absl::StatusOr<std::vector<uint64_t>> SharedMemoryProgress(pid_t pid) {
  ASSIGN_OR_RETURN(const std::vector<Mapping> mappings, Mappings(pid));
  for (const Mapping& mapping : mappings) {
    if (!absl::StartsWith(mapping.name, "/dev/zero")) continue;
    ASSIGN_OR_RETURN(const UniqueFd memory,
                     OpenFile(absl::StrCat("/proc/", pid, "/mem"), O_RDONLY));
    std::vector<uint64_t> counters(kProcesses);
    const size_t size = counters.size() * sizeof(uint64_t);
    if (::pread(memory.get(), counters.data(), size, static_cast<off_t>(mapping.start)) !=
        static_cast<ssize_t>(size)) {
      return ErrnoStatus("read the shared counters");
    }
    return counters;
  }
  return absl::NotFoundError("no shared memory in the first process");
}

int RunRedisWorkload() {
  ::prctl(PR_SET_CHILD_SUBREAPER, 1);
  const pid_t server = ::fork();
  if (server == 0) {
    ::execl("/usr/bin/redis-server", "redis-server", "--port", "7777", "--save", "", "--dir", "/",
            "--enable-debug-command", "yes", nullptr);
    ::_exit(127);
  }
  const pid_t waiter = ::fork();
  if (waiter == 0) {
    ::execl("/bin/sh", "sh", "-c",
            "until redis-cli -p 7777 ping >/dev/null; do sleep 0.3; done; "
            "exec redis-cli -p 7777 blpop the-queue 0",
            nullptr);
    ::_exit(127);
  }
  while (true) {
    int subreaper = 0;
    ::prctl(PR_GET_CHILD_SUBREAPER, &subreaper);
    std::printf("subreaper %d\n", subreaper);
    std::fflush(stdout);
    ::sleep(1);
  }
}

absl::StatusOr<std::string> RunShell(const std::string& command) {
  FILE* pipe = ::popen(absl::StrCat("{ ", command, "; } 2>&1").c_str(), "r");
  if (pipe == nullptr) return ErrnoStatus("start a shell");
  std::string output;
  char buffer[4096];
  while (size_t size = ::fread(buffer, 1, sizeof(buffer), pipe)) output.append(buffer, size);
  if (::pclose(pipe) != 0) return absl::UnavailableError(absl::StrCat(command, ": ", output));
  return std::string(absl::StripAsciiWhitespace(output));
}

absl::StatusOr<std::string> AskRedis(const std::string& arguments) {
  return RunShell(absl::StrCat("redis-cli -p 7777 ", arguments));
}

absl::StatusOr<std::vector<std::string>> MemoryDigest(pid_t pid) {
  ASSIGN_OR_RETURN(const pid_t inside, PidInside(pid));
  ASSIGN_OR_RETURN(const std::vector<Mapping> mappings, Mappings(pid));
  ASSIGN_OR_RETURN(const UniqueFd memory, OpenFile(absl::StrCat("/proc/", pid, "/mem"), O_RDONLY));
  std::vector<std::string> lines;
  std::vector<std::byte> bytes;
  for (const Mapping& mapping : mappings) {
    if (mapping.name == "[vvar]" || mapping.name == "[vsyscall]") continue;
    if (absl::StartsWith(mapping.name, "[vvar")) continue;
    bytes.assign(mapping.end - mapping.start, std::byte{0});
    // A page behind the end of a file cannot be read; it stays zero here.
    for (size_t done = 0; done < bytes.size();) {
      const ssize_t got = ::pread(memory.get(), bytes.data() + done, bytes.size() - done,
                                  static_cast<off_t>(mapping.start + done));
      done += got > 0 ? static_cast<size_t>(got) : kPageSize;
    }
    lines.push_back(absl::StrFormat("%d %x-%x %s %016x %s", inside, mapping.start, mapping.end,
                                    mapping.permissions, HashPages(bytes), mapping.name));
  }
  return lines;
}

}  // namespace starling::checkpoint
