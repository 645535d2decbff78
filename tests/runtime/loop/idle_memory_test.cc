#include "runtime/loop/idle_memory.h"

#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "absl/strings/str_cat.h"
#include "base/file.h"
#include "base/units.h"
#include "tests/runtime/scratch.h"

namespace starling::loop {
namespace {

using std::chrono::seconds;

TEST(IdleMemory, CountsWhatIsAnonymousAndWasNotTouched) {
  Scratch scratch(InMemory());
  const auto write = [&](const std::string& name, const std::string& text) {
    ASSERT_TRUE(WriteFileAtomic(scratch / name, text).ok());
  };
  ASSERT_TRUE(MakeDirectories(scratch / "proc/7").ok());
  write("cgroup.procs", "7\n8\nx\n");
  write("proc/7/clear_refs", "");
  write("proc/7/smaps_rollup", "x\nAnonymous: 1000 kB\nReferenced: 300 kB\n");
  IdleMemory idle(scratch / "proc");
  TimePoint now(seconds(1000));
  idle.Look("a", scratch.path(), now);
  EXPECT_EQ(idle.Bytes("a"), 0) << "its marks were not cleared before";
  idle.Look("a", scratch.path(), now + seconds(1));
  EXPECT_EQ(idle.Bytes("a"), 0) << "too soon";
  idle.Look("a", scratch.path(), now + IdleMemory::kEvery);
  EXPECT_EQ(idle.Bytes("a"), 700 * 1024);
  write("proc/7/smaps_rollup", "x\nAnonymous: 1000 kB\nReferenced: 3000 kB\n");
  idle.Look("a", scratch.path(), now + 2 * IdleMemory::kEvery);
  EXPECT_EQ(idle.Bytes("a"), 0);
  idle.KeepOnly({});
  EXPECT_EQ(idle.Bytes("a"), 0);
}

// A child with 8 MiB that it touched once.
TEST(IdleMemory, SeesAProcessThatRests) {
  const pid_t child = fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    constexpr size_t kBytes = 8 * kMiB;
    void* memory =
        mmap(nullptr, kBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) _exit(1);
    for (size_t i = 0; i < kBytes; i += 4096) static_cast<char*>(memory)[i] = 1;
    for (;;) pause();
  }
  Scratch scratch(InMemory());
  ASSERT_TRUE(WriteFileAtomic(scratch / "cgroup.procs", absl::StrCat(child, "\n")).ok());
  IdleMemory idle;
  TimePoint now(seconds(1000));
  int64_t seen = 0;
  // Until the child has come so far.
  for (int i = 0; i < 200 && seen < static_cast<int64_t>(7 * kMiB); ++i) {
    idle.Look("a", scratch.path(), now += IdleMemory::kEvery);
    seen = idle.Bytes("a");
    usleep(20'000);
  }
  kill(child, SIGKILL);
  waitpid(child, nullptr, 0);
  if (access("/proc/self/clear_refs", W_OK) != 0) GTEST_SKIP() << "no clear_refs in this kernel";
  EXPECT_GE(seen, static_cast<int64_t>(7 * kMiB));
}

}  // namespace
}  // namespace starling::loop
