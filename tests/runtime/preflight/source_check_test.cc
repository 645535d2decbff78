#include "runtime/preflight/source_check.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <linux/magic.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#include <functional>
#include <string>
#include <vector>

#include "runtime/preflight/kinds.h"

namespace starling::preflight {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

constexpr int kRoot = 100;
constexpr int kChild = 101;

// A quiet component: a root and a child in the same namespaces, nothing open.
ComponentFacts Quiet() {
  ComponentFacts facts;
  facts.spec.set_name("db");
  facts.spec.set_ip("10.0.0.2/24");
  facts.spec.add_shared("/shared/");
  facts.spec.add_ship("/shipped");
  facts.root_pid = kRoot;
  facts.cgroup_path = "/sys/fs/cgroup/starling/db";
  facts.carried = {"/var/log/starling/db.log"};
  facts.ghost_limit_bytes = 1 << 20;
  for (int pid : {kRoot, kChild}) {
    ProcessFact process;
    process.pid = pid;
    process.name = pid == kRoot ? "root" : "worker";
    process.state = 'S';
    process.in_tree = true;
    process.in_cgroup = true;
    process.namespaces = {{"pid", 1}, {"mnt", 2}, {"net", 3}, {"user", 4}};
    facts.processes.push_back(process);
  }
  return facts;
}

DescriptorFact File(const std::string& path, int flags) {
  DescriptorFact file;
  file.pid = kChild;
  file.fd = 3;
  file.path = path;
  file.flags = flags;
  file.mode = S_IFREG | 0644;
  file.links = 1;
  file.fs_type = EXT4_SUPER_MAGIC;
  return file;
}

DescriptorFact Device(const std::string& path, unsigned major, unsigned minor,
                      mode_t kind = S_IFCHR) {
  DescriptorFact device = File(path, O_RDWR);
  device.mode = kind | 0600;
  device.rdev = makedev(major, minor);
  return device;
}

DescriptorFact Anonymous(const std::string& path) {
  DescriptorFact object = File(path, O_RDWR);
  object.mode = 0600;
  return object;
}

MappingFact Mapping(const std::string& path, bool shared, bool writable) {
  MappingFact mapping;
  mapping.pid = kChild;
  mapping.path = path;
  mapping.shared = shared;
  mapping.writable = writable;
  mapping.stated = true;
  mapping.mode = S_IFREG | 0644;
  mapping.links = 1;
  mapping.fs_type = EXT4_SUPER_MAGIC;
  return mapping;
}

void AddSocket(ComponentFacts& facts, SocketFact socket) {
  socket.inode = 7000 + facts.sockets.size();
  if (socket.network == 0) socket.network = 3;
  DescriptorFact descriptor = File("socket:[1]", O_RDWR);
  descriptor.mode = S_IFSOCK | 0777;
  descriptor.inode = socket.inode;
  facts.descriptors.push_back(descriptor);
  facts.sockets[socket.inode] = socket;
}

SocketFact Socket(int family, int type, int protocol, int state = 0) {
  SocketFact socket;
  socket.family = family;
  socket.type = type;
  socket.protocol = protocol;
  socket.state = state;
  return socket;
}

std::vector<std::string> Codes(const ComponentFacts& facts) {
  std::vector<std::string> codes;
  for (const v1::Obstacle& obstacle : CheckSource(facts)) codes.push_back(obstacle.code());
  return codes;
}

struct Case {
  std::string name;
  std::function<void(ComponentFacts&)> change;
  std::vector<std::string> codes;
};

Case WithFile(const std::string& name, DescriptorFact file, std::vector<std::string> codes) {
  return {name, [file](ComponentFacts& facts) { facts.descriptors.push_back(file); }, codes};
}

Case WithMapping(const std::string& name, MappingFact mapping, std::vector<std::string> codes) {
  return {name, [mapping](ComponentFacts& facts) { facts.mappings.push_back(mapping); }, codes};
}

Case WithSocket(const std::string& name, SocketFact socket, std::vector<std::string> codes) {
  return {name, [socket](ComponentFacts& facts) { AddSocket(facts, socket); }, codes};
}

template <typename T>
T With(T value, const std::function<void(T&)>& change) {
  change(value);
  return value;
}

std::vector<Case> FileCases() {
  const auto deleted = [](DescriptorFact file, uint64_t links, uint64_t size) {
    file.deleted = true;
    file.links = links;
    file.size = size;
    return file;
  };
  const auto on = [](DescriptorFact file, int64_t fs_type) {
    file.fs_type = fs_type;
    return file;
  };
  const auto kind = [](DescriptorFact file, mode_t mode) {
    file.mode = mode;
    return file;
  };
  DescriptorFact hidden = File("/mnt/a", O_RDONLY);
  hidden.hidden = true;
  return {
      WithFile("read only", File("/etc/hosts", O_RDONLY), {}),
      WithFile("written", File("/var/lib/db", O_WRONLY), {"open-for-writing"}),
      WithFile("read and written", File("/var/lib/db", O_RDWR | O_APPEND), {"open-for-writing"}),
      WithFile("path only", File("/var/lib/db", O_PATH | O_RDWR), {}),
      WithFile("written on shared", File("/shared/db", O_RDWR), {}),
      WithFile("name that only begins like the shared one", File("/shared2/db", O_RDWR),
               {"open-for-writing"}),
      WithFile("written where it is shipped", File("/shipped/db", O_RDWR), {}),
      WithFile("name that only begins like the shipped one", File("/shipped2", O_RDWR),
               {"open-for-writing"}),
      WithFile("the log", File("/var/log/starling/db.log", O_WRONLY | O_APPEND), {}),
      WithFile("folder", kind(File("/var", O_RDONLY), S_IFDIR | 0755), {}),
      WithFile("FIFO", kind(File("/run/fifo", O_RDWR), S_IFIFO | 0600), {}),
      WithFile("a knob of /proc", on(File("/proc/sys/x", O_WRONLY), PROC_SUPER_MAGIC), {}),
      WithFile("a small deleted file", deleted(File("/tmp/x", O_RDWR), 0, 4096), {}),
      WithFile("a large deleted file", deleted(File("/tmp/x", O_RDWR), 0, (1 << 20) + 1),
               {"deleted-file-large"}),
      WithFile("deleted, with another name", deleted(File("/tmp/x", O_RDONLY), 1, 10),
               {"deleted-file-linked"}),
      WithFile("the same on shared", deleted(File("/shared/x", O_RDONLY), 1, 10), {}),
      WithFile("a large memfd", deleted(on(File("/memfd:x", O_RDWR), TMPFS_MAGIC), 0, 1 << 30), {}),
      WithFile("secret memory", on(File("/secretmem", O_RDWR), kSecretMemFs), {"secret-memory"}),
      WithFile("message queue", on(File("/q", O_RDWR), kMessageQueueFs), {"message-queue"}),
      WithFile("hugetlbfs", on(File("/dev/hugepages/rtemap_0", O_RDWR), kHugeTlbFs),
               {"huge-page-file"}),
      WithFile("covered by a mount", hidden, {"open-file-hidden"}),
  };
}

std::vector<Case> DeviceCases() {
  DescriptorFact master = Device("/dev/ptmx", 5, 2);
  master.tty_index = 258;
  return {
      WithFile("null", Device("/dev/null", 1, 3), {}),
      WithFile("zero", Device("/dev/zero", 1, 5), {}),
      WithFile("full", Device("/dev/full", 1, 7), {}),
      WithFile("random", Device("/dev/random", 1, 8), {}),
      WithFile("urandom", Device("/dev/urandom", 1, 9), {}),
      WithFile("mem", Device("/dev/mem", 1, 1), {"device"}),
      WithFile("RDMA", Device("/dev/infiniband/uverbs0", 231, 192), {"rdma"}),
      WithFile("RDMA manager", Device("/dev/infiniband/rdma_cm", 10, 123), {"rdma"}),
      WithFile("VFIO", Device("/dev/vfio/vfio", 10, 196), {"user-space-io"}),
      WithFile("UIO", Device("/dev/uio0", 240, 0), {"user-space-io"}),
      WithFile("GPU", Device("/dev/nvidia0", 195, 0), {"device"}),
      WithFile("KVM", Device("/dev/kvm", 10, 232), {"device"}),
      WithFile("disk", Device("/dev/sda", 8, 0, S_IFBLK), {"device"}),
      WithFile("console", Device("/dev/tty1", 4, 1), {"device"}),
      WithFile("foreign terminal", Device("/dev/pts/3", 136, 3), {"terminal-outside"}),
      {"own terminal",
       [master](ComponentFacts& facts) {
         facts.descriptors = {Device("/dev/pts/258", 137, 2), master};
       },
       {}},
      WithFile("eventfd", Anonymous("anon_inode:[eventfd]"), {}),
      WithFile("epoll", Anonymous("anon_inode:[eventpoll]"), {}),
      WithFile("timerfd", Anonymous("anon_inode:[timerfd]"), {}),
      WithFile("signalfd", Anonymous("anon_inode:[signalfd]"), {}),
      WithFile("inotify", Anonymous("anon_inode:inotify"), {}),
      WithFile("fanotify", Anonymous("anon_inode:[fanotify]"), {}),
      WithFile("io_uring", Anonymous("anon_inode:[io_uring]"), {"io-uring"}),
      WithFile("userfaultfd", Anonymous("anon_inode:[userfaultfd]"), {"userfaultfd"}),
      WithFile("perf", Anonymous("anon_inode:[perf_event]"), {"perf-event"}),
      WithFile("bpf map", Anonymous("anon_inode:bpf-map"), {"bpf"}),
      WithFile("pidfd", Anonymous("anon_inode:[pidfd]"), {"pidfd"}),
      WithFile("pidfd of newer kernels", Anonymous("pidfd:[77]"), {"pidfd"}),
      WithFile("seccomp", Anonymous("anon_inode:seccomp notify"), {"seccomp-notify"}),
      WithFile("verbs events", Anonymous("anon_inode:[infinibandevent]"), {"rdma"}),
      WithFile("unknown object", Anonymous("anon_inode:kvm-vm"), {"kernel-object"}),
      WithFile("namespace", Anonymous("net:[4026531840]"), {}),
  };
}

std::vector<Case> MappingCases() {
  const auto device = [](MappingFact mapping) {
    mapping.mode = S_IFCHR | 0600;
    return mapping;
  };
  const auto deleted = [](MappingFact mapping, uint64_t size) {
    mapping.deleted = true;
    mapping.links = 0;
    mapping.size = size;
    return mapping;
  };
  const auto huge = [](MappingFact mapping) {
    mapping.fs_type = kHugeTlbFs;
    return mapping;
  };
  DescriptorFact direct = File("/shared/ibdata", O_RDWR | O_DIRECT);
  return {
      WithMapping("library", Mapping("/usr/lib/libc.so.6", false, true), {}),
      WithMapping("shared, read", Mapping("/var/lib/index", true, false), {}),
      WithMapping("shared, written", Mapping("/var/lib/index", true, true), {"open-for-writing"}),
      WithMapping("shared storage", Mapping("/shared/index", true, true), {}),
      WithMapping("replaced library", deleted(Mapping("/usr/lib/libssl.so", false, false), 9000),
                  {}),
      WithMapping("large replaced library",
                  deleted(Mapping("/usr/lib/libicu.so", false, false), 30 << 20),
                  {"deleted-file-large"}),
      WithMapping("anonymous shared", deleted(Mapping("/dev/zero", true, true), 1 << 30), {}),
      WithMapping("memfd", deleted(Mapping("/memfd:jit", true, true), 1 << 30), {}),
      WithMapping("anonymous huge pages", deleted(huge(Mapping("/anon_hugepage", true, true)), 1),
                  {}),
      WithMapping("file of huge pages", huge(Mapping("/dev/hugepages/x", true, true)),
                  {"huge-page-file"}),
      WithMapping("System V", deleted(Mapping("/SYSV00000000", true, true), 56), {}),
      WithMapping("ring", Mapping("anon_inode:[io_uring]", true, true), {"io-uring"}),
      WithMapping("counters", Mapping("anon_inode:[perf_event]", true, true), {"perf-event"}),
      WithMapping("secret", deleted(Mapping("/secretmem", true, true), 4096), {"secret-memory"}),
      WithMapping("adapter", device(Mapping("/dev/infiniband/uverbs0", true, true)), {"rdma"}),
      WithMapping("GPU", device(Mapping("/dev/dri/card0", true, true)), {"device"}),
      WithMapping("packet ring", Mapping("socket:[5]", true, true), {}),
      WithMapping("AIO", Mapping("/[aio]", true, true), {}),
      WithFile("direct I/O", direct, {}),
      {"AIO with direct I/O",
       [direct](ComponentFacts& facts) {
         facts.descriptors.push_back(direct);
         facts.mappings.push_back(Mapping("/[aio]", true, true));
       },
       {"direct-aio"}},
  };
}

std::vector<Case> SocketCases() {
  const auto without_ip = [](Case c) {
    return Case{c.name + ", no address",
                [c](ComponentFacts& facts) {
                  facts.spec.clear_ip();
                  c.change(facts);
                },
                c.codes};
  };
  SocketFact elsewhere = Socket(AF_INET, SOCK_STREAM, IPPROTO_TCP, TCP_LISTEN);
  elsewhere.network = 99;
  SocketFact outside = Socket(AF_UNIX, SOCK_STREAM, 0);
  outside.peer_inode = 1;
  outside.peer_name = "/run/systemd/journal/stdout";
  const Case connected =
      WithSocket("TCP", Socket(AF_INET, SOCK_STREAM, IPPROTO_TCP, TCP_ESTABLISHED), {});
  Case refused = without_ip(connected);
  refused.codes = {"tcp-without-address"};
  Case packet = without_ip(WithSocket("packet", Socket(AF_PACKET, SOCK_RAW, 8), {"socket-kind"}));
  DescriptorFact pipe = File("pipe:[5]", O_WRONLY);
  pipe.mode = S_IFIFO | 0600;
  pipe.inode = 5;
  DescriptorFact packets = pipe;
  packets.flags |= O_DIRECT;
  return {
      connected,
      refused,
      without_ip(
          WithSocket("listener", Socket(AF_INET6, SOCK_STREAM, IPPROTO_TCP, TCP_LISTEN), {})),
      without_ip(
          WithSocket("unconnected", Socket(AF_INET, SOCK_STREAM, IPPROTO_TCP, TCP_CLOSE), {})),
      without_ip(WithSocket("UDP", Socket(AF_INET, SOCK_DGRAM, IPPROTO_UDP), {})),
      WithSocket("raw", Socket(AF_INET, SOCK_RAW, IPPROTO_ICMP), {}),
      WithSocket("ping", Socket(AF_INET, SOCK_DGRAM, IPPROTO_ICMP), {"socket-kind"}),
      WithSocket("SCTP", Socket(AF_INET, SOCK_STREAM, IPPROTO_SCTP), {"socket-kind"}),
      WithSocket("MPTCP", Socket(AF_INET6, SOCK_STREAM, IPPROTO_MPTCP), {"socket-kind"}),
      WithSocket("vsock", Socket(AF_VSOCK, SOCK_STREAM, 0), {"socket-kind"}),
      WithSocket("AF_ALG", Socket(AF_ALG, SOCK_SEQPACKET, 0), {"socket-kind"}),
      WithSocket("netlink", Socket(AF_NETLINK, SOCK_RAW, 0), {}),
      WithSocket("packet", Socket(AF_PACKET, SOCK_RAW, 8), {}),
      packet,
      WithSocket("other network", elsewhere, {"socket-other-network"}),
      WithSocket("Unix listener", Socket(AF_UNIX, SOCK_STREAM, 0), {}),
      WithSocket("Unix, peer outside", outside, {"unix-peer-outside"}),
      {"Unix pair",
       [](ComponentFacts& facts) {
         SocketFact a = Socket(AF_UNIX, SOCK_STREAM, 0);
         a.peer_inode = 7001;
         SocketFact b = a;
         b.peer_inode = 7000;
         AddSocket(facts, a);
         AddSocket(facts, b);
       },
       {}},
      WithFile("pipe", pipe, {}),
      WithFile("packet pipe", packets, {"packet-pipe"}),
      {"pipe to somebody",
       [pipe](ComponentFacts& facts) {
         facts.descriptors.push_back(pipe);
         facts.pipe_peers[5] = 4242;
       },
       {"pipe-peer-outside"}},
  };
}

std::vector<Case> ProcessCases() {
  const auto process = [](const std::string& name, std::function<void(ProcessFact&)> change,
                          std::vector<std::string> codes) {
    return Case{name, [change](ComponentFacts& facts) { change(facts.processes[1]); }, codes};
  };
  return {
      {"quiet", [](ComponentFacts&) {}, {}},
      process("stranger", [](ProcessFact& p) { p.in_tree = false; }, {"process-outside-tree"}),
      process("namespace init",
              [](ProcessFact& p) {
                p.in_tree = false;
                p.is_namespace_init = true;
              },
              {}),
      process("escaped", [](ProcessFact& p) { p.in_cgroup = false; }, {"process-outside-cgroup"}),
      process("traced", [](ProcessFact& p) { p.tracer = 9; }, {"process-traced"}),
      process("waits for a disk", [](ProcessFact& p) { p.state = 'D'; }, {}),
      process("hangs",
              [](ProcessFact& p) {
                p.state = 'D';
                p.stuck = true;
              },
              {"process-stuck"}),
      process("zombie",
              [](ProcessFact& p) {
                p.state = 'Z';
                p.namespaces.clear();
              },
              {}),
      process("sandboxed",
              [](ProcessFact& p) {
                p.namespaces["net"] = 33;
                p.namespaces["user"] = 44;
              },
              {"nested-namespace"}),
      {"own mount",
       [](ComponentFacts& facts) {
         facts.mounts.push_back({"/mnt/data", "fuse.sshfs", false});
       },
       {"mount-inside"}},
      {"the host's mount",
       [](ComponentFacts& facts) {
         facts.mounts.push_back({"/mnt/data", "nfs4", true});
       },
       {}},
      {"own /proc",
       [](ComponentFacts& facts) {
         facts.mounts.push_back({"/proc", "proc", false});
       },
       {}},
      {"not to be seen",
       [](ComponentFacts& facts) { facts.unseen.emplace_back("/proc/101/fd/3", "no"); },
       {"cannot-look"}},
  };
}

TEST(SourceCheckTest, Table) {
  std::vector<Case> cases = FileCases();
  for (const auto& more : {DeviceCases(), MappingCases(), SocketCases(), ProcessCases()}) {
    cases.insert(cases.end(), more.begin(), more.end());
  }
  for (const Case& c : cases) {
    ComponentFacts facts = Quiet();
    c.change(facts);
    EXPECT_EQ(Codes(facts), c.codes) << c.name;
  }
}

TEST(SourceCheckTest, WhatIsShippedHasToBeMovable) {
  ComponentFacts facts = Quiet();
  facts.shipped.push_back({.path = "/shipped", .movable = true});
  EXPECT_THAT(Codes(facts), IsEmpty());
  facts.shipped[0].movable = false;
  EXPECT_THAT(Codes(facts), ElementsAre("shipped-path-missing"));
  facts.shipped[0] = {.path = "/shipped",
                      .movable = true,
                      .devices = {"/shipped/null"},
                      .mounts = {"/shipped/mnt"}};
  EXPECT_THAT(Codes(facts), ElementsAre("shipped-device", "shipped-mount"));
}

TEST(SourceCheckTest, ACheckpointNeedsItsFilesToBeShipped) {
  ComponentFacts facts = Quiet();
  facts.descriptors = {File("/shared/db", O_RDWR), File("/shared/db", O_RDWR),
                       File("/shared/read", O_RDONLY), File("/shipped/db", O_RDWR)};
  facts.mappings = {Mapping("/shared/index", true, true), Mapping("/shared/lib", false, true)};
  std::vector<std::string> things;
  for (const v1::Obstacle& obstacle : CheckCheckpoint(facts)) {
    EXPECT_EQ(obstacle.code(), "checkpoint-shared");
    things.push_back(obstacle.thing());
  }
  EXPECT_THAT(things, ElementsAre("/shared/db", "/shared/index"));
  EXPECT_THAT(Codes(facts), IsEmpty()) << "a move takes them along";
}

TEST(SourceCheckTest, CountsEstablishedConnections) {
  ComponentFacts facts = Quiet();
  AddSocket(facts, Socket(AF_INET, SOCK_STREAM, IPPROTO_TCP, TCP_LISTEN));
  AddSocket(facts, Socket(AF_INET, SOCK_STREAM, IPPROTO_TCP, TCP_ESTABLISHED));
  AddSocket(facts, Socket(AF_INET6, SOCK_STREAM, IPPROTO_TCP, TCP_ESTABLISHED));
  AddSocket(facts, Socket(AF_UNIX, SOCK_STREAM, 0, TCP_ESTABLISHED));
  AddSocket(facts, Socket(AF_INET, SOCK_DGRAM, IPPROTO_UDP, TCP_ESTABLISHED));
  EXPECT_EQ(EstablishedConnections(facts), 2u);
}

TEST(SourceCheckTest, NamesAllAtOnceAndEachOnce) {
  ComponentFacts facts = Quiet();
  facts.descriptors = {File("/a", O_RDWR), File("/b", O_RDWR), File("/a", O_WRONLY),
                       Anonymous("anon_inode:[io_uring]")};
  facts.processes[1].tracer = 9;
  EXPECT_THAT(Codes(facts),
              ElementsAre("process-traced", "open-for-writing", "open-for-writing", "io-uring"));
}

TEST(SourceCheckTest, TheWordsNameTheProcess) {
  ComponentFacts facts = Quiet();
  facts.descriptors = {File("/var/lib/db", O_RDWR)};
  const auto obstacles = CheckSource(facts);
  ASSERT_EQ(obstacles.size(), 1u);
  EXPECT_EQ(obstacles[0].thing(), "/var/lib/db");
  EXPECT_THAT(obstacles[0].reason(), HasSubstr("Process 101 (worker) has /var/lib/db open"));
  EXPECT_THAT(obstacles[0].mend(), HasSubstr("--shared"));
}

TEST(SourceCheckTest, Hosts) {
  SourceHost source;
  source.host = "a";
  source.criu = "3.17.1";
  source.protocol = 1;
  v1::HelloResponse peer;
  peer.set_host("b");
  peer.set_protocol(1);
  EXPECT_THAT(CheckHosts(source, peer), IsEmpty());
  peer.set_protocol(2);
  source.criu.clear();
  source.criu_error = "not installed";
  const auto obstacles = CheckHosts(source, peer);
  ASSERT_EQ(obstacles.size(), 2u);
  EXPECT_EQ(obstacles[0].code(), "protocol-version");
  EXPECT_EQ(obstacles[1].code(), "criu-missing");
}

TEST(SourceCheckTest, TheRequestHasWhatTheTargetMustKnow) {
  ComponentFacts facts = Quiet();
  facts.memory_bytes = 77;
  facts.files.emplace_back();
  facts.files.back().set_path("/bin/db");
  SourceHost source;
  source.host = "a";
  source.kernel = "6.12.1";
  source.criu = "3.17.1";
  source.cpu_flags = {"sse2"};
  source.protocol = 3;
  const v1::ExamineRequest request = MakeExamineRequest(facts, source);
  EXPECT_EQ(request.spec().name(), "db");
  EXPECT_EQ(request.files(0).path(), "/bin/db");
  EXPECT_EQ(request.memory_bytes(), 77u);
  EXPECT_EQ(request.source_kernel(), "6.12.1");
  EXPECT_EQ(request.source_criu(), "3.17.1");
  EXPECT_EQ(request.cpu_flags(0), "sse2");
  EXPECT_EQ(request.source_host(), "a");
  EXPECT_EQ(request.protocol(), 3u);
}

}  // namespace
}  // namespace starling::preflight
