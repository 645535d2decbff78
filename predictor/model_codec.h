#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "predictor/forecaster.h"

namespace starling::predictor {

// A forecaster as bytes, so that what it learned survives a restart of the agent and travels with
// its component.
//
// Format, little-endian: "STPM"; u16 version; u16 flags (1: the experts that are off by default are
// there too); u32 experts; f64 sampling interval; u32 and u32 sizes of the two states; the states
// as they lie in memory; u64 FNV-1a over all before it. The states' layout is the version's:
// another version, or a build that lays them out differently, is refused and learns afresh.
class ModelCodec {
 public:
  static constexpr uint16_t kVersion = 2;

  static std::string Save(const Forecaster& forecaster);
  // kInvalidArgument: not a model, damaged, or of values no forecaster can have;
  // kFailedPrecondition: of another version. `net` for the recurrent expert, as in
  // ForecasterOptions.
  static absl::StatusOr<Forecaster> Load(absl::string_view bytes, const GruNet* net = nullptr);
};

}  // namespace starling::predictor
