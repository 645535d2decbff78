#include "checkpoint/criu_session.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sched.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include <filesystem>
#include <fstream>
#include <thread>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "base/file.h"

namespace starling::checkpoint {
namespace {

using std::chrono::seconds;

// A folder with a program that stands in for CRIU where a test needs its misbehaviour.
class CriuSessionTest : public ::testing::Test {
 protected:
  void SetUp() override {
    char name[] = "/tmp/starling-criu-session-XXXXXX";
    ASSERT_NE(::mkdtemp(name), nullptr);
    folder_ = name;
    folder_fd_ = OpenFile(folder_, O_RDONLY | O_DIRECTORY).value();
  }
  void TearDown() override { ASSERT_TRUE(RemoveTree(folder_).ok()); }

  std::string Script(const std::string& body) {
    const std::string path = absl::StrCat(folder_, "/fake-criu");
    std::ofstream(path) << "#!/bin/sh\n" << body << "\n";
    ::chmod(path.c_str(), 0755);
    return path;
  }

  CriuOptions Options(const std::string& binary) {
    CriuOptions options;
    options.binary = binary;
    options.images_dir = folder_fd_.get();
    return options;
  }

  std::string folder_;
  UniqueFd folder_fd_;
};

TEST_F(CriuSessionTest, MissingProgramIsNamed) {
  const auto session =
      CriuSession::Start(Options("/nonexistent/criu"), Deadline::After(seconds(20)));
  EXPECT_EQ(session.status().code(), absl::StatusCode::kNotFound);
  EXPECT_TRUE(absl::StrContains(session.status().message(), "/nonexistent/criu"))
      << session.status();
}

TEST_F(CriuSessionTest, LogFileWithFolderIsRefused) {
  CriuOptions options = Options("/bin/true");
  options.log_file = "a/b";
  EXPECT_EQ(CriuSession::Start(options, Deadline::After(seconds(20))).status().code(),
            absl::StatusCode::kInvalidArgument);
}

TEST_F(CriuSessionTest, DeathInTheMiddleIsUnavailableWithItsLastErrors) {
  // $3 is the RPC descriptor's number.
  const std::string fake =
      Script("echo '(00.1) Error (x.c:1): the sky fell' >>/proc/self/fd/4/criu.log; kill -9 $$");
  auto session = CriuSession::Start(Options(fake), Deadline::After(seconds(20))).value();
  const auto result = session->Dump({.pid = 1}, {}, Deadline::After(seconds(20)));
  EXPECT_EQ(result.status().code(), absl::StatusCode::kUnavailable);
  EXPECT_TRUE(absl::StrContains(result.status().message(), "signal 9")) << result.status();
  EXPECT_TRUE(absl::StrContains(result.status().message(), "the sky fell")) << result.status();
  EXPECT_EQ(session->pid(), 0);
}

TEST_F(CriuSessionTest, DeadlineEndsCriuAndWhatItForked) {
  const std::string fake = Script(absl::StrCat("sleep 1000 & echo $! >", folder_, "/child; wait"));
  auto session = CriuSession::Start(Options(fake), Deadline::After(seconds(20))).value();
  const std::string child_file = absl::StrCat(folder_, "/child");
  while (!std::filesystem::exists(child_file) || std::filesystem::file_size(child_file) < 2) {
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  const auto result =
      session->PreDump({.pid = 1}, {}, Deadline::After(std::chrono::milliseconds(50)));
  EXPECT_EQ(result.status().code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_EQ(session->pid(), 0);
  const int child = std::stoi(ReadFile(child_file).value());
  for (int i = 0; i < 400 && ::kill(child, 0) == 0; ++i) {
    // Reaped by init, or a zombie where init does not reap: dead in both cases.
    const auto stat = ReadFile(absl::StrCat("/proc/", child, "/stat"));
    if (stat.ok() && absl::StrContains(*stat, ") Z ")) return;
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  EXPECT_NE(::kill(child, 0), 0);
}

TEST_F(CriuSessionTest, CancelFromAnotherThreadAborts) {
  auto session =
      CriuSession::Start(Options(Script("exec sleep 1000")), Deadline::After(seconds(20))).value();
  std::thread canceller([&] {
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
    session->Cancel();
  });
  const auto result = session->Restore({}, {}, Deadline::After(seconds(60)));
  canceller.join();
  EXPECT_EQ(result.status().code(), absl::StatusCode::kAborted) << result.status();
  session->Cancel();  // after the end: nothing to do
}

TEST_F(CriuSessionTest, DestructionOfAnUnusedSessionReapsCriu) {
  pid_t pid;
  {
    auto session =
        CriuSession::Start(Options(Script("exec sleep 1000")), Deadline::After(seconds(20)))
            .value();
    pid = session->pid();
    ASSERT_GT(pid, 0);
    ASSERT_EQ(::kill(pid, 0), 0);
  }
  EXPECT_EQ(::kill(pid, 0), -1);
}

TEST_F(CriuSessionTest, DescriptorsArriveAtTheirNumbersAndNoOthers) {
  int pipe_fds[2];
  ASSERT_EQ(::pipe(pipe_fds), 0);  // without close-on-exec: must not reach CRIU all the same
  const UniqueFd reader(pipe_fds[0]), writer(pipe_fds[1]);
  CriuOptions options = Options(Script(absl::StrCat("ls -l /proc/$$/fd >", folder_, "/fds")));
  const UniqueFd null = OpenFile("/dev/null", O_RDONLY).value();
  options.inherited = {{null.get(), "one"}};
  auto session = CriuSession::Start(options, Deadline::After(seconds(20))).value();
  EXPECT_FALSE(session->Restore({}, {}, Deadline::After(seconds(20))).ok());
  const std::string fds = ReadFile(absl::StrCat(folder_, "/fds")).value();
  EXPECT_TRUE(absl::StrContains(fds, "3 -> socket:")) << fds;
  EXPECT_TRUE(absl::StrContains(fds, absl::StrCat("4 -> ", folder_))) << fds;
  EXPECT_FALSE(absl::StrContains(fds, " 5 -> ")) << fds;  // no page server was given
  EXPECT_TRUE(absl::StrContains(fds, "6 -> /dev/null")) << fds;
  EXPECT_FALSE(absl::StrContains(fds, "pipe:")) << fds;
}

TEST(CriuQuery, AsksTheInstalledCriu) {
  if (!std::filesystem::exists("/usr/sbin/criu")) GTEST_SKIP() << "criu is not installed";
  if (::geteuid() != 0) GTEST_SKIP() << "CRIU needs root";
  CriuOptions options;
  auto session = CriuSession::Start(options, Deadline::After(seconds(20))).value();
  const auto facts = session->Query(Deadline::After(seconds(20)));
  // This kernel may be one that the installed CRIU cannot work on: then it must say so.
  if (facts.ok()) {
    EXPECT_GE(facts->version, (CriuVersion{3, 0, 0}));
  } else {
    EXPECT_EQ(facts.status().code(), absl::StatusCode::kFailedPrecondition) << facts.status();
    EXPECT_TRUE(absl::StrContains(facts.status().message(), "does not run on this kernel"));
  }
}

// CRIU inside fresh namespaces finds an images folder that is not mounted there.
TEST_F(CriuSessionTest, RealCriuInsideNamespacesWritesItsLogIntoTheFolder) {
  if (!std::filesystem::exists("/usr/sbin/criu")) GTEST_SKIP() << "criu is not installed";
  if (::geteuid() != 0) GTEST_SKIP() << "namespaces need root";
  int ready[2];
  ASSERT_EQ(::pipe2(ready, O_CLOEXEC), 0);
  const pid_t holder = ::fork();
  ASSERT_GE(holder, 0);
  if (holder == 0) {
    if (::unshare(CLONE_NEWPID | CLONE_NEWNS) != 0) ::_exit(1);
    const pid_t init = ::fork();
    if (init == 0) {
      ::mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr);
      if (::mount("proc", "/proc", "proc", 0, nullptr) != 0) ::_exit(1);
      // The folder's own mount point disappears behind this one.
      if (::mount("none", "/tmp", "tmpfs", 0, nullptr) != 0) ::_exit(1);
      if (::write(ready[1], "x", 1) != 1) ::_exit(1);
      while (true) ::pause();
    }
    int status;
    if (::write(ready[1], &init, 0) < 0) ::_exit(1);
    ::waitpid(init, &status, 0);
    ::_exit(0);
  }
  ::close(ready[1]);
  char byte;
  ASSERT_EQ(::read(ready[0], &byte, 1), 1) << "the namespaces could not be made";
  ::close(ready[0]);
  const std::string children =
      ReadFile(absl::StrCat("/proc/", holder, "/task/", holder, "/children")).value();
  const int init = std::stoi(children);
  const UniqueFd pid_ns = OpenFile(absl::StrCat("/proc/", init, "/ns/pid"), O_RDONLY).value();
  const UniqueFd mount_ns = OpenFile(absl::StrCat("/proc/", init, "/ns/mnt"), O_RDONLY).value();
  CriuOptions options = Options("/usr/sbin/criu");
  options.pid_namespace = pid_ns.get();
  options.mount_namespace = mount_ns.get();
  options.log_level = 4;
  auto session = CriuSession::Start(options, Deadline::After(seconds(20))).value();
  // Nothing with this pid is there: CRIU must fail, after it has found the folder and opened its
  // log.
  const auto result = session->Dump({.pid = 12345}, {}, Deadline::After(seconds(60)));
  EXPECT_FALSE(result.ok());
  const auto log = ReadFile(absl::StrCat(folder_, "/criu.log"));
  EXPECT_TRUE(log.ok() && !log->empty()) << result.status();
  EXPECT_TRUE(absl::StrContains(result.status().message(), "Error (")) << result.status();
  session.reset();
  ::kill(init, SIGKILL);
  ::waitpid(holder, nullptr, 0);
}

}  // namespace
}  // namespace starling::checkpoint
