#include "runtime/preflight/component_facts.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <linux/aio_abi.h>
#include <linux/io_uring.h>
#include <netinet/in.h>
#include <sched.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/inotify.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/shm.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <functional>
#include <string>
#include <vector>

#include "runtime/preflight/source_check.h"

namespace starling::preflight {
namespace {

using testing::Contains;
using testing::ElementsAre;
using testing::IsEmpty;
using testing::Not;
using testing::Pair;

namespace fs = std::filesystem;

// A process that does something and then waits; ended with the object. `setup` runs in it with
// /dev/null as its three standard descriptors and nothing else open; it may fork.
class Process {
 public:
  explicit Process(const std::function<bool()>& setup) {
    pid_ = fork();
    if (pid_ == 0) {
      prctl(PR_SET_PDEATHSIG, SIGKILL);
      setpgid(0, 0);
      close_range(0, ~0u, 0);
      open("/dev/null", O_RDWR);
      (void)!dup(0);
      (void)!dup(0);
      if (!setup()) _exit(1);
      raise(SIGSTOP);
      while (true) pause();
    }
    int status = 0;
    waitpid(pid_, &status, WUNTRACED);
    ready_ = WIFSTOPPED(status);
    kill(pid_, SIGCONT);
  }
  ~Process() {
    kill(-pid_, SIGKILL);
    waitpid(pid_, nullptr, 0);
  }
  Process(const Process&) = delete;
  Process& operator=(const Process&) = delete;

  int pid() const { return pid_; }
  bool ready() const { return ready_; }

 private:
  int pid_ = -1;
  bool ready_ = false;
};

class ComponentFactsTest : public testing::Test {
 protected:
  void SetUp() override {
    if (geteuid() != 0) GTEST_SKIP() << "looking into other processes needs root";
    char name[] = "/tmp/starling-facts-XXXXXX";
    ASSERT_NE(mkdtemp(name), nullptr);
    folder_ = name;
    spec_.set_name("test");
    spec_.set_ip("10.0.0.2/24");
  }
  void TearDown() override {
    if (!folder_.empty()) fs::remove_all(folder_);
  }

  ComponentFacts Gather(const Process& process) {
    EXPECT_TRUE(process.ready()) << "the process could not set itself up";
    options_.root_pid = process.pid();
    const auto facts = GatherComponent(spec_, options_);
    EXPECT_TRUE(facts.ok()) << facts.status();
    return facts.ok() ? *facts : ComponentFacts();
  }

  // Codes and things of all obstacles.
  std::vector<std::pair<std::string, std::string>> Check(const Process& process) {
    std::vector<std::pair<std::string, std::string>> found;
    for (const auto& o : CheckSource(Gather(process))) {
      // tsan maps a file of its own that it has removed.
      if (o.thing().find("/tsan.rodata.") != std::string::npos) continue;
      found.emplace_back(o.code(), o.thing());
    }
    return found;
  }

  std::vector<std::string> Codes(const Process& process) {
    std::vector<std::string> codes;
    for (const auto& [code, thing] : Check(process)) codes.push_back(code);
    return codes;
  }

  std::string folder_;
  v1::ComponentSpec spec_;
  GatherOptions options_;
};

const v1::FileFact* FindFile(const ComponentFacts& facts, const std::string& path) {
  for (const v1::FileFact& file : facts.files) {
    if (file.path() == path) return &file;
  }
  return nullptr;
}

TEST_F(ComponentFactsTest, APlainProcessCanBeMoved) {
  const Process process([] { return true; });
  const ComponentFacts facts = Gather(process);
  EXPECT_THAT(CheckSource(facts), IsEmpty());
  ASSERT_EQ(facts.processes.size(), 1u);
  EXPECT_EQ(facts.processes[0].pid, process.pid());
  EXPECT_TRUE(facts.processes[0].in_tree);
  EXPECT_EQ(facts.processes[0].namespaces.count("net"), 1u);
  EXPECT_GT(facts.memory_bytes, 0u);

  const v1::FileFact* self = FindFile(facts, fs::read_symlink("/proc/self/exe").string());
  ASSERT_NE(self, nullptr) << "its own program is among the files";
  EXPECT_FALSE(self->build_id().empty());
  EXPECT_FALSE(self->writable());
  EXPECT_GT(self->size(), 0u);
  EXPECT_TRUE(S_ISREG(self->mode()));
  const v1::FileFact* root = FindFile(facts, "/");
  ASSERT_NE(root, nullptr);
  EXPECT_TRUE(root->is_directory());
}

TEST_F(ComponentFactsTest, WhatIsUsualIsNoObstacle) {
  const Process process([] {
    int pair[2];
    int pipe_ends[2];
    sockaddr_un name = {};
    name.sun_family = AF_UNIX;
    name.sun_path[1] = 's';
    name.sun_path[2] = static_cast<char>('0' + getpid() % 10);
    const int listener = socket(AF_UNIX, SOCK_STREAM, 0);
    const int large = memfd_create("large", 0);
    return socketpair(AF_UNIX, SOCK_STREAM, 0, pair) == 0 && pipe(pipe_ends) == 0 &&
           bind(listener, reinterpret_cast<sockaddr*>(&name), sizeof(name)) == 0 &&
           listen(listener, 5) == 0 && eventfd(0, 0) >= 0 && inotify_init1(0) >= 0 &&
           epoll_create1(0) >= 0 && ftruncate(large, 1 << 30) == 0 &&
           mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, large, 0) != MAP_FAILED &&
           mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0) !=
               MAP_FAILED &&
           open("/proc/self/status", O_RDONLY) >= 0 && open("/dev/urandom", O_RDONLY) >= 0 &&
           posix_openpt(O_RDWR | O_NOCTTY) >= 0 && socket(AF_INET, SOCK_DGRAM, 0) >= 0 &&
           socket(AF_NETLINK, SOCK_RAW, 0) >= 0;
  });
  EXPECT_THAT(Check(process), IsEmpty());
}

TEST_F(ComponentFactsTest, FilesOpenForWriting) {
  const std::string plain = folder_ + "/plain";
  const std::string shared = folder_ + "/shared/db";
  const std::string log = folder_ + "/log";
  const std::string mapped = folder_ + "/mapped";
  fs::create_directory(folder_ + "/shared");
  spec_.add_shared(folder_ + "/shared");
  options_.carried = {log};
  const Process process([&] {
    const int map = open(mapped.c_str(), O_RDWR | O_CREAT, 0644);
    return open(plain.c_str(), O_RDWR | O_CREAT, 0644) >= 0 &&
           open(shared.c_str(), O_RDWR | O_CREAT, 0644) >= 0 &&
           open(log.c_str(), O_WRONLY | O_APPEND | O_CREAT, 0644) >= 0 &&
           ftruncate(map, 4096) == 0 &&
           mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, map, 0) != MAP_FAILED &&
           close(map) == 0;
  });
  EXPECT_THAT(Check(process), testing::UnorderedElementsAre(Pair("open-for-writing", plain),
                                                            Pair("open-for-writing", mapped)));
  const ComponentFacts facts = Gather(process);
  EXPECT_EQ(FindFile(facts, log), nullptr) << "the runtime takes its log along itself";
  const v1::FileFact* file = FindFile(facts, shared);
  ASSERT_NE(file, nullptr);
  EXPECT_TRUE(file->shared());
  EXPECT_TRUE(file->writable());
  EXPECT_EQ(file->modified_ns(), 0) << "it may change while the target looks";
}

TEST_F(ComponentFactsTest, FilesOnlyReadAreComparedByContent) {
  const std::string data = folder_ + "/data";
  const std::string shared = folder_ + "/shared/data";
  fs::create_directory(folder_ + "/shared");
  spec_.add_shared(folder_ + "/shared");
  std::ofstream(data) << "content";
  std::ofstream(shared) << "old content";
  fs::last_write_time(shared, fs::file_time_type::clock::now() - std::chrono::hours(1));
  const Process process(
      [&] { return open(data.c_str(), O_RDONLY) >= 0 && open(shared.c_str(), O_RDONLY) >= 0; });
  const ComponentFacts facts = Gather(process);
  const v1::FileFact* file = FindFile(facts, data);
  ASSERT_NE(file, nullptr);
  EXPECT_EQ(file->size(), 7u);
  EXPECT_NE(file->content_hash(), 0u);
  const v1::FileFact* there = FindFile(facts, shared);
  ASSERT_NE(there, nullptr);
  EXPECT_TRUE(there->shared());
  EXPECT_NE(there->modified_ns(), 0);
}

TEST_F(ComponentFactsTest, DeletedAndHiddenFiles) {
  options_.ghost_limit_bytes = 4096;
  const std::string path = folder_ + "/x";
  const Process process([&] {
    const auto make = [&](const std::string& name, off_t size) {
      const int fd = open((folder_ + name).c_str(), O_RDWR | O_CREAT, 0644);
      return fd >= 0 && ftruncate(fd, size) == 0;
    };
    return make("/small", 4096) && make("/large", 4097) && make("/linked", 1) &&
           unlink((folder_ + "/small").c_str()) == 0 && unlink((folder_ + "/large").c_str()) == 0 &&
           link((folder_ + "/linked").c_str(), (folder_ + "/other").c_str()) == 0 &&
           unlink((folder_ + "/linked").c_str()) == 0;
  });
  EXPECT_THAT(Check(process),
              testing::UnorderedElementsAre(Pair("deleted-file-large", folder_ + "/large"),
                                            Pair("deleted-file-linked", folder_ + "/linked")));
}

TEST_F(ComponentFactsTest, MountsMadeInside) {
  const std::string covered = folder_ + "/covered";
  fs::create_directory(covered);
  std::ofstream(covered + "/file") << "x";
  const Process process([&] {
    return open((covered + "/file").c_str(), O_RDONLY) >= 0 && unshare(CLONE_NEWNS) == 0 &&
           mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) == 0 &&
           mount("none", covered.c_str(), "tmpfs", 0, nullptr) == 0;
  });
  if (!process.ready()) GTEST_SKIP() << "no mount namespaces can be made here";
  const auto found = Check(process);
  EXPECT_THAT(found, Contains(Pair("mount-inside", covered)));
  EXPECT_THAT(found, Contains(Pair("open-file-hidden", covered + "/file")));
}

TEST_F(ComponentFactsTest, Devices) {
  const Process process([] { return open("/dev/loop-control", O_RDWR) >= 0; });
  if (!process.ready()) {
    const Process other([] { return open("/dev/kmsg", O_WRONLY) >= 0; });
    EXPECT_THAT(Check(other), IsEmpty());
    GTEST_SKIP() << "no /dev/loop-control here";
  }
  EXPECT_THAT(Check(process), ElementsAre(Pair("device", "/dev/loop-control")));
}

TEST_F(ComponentFactsTest, IoUring) {
  const Process process([] {
    io_uring_params params = {};
    return syscall(SYS_io_uring_setup, 4, &params) >= 0;
  });
  if (!process.ready()) GTEST_SKIP() << "io_uring is not allowed here";
  EXPECT_THAT(Codes(process), ElementsAre("io-uring"));
}

TEST_F(ComponentFactsTest, AsynchronousIo) {
  const std::string path = folder_ + "/data";
  fs::create_directory(folder_ + "/shared");
  spec_.add_shared(folder_);
  const auto set_up = [&](int flags) {
    aio_context_t context = 0;
    return syscall(SYS_io_setup, 8, &context) == 0 &&
           open(path.c_str(), O_RDWR | O_CREAT | flags, 0644) >= 0;
  };
  const Process plain([&] { return set_up(0); });
  if (!plain.ready()) GTEST_SKIP() << "no asynchronous I/O here";
  EXPECT_THAT(Check(plain), IsEmpty());
  const Process direct([&] { return set_up(O_DIRECT); });
  if (!direct.ready()) GTEST_SKIP() << "no direct I/O on /tmp";
  EXPECT_THAT(Check(direct), ElementsAre(Pair("direct-aio", path)));
}

TEST_F(ComponentFactsTest, SystemVSharedMemory) {
  const Process process([] {
    const int id = shmget(IPC_PRIVATE, 4096, 0600);
    const bool attached = shmat(id, nullptr, 0) != reinterpret_cast<void*>(-1);
    shmctl(id, IPC_RMID, nullptr);
    return attached;
  });
  EXPECT_THAT(Codes(process), IsEmpty()) << "the IPC namespace moves along";
}

TEST_F(ComponentFactsTest, KernelObjects) {
  const Process process([] { return syscall(SYS_pidfd_open, getpid(), 0) >= 0; });
  EXPECT_THAT(Codes(process), ElementsAre("pidfd"));
}

TEST_F(ComponentFactsTest, ConnectionsNeedAnAddress) {
  const auto set_up = [] {
    const int listener = socket(AF_INET, SOCK_STREAM, 0);
    sockaddr_in address = {};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t size = sizeof(address);
    const int client = socket(AF_INET, SOCK_STREAM, 0);
    return listen(listener, 5) == 0 &&
           getsockname(listener, reinterpret_cast<sockaddr*>(&address), &size) == 0 &&
           connect(client, reinterpret_cast<sockaddr*>(&address), size) == 0;
  };
  const Process process(set_up);
  EXPECT_THAT(Check(process), IsEmpty());
  spec_.clear_ip();
  EXPECT_THAT(Codes(process), ElementsAre("tcp-without-address"));
}

TEST_F(ComponentFactsTest, PeersOutside) {
  int pair[2];
  int ends[2];
  ASSERT_EQ(socketpair(AF_UNIX, SOCK_STREAM, 0, pair), 0);
  ASSERT_EQ(pipe(ends), 0);
  const int master = posix_openpt(O_RDWR | O_NOCTTY);
  std::string slave;
  if (master >= 0 && grantpt(master) == 0 && unlockpt(master) == 0) slave = ptsname(master);

  // Not by the class above: it closes what it inherits.
  const pid_t pid = fork();
  if (pid == 0) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    dup2(pair[0], 0);
    dup2(ends[1], 1);
    dup2(slave.empty() ? open("/dev/null", O_RDWR) : open(slave.c_str(), O_RDWR | O_NOCTTY), 2);
    close_range(3, ~0u, 0);
    raise(SIGSTOP);
    while (true) pause();
  }
  close(pair[0]);
  close(ends[1]);
  int status;
  waitpid(pid, &status, WUNTRACED);
  options_.root_pid = pid;
  const auto facts = GatherComponent(spec_, options_);
  kill(pid, SIGKILL);
  waitpid(pid, nullptr, 0);
  for (int fd : {pair[1], ends[0], master}) close(fd);

  ASSERT_TRUE(facts.ok()) << facts.status();
  std::vector<std::string> codes;
  std::string pipe_words;
  for (const auto& o : CheckSource(*facts)) {
    codes.push_back(o.code());
    if (o.code() == "pipe-peer-outside") pipe_words = o.reason();
  }
  std::vector<std::string> expected = {"unix-peer-outside", "pipe-peer-outside"};
  if (!slave.empty()) expected.push_back("terminal-outside");
  EXPECT_THAT(codes, testing::UnorderedElementsAreArray(expected));
  EXPECT_THAT(pipe_words, testing::HasSubstr("process " + std::to_string(getpid())));
}

TEST_F(ComponentFactsTest, TreeAndCgroup) {
  const Process process([] {
    const pid_t child = fork();
    if (child == 0) {
      while (true) pause();
    }
    return child > 0;
  });
  const Process stranger([] { return true; });
  // The kernel's file, as far as it is read: one process a line.
  fs::create_directories(folder_ + "/cgroup/below");
  std::ofstream(folder_ + "/cgroup/cgroup.procs") << process.pid() << "\n";
  std::ofstream(folder_ + "/cgroup/below/cgroup.procs") << stranger.pid() << "\n";
  options_.cgroup_path = folder_ + "/cgroup";
  const ComponentFacts facts = Gather(process);
  ASSERT_EQ(facts.processes.size(), 3u);
  std::string child;
  for (const ProcessFact& p : facts.processes) {
    if (p.parent == process.pid()) child = std::to_string(p.pid);
  }
  EXPECT_THAT(Check(process), testing::UnorderedElementsAre(
                                  Pair("process-outside-tree", std::to_string(stranger.pid())),
                                  Pair("process-outside-cgroup", child)));
}

TEST_F(ComponentFactsTest, NestedNamespaces) {
  const Process process([] {
    if (fork() == 0) {
      if (unshare(CLONE_NEWUTS) != 0) _exit(1);
      while (true) pause();
    }
    usleep(50000);
    return true;
  });
  EXPECT_THAT(Codes(process), ElementsAre("nested-namespace"));
}

TEST_F(ComponentFactsTest, Traced) {
  const Process process([] { return true; });
  ASSERT_EQ(ptrace(PTRACE_SEIZE, process.pid(), 0, 0), 0);
  EXPECT_THAT(Check(process), ElementsAre(Pair("process-traced", std::to_string(process.pid()))));
  ASSERT_EQ(ptrace(PTRACE_INTERRUPT, process.pid(), 0, 0), 0);
  waitpid(process.pid(), nullptr, 0);
  ptrace(PTRACE_DETACH, process.pid(), 0, 0);
}

TEST_F(ComponentFactsTest, TracedByACriuOfOurOwnIsNoObstacle) {
  for (const char* name : {"criu", "gdb"}) {
    const Process process([] { return true; });
    int told[2];
    ASSERT_EQ(pipe(told), 0);
    const pid_t tracer = fork();
    if (tracer == 0) {
      prctl(PR_SET_NAME, name);
      const char seized = ptrace(PTRACE_SEIZE, process.pid(), 0, 0) == 0 ? 'y' : 'n';
      if (write(told[1], &seized, 1) != 1) _exit(1);
      while (true) pause();
    }
    char seized = 0;
    EXPECT_EQ(read(told[0], &seized, 1), 1);
    EXPECT_EQ(seized, 'y');
    EXPECT_EQ(Check(process).empty(), name == std::string("criu")) << name;
    kill(tracer, SIGKILL);
    waitpid(tracer, nullptr, 0);
    close(told[0]);
    close(told[1]);
  }
}

TEST_F(ComponentFactsTest, TheComponentGoesOnRunningMeanwhile) {
  auto* const counter = static_cast<volatile uint64_t*>(
      mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0));
  ASSERT_NE(counter, MAP_FAILED);
  const Process process([counter] {
    if (fork() == 0) {
      while (true) *counter = *counter + 1;
    }
    return true;
  });
  // One look takes milliseconds, and a busy machine may not let the counter run in them: look until
  // it was seen to count during a look. Were it stopped for the looking, it never would be.
  bool counted = false;
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(20);
  while (!counted && std::chrono::steady_clock::now() < deadline) {
    const uint64_t before = *counter;
    const ComponentFacts facts = Gather(process);
    counted = *counter > before;
    for (const ProcessFact& p : facts.processes) EXPECT_NE(p.state, 'T') << p.pid;
  }
  EXPECT_TRUE(counted);
  munmap(const_cast<uint64_t*>(counter), 4096);
}

TEST_F(ComponentFactsTest, ProcessesThatComeAndGoAreTolerated) {
  const Process process([] {
    if (fork() == 0) {
      signal(SIGCHLD, SIG_IGN);
      while (true) {
        if (fork() == 0) {
          (void)!eventfd(0, 0);
          _exit(0);
        }
        usleep(200);
      }
    }
    return true;
  });
  for (int i = 0; i < 5; ++i) EXPECT_THAT(Check(process), IsEmpty());
}

TEST_F(ComponentFactsTest, ARootThatIsGoneIsNotFound) {
  const pid_t pid = fork();
  if (pid == 0) _exit(0);
  waitpid(pid, nullptr, 0);
  options_.root_pid = pid;
  EXPECT_TRUE(absl::IsNotFound(GatherComponent(spec_, options_).status()));
}

TEST(TreeOfTest, Table) {
  EXPECT_THAT(TreeOf(2, {{1, 0}, {2, 1}, {3, 2}, {4, 3}, {5, 1}}), ElementsAre(2, 3, 4));
  EXPECT_THAT(TreeOf(9, {{1, 0}, {2, 1}}), IsEmpty());
  // Read while processes come and go, the numbers may even form a ring.
  EXPECT_THAT(TreeOf(2, {{2, 3}, {3, 2}}), ElementsAre(2, 3));
}

TEST(IsUnderTest, Table) {
  v1::ComponentSpec spec;
  spec.add_shared("/data/");
  spec.add_shared("/srv/file.db");
  EXPECT_TRUE(IsUnder("/data", spec));
  EXPECT_TRUE(IsUnder("/data/a/b", spec));
  EXPECT_FALSE(IsUnder("/database", spec));
  EXPECT_TRUE(IsUnder("/srv/file.db", spec));
  EXPECT_FALSE(IsUnder("/srv/file.db-wal", spec));
  spec.add_shared("");
  EXPECT_FALSE(IsUnder("/etc", spec));
  spec.add_shared("/");
  EXPECT_TRUE(IsUnder("/etc", spec));
}

}  // namespace
}  // namespace starling::preflight
