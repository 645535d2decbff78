#include "checkpoint/injected_calls.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <linux/seccomp.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <cerrno>
#include <functional>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/file.h"

namespace starling::checkpoint {
namespace {

using std::chrono::milliseconds;

Deadline Soon() { return Deadline::After(std::chrono::seconds(20)); }

class InjectedCallsTest : public ::testing::Test {
 protected:
  void SetUp() override {
#ifndef __x86_64__
    GTEST_SKIP() << "x86-64 alone";
#endif
    ASSERT_EQ(::pipe2(ready_, O_CLOEXEC), 0);
  }
  void TearDown() override {
    if (child_ > 0) {
      ::kill(child_, SIGKILL);
      ::waitpid(child_, nullptr, 0);
    }
  }
  // The child ends with what the body returns.
  void Start(const std::function<int()>& body) {
    child_ = ::fork();
    ASSERT_GE(child_, 0);
    if (child_ == 0) {
      if (::write(ready_[1], "x", 1) != 1) ::_exit(99);
      ::_exit(body());
    }
    char byte;
    ASSERT_EQ(::read(ready_[0], &byte, 1), 1);
  }
  // Of a process that ended while it was traced the tracer, which here is its parent as well, may
  // have taken the status.
  static constexpr int kTaken = -1;
  int Exit() {
    int status = -1;
    const pid_t ended = ::waitpid(std::exchange(child_, 0), &status, 0);
    if (ended < 0 && errno == ECHILD) return kTaken;
    return WIFEXITED(status) ? WEXITSTATUS(status) : 1000 + WTERMSIG(status);
  }
  absl::StatusOr<int64_t> Call(int64_t number) {
    auto calls = InjectedCalls::Begin(child_, Soon());
    if (!calls.ok()) return calls.status();
    auto result = (*calls)->Call(number, {0, 0, 0});
    if (absl::Status end = (*calls)->End(); !end.ok()) return end;
    return result;
  }
  char StateOf(pid_t pid) {
    const std::string stat = ReadFile(absl::StrCat("/proc/", pid, "/stat")).value_or("?) ?");
    return stat[stat.rfind(')') + 2];
  }

  int ready_[2] = {-1, -1};
  pid_t child_ = 0;
};

TEST_F(InjectedCallsTest, TheCallIsTheOtherProcesss) {
  Start([] { return ::pause(); });
  const auto parent = Call(SYS_getppid);
  ASSERT_TRUE(parent.ok()) << parent.status();
  EXPECT_EQ(*parent, ::getpid());
  EXPECT_EQ(Call(SYS_close).value(), 0);
  EXPECT_EQ(Call(SYS_close).value(), -EBADF);
}

TEST_F(InjectedCallsTest, ABlockedReadGoesOn) {
  int words[2];
  ASSERT_EQ(::pipe2(words, O_CLOEXEC), 0);
  Start([&] {
    char byte = 0;
    return ::read(words[0], &byte, 1) == 1 && byte == 'y' ? 7 : 8;
  });
  std::this_thread::sleep_for(milliseconds(20));
  for (int i = 0; i < 5; ++i) ASSERT_TRUE(Call(SYS_getppid).ok());
  EXPECT_NE(StateOf(child_), 'Z');
  ASSERT_EQ(::write(words[1], "y", 1), 1);
  EXPECT_EQ(Exit(), 7);
}

TEST_F(InjectedCallsTest, ASleepIsNeitherCutShortNorInterrupted) {
  Start([] {
    timespec start, end;
    ::clock_gettime(CLOCK_MONOTONIC, &start);
    const timespec long_enough = {0, 300'000'000};
    // The C library passes an interruption on.
    if (::nanosleep(&long_enough, nullptr) != 0) return 8;
    ::clock_gettime(CLOCK_MONOTONIC, &end);
    const double took = static_cast<double>(end.tv_sec - start.tv_sec) +
                        static_cast<double>(end.tv_nsec - start.tv_nsec) * 1e-9;
    return took >= 0.3 ? 7 : 9;
  });
  std::this_thread::sleep_for(milliseconds(30));
  for (int i = 0; i < 5; ++i) ASSERT_TRUE(Call(SYS_getppid).ok());
  EXPECT_EQ(Exit(), 7);
}

volatile sig_atomic_t alarms = 0;

TEST_F(InjectedCallsTest, WhatComputesAndTakesSignalsIsNotDisturbed) {
  Start([] {
    struct sigaction action = {};
    action.sa_handler = [](int) { alarms = alarms + 1; };
    ::sigaction(SIGALRM, &action, nullptr);
    const itimerval often = {{0, 500}, {0, 500}};
    ::setitimer(ITIMER_REAL, &often, nullptr);
    const auto sum = [] {
      double floating = 0;
      uint64_t whole = 1;
      for (int i = 1; i < 20000; ++i) {
        floating += 1.0 / i;
        whole = whole * 6364136223846793005u + static_cast<uint64_t>(i);
      }
      return std::pair(floating, whole);
    };
    const auto expected = sum();
    timespec start, now;
    ::clock_gettime(CLOCK_MONOTONIC, &start);
    do {
      if (sum() != expected) return 8;
      ::clock_gettime(CLOCK_MONOTONIC, &now);
    } while (now.tv_sec - start.tv_sec < 2);
    return alarms > 0 ? 7 : 9;
  });
  int done = 0;
  bool ended = false;
  while (!ended && StateOf(child_) != 'Z') {
    const auto called = Call(SYS_getppid);
    if (!called.ok()) {
      EXPECT_EQ(called.status().code(), absl::StatusCode::kNotFound) << called.status();
      ended = true;
      continue;
    }
    EXPECT_EQ(*called, ::getpid());
    ++done;
  }
  EXPECT_GT(done, 10);
  const int exit = Exit();
  EXPECT_TRUE(exit == 7 || (ended && exit == kTaken)) << exit;
}

TEST_F(InjectedCallsTest, WhatACallWithoutAnEndInterruptedRunsOn) {
  Start([] {
    while (::getppid() != 1) {
    }
    return 0;
  });
  {
    // A busy machine needs longer to stop the child at all.
    auto wait = milliseconds(200);
    auto calls = InjectedCalls::Begin(child_, Deadline::After(wait));
    while (absl::IsUnavailable(calls.status()) && wait < std::chrono::seconds(30)) {
      wait *= 2;
      calls = InjectedCalls::Begin(child_, Deadline::After(wait));
    }
    ASSERT_TRUE(calls.ok()) << calls.status();
    const auto never = (*calls)->Call(SYS_pause, {0, 0, 0});
    EXPECT_EQ(never.status().code(), absl::StatusCode::kUnavailable) << never.status();
    EXPECT_TRUE((*calls)->End().ok());
  }
  EXPECT_EQ(StateOf(child_), 'R');
  EXPECT_EQ(Call(SYS_getppid).value(), ::getpid());
}

TEST_F(InjectedCallsTest, AStoppedProcessStaysStopped) {
  Start([] { return ::pause(); });
  ::kill(child_, SIGSTOP);
  while (StateOf(child_) != 'T') std::this_thread::sleep_for(milliseconds(1));
  EXPECT_EQ(Call(SYS_getppid).status().code(), absl::StatusCode::kUnavailable);
  // Let go of, it runs for as long as it takes to see that it is stopped.
  const Deadline soon = Soon();
  while (StateOf(child_) != 'T' && !soon.Passed()) std::this_thread::sleep_for(milliseconds(1));
  EXPECT_EQ(StateOf(child_), 'T');
}

TEST_F(InjectedCallsTest, AProcessWithAFilterIsLeftAlone) {
  Start([] {
    ::prctl(PR_SET_SECCOMP, SECCOMP_MODE_STRICT);
    while (::write(-1, nullptr, 0) != 0) {
    }
    return 0;
  });
  std::this_thread::sleep_for(milliseconds(50));
  EXPECT_EQ(Call(SYS_getppid).status().code(), absl::StatusCode::kUnimplemented);
  EXPECT_EQ(StateOf(child_), 'R');
}

TEST_F(InjectedCallsTest, AProcessThatHasEndedIsNotFound) {
  Start([] { return 3; });
  const pid_t pid = child_;
  EXPECT_EQ(Exit(), 3);
  EXPECT_EQ(InjectedCalls::Begin(pid, Soon()).status().code(), absl::StatusCode::kNotFound);
}

}  // namespace
}  // namespace starling::checkpoint
