#include "runtime/preflight/component_facts.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <optional>
#include <thread>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "base/file.h"
#include "base/status.h"
#include "runtime/preflight/file_content.h"
#include "runtime/preflight/kinds.h"
#include "runtime/preflight/proc_parse.h"

namespace starling::preflight {
namespace {

constexpr const char* kNamespaces[] = {"pid", "mnt", "net", "user", "ipc", "uts", "time"};
// A process that waits for a disk is in state D too; only one that does not move at all hangs.
constexpr std::chrono::milliseconds kStuckStep(100);
constexpr int kStuckSteps = 5;
// A shared file touched more recently may change again before the target looks at it, or be known
// to the target by attributes that its network file system has cached (NFS: for up to a minute).
constexpr int64_t kSettledNs = 120'000'000'000;

std::string Proc(int pid, absl::string_view file) { return absl::StrCat("/proc/", pid, "/", file); }

// Names in a folder, empty when it is gone.
std::vector<std::string> Names(const std::string& folder) {
  std::vector<std::string> names;
  DIR* dir = ::opendir(folder.c_str());
  if (dir == nullptr) return names;
  while (const dirent* entry = ::readdir(dir)) {
    if (entry->d_name[0] != '.') names.emplace_back(entry->d_name);
  }
  ::closedir(dir);
  return names;
}

std::vector<int> Numbers(const std::string& folder) {
  std::vector<int> numbers;
  for (const std::string& name : Names(folder)) {
    int number;
    if (absl::SimpleAtoi(name, &number)) numbers.push_back(number);
  }
  std::sort(numbers.begin(), numbers.end());
  return numbers;
}

std::optional<std::string> ReadLink(const std::string& path) {
  char target[4096];
  const ssize_t n = ::readlink(path.c_str(), target, sizeof(target));
  if (n < 0) return std::nullopt;
  return std::string(target, static_cast<size_t>(n));
}

std::optional<struct stat> Stat(const std::string& path) {
  struct stat stat;
  if (::stat(path.c_str(), &stat) != 0) return std::nullopt;
  return stat;
}

int64_t FsType(const std::string& path) {
  struct statfs fs;
  return ::statfs(path.c_str(), &fs) == 0 ? static_cast<int64_t>(fs.f_type) : 0;
}

// A file of /proc, empty when the process is gone.
std::string ReadProc(int pid, absl::string_view file) {
  return ReadFile(Proc(pid, file)).value_or("");
}

// The processes of a cgroup and of the cgroups below it.
void AddCgroup(const std::string& folder, int depth, std::set<int>* pids) {
  const absl::StatusOr<std::string> procs = ReadFile(absl::StrCat(folder, "/cgroup.procs"));
  if (!procs.ok()) return;
  for (absl::string_view line : absl::StrSplit(*procs, '\n', absl::SkipEmpty())) {
    int pid;
    if (absl::SimpleAtoi(line, &pid) && pid > 0) pids->insert(pid);
  }
  if (depth == 0) return;
  for (const std::string& name : Names(folder)) {
    const std::string below = absl::StrCat(folder, "/", name);
    struct stat stat;
    if (::lstat(below.c_str(), &stat) == 0 && S_ISDIR(stat.st_mode)) {
      AddCgroup(below, depth - 1, pids);
    }
  }
}

class Gatherer {
 public:
  Gatherer(const v1::ComponentSpec& spec, const GatherOptions& options) : options_(options) {
    facts_.spec = spec;
    facts_.root_pid = options.root_pid;
    facts_.cgroup_path = options.cgroup_path;
    facts_.carried = options.carried;
    facts_.ghost_limit_bytes = options.ghost_limit_bytes;
    root_ = Proc(options.root_pid, "root");
  }

  absl::StatusOr<ComponentFacts> Gather() {
    AddProcesses();
    const bool root_there =
        std::any_of(facts_.processes.begin(), facts_.processes.end(),
                    [this](const ProcessFact& p) { return p.pid == options_.root_pid; });
    if (!root_there) {
      return absl::NotFoundError(absl::StrCat("component ", facts_.spec.name(), ": process ",
                                              options_.root_pid,
                                              ", the root of its tree, is gone"));
    }
    FindStuck();
    for (const ProcessFact& process : facts_.processes) {
      if (!process.in_tree || process.state == 'Z') continue;
      AddDescriptors(process.pid);
      AddMappings(process.pid);
    }
    AddSockets();
    FindPipePeers();
    AddMounts();
    AddMemory();
    for (const std::string& path : facts_.spec.ship()) {
      facts_.shipped.push_back(LookAtShipped(path));
    }
    for (auto& [path, file] : files_) facts_.files.push_back(std::move(file));
    return std::move(facts_);
  }

 private:
  void AddProcesses() {
    std::map<int, int> parents;
    for (int pid : Numbers("/proc")) {
      if (const auto stat = ParseStat(ReadProc(pid, "stat"))) parents[pid] = stat->parent;
    }
    std::set<int> tree = TreeOf(options_.root_pid, parents);
    std::set<int> cgroup;
    if (!options_.cgroup_path.empty()) AddCgroup(options_.cgroup_path, 8, &cgroup);
    std::set<int> all = tree;
    all.insert(cgroup.begin(), cgroup.end());
    const std::map<std::string, uint64_t> root_namespaces = NamespacesOf(options_.root_pid);

    for (int pid : all) {
      const auto stat = ParseStat(ReadProc(pid, "stat"));
      if (!stat) continue;
      // Forked since the tree was looked at; a parent has the lower number, all but always.
      if (tree.count(stat->parent) > 0) tree.insert(pid);
      ProcessFact process;
      process.pid = pid;
      process.name = stat->name;
      process.state = stat->state;
      process.parent = stat->parent;
      process.in_tree = tree.count(pid) > 0;
      process.in_cgroup = cgroup.count(pid) > 0 || options_.cgroup_path.empty();
      const auto status = ParseStatus(ReadProc(pid, "status"));
      if (const auto it = status.find("TracerPid"); it != status.end()) {
        (void)absl::SimpleAtoi(it->second, &process.tracer);
        if (process.tracer != 0 && IsOwnCriu(process.tracer)) process.tracer = 0;
      }
      if (const auto it = status.find("NSpid"); it != status.end()) {
        const std::vector<std::string> pids = absl::StrSplit(it->second, '\t');
        (void)absl::SimpleAtoi(pids.back(), &process.pid_inside);
      }
      if (process.state != 'Z') process.namespaces = NamespacesOf(pid);
      const auto mine = process.namespaces.find("pid");
      const auto roots = root_namespaces.find("pid");
      process.is_namespace_init = !process.in_tree && process.pid_inside == 1 &&
                                  mine != process.namespaces.end() &&
                                  roots != root_namespaces.end() && mine->second == roots->second;
      facts_.processes.push_back(std::move(process));
    }
  }

  // Whether it is a CRIU that this agent started, as for a ghost's instant: it lets go by itself, and
  // whoever dumps the component waits for that.
  static bool IsOwnCriu(int pid) {
    auto stat = ParseStat(ReadProc(pid, "stat"));
    if (!stat || stat->name != "criu") return false;
    while (stat && stat->parent > 1) {
      if (stat->parent == ::getpid()) return true;
      stat = ParseStat(ReadProc(stat->parent, "stat"));
    }
    return false;
  }

  static std::map<std::string, uint64_t> NamespacesOf(int pid) {
    std::map<std::string, uint64_t> namespaces;
    for (const char* name : kNamespaces) {
      const auto stat = Stat(Proc(pid, absl::StrCat("ns/", name)));
      if (stat) namespaces[name] = stat->st_ino;
    }
    return namespaces;
  }

  // The same as long as a process stands in state D without a context switch; empty when it is not
  // in that state.
  static std::string Standing(int pid) {
    const auto status = ParseStatus(ReadProc(pid, "status"));
    const auto state = status.find("State");
    if (state == status.end() || !absl::StartsWith(state->second, "D")) return "";
    const auto at = [&status](const char* key) {
      const auto it = status.find(key);
      return it == status.end() ? std::string() : it->second;
    };
    return absl::StrCat("D ", at("voluntary_ctxt_switches"), " ", at("nonvoluntary_ctxt_switches"));
  }

  void FindStuck() {
    std::map<int, std::string> standing;
    for (const ProcessFact& process : facts_.processes) {
      if (process.state == 'D') standing[process.pid] = Standing(process.pid);
    }
    for (int step = 0; step < kStuckSteps && !standing.empty(); ++step) {
      std::this_thread::sleep_for(kStuckStep);
      for (auto it = standing.begin(); it != standing.end();) {
        const bool moved = it->second.empty() || Standing(it->first) != it->second;
        it = moved ? standing.erase(it) : std::next(it);
      }
    }
    for (ProcessFact& process : facts_.processes) {
      process.stuck = standing.count(process.pid) > 0;
    }
  }

  void AddDescriptors(int pid) {
    for (int fd : Numbers(Proc(pid, "fd"))) {
      AddDescriptor(pid, fd, absl::StrCat("fd/", fd), ReadProc(pid, absl::StrCat("fdinfo/", fd)));
    }
    AddDescriptor(pid, DescriptorFact::kWorkingDirectory, "cwd", "");
    AddDescriptor(pid, DescriptorFact::kRootDirectory, "root", "");
  }

  void AddDescriptor(int pid, int number, const std::string& file, const std::string& fdinfo) {
    const std::string link = Proc(pid, file);
    std::optional<std::string> path = ReadLink(link);
    const auto stat = Stat(link);
    if (!path || !stat) {
      // ENOENT: closed meanwhile, or the process is gone.
      if (errno != ENOENT && errno != ESRCH) Unseen(link, errno);
      return;
    }
    DescriptorFact fact;
    fact.pid = pid;
    fact.fd = number;
    fact.deleted = StripDeleted(&*path);
    fact.path = std::move(*path);
    fact.mode = stat->st_mode;
    fact.dev = stat->st_dev;
    fact.inode = stat->st_ino;
    fact.links = stat->st_nlink;
    fact.rdev = stat->st_rdev;
    fact.size = static_cast<uint64_t>(stat->st_size);
    const FdInfo info = ParseFdInfo(fdinfo);
    fact.flags = info.flags;
    fact.tty_index = info.tty_index;
    if (absl::StartsWith(fact.path, "/")) {
      fact.fs_type = FsType(link);
      if (IsNamedFile(fact.mode) && IsDiskFile(fact.fs_type) && !fact.deleted) {
        fact.hidden = IsHidden(fact.path, *stat);
        // Deleted or closed between the two looks: a temporary file of a busy program.
        if (fact.hidden && ReadLink(link) != fact.path) return;
        if (!fact.hidden) AddFile(fact.path, IsWritable(fact.flags), *stat, fact.fs_type);
      }
    }
    facts_.descriptors.push_back(std::move(fact));
  }

  void AddMappings(int pid) {
    for (MapLine& map : ParseMaps(ReadProc(pid, "maps"))) {
      // Without a name, or one of the kernel's own: [heap], [stack], [vdso], [anon:...].
      if (map.path.empty() || map.path[0] == '[') continue;
      MappingFact fact;
      fact.pid = pid;
      fact.start = map.start;
      fact.writable = map.writable;
      fact.shared = map.shared;
      fact.deleted = map.deleted;
      fact.path = std::move(map.path);
      const std::string link =
          Proc(pid, absl::StrCat("map_files/", absl::Hex(map.start), "-", absl::Hex(map.end)));
      // Thousands of mappings can be of one file: it is looked at once.
      const auto key = std::make_pair(fact.path, map.inode);
      auto seen = mapped_.find(key);
      if (seen == mapped_.end()) {
        seen = mapped_.emplace(key, std::make_pair(Stat(link), FsType(link))).first;
      }
      const auto& [stat, fs_type] = seen->second;
      if (stat) {
        fact.stated = true;
        fact.mode = stat->st_mode;
        fact.dev = stat->st_dev;
        fact.inode = stat->st_ino;
        fact.links = stat->st_nlink;
        fact.size = static_cast<uint64_t>(stat->st_size);
        fact.fs_type = fs_type;
        if (absl::StartsWith(fact.path, "/") && S_ISREG(fact.mode) && IsDiskFile(fact.fs_type) &&
            !fact.deleted) {
          fact.hidden = IsHidden(fact.path, *stat);
          if (!fact.hidden) {
            AddFile(fact.path, fact.shared && fact.writable, *stat, fact.fs_type);
          }
        }
      }
      facts_.mappings.push_back(std::move(fact));
    }
  }

  // The path is opened again at the target, so it must lead to the same file here.
  bool IsHidden(const std::string& path, const struct stat& stat) {
    const auto it = files_.find(path);
    if (it != files_.end()) return identity_[path] != std::make_pair(stat.st_dev, stat.st_ino);
    const auto by_path = Stat(root_ + path);
    return !by_path || by_path->st_dev != stat.st_dev || by_path->st_ino != stat.st_ino;
  }

  void AddFile(const std::string& path, bool writable, const struct stat& stat, int64_t fs_type) {
    if (std::find(facts_.carried.begin(), facts_.carried.end(), path) != facts_.carried.end()) {
      return;
    }
    if (IsShipped(path, facts_.spec)) return;  // the target gets it
    const bool shared = IsUnder(path, facts_.spec);
    const auto known = files_.find(path);
    if (known != files_.end()) {
      if (writable) Forget(&known->second);
      return;
    }
    identity_[path] = {stat.st_dev, stat.st_ino};
    v1::FileFact& file = files_[path];
    file.set_path(path);
    file.set_shared(shared);
    file.set_is_directory(S_ISDIR(stat.st_mode));
    file.set_mode(stat.st_mode);
    if (writable) Forget(&file);
    if (!S_ISREG(stat.st_mode) || writable) return;
    if (!shared) {
      file.set_size(static_cast<uint64_t>(stat.st_size));
      const bool comparable = !IsKernelFile(fs_type);
      const auto content =
          LookAtFile(root_ + path, comparable ? Hash::kWithoutBuildId : Hash::kNever);
      if (absl::IsNotFound(content.status())) {
        files_.erase(path);  // deleted since: the process holds it without a name now
        return;
      }
      if (!content.ok()) {
        facts_.unseen.emplace_back(path, std::string(content.status().message()));
        return;
      }
      file.set_build_id(content->build_id);
      file.set_content_hash(content->hash);
      return;
    }
    timespec now;
    ::clock_gettime(CLOCK_REALTIME, &now);
    if (int64_t{now.tv_sec} * 1'000'000'000 + now.tv_nsec - ModifiedNs(stat) > kSettledNs) {
      file.set_size(static_cast<uint64_t>(stat.st_size));
      file.set_modified_ns(ModifiedNs(stat));
    }
  }

  // A file being written has no size or content that could be compared a moment later.
  static void Forget(v1::FileFact* file) {
    file->set_writable(true);
    file->clear_size();
    file->clear_build_id();
    file->clear_content_hash();
    file->clear_modified_ns();
  }

  void AddSockets() {
    std::map<uint64_t, UnixSocket> unix_sockets;
    bool unix_listed = false;
    for (const DescriptorFact& descriptor : facts_.descriptors) {
      if (!S_ISSOCK(descriptor.mode) || descriptor.fd < 0) continue;
      if (facts_.sockets.count(descriptor.inode) > 0) continue;
      absl::StatusOr<SocketFact> socket =
          LookAtSocket(descriptor.pid, descriptor.fd, descriptor.inode);
      if (absl::IsNotFound(socket.status())) continue;
      if (!socket.ok()) {
        facts_.unseen.emplace_back(descriptor.path, std::string(socket.status().message()));
        continue;
      }
      if (socket->family == AF_UNIX) {
        if (!unix_listed) {
          unix_listed = true;
          auto listed = UnixSockets(options_.root_pid);
          if (listed.ok()) {
            unix_sockets = *std::move(listed);
          } else {
            facts_.unseen.emplace_back("Unix sockets", std::string(listed.status().message()));
          }
        }
        const auto it = unix_sockets.find(socket->inode);
        if (it != unix_sockets.end()) {
          socket->peer_inode = it->second.peer_inode;
          const auto peer = unix_sockets.find(socket->peer_inode);
          if (peer != unix_sockets.end()) socket->peer_name = peer->second.name;
        }
      }
      facts_.sockets[descriptor.inode] = *std::move(socket);
    }
  }

  // Only pipes of which the tree holds one end are looked for in other processes.
  void FindPipePeers() {
    std::map<uint64_t, int> ends;  // inode to 1 (reads) | 2 (writes)
    std::set<int> tree;
    for (const DescriptorFact& descriptor : facts_.descriptors) {
      tree.insert(descriptor.pid);
      if (!S_ISFIFO(descriptor.mode) || !absl::StartsWith(descriptor.path, "pipe:")) continue;
      const int access = descriptor.flags & O_ACCMODE;
      ends[descriptor.inode] |= access == O_RDONLY ? 1 : access == O_WRONLY ? 2 : 3;
    }
    std::map<std::string, uint64_t> open;
    for (const auto& [inode, end] : ends) {
      if (end != 3) open[absl::StrCat("pipe:[", inode, "]")] = inode;
    }
    if (open.empty()) return;
    for (int pid : Numbers("/proc")) {
      if (tree.count(pid) > 0) continue;
      for (int fd : Numbers(Proc(pid, "fd"))) {
        const auto path = ReadLink(Proc(pid, absl::StrCat("fd/", fd)));
        const auto it = path ? open.find(*path) : open.end();
        if (it == open.end()) continue;
        // The agent's parent may still hold the same end; only the other one makes it a link.
        const int access =
            ParseFdInfo(ReadProc(pid, absl::StrCat("fdinfo/", fd))).flags & O_ACCMODE;
        const int end = access == O_RDONLY ? 1 : access == O_WRONLY ? 2 : 3;
        if ((end & ~ends[it->second]) != 0) facts_.pipe_peers[it->second] = pid;
      }
    }
  }

  void AddMounts() {
    std::set<std::pair<uint64_t, std::string>> host;
    for (const MountLine& mount : ParseMountInfo(ReadProc(::getpid(), "mountinfo"))) {
      host.insert({mount.dev, mount.point});
    }
    for (MountLine& mount : ParseMountInfo(ReadProc(options_.root_pid, "mountinfo"))) {
      MountFact fact;
      fact.on_host = host.count({mount.dev, mount.point}) > 0;
      fact.point = std::move(mount.point);
      fact.type = std::move(mount.type);
      facts_.mounts.push_back(std::move(fact));
    }
  }

  void AddMemory() {
    if (!options_.cgroup_path.empty()) {
      const auto stat = ReadFile(absl::StrCat(options_.cgroup_path, "/memory.stat"));
      if (stat.ok()) {
        uint64_t sum = 0;
        for (absl::string_view line : absl::StrSplit(*stat, '\n')) {
          const std::pair<absl::string_view, absl::string_view> entry =
              absl::StrSplit(line, absl::MaxSplits(' ', 1));
          uint64_t bytes;
          if ((entry.first == "anon" || entry.first == "shmem") &&
              absl::SimpleAtoi(entry.second, &bytes)) {
            sum += bytes;
          }
        }
        const auto swap = ReadFile(absl::StrCat(options_.cgroup_path, "/memory.swap.current"));
        uint64_t swapped = 0;
        if (swap.ok() && absl::SimpleAtoi(*swap, &swapped)) sum += swapped;
        if (sum > 0) {
          facts_.memory_bytes = sum;
          return;
        }
      }
    }
    for (const ProcessFact& process : facts_.processes) {
      if (!process.in_tree) continue;
      const auto status = ParseStatus(ReadProc(process.pid, "status"));
      for (const char* key : {"RssAnon", "RssShmem", "VmSwap"}) {
        const auto it = status.find(key);
        if (it == status.end()) continue;
        const std::vector<std::string> words = absl::StrSplit(it->second, ' ');
        uint64_t kib;
        if (absl::SimpleAtoi(words[0], &kib)) facts_.memory_bytes += kib * kKiB;
      }
    }
  }

  void Unseen(const std::string& what, int error) {
    facts_.unseen.emplace_back(what, std::string(ErrnoStatus(error, "reading").message()));
  }

  const GatherOptions& options_;
  std::string root_;
  ComponentFacts facts_;
  std::map<std::string, v1::FileFact> files_;
  std::map<std::string, std::pair<dev_t, ino_t>> identity_;  // of files_
  std::map<std::pair<std::string, uint64_t>, std::pair<std::optional<struct stat>, int64_t>>
      mapped_;
};

}  // namespace

std::set<int> TreeOf(int root, const std::map<int, int>& parents) {
  std::multimap<int, int> children;
  for (const auto& [pid, parent] : parents) children.emplace(parent, pid);
  std::set<int> tree;
  std::vector<int> open;
  if (parents.count(root) > 0) open.push_back(root);
  while (!open.empty()) {
    const int pid = open.back();
    open.pop_back();
    if (!tree.insert(pid).second) continue;
    const auto [first, last] = children.equal_range(pid);
    for (auto it = first; it != last; ++it) open.push_back(it->second);
  }
  return tree;
}

bool IsUnder(const std::string& path, const v1::ComponentSpec& spec) {
  for (absl::string_view folder : spec.shared()) {
    while (folder.size() > 1 && absl::EndsWith(folder, "/")) folder.remove_suffix(1);
    if (folder.empty()) continue;
    if (folder == "/" || path == folder || absl::StartsWith(path, absl::StrCat(folder, "/"))) {
      return true;
    }
  }
  return false;
}

absl::StatusOr<ComponentFacts> GatherComponent(const v1::ComponentSpec& spec,
                                               const GatherOptions& options) {
  return Gatherer(spec, options).Gather();
}

}  // namespace starling::preflight
