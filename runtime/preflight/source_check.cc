#include "runtime/preflight/source_check.h"

#include <linux/if_packet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <sys/sysmacros.h>

#include <algorithm>
#include <map>
#include <set>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/strip.h"
#include "base/units.h"
#include "runtime/preflight/kinds.h"
#include "runtime/preflight/limits.h"

namespace starling::preflight {
namespace {

// Device numbers: Documentation/admin-guide/devices.txt of the kernel.
constexpr unsigned kMemMajor = 1;
constexpr unsigned kTtyMajor = 5;
constexpr unsigned kFirstPtsMajor = 136;
constexpr unsigned kLastPtsMajor = 143;

bool IsPlainMemDevice(uint64_t rdev) {
  if (major(rdev) != kMemMajor) return false;
  switch (minor(rdev)) {
    case 3:   // null
    case 5:   // zero
    case 7:   // full
    case 8:   // random
    case 9:   // urandom
    case 11:  // kmsg
      return true;
    default:
      return false;
  }
}

// Names of the kernel's memory objects, which look like deleted files.
bool IsMemoryObject(absl::string_view path) {
  return absl::StartsWith(path, "/memfd:") || path == "/dev/zero" ||
         absl::StartsWith(path, "/SYSV") || absl::StartsWith(path, "/[aio]") ||
         path == "/anon_hugepage" || path == "/secretmem";
}

class SourceCheck {
 public:
  explicit SourceCheck(const ComponentFacts& facts) : facts_(facts) {
    for (const ProcessFact& process : facts.processes) processes_[process.pid] = &process;
  }

  std::vector<v1::Obstacle> Run() {
    for (const ProcessFact& process : facts_.processes) CheckProcess(process);
    CollectMasters();
    for (const DescriptorFact& descriptor : facts_.descriptors) CheckDescriptor(descriptor);
    for (const MappingFact& mapping : facts_.mappings) CheckMapping(mapping);
    CheckAio();
    for (const MountFact& mount : facts_.mounts) CheckMount(mount);
    for (const ShippedFact& shipped : facts_.shipped) CheckShipped(shipped);
    for (const auto& [what, why] : facts_.unseen) {
      Add(Limit::kCannotLook, what, {{"cause", why}});
    }
    return std::move(obstacles_);
  }

 private:
  using Values = std::initializer_list<std::pair<absl::string_view, absl::string_view>>;

  void Add(Limit limit, const std::string& thing, Values values) {
    v1::Obstacle obstacle = MakeObstacle(limit, thing, values);
    if (seen_.insert({obstacle.code(), thing}).second) obstacles_.push_back(std::move(obstacle));
  }

  std::string NameOf(int pid) const {
    const auto it = processes_.find(pid);
    return it == processes_.end() ? "?" : it->second->name;
  }

  // An obstacle whose words name the process that holds the thing.
  void AddHeld(Limit limit, int pid, const std::string& thing,
               std::vector<std::pair<absl::string_view, std::string>> more = {}) {
    const std::string pid_text = absl::StrCat(pid);
    const std::string name = NameOf(pid);
    more.resize(2);
    Add(limit, thing,
        {{"pid", pid_text},
         {"name", name},
         {more[0].first, more[0].second},
         {more[1].first, more[1].second}});
  }

  void CheckProcess(const ProcessFact& process) {
    const std::string pid = absl::StrCat(process.pid);
    if (!process.in_tree) {
      if (!process.is_namespace_init) {
        Add(Limit::kProcessOutsideTree, pid, {{"name", process.name}});
      }
      return;
    }
    if (!process.in_cgroup && process.state != 'Z') {
      Add(Limit::kProcessOutsideCgroup, pid,
          {{"name", process.name}, {"cgroup", facts_.cgroup_path}});
    }
    if (process.stuck) Add(Limit::kProcessStuck, pid, {{"name", process.name}});
    if (process.tracer != 0) {
      Add(Limit::kTraced, pid, {{"name", process.name}, {"tracer", absl::StrCat(process.tracer)}});
    }
    const auto root = processes_.find(facts_.root_pid);
    if (root == processes_.end()) return;
    std::vector<std::string> nested;
    for (const auto& [kind, inode] : process.namespaces) {
      const auto it = root->second->namespaces.find(kind);
      if (it != root->second->namespaces.end() && it->second != inode) nested.push_back(kind);
    }
    if (!nested.empty()) {
      Add(Limit::kNestedNamespace, pid,
          {{"name", process.name}, {"kind", absl::StrJoin(nested, ", ")}});
    }
  }

  void CollectMasters() {
    for (const DescriptorFact& descriptor : facts_.descriptors) {
      if (descriptor.tty_index >= 0) masters_.insert(static_cast<unsigned>(descriptor.tty_index));
    }
  }

  void CheckDescriptor(const DescriptorFact& descriptor) {
    if ((descriptor.flags & O_PATH) != 0 && !S_ISREG(descriptor.mode)) return;
    if (S_ISCHR(descriptor.mode) || S_ISBLK(descriptor.mode)) return CheckDevice(descriptor);
    if (S_ISSOCK(descriptor.mode)) return CheckSocket(descriptor);
    if (absl::StartsWith(descriptor.path, "/")) return CheckFile(descriptor);
    if (absl::StartsWith(descriptor.path, "pipe:")) return CheckPipe(descriptor);
    if (absl::StartsWith(descriptor.path, "anon_inode:") ||
        absl::StartsWith(descriptor.path, "pidfd:")) {
      CheckAnonymous(descriptor.pid, descriptor.path);
    }
  }

  void CheckDevice(const DescriptorFact& descriptor) {
    const unsigned major_number = major(descriptor.rdev);
    const unsigned minor_number = minor(descriptor.rdev);
    if (S_ISCHR(descriptor.mode)) {
      if (IsPlainMemDevice(descriptor.rdev)) return;
      // /dev/tty and /dev/ptmx.
      if (major_number == kTtyMajor && (minor_number == 0 || minor_number == 2)) return;
      if (major_number >= kFirstPtsMajor && major_number <= kLastPtsMajor) {
        const unsigned index = (major_number - kFirstPtsMajor) * 256 + minor_number;
        if (masters_.count(index) == 0) {
          AddHeld(Limit::kTerminalOutside, descriptor.pid, descriptor.path);
        }
        return;
      }
    }
    AddDevice(descriptor.pid, descriptor.path);
  }

  void AddDevice(int pid, const std::string& path) {
    if (absl::StartsWith(path, "/dev/infiniband/")) return AddHeld(Limit::kRdma, pid, path);
    if (absl::StartsWith(path, "/dev/vfio/") || absl::StartsWith(path, "/dev/uio")) {
      return AddHeld(Limit::kUserspaceIo, pid, path);
    }
    AddHeld(Limit::kDevice, pid, path);
  }

  // Kinds of anonymous inodes by their names in the kernel.
  void CheckAnonymous(int pid, const std::string& path) {
    absl::string_view kind = path;
    (void)absl::ConsumePrefix(&kind, "anon_inode:");
    for (absl::string_view movable : {"[eventfd]", "[eventpoll]", "[signalfd]", "[timerfd]",
                                      "inotify", "[inotify]", "[fanotify]"}) {
      if (kind == movable) return;
    }
    const std::string thing(path);
    if (kind == "[io_uring]") return AddHeld(Limit::kIoUring, pid, thing);
    if (kind == "[userfaultfd]") return AddHeld(Limit::kUserfaultfd, pid, thing);
    if (kind == "[perf_event]") return AddHeld(Limit::kPerfEvent, pid, thing);
    if (kind == "[pidfd]" || absl::StartsWith(kind, "pidfd:")) {
      return AddHeld(Limit::kPidfd, pid, thing);
    }
    if (kind == "seccomp notify" || kind == "[seccomp notify]") {
      return AddHeld(Limit::kSeccompNotify, pid, thing);
    }
    if (absl::StartsWith(kind, "bpf") || absl::StartsWith(kind, "[bpf")) {
      return AddHeld(Limit::kBpf, pid, thing);
    }
    // Contexts of verbs: event channels and the like come with them.
    if (absl::StartsWith(kind, "[infiniband")) return AddHeld(Limit::kRdma, pid, thing);
    if (absl::StartsWith(kind, "[vfio") || kind == "[vfio-device]") {
      return AddHeld(Limit::kUserspaceIo, pid, thing);
    }
    AddHeld(Limit::kKernelObject, pid, thing);
  }

  void CheckFile(const DescriptorFact& descriptor) {
    const int pid = descriptor.pid;
    const std::string& path = descriptor.path;
    if (descriptor.fs_type == kMessageQueueFs && S_ISREG(descriptor.mode)) {
      return AddHeld(Limit::kMessageQueue, pid, path);
    }
    if (descriptor.fs_type == kSecretMemFs || path == "/secretmem") {
      return AddHeld(Limit::kSecretMemory, pid, path);
    }
    if (IsMemoryObject(path) || IsKernelFile(descriptor.fs_type)) return;
    if (descriptor.fs_type == kHugeTlbFs && S_ISREG(descriptor.mode)) {
      return AddHeld(Limit::kHugePageFile, pid, path);
    }
    if (!IsNamedFile(descriptor.mode)) return;
    if (descriptor.hidden) return AddHeld(Limit::kFileHidden, pid, path);
    CheckContent(pid, path, S_ISREG(descriptor.mode) && IsWritable(descriptor.flags),
                 descriptor.deleted, descriptor.links, descriptor.size);
  }

  // What becomes of the bytes of a named file.
  void CheckContent(int pid, const std::string& path, bool writable, bool deleted, uint64_t links,
                    uint64_t size) {
    const bool carried =
        std::find(facts_.carried.begin(), facts_.carried.end(), path) != facts_.carried.end();
    const bool shared = IsUnder(path, facts_.spec);
    if (deleted && links == 0) {
      if (size > facts_.ghost_limit_bytes) {
        AddHeld(Limit::kDeletedLarge, pid, path,
                {{"size", FormatBytes(size)}, {"limit", FormatBytes(facts_.ghost_limit_bytes)}});
      }
      return;
    }
    if (deleted && !shared) return AddHeld(Limit::kDeletedLinked, pid, path);
    if (writable && !shared && !carried && !IsShipped(path, facts_.spec)) {
      AddHeld(Limit::kOpenForWriting, pid, path);
    }
  }

  void CheckPipe(const DescriptorFact& descriptor) {
    if ((descriptor.flags & O_DIRECT) != 0) {
      AddHeld(Limit::kPipePacket, descriptor.pid, descriptor.path);
    }
    const auto peer = facts_.pipe_peers.find(descriptor.inode);
    if (peer != facts_.pipe_peers.end()) {
      AddHeld(Limit::kPipePeerOutside, descriptor.pid, descriptor.path,
              {{"peer", absl::StrCat(peer->second)}});
    }
  }

  void CheckSocket(const DescriptorFact& descriptor) {
    const auto it = facts_.sockets.find(descriptor.inode);
    if (it == facts_.sockets.end()) return;  // closed meanwhile, or named in `unseen`
    const SocketFact& socket = it->second;
    const int pid = descriptor.pid;
    // Internet sockets are told apart by their addresses once they have a port; others may have no
    // name.
    const bool inet = socket.family == AF_INET || socket.family == AF_INET6;
    std::string thing = descriptor.path;
    if (inet && !socket.name.empty() && !absl::EndsWith(socket.name, ":0")) {
      thing = socket.name;
    } else if (!inet && !socket.name.empty()) {
      absl::StrAppend(&thing, " ", socket.name);
    }

    const auto root = processes_.find(facts_.root_pid);
    if (root != processes_.end() && socket.network != 0) {
      const auto network = root->second->namespaces.find("net");
      if (network != root->second->namespaces.end() && network->second != socket.network) {
        return AddHeld(Limit::kSocketOtherNet, pid, thing);
      }
    }
    const std::string kind = KindThatCannotMove(socket);
    if (!kind.empty()) {
      const std::string hint = socket.protocol == IPPROTO_MPTCP
                                   ? "Go programs take GODEBUG=multipathtcp=0"
                                   : "or leave the program where it is";
      return AddHeld(Limit::kSocketKind, pid, thing, {{"kind", kind}, {"hint", hint}});
    }
    if (socket.family == AF_UNIX) {
      const bool outside = socket.peer_inode != 0 && facts_.sockets.count(socket.peer_inode) == 0;
      if (outside) {
        const std::string peer = socket.peer_name.empty()
                                     ? absl::StrCat("socket:[", socket.peer_inode, "]")
                                     : socket.peer_name;
        AddHeld(Limit::kUnixPeerOutside, pid, thing, {{"peer", peer}});
      }
      return;
    }
    const bool connected =
        socket.state != 0 && socket.state != TCP_CLOSE && socket.state != TCP_LISTEN;
    if (socket.protocol == IPPROTO_TCP && connected && facts_.spec.ip().empty()) {
      AddHeld(Limit::kTcpWithoutAddress, pid, thing);
    }
  }

  // "a vsock socket" and so on; empty for those that CRIU takes.
  std::string KindThatCannotMove(const SocketFact& socket) const {
    switch (socket.family) {
      case AF_UNIX:
      case AF_NETLINK:
        return "";
      case AF_PACKET:
        return facts_.spec.ip().empty() ? "a packet socket on the host's devices" : "";
      case AF_INET:
      case AF_INET6:
        break;
      case AF_VSOCK:
        return "a vsock socket";
      case AF_ALG:
        return "a socket of the kernel's cryptography";
      case AF_XDP:
        return "an XDP socket";
      case AF_BLUETOOTH:
        return "a Bluetooth socket";
      case AF_CAN:
        return "a CAN socket";
      case AF_TIPC:
        return "a TIPC socket";
      case AF_RDS:
        return "an RDS socket";
      case AF_SMC:
        return "an SMC socket";
      default:
        return absl::StrCat("a socket of address family ", socket.family);
    }
    if (socket.type == SOCK_RAW) return "";
    switch (socket.protocol) {
      case IPPROTO_IP:
      case IPPROTO_TCP:
      case IPPROTO_UDP:
      case IPPROTO_UDPLITE:
        return "";
      case IPPROTO_MPTCP:
        return "a Multipath TCP socket";
      case IPPROTO_SCTP:
        return "an SCTP socket";
      case IPPROTO_DCCP:
        return "a DCCP socket";
      case IPPROTO_ICMP:
      case IPPROTO_ICMPV6:
        return "an ICMP (ping) socket";
      default:
        return absl::StrCat("a socket of IP protocol ", socket.protocol);
    }
  }

  void CheckMapping(const MappingFact& mapping) {
    const int pid = mapping.pid;
    const std::string& path = mapping.path;
    if (absl::StartsWith(path, "anon_inode:")) return CheckAnonymous(pid, path);
    if (!absl::StartsWith(path, "/"))
      return;  // sockets' rings and the like: their descriptor tells
    if (path == "/secretmem") return AddHeld(Limit::kSecretMemory, pid, path);
    if (IsMemoryObject(path) || !mapping.stated) return;
    if (S_ISCHR(mapping.mode) || S_ISBLK(mapping.mode)) return AddDevice(pid, path);
    if (!S_ISREG(mapping.mode)) return;
    if (mapping.fs_type == kHugeTlbFs) return AddHeld(Limit::kHugePageFile, pid, path);
    if (mapping.hidden) return AddHeld(Limit::kFileHidden, pid, path);
    CheckContent(pid, path, mapping.shared && mapping.writable, mapping.deleted, mapping.links,
                 mapping.size);
  }

  void CheckAio() {
    for (const MappingFact& mapping : facts_.mappings) {
      if (!absl::StartsWith(mapping.path, "/[aio]")) continue;
      for (const DescriptorFact& descriptor : facts_.descriptors) {
        if (descriptor.pid == mapping.pid && (descriptor.flags & O_DIRECT) != 0 &&
            S_ISREG(descriptor.mode)) {
          AddHeld(Limit::kDirectAio, mapping.pid, descriptor.path);
        }
      }
    }
  }

  void CheckShipped(const ShippedFact& shipped) {
    if (!shipped.movable) Add(Limit::kShippedMissing, shipped.path, {});
    for (const std::string& device : shipped.devices) {
      Add(Limit::kShippedDevice, device, {{"path", shipped.path}});
    }
    for (const std::string& mount : shipped.mounts) {
      Add(Limit::kShippedMount, mount, {{"path", shipped.path}});
    }
  }

  void CheckMount(const MountFact& mount) {
    if (mount.on_host) return;
    // Views of the kernel that the runtime itself mounts, or that a fresh namespace has anyway.
    for (absl::string_view own : {"proc", "sysfs", "devpts", "mqueue", "cgroup", "cgroup2"}) {
      if (mount.type == own) return;
    }
    Add(Limit::kMountInside, mount.point, {{"kind", mount.type}});
  }

  const ComponentFacts& facts_;
  std::map<int, const ProcessFact*> processes_;
  std::set<unsigned> masters_;  // numbers of the pseudo terminals whose master is in the component
  std::set<std::pair<std::string, std::string>> seen_;
  std::vector<v1::Obstacle> obstacles_;
};

}  // namespace

std::vector<v1::Obstacle> CheckSource(const ComponentFacts& facts) {
  return SourceCheck(facts).Run();
}

std::vector<v1::Obstacle> CheckCheckpoint(const ComponentFacts& facts) {
  std::vector<v1::Obstacle> obstacles;
  std::set<std::string> seen;
  const auto add = [&](int pid, const std::string& path) {
    if (!IsUnder(path, facts.spec) || !seen.insert(path).second) return;
    std::string name = "?";
    for (const ProcessFact& process : facts.processes) {
      if (process.pid == pid) name = process.name;
    }
    obstacles.push_back(
        MakeObstacle(Limit::kCheckpointShared, path, {{"pid", absl::StrCat(pid)}, {"name", name}}));
  };
  for (const DescriptorFact& descriptor : facts.descriptors) {
    if (S_ISREG(descriptor.mode) && IsWritable(descriptor.flags)) {
      add(descriptor.pid, descriptor.path);
    }
  }
  for (const MappingFact& mapping : facts.mappings) {
    if (mapping.shared && mapping.writable) add(mapping.pid, mapping.path);
  }
  return obstacles;
}

uint32_t EstablishedConnections(const ComponentFacts& facts) {
  uint32_t count = 0;
  for (const auto& [inode, socket] : facts.sockets) {
    const bool inet = socket.family == AF_INET || socket.family == AF_INET6;
    count += inet && socket.type == SOCK_STREAM && socket.state == TCP_ESTABLISHED;
  }
  return count;
}

v1::ExamineRequest MakeExamineRequest(const ComponentFacts& facts, const SourceHost& source) {
  v1::ExamineRequest request;
  *request.mutable_spec() = facts.spec;
  for (const v1::FileFact& file : facts.files) *request.add_files() = file;
  for (const ShippedFact& shipped : facts.shipped) {
    v1::ShippedPath& path = *request.add_shipped();
    path.set_path(shipped.path);
    path.set_bytes(shipped.bytes);
  }
  request.set_source_kernel(source.kernel);
  request.set_source_criu(source.criu);
  request.set_memory_bytes(facts.memory_bytes);
  for (const std::string& flag : source.cpu_flags) request.add_cpu_flags(flag);
  request.set_source_host(source.host);
  request.set_protocol(source.protocol);
  return request;
}

std::vector<v1::Obstacle> CheckHosts(const SourceHost& source, const v1::HelloResponse& peer) {
  std::vector<v1::Obstacle> obstacles;
  if (peer.protocol() != source.protocol) {
    obstacles.push_back(MakeObstacle(
        Limit::kProtocolVersion, peer.host(),
        {{"theirs", absl::StrCat(peer.protocol())}, {"ours", absl::StrCat(source.protocol)}}));
  }
  if (source.criu.empty()) {
    obstacles.push_back(
        MakeObstacle(Limit::kCriuMissing, source.host, {{"cause", source.criu_error}}));
  }
  return obstacles;
}

}  // namespace starling::preflight
