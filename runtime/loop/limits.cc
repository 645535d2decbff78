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
#include "runtime/loop/processors.h"
#include "runtime/names.h"

namespace starling::loop {
namespace {

constexpr int kSchema = 2;
constexpr char kWeight[] = "cpu.weight";
constexpr char kProcessors[] = "cpuset.cpus";

// Whether this can have been in such a file: what is written down may be damaged.
bool CanBe(const std::string& knob, const std::string& text) {
  int weight = 0;
  if (knob == kWeight) return absl::SimpleAtoi(text, &weight);
  return knob == kProcessors && ParseProcessors(text).has_value();
}

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
      Taken taken{entry.at("cgroup"), entry.at("before")};
      const bool sane = CheckComponentName(name).ok() && CheckAbsolutePath(taken.cgroup).ok() &&
                        std::all_of(taken.before.begin(), taken.before.end(), [](const auto& knob) {
                          return CanBe(knob.first, knob.second);
                        });
      if (sane) limits->taken_[name] = std::move(taken);
    }
  } catch (const std::exception& error) {
    // What it said is lost; the limits stay until their components end.
    spdlog::warn("{}: is passed over: {}", limits->path_, error.what());
  }
  return limits;
}

absl::Status Limits::Write() const {
  nlohmann::json json = {{"schema", kSchema}, {"taken", nlohmann::json::object()}};
  for (const auto& [name, taken] : taken_) {
    json["taken"][name] = {{"cgroup", taken.cgroup}, {"before", taken.before}};
  }
  return Annotate(WriteFileAtomic(path_, json.dump(), 0600), path_);
}

absl::Status Limits::Take(const std::string& component, const std::string& cgroup,
                          const std::string& knob, const std::string& before,
                          const std::string& value) {
  Taken& taken = taken_[component];
  taken.cgroup = cgroup;
  const bool first = taken.before.emplace(knob, before).second;
  absl::Status done = first ? Write() : absl::OkStatus();
  if (done.ok()) done = WriteKnob(absl::StrCat(cgroup, "/", knob), value);
  if (!done.ok() && first) {
    taken.before.erase(knob);
    if (taken.before.empty()) taken_.erase(component);
  }
  return done;
}

absl::Status Limits::Degrade(const std::string& component, const std::string& cgroup) {
  std::lock_guard lock(mutex_);
  if (const auto found = taken_.find(component);
      found != taken_.end() && found->second.before.contains(kWeight)) {
    return absl::OkStatus();
  }
  const absl::StatusOr<std::string> text = ReadFile(absl::StrCat(cgroup, "/", kWeight));
  if (!text.ok()) {
    return absl::FailedPreconditionError(absl::StrCat(
        "component ", component, " has no cpu.weight to be lowered: ", text.status().message()));
  }
  const std::string before(absl::StripAsciiWhitespace(*text));
  int weight = 0;
  if (!absl::SimpleAtoi(before, &weight)) {
    return absl::FailedPreconditionError(absl::StrCat(cgroup, "/", kWeight, ": is no number"));
  }
  return Take(component, cgroup, kWeight, before, absl::StrCat(std::max(1, weight / 2)));
}

absl::Status Limits::Confine(const std::string& component, const std::string& cgroup,
                             const std::string& processors) {
  std::lock_guard lock(mutex_);
  const absl::StatusOr<std::string> text = ReadFile(absl::StrCat(cgroup, "/", kProcessors));
  if (!text.ok()) {
    return absl::FailedPreconditionError(
        absl::StrCat("component ", component,
                     " has no cpuset.cpus to be confined by: ", text.status().message()));
  }
  const std::string before(absl::StripAsciiWhitespace(*text));
  // The kernel takes no empty list while there are processes: it could not be given back.
  if (before.empty()) {
    return absl::FailedPreconditionError(
        absl::StrCat("component ", component, " was not confined before"));
  }
  return Take(component, cgroup, kProcessors, before, processors);
}

absl::Status Limits::GiveBack(const std::string& component, const std::string& knob) {
  const auto found = taken_.find(component);
  if (found == taken_.end()) return absl::OkStatus();
  Taken& taken = found->second;
  const auto before = taken.before.find(knob);
  if (before == taken.before.end()) return absl::OkStatus();
  // One that ended took its limits along.
  if (::access(taken.cgroup.c_str(), F_OK) == 0) {
    RETURN_IF_ERROR(WriteKnob(absl::StrCat(taken.cgroup, "/", knob), before->second));
  }
  taken.before.erase(before);
  if (taken.before.empty()) taken_.erase(found);
  return Write();
}

absl::Status Limits::Restore(const std::string& component) {
  std::lock_guard lock(mutex_);
  return GiveBack(component, kWeight);
}

absl::Status Limits::RestoreAll() {
  std::lock_guard lock(mutex_);
  const std::map<std::string, Taken> all = taken_;
  absl::Status first;
  for (const auto& [name, taken] : all) {
    for (const auto& [knob, before] : taken.before) first.Update(GiveBack(name, knob));
  }
  return first;
}

bool Limits::degraded(const std::string& component) const {
  std::lock_guard lock(mutex_);
  const auto found = taken_.find(component);
  return found != taken_.end() && found->second.before.contains(kWeight);
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
