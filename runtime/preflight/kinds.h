#pragma once

#include <fcntl.h>
#include <linux/magic.h>
#include <sys/stat.h>

#include <cstdint>

// Small questions about modes, flags and file systems, shared by gathering and checking. Pure.

namespace starling::preflight {

// Not in every libc's linux/magic.h.
inline constexpr int64_t kMessageQueueFs = 0x19800202;
inline constexpr int64_t kSecretMemFs = 0x5345434d;
inline constexpr int64_t kHugeTlbFs = 0x958458f6;

inline bool IsNamedFile(mode_t mode) { return S_ISREG(mode) || S_ISDIR(mode) || S_ISFIFO(mode); }

// Files that are views of the kernel: no two hosts have the same content in them, and writing to
// them leaves nothing behind.
inline bool IsKernelFile(int64_t fs_type) {
  switch (fs_type) {
    case PROC_SUPER_MAGIC:
    case SYSFS_MAGIC:
    case CGROUP_SUPER_MAGIC:
    case CGROUP2_SUPER_MAGIC:
    case DEBUGFS_MAGIC:
    case TRACEFS_MAGIC:
    case SECURITYFS_MAGIC:
    case DEVPTS_SUPER_MAGIC:
    case NSFS_MAGIC:
      return true;
    default:
      return false;
  }
}

// Files that the target must have too: those that a path names on storage, and what sysfs shows.
// /proc belongs to the processes themselves and is rebuilt with them.
inline bool IsDiskFile(int64_t fs_type) {
  switch (fs_type) {
    case PROC_SUPER_MAGIC:
    case CGROUP_SUPER_MAGIC:
    case CGROUP2_SUPER_MAGIC:
    case DEVPTS_SUPER_MAGIC:
    case NSFS_MAGIC:
    case kMessageQueueFs:
    case kSecretMemFs:
    case kHugeTlbFs:
      return false;
    default:
      return true;
  }
}

inline bool IsWritable(int flags) {
  return (flags & O_PATH) == 0 && (flags & O_ACCMODE) != O_RDONLY;
}

}  // namespace starling::preflight
