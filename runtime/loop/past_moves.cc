#include "runtime/loop/past_moves.h"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <utility>

#include "base/file.h"
#include "base/status.h"
#include "runtime/names.h"

namespace starling::loop {
namespace {

constexpr int kSchema = 1;
constexpr double kPage = 4096;
constexpr double kNewest = 0.3;     // weight of the newest link rate
constexpr double kMostSaid = 1e18;  // by others, of bytes, bytes per second and seconds

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

v1::MoveTaken ToMessage(const decisions::PastMove& move, const std::string& migration) {
  v1::MoveTaken message;
  message.set_migration_id(migration);
  message.set_component(move.component);
  message.set_memory_bytes(move.memory_bytes);
  message.set_dirty_bytes_per_s(move.dirty_bytes_per_s);
  message.set_link_bytes_per_s(move.link_bytes_per_s);
  message.set_moved_bytes(move.moved_bytes);
  message.set_total_s(move.total_s);
  message.set_blackout_s(move.blackout_s);
  return message;
}

decisions::PastMove FromMessage(const v1::MoveTaken& message) {
  return {message.component(),        message.memory_bytes(), message.dirty_bytes_per_s(),
          message.link_bytes_per_s(), message.moved_bytes(),  message.total_s(),
          message.blackout_s()};
}

bool Sane(const decisions::PastMove& move) {
  for (const double value : {move.memory_bytes, move.dirty_bytes_per_s, move.link_bytes_per_s,
                             move.moved_bytes, move.total_s, move.blackout_s}) {
    if (!(value >= 0 && value < kMostSaid)) return false;
  }
  return CheckComponentName(move.component).ok();
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
    for (const nlohmann::json& move : json.at("moves")) {
      Take({FromJson(move), move.value("migration", ""), move.value("from", ""),
            move.value("to", "")});
    }
  } catch (const nlohmann::json::exception&) {
    // Damage costs what was learned, and nothing else.
  }
}

void PastMoves::Take(const Move& move) {
  const decisions::PastMove& taken = move.taken;
  if (!std::isfinite(taken.link_bytes_per_s) || taken.link_bytes_per_s <= 0) return;
  moves_.push_back(move);
  if (moves_.size() > kMost) moves_.pop_front();
  if (!move.from.empty()) heard_[move.from][taken.component] = move.migration;
  costs_.Learn(taken);
  link_ = link_ == 0 ? taken.link_bytes_per_s : link_ + kNewest * (taken.link_bytes_per_s - link_);
}

absl::Status PastMoves::Keep() const {
  nlohmann::json json = {{"schema", kSchema}, {"moves", nlohmann::json::array()}};
  for (const Move& move : moves_) {
    nlohmann::json& kept = json["moves"].emplace_back(ToJson(move.taken));
    kept["migration"] = move.migration;
    kept["from"] = move.from;
    kept["to"] = move.to;
  }
  return WriteFileAtomic(path_, json.dump(), 0600);
}

absl::Status PastMoves::Learn(const v1::MigrationReport& report) {
  Move move;
  if (!FromReport(report, move.taken)) return absl::OkStatus();
  move.migration = report.migration_id();
  move.to = report.to();
  std::lock_guard lock(mutex_);
  Take(move);
  return Keep();
}

absl::Status PastMoves::Hear(const std::string& from,
                             const google::protobuf::RepeatedPtrField<v1::MoveTaken>& moves) {
  std::lock_guard lock(mutex_);
  // What it tells no more it has forgotten.
  const std::map<std::string, std::string> known = std::exchange(heard_[from], {});
  std::map<std::string, std::string>& heard = heard_[from];
  bool news = false;
  for (const v1::MoveTaken& said : moves) {
    const decisions::PastMove taken = FromMessage(said);
    const std::string& migration = said.migration_id();
    if (!Sane(taken) || !CheckMigrationId(migration).ok() || heard.size() == kMost) continue;
    heard[taken.component] = migration;
    const auto before = known.find(taken.component);
    if (before != known.end() && before->second == migration) continue;
    Take({taken, migration, from, ""});
    news = true;
  }
  return news ? Keep() : absl::OkStatus();
}

std::vector<v1::MoveTaken> PastMoves::Last(const std::string& host) const {
  std::lock_guard lock(mutex_);
  std::map<std::string, const Move*> last;
  for (const Move& move : moves_) {
    if (move.to == host && !host.empty()) last[move.taken.component] = &move;
  }
  std::vector<v1::MoveTaken> told;
  for (const auto& [component, move] : last)
    told.push_back(ToMessage(move->taken, move->migration));
  return told;
}

decisions::MoveCost PastMoves::Expect(const std::string& component, double memory_bytes) const {
  std::lock_guard lock(mutex_);
  // How fast it writes is in what its own past moves took beyond their memory.
  return costs_.Expect(component, memory_bytes, 0, link_ > 0 ? link_ : kUnknownLink);
}

std::optional<double> PastMoves::WrittenPerSecond(const std::string& component) const {
  std::lock_guard lock(mutex_);
  const auto last = std::find_if(moves_.rbegin(), moves_.rend(), [&](const Move& move) {
    return move.taken.component == component;
  });
  if (last == moves_.rend() || !(last->taken.dirty_bytes_per_s > 0)) return std::nullopt;
  return last->taken.dirty_bytes_per_s;
}

double PastMoves::link_bytes_per_s() const {
  std::lock_guard lock(mutex_);
  return link_ > 0 ? link_ : kUnknownLink;
}

}  // namespace starling::loop
