#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "checkpoint/file_landing.h"
#include "checkpoint/store.h"
#include "runtime/agent/components.h"
#include "runtime/agent/host.h"

namespace starling::checkpoints {

// Makes a component anew from a checkpoint: everything is read and checked before anything is
// started, and until Finish() all can be taken back. Used once, by one thread.
class Restorer {
 public:
  // Reads and checks the whole checkpoint. Errors: StoreReader's; kInvalidArgument for a key that
  // is none; kDataLoss when it says what no component can be.
  static absl::StatusOr<std::unique_ptr<Restorer>> Open(
      agent::Host& host, const v1::RestoreCheckpointRequest& request);
  // Takes back what was begun and not finished.
  ~Restorer();
  Restorer(const Restorer&) = delete;
  Restorer& operator=(const Restorer&) = delete;

  const v1::CheckpointAbout& about() const { return about_; }
  const v1::ComponentSpec& spec() const { return spec_; }  // what it will be: perhaps another name
  uint64_t number() const { return reader_->manifest().number; }

  // Whether the shipped files can be put where they were. `known`: what this host remembers of the
  // component by its name, whose files may be replaced. All reasons at once, in one error.
  absl::Status CheckPaths(const v1::ComponentSpec* known) const;

  // Restores it, frozen behind its fence, with its files in place.
  absl::StatusOr<std::shared_ptr<agent::Copy>> Restore(uint64_t epoch);

  // It runs; what its files replaced is kept aside.
  absl::Status Finish();

 private:
  explicit Restorer(agent::Host& host) : host_(host) {}
  absl::Status LandFiles();
  absl::Status LoadImages();
  absl::Status LoadMemory();

  agent::Host& host_;
  std::optional<checkpoint::StoreKey> key_;
  std::unique_ptr<checkpoint::StoreReader> reader_;
  v1::CheckpointAbout about_;
  v1::ComponentSpec spec_;
  std::string images_;
  std::vector<checkpoint::FilePlace> places_;
  std::shared_ptr<agent::Copy> copy_;
  bool finished_ = false;
};

}  // namespace starling::checkpoints
