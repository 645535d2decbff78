#pragma once

#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "runtime/proto/bench.pb.h"
#include "runtime/proto/starling.pb.h"
#include "tools/starling/exit_code.h"

// What `starling` shows, as pure functions of the agent's messages. Nothing here ends with a
// newline except tables. Text from elsewhere loses its control characters (see Printable()).

namespace starling::cli {

// Version of every JSON object that `starling` writes. docs/cli.md describes it; fields are only
// added.
inline constexpr int kJsonSchema = 1;

// "running", "in-doubt"; "pre-copy", "called-off".
std::string StateName(v1::ComponentState state);
std::string StepName(v1::Step step);

// --- ps ---
std::string ComponentTable(const v1::ListResponse& list);
std::string ComponentsJson(const v1::ListResponse& list);

// --- check ---
std::string ObstacleText(const v1::Obstacle& obstacle);
std::string CheckJson(const std::string& name, const std::string& to,
                      const v1::CheckResponse& check);

// --- bench ---
std::string BenchJson(const std::string& to, const std::vector<v1::BenchResult>& results,
                      const std::vector<v1::BenchTool>& tools);

// --- migrate ---

// Follows one migration's messages. The agent counts bytes from the migration's beginning; what
// part of this round is done needs the count at the round's beginning.
class ProgressView {
 public:
  // Takes the next message.
  void Update(const v1::MigrationProgress& progress);

  // One line for a log, without a bar.
  std::string Line() const;
  // One line of at most `width` characters for a terminal, with a bar while a round's size is
  // known.
  std::string Bar(int width) const;
  // Whether Line() is worth writing: a new step or round, a message, or a second gone by.
  // Remembers that it was when it says yes.
  bool TakeLine();
  // 0 to 1; negative when not known.
  double RoundDone() const;

  const v1::MigrationProgress& last() const { return now_; }

 private:
  v1::MigrationProgress now_;
  bool any_ = false;
  uint64_t round_began_at_bytes_ = 0;
  bool line_taken_ = false;
  v1::Step line_step_ = v1::STEP_UNSPECIFIED;
  uint32_t line_round_ = 0;
  double line_elapsed_s_ = 0;
  std::string line_message_;
};

// How a migration ended: the words of its last JSON line.
std::string OutcomeName(ExitCode code);
std::string ProgressJson(const v1::MigrationProgress& progress);
// The last line: `last` may be empty when nothing was heard of the migration.
std::string ReportJson(const v1::MigrationProgress& last, ExitCode code, absl::string_view error);
// For people, several lines.
std::string ReportText(const v1::MigrationProgress& last);

// --- checkpoint, restore ---
std::string CheckpointText(const std::string& name, const v1::CheckpointResponse& taken);
std::string CheckpointJson(const std::string& name, const v1::CheckpointResponse& taken);
std::string RestoreText(const v1::RestoreCheckpointResponse& restored);
std::string RestoreJson(const v1::RestoreCheckpointResponse& restored);

// --- events, info ---
std::string EventLine(const v1::Event& event);
std::string EventJson(const v1::Event& event);
std::string InfoText(const v1::InfoResponse& info);
std::string InfoJson(const v1::InfoResponse& info);

}  // namespace starling::cli
