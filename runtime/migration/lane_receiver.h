#pragma once

#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "absl/status/statusor.h"
#include "checkpoint/arena.h"
#include "runtime/proto/starling.pb.h"
#include "transport/fabric.h"

namespace starling::migration {

// The target's end of a migration's data connections: the arena, registered chunk by chunk, and a
// thread for each connection that checks what every batch says against what lies there.
// Thread-safe.
class LaneReceiver {
 public:
  // An arena with room for at least `bytes`, kept in `images_dir` (see checkpoint::Arena; empty: in memory alone).
  static absl::StatusOr<std::unique_ptr<LaneReceiver>> Create(transport::Fabric& fabric, uint64_t bytes,
                                                              const std::string& images_dir);
  ~LaneReceiver();

  std::vector<v1::ArenaChunk> chunks() const;
  // At least `bytes` more. kResourceExhausted when there is no memory for it.
  absl::StatusOr<std::vector<v1::ArenaChunk>> Grow(uint64_t bytes);

  // Takes one more data connection.
  absl::Status Accept(std::unique_ptr<transport::Incoming> incoming);

  // Ends the connections and takes the arena's registration back, so that nobody can write to it
  // any more. The first error of any connection, if there was one.
  absl::Status Close();

  const checkpoint::Arena& arena() const { return *arena_; }

 private:
  LaneReceiver(transport::Fabric& fabric, std::unique_ptr<checkpoint::Arena> arena)
      : fabric_(fabric), arena_(std::move(arena)) {}

  void Serve(transport::Connection& connection);
  absl::Status Apply(absl::string_view message, transport::Connection& connection,
                     uint64_t& sequence, absl::Status& refused);

  transport::Fabric& fabric_;
  std::unique_ptr<checkpoint::Arena> arena_;
  mutable std::mutex mutex_;  // guards all below
  absl::Status failed_;
  bool closed_ = false;
  std::vector<std::unique_ptr<transport::MemoryRegion>> regions_;
  std::vector<std::unique_ptr<transport::Connection>> connections_;
  std::vector<std::thread> threads_;
};

}  // namespace starling::migration
