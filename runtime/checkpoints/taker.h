#pragma once

#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "checkpoint/arena.h"
#include "checkpoint/file_tree.h"
#include "checkpoint/local_sink.h"
#include "checkpoint/page_stream.h"
#include "checkpoint/store.h"
#include "runtime/agent/components.h"
#include "runtime/agent/host.h"
#include "runtime/hold_points.h"
#include "runtime/migration/keeper_dumps.h"

namespace starling::checkpoints {

// One checkpoint of a running component, as a migration to a folder: rounds into an arena in memory
// while it runs, the last of it and the skeleton inside one freeze, and to storage once it runs
// again. Used once, by one thread.
class Taker {
 public:
  // `about` is complete but for what changes until the freeze.
  Taker(agent::Host& host, std::shared_ptr<agent::Copy> copy, v1::CheckpointAbout about,
        v1::CheckpointRequest request);
  ~Taker();

  // The component runs on, whatever comes of it.
  absl::StatusOr<v1::CheckpointResponse> Run();

 private:
  absl::Status Prepare();
  absl::Status Rounds();
  absl::Status Instant();
  absl::Status Capture();
  absl::Status LetRun();
  absl::Status Store();

  absl::Status ListFiles(bool last);
  absl::Status StoreMemory(checkpoint::StoredContent& content);
  absl::Status StoreImages(checkpoint::StoredContent& content);
  void AddPhase(absl::string_view name, Duration took);

  agent::Host& host_;
  HoldPoints hold_;
  const std::shared_ptr<agent::Copy> copy_;
  v1::CheckpointAbout about_;
  const v1::CheckpointRequest request_;
  v1::CheckpointResponse response_;

  std::optional<checkpoint::StoreKey> key_;
  std::unique_ptr<checkpoint::StoreWriter> writer_;
  std::string cgroup_;
  std::string images_;
  std::unique_ptr<checkpoint::Arena> arena_;
  std::unique_ptr<checkpoint::LocalSink> sink_;
  std::unique_ptr<migration::KeeperDumps> dumps_;
  std::unique_ptr<checkpoint::PageSource> source_;
  std::vector<checkpoint::FileTracker> files_;
  checkpoint::FinalList final_;
};

}  // namespace starling::checkpoints
