#pragma once

#include <deque>
#include <mutex>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "runtime/decisions/move_costs.h"
#include "runtime/proto/starling.pb.h"

namespace starling::loop {

// What a migration's report says of what it took. False: it was called off, or says too little.
bool FromReport(const v1::MigrationReport& report, decisions::PastMove& move);

// The moves away from this host, and what the next one will take; kept over restarts in a file.
// Thread-safe.
class PastMoves {
 public:
  static constexpr size_t kMost = 100;

  // Reads `path`, if it is there; what is damaged of it is passed over.
  explicit PastMoves(std::string path);

  absl::Status Learn(const v1::MigrationReport& report);
  // `link_bytes_per_s` as it was lately.
  decisions::MoveCost Expect(const std::string& component, double memory_bytes) const;
  double link_bytes_per_s() const;
  // Bytes that it wrote anew a second while it was moved last; nothing when it never was.
  std::optional<double> WrittenPerSecond(const std::string& component) const;

 private:
  void Take(const decisions::PastMove& move);

  // Before anything was moved: a link of a gigabit.
  static constexpr double kUnknownLink = 125e6;

  const std::string path_;
  mutable std::mutex mutex_;
  std::deque<decisions::PastMove> moves_;
  decisions::MoveCosts costs_;
  double link_ = 0;
};

}  // namespace starling::loop
