#pragma once

#include <sys/types.h>

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace starling::checkpoint {

// Three processes with anonymous memory that all of them share, and private memory, a memfd and a
// huge page (where the kernel has one to spare: "huge page yes") of each, which
// write for ever and check what they wrote before: one wrong byte and they abort. `megabytes` in
// all. Returns only on failure.
int RunSharedMemoryWorkload(int megabytes);

// A process and a child of it, with `megabytes` at rest, that make, remove, give back, move,
// replace, hide, lock, page out and zero mappings of every private kind, use their stacks and heaps
// and fork children that end or become other programs; all check what they wrote before. Returns
// only on failure.
int RunMappingsWorkload(int megabytes);

// How far each of the processes has come; read through the first process's memory. Of the mappings
// workload: the first, its short-lived children together, and the second.
absl::StatusOr<std::vector<uint64_t>> SharedMemoryProgress(pid_t pid);

// Redis and a client of it that waits on an open connection, under one first process, which is a
// child subreaper and says once a second whether it still is ("subreaper 1"). Returns only on
// failure.
int RunRedisWorkload();

// Output of a shell command in the calling thread's namespaces.
absl::StatusOr<std::string> RunShell(const std::string& command);

// One command to the Redis of the calling thread's network namespace, answer as redis-cli prints
// it.
absl::StatusOr<std::string> AskRedis(const std::string& arguments);

// The content of every mapping of a frozen process, but those that are the kernel's: what must be
// the same before a dump and after a restore. One line each: "pid start-end permissions hash name".
absl::StatusOr<std::vector<std::string>> MemoryDigest(pid_t pid);

}  // namespace starling::checkpoint
