#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "checkpoint/page_stream.h"

// The messages that accompany pages on the data connection, behind the RDMA WRITEs they speak of.
// docs/wire.md gives them to the byte. Little-endian; a reader refuses what it does not know.

namespace starling::migration {

// A batch speaks of at most this many runs, so that every message fits the receive buffers of the
// fabric.
inline constexpr size_t kMaxBatchRuns = 80;

struct BatchRun {
  checkpoint::PageRun run;
  bool zero = false;  // reads as zeros: nothing was written
  uint64_t slot = 0;  // first page of the arena that holds it, counted in pages
  uint64_t hash = 0;  // XXH3-64 of the run's bytes

  friend bool operator==(const BatchRun&, const BatchRun&) = default;
};

// Source to target: these runs are whole in the arena now. With `flush` set the target answers with
// an Answer once every batch up to and with this one was checked.
struct Batch {
  uint64_t sequence = 0;  // 1, 2, 3, ... on each connection
  bool flush = false;
  std::vector<BatchRun> runs;
};

// Target to source.
struct Answer {
  uint64_t sequence = 0;  // of the batch with the flush mark
  bool ok = false;
  std::string error;  // at most 512 bytes
};

std::string EncodeBatch(const Batch& batch);
absl::StatusOr<Batch> DecodeBatch(absl::string_view bytes);

std::string EncodeAnswer(const Answer& answer);
absl::StatusOr<Answer> DecodeAnswer(absl::string_view bytes);

}  // namespace starling::migration
