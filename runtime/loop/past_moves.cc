#include "runtime/loop/past_moves.h"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <utility>

#include "base/file.h"
#include "base/status.h"

namespace starling::loop {
namespace {

constexpr int kSchema = 1;
constexpr double kPage = 4096;
constexpr double kNewest = 0.3;  // weight of the newest link rate

nlohmann::json ToJson(const decisions::PastMove& move) {
  return {{"component", move.component},
          {"memory_bytes", move.memory_bytes},
          {"dirty_bytes_per_s", move.dirty_bytes_per_s},
          {"link_bytes_per_s", move.link_bytes_per_s},
          {"moved_bytes", move.moved_bytes},
          {"total_s", move.total_s},
          {"blackout_s", move.blackout_s}};
}

decisions::PastMove FromJson(const nlohmann::json& json) {
  decisions::PastMove move;
  move.component = json.value("component", "");
  move.memory_bytes = json.value("memory_bytes", 0.0);
  move.dirty_bytes_per_s = json.value("dirty_bytes_per_s", 0.0);
  move.link_bytes_per_s = json.value("link_bytes_per_s", 0.0);
  move.moved_bytes = json.value("moved_bytes", 0.0);
  move.total_s = json.value("total_s", 0.0);
  move.blackout_s = json.value("blackout_s", 0.0);
  return move;
}

}  // namespace

bool FromReport(const v1::MigrationReport& report, decisions::PastMove& move) {
  if (!report.error().empty() || report.page_rounds_size() == 0) return false;
  const v1::PageRound& first = report.page_rounds(0);
  move.component = report.component();
  move.memory_bytes = kPage * static_cast<double>(first.pages() + first.zero_pages());
  for (const v1::PageRound& round : report.page_rounds()) {
    if (round.number() == 0) continue;
    move.dirty_bytes_per_s = round.dirty_bytes_per_s();
    move.link_bytes_per_s = std::max(move.link_bytes_per_s, round.rate_bytes_per_s());
  }
  move.moved_bytes = static_cast<double>(report.wire_bytes());
  move.total_s = report.total_s();
  move.blackout_s = report.held_s();
  return move.memory_bytes > 0 && move.link_bytes_per_s > 0;
}

PastMoves::PastMoves(std::string path) : path_(std::move(path)) {
  const absl::StatusOr<std::string> text = ReadFile(path_);
  if (!text.ok()) return;
  try {
    const auto json = nlohmann::json::parse(*text);
    if (json.at("schema") != kSchema) return;
    for (const nlohmann::json& move : json.at("moves")) Take(FromJson(move));
  } catch (const nlohmann::json::exception&) {
    // Damage costs what was learned, and nothing else.
  }
}

void PastMoves::Take(const decisions::PastMove& move) {
  if (!std::isfinite(move.link_bytes_per_s) || move.link_bytes_per_s <= 0) return;
  moves_.push_back(move);
  if (moves_.size() > kMost) moves_.pop_front();
  costs_.Learn(move);
  link_ = link_ == 0 ? move.link_bytes_per_s : link_ + kNewest * (move.link_bytes_per_s - link_);
}

absl::Status PastMoves::Learn(const v1::MigrationReport& report) {
  decisions::PastMove move;
  if (!FromReport(report, move)) return absl::OkStatus();
  std::lock_guard lock(mutex_);
  Take(move);
  nlohmann::json json = {{"schema", kSchema}, {"moves", nlohmann::json::array()}};
  for (const decisions::PastMove& one : moves_) json["moves"].push_back(ToJson(one));
  return WriteFileAtomic(path_, json.dump(), 0600);
}

decisions::MoveCost PastMoves::Expect(const std::string& component, double memory_bytes) const {
  std::lock_guard lock(mutex_);
  // How fast it writes is in what its own past moves took beyond their memory.
  return costs_.Expect(component, memory_bytes, 0, link_ > 0 ? link_ : kUnknownLink);
}

std::optional<double> PastMoves::WrittenPerSecond(const std::string& component) const {
  std::lock_guard lock(mutex_);
  const auto last =
      std::find_if(moves_.rbegin(), moves_.rend(),
                   [&](const decisions::PastMove& move) { return move.component == component; });
  if (last == moves_.rend() || !(last->dirty_bytes_per_s > 0)) return std::nullopt;
  return last->dirty_bytes_per_s;
}

double PastMoves::link_bytes_per_s() const {
  std::lock_guard lock(mutex_);
  return link_ > 0 ? link_ : kUnknownLink;
}

}  // namespace starling::loop
