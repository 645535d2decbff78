#pragma once

#include <deque>
#include <map>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "runtime/decisions/move_costs.h"
#include "runtime/proto/loop.pb.h"
#include "runtime/proto/starling.pb.h"

namespace starling::loop {

// What a migration's report says of what it took. False: it was called off, or says too little.
bool FromReport(const v1::MigrationReport& report, decisions::PastMove& move);

// The moves away from this host and to it, and what the next one will take; kept over restarts in a
// file. A host to which a component came knows what its moves take by what the host says that it
// left: without that it would send it on as if that cost nothing. Thread-safe.
class PastMoves {
 public:
  static constexpr size_t kMost = 100;

  // Reads `path`, if it is there; what is damaged of it is passed over.
  explicit PastMoves(std::string path);

  absl::Status Learn(const v1::MigrationReport& report);
  // What host `from` said of moves to here; what was heard before, or says nothing sane, is passed
  // over.
  absl::Status Hear(const std::string& from,
                    const google::protobuf::RepeatedPtrField<v1::MoveTaken>& moves);
  // Of each component that went from here to `host`, the last move.
  std::vector<v1::MoveTaken> Last(const std::string& host) const;
  // `link_bytes_per_s` as it was lately.
  decisions::MoveCost Expect(const std::string& component, double memory_bytes) const;
  double link_bytes_per_s() const;
  // Bytes that it wrote anew a second while it was moved last; nothing when it never was.
  std::optional<double> WrittenPerSecond(const std::string& component) const;

 private:
  struct Move {
    decisions::PastMove taken;
    std::string migration;
    std::string from, to;  // one of them is empty: this host
  };
  void Take(const Move& move);
  absl::Status Keep() const;

  // Before anything was moved: a link of a gigabit.
  static constexpr double kUnknownLink = 125e6;

  const std::string path_;
  mutable std::mutex mutex_;
  std::deque<Move> moves_;
  // By host: the migrations of its components that it told of last.
  std::map<std::string, std::map<std::string, std::string>> heard_;
  decisions::MoveCosts costs_;
  double link_ = 0;
};

}  // namespace starling::loop
