#pragma once

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "runtime/proto/ghost.pb.h"

namespace starling::ghosts {

// What a host remembers of its components' ghosts, over restarts: a file each, replaced as a whole
// and synced. Thread-safe: each call is about one file.
class Book {
 public:
  // The folder is made when something is put into it.
  explicit Book(std::string folder) : folder_(std::move(folder)) {}

  absl::Status Put(const v1::GhostRecord& record) const;
  // A missing one is fine.
  absl::Status Remove(const v1::GhostWish& wish) const;
  // By name. kDataLoss names a file that is no record: it must not be taken for none, because of
  // what may run at the other host.
  absl::StatusOr<std::vector<v1::GhostRecord>> All() const;

 private:
  std::string PathOf(const v1::GhostWish& wish) const;

  const std::string folder_;
};

}  // namespace starling::ghosts
