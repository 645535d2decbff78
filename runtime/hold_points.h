#pragma once

#include <string>

#include "absl/strings/string_view.h"

namespace starling {

// Lets a fault test stop a migration between two steps: while the file `RUN_DIR/hold/NAME` exists,
// the migration waits at the point NAME (after writing NAME.reached beside it), for two minutes at
// most. Without the folder, which only root can make and nobody but a test makes, it costs one
// failed stat(2) a step. The points are listed in docs/testing.md.
class HoldPoints {
 public:
  explicit HoldPoints(const std::string& run_dir) : folder_(run_dir + "/hold") {}
  void At(absl::string_view name) const;

  // For faults that a test wants done at a point: true, once, if the file `RUN_DIR/hold/NAME` is
  // there; it is removed.
  bool Take(absl::string_view name) const;

 private:
  std::string folder_;
};

}  // namespace starling
