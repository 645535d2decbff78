#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "runtime/preflight/ship_facts.h"
#include "runtime/proto/starling.pb.h"

namespace starling::preflight {

// What the agent of a target knows and this code does not.
struct HostOptions {
  std::string host;
  uint32_t protocol = 0;
  std::string criu;           // version; empty: missing or unusable
  std::string criu_error;     // why, when empty
  bool name_taken = false;    // a component of that name lives here or is on its way
  std::string cgroup_path;    // the cgroup below which components' cgroups are made
  std::string parent_device;  // network device that carries components' addresses
  // Memory needed per byte of the component: its arena and the restored copy stand side by side
  // until the move is done.
  double memory_factor = 2.0;
};

// A file of the request as this host sees it.
struct HostFile {
  bool exists = false;
  std::string error;  // it cannot be looked at, for another reason than that it is not there
  uint32_t mode = 0;
  uint64_t size = 0;
  std::string build_id;
  uint64_t content_hash = 0;  // taken when the request has one
  int64_t modified_ns = 0;
};

struct HostFacts {
  HostOptions options;
  std::string kernel;
  std::vector<std::string> cpu_flags;
  uint64_t memory_available_bytes = 0;
  bool cgroup_freezer = false;  // the cgroup folder, or the mount it will be made in, is v2
  bool ethernet = false;        // options.parent_device exists and is an Ethernet
  std::vector<std::string> missing_shared;  // shared paths of the spec that are not here
  std::vector<ShippedPlace> shipped;        // as request.shipped
  std::vector<HostFile> files;              // as request.files, at most kMaxFiles
};

// Most files of one request that are looked at, so that a hostile one has a bounded cost (each is
// read to at most kMaxHashedBytes).
inline constexpr int kMaxFiles = 20000;

// Blocking: looks at every file of the request. Opens regular files only.
HostFacts GatherHost(const v1::ExamineRequest& request, const HostOptions& options);

// "flags" or "Features" of the first processor in /proc/cpuinfo.
std::vector<std::string> CpuFlags();

// uname's release.
std::string KernelRelease();

// MemAvailable of /proc/meminfo, cut to what the memory.max of `cgroup_path` and of the cgroups
// above it leave; 0 when unknown.
uint64_t MemoryAvailable(const std::string& cgroup_path);

}  // namespace starling::preflight
