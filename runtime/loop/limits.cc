#include "runtime/loop/limits.h"

#include <unistd.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <stdexcept>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "base/file.h"
#include "base/log.h"
#include "base/status.h"
#include "runtime/names.h"

namespace starling::loop {
namespace {

constexpr int kSchema = 1;

std::string WeightOf(const std::string& cgroup) { return cgroup + "/cpu.weight"; }

}  // namespace

absl::StatusOr<std::unique_ptr<Limits>> Limits::Open(std::string path) {
  std::unique_ptr<Limits> limits(new Limits(std::move(path)));
  const absl::StatusOr<std::string> text = ReadFile(limits->path_);
  if (absl::IsNotFound(text.status())) return limits;
  RETURN_IF_ERROR(text.status());
  try {
    const auto json = nlohmann::json::parse(*text);
    if (json.at("schema") != kSchema) throw std::invalid_argument("of another version");
    for (const auto& [name, entry] : json.at("taken").items()) {
      Taken taken{entry.at("cgroup"), entry.at("weight")};
      int weight = 0;
      if (CheckComponentName(name).ok() && CheckAbsolutePath(taken.cgroup).ok() &&
          absl::SimpleAtoi(taken.weight, &weight)) {
        limits->taken_[name] = std::move(taken);
      }
    }
  } catch (const std::exception& error) {
    // What it said is lost; the weights stay until their components end.
    spdlog::warn("{}: is passed over: {}", limits->path_, error.what());
  }
  return limits;
}

absl::Status Limits::Write() const {
  nlohmann::json json = {{"schema", kSchema}, {"taken", nlohmann::json::object()}};
  for (const auto& [name, taken] : taken_) {
    json["taken"][name] = {{"cgroup", taken.cgroup}, {"weight", taken.weight}};
  }
  return Annotate(WriteFileAtomic(path_, json.dump(), 0600), path_);
}

absl::Status Limits::Degrade(const std::string& component, const std::string& cgroup) {
  std::lock_guard lock(mutex_);
  if (taken_.contains(component)) return absl::OkStatus();
  const absl::StatusOr<std::string> text = ReadFile(WeightOf(cgroup));
  if (!text.ok()) {
    return absl::FailedPreconditionError(absl::StrCat(
        "component ", component, " has no cpu.weight to be lowered: ", text.status().message()));
  }
  const std::string before(absl::StripAsciiWhitespace(*text));
  int weight = 0;
  if (!absl::SimpleAtoi(before, &weight)) {
    return absl::FailedPreconditionError(absl::StrCat(WeightOf(cgroup), ": is no number"));
  }
  taken_[component] = {cgroup, before};
  absl::Status done = Write();
  if (done.ok()) done = WriteKnob(WeightOf(cgroup), absl::StrCat(std::max(1, weight / 2)));
  if (!done.ok()) taken_.erase(component);
  return done;
}

absl::Status Limits::Restore(const std::string& component) {
  std::lock_guard lock(mutex_);
  const auto found = taken_.find(component);
  if (found == taken_.end()) return absl::OkStatus();
  const Taken& taken = found->second;
  // One that ended took its limits along.
  if (::access(taken.cgroup.c_str(), F_OK) == 0) {
    RETURN_IF_ERROR(WriteKnob(WeightOf(taken.cgroup), taken.weight));
  }
  taken_.erase(found);
  return Write();
}

absl::Status Limits::RestoreAll() {
  std::map<std::string, Taken> all;
  {
    std::lock_guard lock(mutex_);
    all = taken_;
  }
  absl::Status first;
  for (const auto& [name, taken] : all) first.Update(Restore(name));
  return first;
}

bool Limits::degraded(const std::string& component) const {
  std::lock_guard lock(mutex_);
  return taken_.contains(component);
}

void Limits::KeepOnly(const std::function<bool(const std::string&)>& lives) {
  std::lock_guard lock(mutex_);
  const size_t gone = std::erase_if(taken_, [&](const auto& entry) { return !lives(entry.first); });
  if (gone == 0) return;
  if (const absl::Status written = Write(); !written.ok()) spdlog::warn("{}", written.ToString());
}

absl::Status Limits::PageOut(const std::string& cgroup, int64_t bytes) {
  const absl::Status done = WriteKnob(cgroup + "/memory.reclaim", absl::StrCat(bytes));
  // EAGAIN: less than that was to be had.
  return absl::IsUnavailable(done) ? absl::OkStatus() : done;
}

}  // namespace starling::loop
