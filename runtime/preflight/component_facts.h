#pragma once

#include <sys/types.h>

#include <cstdint>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "base/units.h"
#include "runtime/preflight/ship_facts.h"
#include "runtime/preflight/socket_facts.h"
#include "runtime/proto/starling.pb.h"

// What a component is made of, as plain values, gathered from /proc while it runs.

namespace starling::preflight {

struct ProcessFact {
  int pid = 0;         // as this host sees it
  int pid_inside = 0;  // in its innermost pid namespace
  int parent = 0;      // as this host sees it
  std::string name;
  char state = '?';    // of proc(5): R S D T t Z ...
  bool stuck = false;  // in state D, without one context switch, over kStuckTime
  int tracer = 0;      // 0: nobody, or a CRIU of this agent's own
  bool in_tree = false;
  bool in_cgroup = false;
  bool is_namespace_init = false;  // pid 1 of the root's pid namespace, outside the tree: not moved
  // Inode by name: "pid", "mnt", "net", "user", "ipc", "uts", "time". Empty for zombies.
  std::map<std::string, uint64_t> namespaces;
};

struct MappingFact {
  int pid = 0;
  uint64_t start = 0;
  bool writable = false;
  bool shared = false;
  bool deleted = false;
  std::string path;     // as in /proc/PID/maps, without " (deleted)"
  bool stated = false;  // the fields below are known
  mode_t mode = 0;
  uint64_t dev = 0;
  uint64_t inode = 0;
  uint64_t links = 0;
  uint64_t size = 0;
  int64_t fs_type = 0;  // of statfs(2)
  bool hidden = false;  // its path leads to another file
};

struct DescriptorFact {
  // Instead of a number for what processes hold besides their table.
  static constexpr int kWorkingDirectory = -1;
  static constexpr int kRootDirectory = -2;

  int pid = 0;
  int fd = 0;
  std::string path;      // link target without " (deleted)", e.g. "/tmp/x", "socket:[12]"
  bool deleted = false;  // the name it was opened by is gone
  mode_t mode = 0;
  uint64_t dev = 0;
  uint64_t inode = 0;
  uint64_t links = 0;
  uint64_t rdev = 0;
  uint64_t size = 0;
  int64_t fs_type = 0;  // of statfs(2)
  int flags = 0;        // open(2) flags
  int tty_index = -1;   // of the pair, for a pseudo terminal's master
  bool hidden = false;  // its path leads to another file
};

struct MountFact {
  std::string point;  // inside the component's root
  std::string type;
  bool on_host = false;  // this host has the same file system there
};

struct ComponentFacts {
  v1::ComponentSpec spec;
  int root_pid = 0;
  std::string cgroup_path;
  std::vector<std::string> carried;
  uint64_t ghost_limit_bytes = 0;
  std::vector<ProcessFact> processes;
  std::vector<MappingFact> mappings;  // with a name; plain anonymous ones are left out
  std::vector<DescriptorFact> descriptors;
  std::map<uint64_t, SocketFact> sockets;  // by inode, those of the descriptors
  std::map<uint64_t, int> pipe_peers;      // pipe inode to a process outside that holds it too
  std::vector<MountFact> mounts;           // of the root's mount namespace
  std::vector<ShippedFact> shipped;        // as spec.ship
  std::vector<v1::FileFact> files;         // what the target must have, by path
  std::vector<std::pair<std::string, std::string>> unseen;  // what could not be looked at, why
  uint64_t memory_bytes = 0;  // anonymous and shared memory, resident or swapped
};

// Where and what to look at.
struct GatherOptions {
  std::string cgroup_path;                  // empty: no cgroup is looked at
  int root_pid = 0;                         // root of the tree that is dumped, as this host sees it
  std::vector<std::string> carried;         // files the runtime itself takes along (its log)
  uint64_t ghost_limit_bytes = 256 * kMiB;  // as CRIU is told
};

// Looks at every process of the cgroup and of the tree under the root, without stopping any;
// processes that vanish meanwhile are left out. Needs root. Blocking: takes milliseconds per
// process, reads files without a build id (file_content.h), and waits up to half a second when a
// process seems to hang. May be called from any thread.
// Errors: kNotFound when the root is gone.
absl::StatusOr<ComponentFacts> GatherComponent(const v1::ComponentSpec& spec,
                                               const GatherOptions& options);

// The processes of `root` and below it, from (pid, parent) pairs. Pure.
std::set<int> TreeOf(int root, const std::map<int, int>& parents);

// Is `path` one of `folders` or below one? By whole path components, without looking at disk.
bool IsUnder(const std::string& path, const v1::ComponentSpec& spec);

}  // namespace starling::preflight
