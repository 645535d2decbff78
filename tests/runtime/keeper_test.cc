// The keeper as a process, on this machine: namespaces, cgroup, fence, ends and leftovers. What
// needs CRIU is in tests/e2e. Needs root and cgroup v2 with cgroup.freeze; says so where it is
// skipped.

#include "runtime/keeper/keeper.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <gtest/gtest.h>
#include <net/if.h>
#include <net/if_arp.h>
#include <netinet/if_ether.h>
#include <netpacket/packet.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <thread>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "base/file.h"
#include "base/unix_socket.h"
#include "runtime/keeper/cgroup.h"
#include "runtime/keeper/netns.h"
#include "runtime/keeper_client.h"

namespace starling::keeper {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

// Waits for something that happens outside of our calls (a file that a component writes).
template <typename Condition>
bool Eventually(Condition condition, milliseconds limit = seconds(10)) {
  for (const Deadline end = Deadline::After(limit); !end.Passed(); usleep(2000)) {
    if (condition()) return true;
  }
  return condition();
}

class KeeperTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (::geteuid() != 0) GTEST_SKIP() << "needs root for namespaces and cgroups";
    const auto root = FindCgroupRoot();
    if (!root.ok()) GTEST_SKIP() << root.status();
    folder_ = absl::StrCat("/tmp/starling-keeper-test.", ::getpid());
    cgroup_ = absl::StrCat(*root, "/starling-test-", ::getpid());
    if (::mkdir(cgroup_.c_str(), 0755) != 0) GTEST_SKIP() << "cannot make " << cgroup_;
    if (::access((cgroup_ + "/cgroup.freeze").c_str(), F_OK) != 0) {
      GTEST_SKIP() << "this kernel has no cgroup.freeze";
    }
    ASSERT_TRUE(MakeDirectories(folder_).ok());
    ASSERT_EQ(::chmod(folder_.c_str(), 0777), 0);
  }

  void TearDown() override {
    if (folder_.empty()) return;
    const auto keepers = ListKeepers(RunDir());
    if (keepers.ok()) {
      for (const KeeperEntry& keeper : *keepers) {
        if (auto client = KeeperClient::Connect(keeper.socket_path); client.ok()) {
          (void)client->Quit();
        }
      }
    }
    (void)RemoveTree(folder_);
    for (const char* group :
         {"/starling/t", "/starling/t@m1", "/starling", "/starling-keepers", ""}) {
      const std::string path = absl::StrCat(cgroup_, group);
      EXPECT_TRUE(Eventually([&] { return ::rmdir(path.c_str()) == 0 || errno == ENOENT; }))
          << path << " is left: " << std::strerror(errno);
    }
  }

  std::string RunDir() const { return folder_ + "/run"; }
  std::string Log() const { return folder_ + "/log/t.log"; }

  StartKeeperOptions Options(const std::vector<std::string>& arguments) const {
    StartKeeperOptions options;
    options.program = KEEPER_PROGRAM;
    options.run_dir = RunDir();
    options.log_dir = folder_ + "/log";
    options.cgroup_root = cgroup_;
    options.spec.set_name("t");
    options.spec.add_command(COMPONENT_PROGRAM);
    for (const std::string& argument : arguments) options.spec.add_command(argument);
    return options;
  }

  absl::StatusOr<KeeperClient> Start(const StartKeeperOptions& options) {
    const auto path = StartKeeper(options, Deadline::After(seconds(30)));
    if (!path.ok()) return path.status();
    return KeeperClient::Connect(*path);
  }

  std::string folder_;
  std::string cgroup_;
};

TEST_F(KeeperTest, CarriesOutputAndExitStatus) {
  auto client = Start(Options({"exit", "42"}));
  ASSERT_TRUE(client.ok()) << client.status();
  auto status = client->GetStatus();
  ASSERT_TRUE(status.ok());
  EXPECT_EQ(status->phase(), v1::Status::EMPTY);
  EXPECT_EQ(status->spec().name(), "t");
  ASSERT_TRUE(client->Launch().ok());
  const auto ended = client->Watch(Deadline::After(seconds(20)));
  ASSERT_TRUE(ended.ok()) << ended.status();
  EXPECT_EQ(*ended, 42);
  EXPECT_EQ(client->GetStatus()->phase(), v1::Status::EXITED);
  EXPECT_EQ(*ReadFile(Log()), "hello\n");
}

TEST_F(KeeperTest, SaysWhatCannotBeStarted) {
  StartKeeperOptions options = Options({});
  options.spec.set_command(0, "/nonexistent/program");
  auto client = Start(options);
  ASSERT_TRUE(client.ok()) << client.status();
  const absl::Status status = client->Launch();
  EXPECT_EQ(status.code(), absl::StatusCode::kNotFound) << status;
  EXPECT_TRUE(absl::StrContains(status.message(), "/nonexistent/program")) << status;
  ASSERT_TRUE(client->Quit().ok());

  options = Options({"sleep"});
  options.spec.set_user("nobody-of-that-name");
  EXPECT_EQ(Start(options).status().code(), absl::StatusCode::kInvalidArgument);
  options = Options({"sleep"});
  options.spec.set_name("../up");
  EXPECT_EQ(Start(options).status().code(), absl::StatusCode::kInvalidArgument);
  options = Options({"sleep"});
  options.spec.set_ip("10.99.0.50/24");
  options.spec.set_mac("52:54:00:aa:00:32");
  options.parent_device = "no-such-device";
  EXPECT_EQ(Start(options).status().code(), absl::StatusCode::kNotFound);
}

// Bug: a keeper that took longer to start than its starter waited stayed for ever, with its cgroup
// and namespaces. Cause: nobody asks for it any more, and it did not notice. It now ends by itself.
TEST_F(KeeperTest, EndsWhenItsStarterGaveUp) {
  const auto path = StartKeeper(Options({"sleep"}), Deadline::After(seconds(0)));
  ASSERT_EQ(path.status().code(), absl::StatusCode::kDeadlineExceeded) << path.status();
  const std::string log = folder_ + "/log/t.keeper.log";
  ASSERT_TRUE(Eventually(
      [&] {
        const auto said = ReadFile(log);
        return said.ok() && absl::StrContains(*said, "its starter is gone");
      },
      seconds(60)));
  const std::string group = cgroup_ + "/starling/t";
  EXPECT_TRUE(Eventually([&] { return ::access(group.c_str(), F_OK) != 0; }, seconds(60)));
  const auto keepers = ListKeepers(RunDir());
  EXPECT_TRUE(keepers.ok() && keepers->empty());
}

TEST_F(KeeperTest, RunsAsItsUserInItsOwnPidNamespace) {
  StartKeeperOptions options = Options({"sleep"});
  options.spec.set_user("nobody");
  auto client = Start(options);
  ASSERT_TRUE(client.ok()) << client.status();
  ASSERT_TRUE(client->Launch().ok());
  const auto status = client->GetStatus();
  ASSERT_TRUE(status.ok());
  EXPECT_EQ(status->phase(), v1::Status::LIVE);
  EXPECT_GT(status->root_pid_inside(), 1000);
  const auto root = ReadFile(absl::StrCat("/proc/", status->root_pid(), "/status"));
  ASSERT_TRUE(root.ok());
  EXPECT_TRUE(absl::StrContains(*root, "\nUid:\t65534\t65534\t65534\t65534\n")) << *root;
  // Only the standard three, and nothing of the keeper's.
  std::vector<std::string> fds;
  for (const auto& fd :
       std::filesystem::directory_iterator(absl::StrCat("/proc/", status->root_pid(), "/fd"))) {
    fds.push_back(fd.path().filename().string());
  }
  EXPECT_EQ(fds.size(), 3u);
  // Root and command are in the component's group; the first process of the namespace is not.
  const auto procs = ReadFile(status->cgroup() + "/cgroup.procs");
  ASSERT_TRUE(procs.ok());
  const std::vector<std::string> pids = absl::StrSplit(*procs, '\n', absl::SkipEmpty());
  EXPECT_EQ(pids.size(), 2u) << *procs;
  for (const std::string& pid : pids) EXPECT_NE(pid, absl::StrCat(status->init_pid()));
}

TEST_F(KeeperTest, KeepsADaemonisedGrandchildInTheTree) {
  const std::string file = folder_ + "/pids";
  auto client = Start(Options({"daemon", file}));
  ASSERT_TRUE(client.ok()) << client.status();
  ASSERT_TRUE(client->Launch().ok());
  const int root = client->GetStatus()->root_pid_inside();
  ASSERT_TRUE(Eventually([&] { return absl::StrContains(ReadFile(file).value_or(""), " "); }));
  const std::vector<std::string> pids = absl::StrSplit(*ReadFile(file), ' ');
  EXPECT_EQ(pids[1], absl::StrCat(root));
  // The command has ended; the component has not.
  const auto early = client->Watch(Deadline::After(milliseconds(100)));
  EXPECT_EQ(early.status().code(), absl::StatusCode::kDeadlineExceeded);
  client = KeeperClient::Connect(KeeperSocket(RunDir(), "t", ""));
  ASSERT_TRUE(client.ok());
  ASSERT_TRUE(client->Stop(seconds(10)).ok());
  // With the command's status, not the daemon's.
  EXPECT_EQ(client->GetStatus()->exit_status(), 3);
}

TEST_F(KeeperTest, AProcessBesideTheTreeIsSeen) {
  auto client = Start(Options({"sleep"}));
  ASSERT_TRUE(client.ok()) << client.status();
  ASSERT_TRUE(client->Launch().ok());
  const auto status = client->GetStatus();
  const auto group = Cgroup::Open(status->cgroup());
  ASSERT_TRUE(group.ok()) << group.status();
  const absl::Status whole = CheckTree(*group, status->root_pid());
  EXPECT_TRUE(whole.ok()) << whole;
  const pid_t stranger = ::fork();
  if (stranger == 0) {
    ::pause();
    ::_exit(0);
  }
  EXPECT_TRUE(group->Add(stranger).ok());
  const absl::Status beside = CheckTree(*group, status->root_pid());
  EXPECT_EQ(beside.code(), absl::StatusCode::kInternal) << beside;
  EXPECT_TRUE(absl::StrContains(beside.message(), absl::StrCat("process ", stranger))) << beside;
  ::kill(stranger, SIGKILL);
  ::waitpid(stranger, nullptr, 0);
}

TEST_F(KeeperTest, StopsGentlyFirst) {
  const std::string file = folder_ + "/said";
  auto client = Start(Options({"trap", file}));
  ASSERT_TRUE(client.ok()) << client.status();
  ASSERT_TRUE(client->Launch().ok());
  ASSERT_TRUE(Eventually([&] { return ReadFile(file).value_or("") == "ready"; }));
  ASSERT_TRUE(client->Stop(seconds(10)).ok());
  EXPECT_EQ(client->GetStatus()->exit_status(), 7);
  EXPECT_EQ(*ReadFile(file), "term");
}

TEST_F(KeeperTest, StopsForGoodAfterTheGrace) {
  const std::string file = folder_ + "/said";
  auto client = Start(Options({"stubborn", file}));
  ASSERT_TRUE(client.ok()) << client.status();
  ASSERT_TRUE(client->Launch().ok());
  // Before it ignores the signal, the signal ends it.
  ASSERT_TRUE(Eventually([&] { return ReadFile(file).value_or("") == "ready"; }));
  ASSERT_TRUE(client->Stop(milliseconds(50)).ok());
  EXPECT_EQ(client->GetStatus()->exit_status(), 137);
}

TEST_F(KeeperTest, FreezesThawsAndKillsWhatIsFrozen) {
  auto client = Start(Options({"sleep"}));
  ASSERT_TRUE(client.ok()) << client.status();
  ASSERT_TRUE(client->Launch().ok());
  EXPECT_FALSE(client->GetStatus()->frozen());
  for (int i = 0; i < 20; ++i) {
    ASSERT_TRUE(client->Freeze().ok());
    EXPECT_TRUE(client->GetStatus()->frozen());
    ASSERT_TRUE(client->Thaw().ok());
    EXPECT_FALSE(client->GetStatus()->frozen());
  }
  ASSERT_TRUE(client->Freeze().ok());
  EXPECT_EQ(client->Stop(seconds(1)).code(), absl::StatusCode::kFailedPrecondition);
  ASSERT_TRUE(client->Kill().ok());
  EXPECT_EQ(client->GetStatus()->phase(), v1::Status::EXITED);
  EXPECT_EQ(client->GetStatus()->exit_status(), 137);
}

TEST_F(KeeperTest, AFreezeWithATermEndsByItself) {
  auto client = Start(Options({"sleep"}));
  ASSERT_TRUE(client.ok()) << client.status();
  ASSERT_TRUE(client->Launch().ok());
  ASSERT_TRUE(client->Freeze(600).ok());
  EXPECT_TRUE(client->GetStatus()->frozen());
  EXPECT_TRUE(client->Thaw(/*in_term=*/true).ok());
  ASSERT_TRUE(client->Freeze(0.05).ok());
  EXPECT_TRUE(Eventually([&] { return !client->GetStatus()->frozen(); }));
  EXPECT_EQ(client->Thaw(/*in_term=*/true).code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_TRUE(client->Thaw(/*in_term=*/true).ok()) << "told once";
  ASSERT_TRUE(client->Freeze(0.05).ok());
  EXPECT_TRUE(Eventually([&] { return !client->GetStatus()->frozen(); }));
  EXPECT_TRUE(client->Thaw().ok()) << "for those who do not mind";
  // A freeze replaces the term of the one before.
  ASSERT_TRUE(client->Freeze(0.3).ok());
  ASSERT_TRUE(client->Freeze().ok());
  std::this_thread::sleep_for(std::chrono::milliseconds(500));
  EXPECT_TRUE(client->GetStatus()->frozen());
  EXPECT_EQ(client->Freeze(-1).code(), absl::StatusCode::kInvalidArgument);
  ASSERT_TRUE(client->Kill().ok());
}

TEST_F(KeeperTest, AKilledKeeperTakesItsComponentWithIt) {
  for (const bool frozen : {false, true}) {
    auto client = Start(Options({"sleep"}));
    ASSERT_TRUE(client.ok()) << client.status();
    ASSERT_TRUE(client->Launch().ok());
    if (frozen) {
      ASSERT_TRUE(client->Freeze().ok());
    }
    const auto status = client->GetStatus();
    ASSERT_EQ(::kill(status->keeper_pid(), SIGKILL), 0);
    EXPECT_TRUE(Eventually([&] {
      return absl::StrContains(ReadFile(status->cgroup() + "/cgroup.events").value_or(""),
                               "populated 0");
    }));
    EXPECT_EQ(client->GetStatus().status().code(), absl::StatusCode::kUnavailable);
    // The trace is told apart from a living one, and a new keeper takes its place.
    const auto list = ListKeepers(RunDir());
    ASSERT_TRUE(list.ok());
    ASSERT_EQ(list->size(), 1u);
    EXPECT_TRUE(Eventually([&] { return !(*ListKeepers(RunDir()))[0].alive; }));
  }
  auto next = Start(Options({"sleep"}));
  ASSERT_TRUE(next.ok()) << next.status();
  EXPECT_TRUE(next->Launch().ok());
}

TEST_F(KeeperTest, AnswersManyConnectionsAndOutlivesThem) {
  auto first = Start(Options({"sleep"}));
  ASSERT_TRUE(first.ok()) << first.status();
  ASSERT_TRUE(first->Launch().ok());
  const std::string path = KeeperSocket(RunDir(), "t", "");
  // A watch on one connection holds up none on the others.
  std::thread watcher([&] {
    auto client = KeeperClient::Connect(path);
    ASSERT_TRUE(client.ok());
    const auto ended = client->Watch(Deadline::After(seconds(30)));
    EXPECT_TRUE(ended.ok()) << ended.status();
    EXPECT_EQ(ended.value_or(-1), 137);
  });
  std::vector<std::thread> askers;
  for (int i = 0; i < 4; ++i) {
    askers.emplace_back([&] {
      for (int j = 0; j < 25; ++j) {
        auto client = KeeperClient::Connect(path);
        ASSERT_TRUE(client.ok());
        EXPECT_EQ(client->GetStatus()->phase(), v1::Status::LIVE);
      }
    });
  }
  for (std::thread& asker : askers) asker.join();
  // Nonsense is answered, and the next request is understood.
  auto raw = ConnectUnix(path);
  ASSERT_TRUE(raw.ok());
  ASSERT_TRUE(SendUnix(raw->get(), "\xff\xff\xff nonsense").ok());
  auto answer = ReceiveUnix(raw->get(), Deadline::After(seconds(10)));
  ASSERT_TRUE(answer.ok());
  v1::Reply reply;
  ASSERT_TRUE(reply.ParseFromString(answer->bytes));
  EXPECT_EQ(reply.code(), static_cast<uint32_t>(absl::StatusCode::kInvalidArgument));
  v1::Request other;
  other.set_protocol(99);
  other.mutable_status();
  ASSERT_TRUE(SendUnix(raw->get(), other.SerializeAsString()).ok());
  answer = ReceiveUnix(raw->get(), Deadline::After(seconds(10)));
  ASSERT_TRUE(answer.ok() && reply.ParseFromString(answer->bytes));
  EXPECT_EQ(reply.code(), static_cast<uint32_t>(absl::StatusCode::kFailedPrecondition));
  ASSERT_TRUE(first->Kill().ok());
  watcher.join();
}

TEST_F(KeeperTest, RefusesASecondOneAndLeavesNothing) {
  auto client = Start(Options({"sleep"}));
  ASSERT_TRUE(client.ok()) << client.status();
  EXPECT_EQ(Start(Options({"sleep"})).status().code(), absl::StatusCode::kAlreadyExists);
  // A copy made by a migration is another one.
  StartKeeperOptions copy = Options({"sleep"});
  copy.migration_id = "m1";
  copy.epoch = 7;
  auto second = Start(copy);
  ASSERT_TRUE(second.ok()) << second.status();
  const auto status = second->GetStatus();
  EXPECT_EQ(status->epoch(), 7u);
  EXPECT_EQ(status->migration_id(), "m1");
  const auto list = ListKeepers(RunDir());
  ASSERT_EQ(list->size(), 2u);
  EXPECT_EQ((*list)[1].migration_id, "m1");
  EXPECT_TRUE((*list)[1].alive);
  ASSERT_TRUE(second->Quit().ok());
  ASSERT_TRUE(client->Launch().ok());
  EXPECT_EQ(client->Launch().code(), absl::StatusCode::kFailedPrecondition);
  const std::string cgroup = client->GetStatus()->cgroup();
  const int keeper = client->GetStatus()->keeper_pid();
  ASSERT_TRUE(client->Quit().ok());
  EXPECT_TRUE(ListKeepers(RunDir())->empty());
  EXPECT_FALSE(std::filesystem::exists(cgroup));
  // Gone, or a zombie of whoever adopted it.
  EXPECT_TRUE(Eventually([&] {
    const auto stat = ReadFile(absl::StrCat("/proc/", keeper, "/stat"));
    return !stat.ok() || absl::StrContains(*stat, ") Z ");
  }));
}

TEST_F(KeeperTest, StopsTheComponentWhenTheHostGoesDown) {
  const std::string file = folder_ + "/said";
  auto client = Start(Options({"trap", file}));
  ASSERT_TRUE(client.ok()) << client.status();
  ASSERT_TRUE(client->Launch().ok());
  ASSERT_TRUE(Eventually([&] { return ReadFile(file).value_or("") == "ready"; }));
  ASSERT_EQ(::kill(client->GetStatus()->keeper_pid(), SIGTERM), 0);
  EXPECT_TRUE(Eventually([&] { return ListKeepers(RunDir())->empty(); }));
  EXPECT_EQ(*ReadFile(file), "term");
}

TEST_F(KeeperTest, RefusesADumpThatCannotBe) {
  auto client = Start(Options({"sleep"}));
  ASSERT_TRUE(client.ok()) << client.status();
  auto pair = MakeUnixPair();
  ASSERT_TRUE(pair.ok());
  EXPECT_EQ(client->StageDump(folder_, "", pair->first.get(), seconds(5)).code(),
            absl::StatusCode::kFailedPrecondition);  // nothing runs
  ASSERT_TRUE(client->Launch().ok());
  EXPECT_EQ(client->Dump(seconds(5)).status().code(),
            absl::StatusCode::kFailedPrecondition);  // not frozen
  ASSERT_TRUE(client->Freeze().ok());
  EXPECT_EQ(client->Dump(seconds(5)).status().code(),
            absl::StatusCode::kFailedPrecondition);  // not staged
  ASSERT_TRUE(client->Thaw().ok());
  EXPECT_EQ(client->Restore(folder_, seconds(5)).status().code(),
            absl::StatusCode::kFailedPrecondition);  // it is there already
  v1::Request request;
  request.mutable_stage_dump();
  EXPECT_EQ(client->Call(request, {}, Deadline::After(seconds(5))).status().code(),
            absl::StatusCode::kInvalidArgument);  // no page server
  EXPECT_TRUE(client->CancelCriu().ok());         // nothing to cancel
  EXPECT_EQ(client->GetStatus()->phase(), v1::Status::LIVE);
}

TEST_F(KeeperTest, ProbesBesideTheComponent) {
  auto client = Start(Options({"sleep"}));
  ASSERT_TRUE(client.ok()) << client.status();
  ASSERT_TRUE(client->Launch().ok());
  auto probe = client->Probe("echo out; echo err >&2; exit 5", seconds(10));
  ASSERT_TRUE(probe.ok()) << probe.status();
  EXPECT_EQ(probe->exit_status(), 5);
  EXPECT_EQ(probe->output(), "out\nerr\n");
  EXPECT_EQ(client->Probe("while :; do echo x; done", milliseconds(100)).status().code(),
            absl::StatusCode::kDeadlineExceeded);
  // What it leaves in the background does not hold the answer up.
  probe = client->Probe("sleep 600 & echo done", seconds(20));
  ASSERT_TRUE(probe.ok()) << probe.status();
  EXPECT_EQ(probe->output(), "done\n");
}

// With a network: this process is the host, in a namespace of its own with the device eth0; the
// other end of its cable, "outside", is in a second one.
class NetworkTest : public KeeperTest {
 protected:
  static constexpr char kMac[] = "52:54:00:aa:00:32";

  void SetUp() override {
    KeeperTest::SetUp();
    if (IsSkipped() || HasFatalFailure()) return;
    ASSERT_EQ(::unshare(CLONE_NEWNET), 0);
    if (std::system("ip link add eth0 type veth peer name outside && ip link set eth0 up") != 0) {
      GTEST_SKIP() << "this kernel has no veth";
    }
    std::thread([&] {
      ASSERT_EQ(::unshare(CLONE_NEWNET), 0);
      outside_.Reset(::open("/proc/thread-self/ns/net", O_RDONLY | O_CLOEXEC));
    }).join();
    const std::string move =
        absl::StrCat("ip link set outside netns /proc/", ::getpid(), "/fd/", outside_.get());
    ASSERT_EQ(std::system(move.c_str()), 0);
    Outside([&] {
      ASSERT_EQ(std::system("ip addr add 10.99.0.1/24 dev outside && ip link set outside up && "
                            "ip link set lo up"),
                0);
      socket_.Reset(::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
      sockaddr_in local = {};
      local.sin_family = AF_INET;
      local.sin_port = htons(7000);
      ASSERT_EQ(::bind(socket_.get(), reinterpret_cast<sockaddr*>(&local), sizeof(local)), 0);
      // Everything that comes from the component, as the wire has it.
      frames_.Reset(::socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, htons(ETH_P_ALL)));
      sockaddr_ll device = {};
      device.sll_family = AF_PACKET;
      device.sll_protocol = htons(ETH_P_ALL);
      device.sll_ifindex = static_cast<int>(::if_nametoindex("outside"));
      ASSERT_EQ(::bind(frames_.get(), reinterpret_cast<sockaddr*>(&device), sizeof(device)), 0);
    });
  }

  template <typename Work>
  void Outside(Work work) {
    std::thread([&] {
      ASSERT_EQ(::setns(outside_.get(), CLONE_NEWNET), 0);
      work();
    }).join();
  }

  StartKeeperOptions NetworkOptions() const {
    StartKeeperOptions options = Options({"beat", "10.99.0.1", "7000"});
    // The name that it has inside as well.
    options.parent_device = "eth0";
    options.spec.set_ip("10.99.0.50/24");
    options.spec.set_mac(kMac);
    return options;
  }

  // Frames from the component's MAC (ARP ones apart) that arrived since the last call.
  struct Frames {
    int all = 0;
    int arp = 0;
  };
  Frames CountFrames() {
    Frames frames;
    const MacAddress mac = *ParseMac(kMac);
    unsigned char buffer[2048];
    for (ssize_t n; (n = ::recv(frames_.get(), buffer, sizeof(buffer), 0)) >= 0;) {
      if (n < 14 || std::memcmp(buffer + 6, mac.bytes, 6) != 0) continue;
      ++frames.all;
      if (buffer[12] == 0x08 && buffer[13] == 0x06) ++frames.arp;
    }
    return frames;
  }

  // Sends the component a datagram.
  void Send() {
    sockaddr_in to = {};
    to.sin_family = AF_INET;
    to.sin_port = htons(7000);
    ::inet_pton(AF_INET, "10.99.0.50", &to.sin_addr);
    (void)::sendto(socket_.get(), "x", 1, 0, reinterpret_cast<sockaddr*>(&to), sizeof(to));
  }

  // The next number that the component says it got, -1 when none comes.
  long NextGot(milliseconds limit) {
    for (const Deadline end = Deadline::After(limit); !end.Passed();) {
      pollfd poller = {socket_.get(), POLLIN, 0};
      if (::poll(&poller, 1, static_cast<int>(end.Left().count())) <= 0) continue;
      char text[64] = {};
      if (::recv(socket_.get(), text, sizeof(text) - 1, 0) <= 0) continue;
      if (long got = -1; std::sscanf(text, "got %ld", &got) == 1) return got;
    }
    return -1;
  }

  // Sends until the component answers, and returns the number that it says it got; `sent` becomes
  // how many it took, since the first one may be lost while neighbours find each other.
  long Ask(int& sent) {
    for (sent = 1; sent <= 20; ++sent) {
      Send();
      if (const long got = NextGot(milliseconds(500)); got >= 0) return got;
    }
    return -1;
  }

  // The component is bound to its port once it beats.
  bool Beats() {
    return Eventually([&] {
      char text[64] = {};
      return ::recv(socket_.get(), text, sizeof(text) - 1, MSG_DONTWAIT) > 0 &&
             absl::StartsWith(text, "beat");
    });
  }

  // Whatever was on its way when the fence went up.
  void Settle() {
    usleep(20'000);
    (void)CountFrames();
    char text[64];
    while (::recv(socket_.get(), text, sizeof(text), MSG_DONTWAIT) > 0) {
    }
  }

  UniqueFd outside_;
  UniqueFd socket_;
  UniqueFd frames_;
};

TEST_F(NetworkTest, FenceStopsEveryFrameInAndOut) {
  auto client = Start(NetworkOptions());
  ASSERT_TRUE(client.ok()) << client.status();
  ASSERT_TRUE(client->Launch().ok());
  ASSERT_TRUE(Beats());
  int sent = 0;
  const long before = Ask(sent);
  ASSERT_GE(before, 1);
  EXPECT_GT(CountFrames().all, 0);

  ASSERT_TRUE(client->FenceUp().ok());
  EXPECT_TRUE(client->GetStatus()->fenced());
  EXPECT_EQ(client->Announce().code(), absl::StatusCode::kFailedPrecondition);
  Settle();
  // The component sends every millisecond all the while, and has to ask for addresses anew.
  (void)!std::system(
      absl::StrCat("nsenter -t ", client->GetStatus()->init_pid(), " -n ip neigh flush all")
          .c_str());
  for (int i = 0; i < 50; ++i) {
    Send();
    usleep(10'000);
  }
  EXPECT_EQ(CountFrames().all, 0);
  EXPECT_EQ(NextGot(milliseconds(50)), -1);

  ASSERT_TRUE(client->FenceDown().ok());
  EXPECT_FALSE(client->GetStatus()->fenced());
  // Those sent since at the most: none of the fifty got in.
  const long after = Ask(sent);
  EXPECT_GT(after, before);
  EXPECT_LE(after, before + sent);
  EXPECT_GT(CountFrames().all, 0);

  // Up and down often, and twice the same is fine.
  for (int i = 0; i < 20; ++i) {
    ASSERT_TRUE(client->FenceUp().ok());
    ASSERT_TRUE(client->FenceUp().ok());
    ASSERT_TRUE(client->FenceDown().ok());
    ASSERT_TRUE(client->FenceDown().ok());
  }
  EXPECT_GT(Ask(sent), after);
}

// A connection that wants to send while the fence is up must live on. With frames dropped at the
// hook, TCP saw each as a want of resources on its own host, probed every half second and gave up
// after tcp_retries2 of them: 2.5 s with the 5 set here, 7.5 s by default. Sent and lost, it backs
// off: 12.6 s here, a quarter of an hour by default.
TEST_F(NetworkTest, ConnectionsOutlastTheFence) {
  UniqueFd listener;
  Outside([&] {
    listener.Reset(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    sockaddr_in local = {};
    local.sin_family = AF_INET;
    local.sin_port = htons(7001);
    ASSERT_EQ(::bind(listener.get(), reinterpret_cast<sockaddr*>(&local), sizeof(local)), 0);
    ASSERT_EQ(::listen(listener.get(), 1), 0);
  });
  StartKeeperOptions options = NetworkOptions();
  options.spec.set_command(1, "talk");
  options.spec.set_command(3, "7001");
  auto client = Start(options);
  ASSERT_TRUE(client.ok()) << client.status();
  const std::string init = absl::StrCat(client->GetStatus()->init_pid());
  ASSERT_EQ(std::system(("nsenter -t " + init + " -n sysctl -qw net.ipv4.tcp_retries2=5").c_str()),
            0);
  ASSERT_TRUE(client->Launch().ok());
  UniqueFd connection(::accept(listener.get(), nullptr, nullptr));
  ASSERT_TRUE(connection.valid());
  char next = 'a';
  const auto reads_on = [&](milliseconds limit, int letters) {
    return Eventually(
        [&] {
          char text[256];
          const ssize_t n = ::recv(connection.get(), text, sizeof(text), MSG_DONTWAIT);
          for (ssize_t i = 0; i < n; ++i, --letters) {
            EXPECT_EQ(text[i], next) << "a letter was lost";
            next = text[i] == 'z' ? 'a' : static_cast<char>(text[i] + 1);
          }
          return letters <= 0;
        },
        limit);
  };
  ASSERT_TRUE(reads_on(seconds(10), 20));
  ASSERT_TRUE(client->FenceUp().ok());
  usleep(4'000'000);
  EXPECT_EQ(client->GetStatus()->phase(), v1::Status::LIVE);
  ASSERT_TRUE(client->FenceDown().ok());
  // Everything it said behind the fence, and more.
  EXPECT_TRUE(reads_on(seconds(20), 450));
  EXPECT_EQ(client->GetStatus()->phase(), v1::Status::LIVE);
}

TEST_F(NetworkTest, SaysNothingBeforeTheFenceIsLowered) {
  StartKeeperOptions options = NetworkOptions();
  options.fenced = true;
  options.migration_id = "m1";
  auto client = Start(options);
  ASSERT_TRUE(client.ok()) << client.status();
  EXPECT_TRUE(client->GetStatus()->fenced());
  ASSERT_TRUE(client->Launch().ok());
  usleep(300'000);
  // Not one frame since the device exists: no ARP, no duplicate address detection, no multicast.
  EXPECT_EQ(CountFrames().all, 0);
  ASSERT_TRUE(client->FenceDown().ok());
  ASSERT_TRUE(client->Announce().ok());
  EXPECT_TRUE(Eventually([&] { return CountFrames().arp >= 2; }));
}

TEST_F(NetworkTest, AnnouncesTheAddressSeveralTimes) {
  StartKeeperOptions options = NetworkOptions();
  options.spec.clear_command();
  options.spec.add_command(COMPONENT_PROGRAM);
  options.spec.add_command("sleep");
  auto client = Start(options);
  ASSERT_TRUE(client.ok()) << client.status();
  // Somebody who believes that another station has the address.
  Outside([] {
    ASSERT_EQ(std::system("ip neigh replace 10.99.0.50 lladdr 02:00:00:00:00:99 dev outside "
                          "nud stale"),
              0);
  });
  ASSERT_TRUE(client->Announce().ok());
  int arp = CountFrames().arp;
  EXPECT_GE(arp, 2) << "the first announcement leaves before the answer";
  EXPECT_TRUE(Eventually([&] { return (arp += CountFrames().arp) >= 12; })) << arp;
  Outside([&] {
    EXPECT_EQ(std::system(absl::StrCat("ip neigh show 10.99.0.50 | grep -q ", kMac).c_str()), 0);
  });
}

TEST_F(NetworkTest, QuitAndKillLeaveNoDevice) {
  for (const bool killed : {false, true}) {
    auto client = Start(NetworkOptions());
    ASSERT_TRUE(client.ok()) << client.status();
    ASSERT_TRUE(client->Launch().ok());
    ASSERT_TRUE(Beats());
    int sent = 0;
    EXPECT_GE(Ask(sent), 1);
    ASSERT_TRUE(client->FenceUp().ok());
    Settle();
    if (killed) {
      ASSERT_EQ(::kill(client->GetStatus()->keeper_pid(), SIGKILL), 0);
    } else {
      ASSERT_TRUE(client->Quit().ok());
    }
    // The MAC is free again: the kernel gives a namespace back a moment after its last process.
    usleep(200'000);
    EXPECT_EQ(CountFrames().all, 0) << "a fenced copy spoke while it died";
  }
  auto client = Start(NetworkOptions());
  ASSERT_TRUE(client.ok()) << client.status();
  EXPECT_TRUE(client->Launch().ok());
  ASSERT_TRUE(Beats());
  int sent = 0;
  EXPECT_GE(Ask(sent), 1);
}

TEST_F(NetworkTest, ProbesInTheComponentsNetwork) {
  StartKeeperOptions options = NetworkOptions();
  options.fenced = true;
  auto client = Start(options);
  ASSERT_TRUE(client.ok()) << client.status();
  ASSERT_TRUE(client->Launch().ok());
  const auto probe = client->Probe("ip -4 -o addr show dev eth0", seconds(10));
  ASSERT_TRUE(probe.ok()) << probe.status();
  EXPECT_TRUE(absl::StrContains(probe->output(), "10.99.0.50/24")) << probe->output();
}

}  // namespace
}  // namespace starling::keeper
