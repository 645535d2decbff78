#pragma once

#include <sys/stat.h>

#include <string>

#include "absl/status/status.h"
#include "runtime/decisions/policy.h"
#include "runtime/decisions/prices.h"

namespace starling::decisions {

// A policy and its price feed as they are on disk, read again when they change. A file that is
// refused, or is gone, leaves what was read before. Not thread-safe.
class PolicyFile {
 public:
  // No file: the default policy, which observes.
  explicit PolicyFile(std::string path) : path_(std::move(path)) {}

  // Reads what changed since the last call. An error is told once for each change of the file.
  absl::Status Refresh();

  // Why the policy's file as it is now is not in force; OK: it is.
  const absl::Status& refused() const { return refused_; }
  const Policy& policy() const { return policy_; }
  const PriceFeed& prices() const { return prices_; }

 private:
  // What says that a file is another one than before.
  struct Stamp {
    int64_t seconds = 0, nanoseconds = 0, size = -1;
    uint64_t inode = 0;
    bool operator==(const Stamp&) const = default;
  };
  static Stamp StampOf(const std::string& path);

  const std::string path_;
  // Unlike that of any file, and of none.
  static Stamp NotRead() { return {0, 0, -2, 0}; }
  Stamp policy_stamp_ = NotRead(), prices_stamp_ = NotRead();
  std::string prices_path_;
  absl::Status refused_;
  Policy policy_;
  PriceFeed prices_;
};

}  // namespace starling::decisions
