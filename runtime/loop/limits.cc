#include "runtime/loop/limits.h"

#include <unistd.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <stdexcept>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "base/file.h"
#include "base/log.h"
#include "base/status.h"
#include "runtime/loop/processors.h"
#include "runtime/names.h"

namespace starling::loop {
namespace {

constexpr int kSchema = 3;
// Had weights and processors alone.
constexpr int kOlderSchema = 2;
constexpr char kWeight[] = "cpu.weight";
constexpr char kProcessors[] = "cpuset.cpus";
constexpr char kQuota[] = "cpu.max";
constexpr char kMemory[] = "memory.high";
// A tenth of a second, the kernel's own.
constexpr int64_t kPeriod_us = 100000;
constexpr int kDegradedPart = 2, kShrunkPart = 10;

// Whether this can have been in such a file: what is written down may be damaged.
bool CanBe(const std::string& knob, const std::string& text) {
  int64_t number = 0;
  if (knob == kWeight) return absl::SimpleAtoi(text, &number);
  if (knob == kProcessors) return ParseProcessors(text).has_value();
  if (knob == kMemory) return text == "max" || absl::SimpleAtoi(text, &number);
  if (knob != kQuota) return false;
  const std::vector<absl::string_view> words = absl::StrSplit(text, ' ');
  return words.size() == 2 && absl::SimpleAtoi(words[1], &number) &&
         (words[0] == "max" || absl::SimpleAtoi(words[0], &number));
}

int WeightOf(const FittedLimits& fitted, bool degraded, bool shrunk, int before) {
  int weight = fitted.weight != 0 ? fitted.weight : before;
  if (degraded) weight /= kDegradedPart;
  if (shrunk) weight /= kShrunkPart;
  return std::max(1, weight);
}

}  // namespace

absl::StatusOr<std::unique_ptr<Limits>> Limits::Open(std::string path) {
  std::unique_ptr<Limits> limits(new Limits(std::move(path)));
  const absl::StatusOr<std::string> text = ReadFile(limits->path_);
  if (absl::IsNotFound(text.status())) return limits;
  RETURN_IF_ERROR(text.status());
  try {
    const auto json = nlohmann::json::parse(*text);
    const int schema = json.at("schema");
    if (schema != kSchema && schema != kOlderSchema) {
      throw std::invalid_argument("of another version");
    }
    for (const auto& [name, entry] : json.at("taken").items()) {
      Taken taken;
      entry.at("cgroup").get_to(taken.cgroup);
      entry.at("before").get_to(taken.before);
      if (schema == kOlderSchema) {
        taken.degraded = taken.before.contains(kWeight);
      } else {
        taken.degraded = entry.at("degraded");
        taken.shrunk = entry.at("shrunk");
        taken.fitted = {entry.at("cpu"), entry.at("memory"), entry.at("weight")};
      }
      const bool sane = CheckComponentName(name).ok() && CheckAbsolutePath(taken.cgroup).ok() &&
                        std::min({taken.shrunk, taken.fitted.cpu, taken.fitted.memory}) >= 0 &&
                        taken.fitted.weight >= 0 &&
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
    json["taken"][name] = {{"cgroup", taken.cgroup},       {"before", taken.before},
                           {"degraded", taken.degraded},   {"shrunk", taken.shrunk},
                           {"cpu", taken.fitted.cpu},      {"memory", taken.fitted.memory},
                           {"weight", taken.fitted.weight}};
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

Limits::Taken Limits::Wanted(const std::string& component) const {
  const auto found = taken_.find(component);
  return found == taken_.end() ? Taken() : found->second;
}

absl::Status Limits::Apply(const std::string& component, const std::string& cgroup,
                           const Taken& wanted) {
  // Of each file: what is to be in it, or nothing where nothing is taken.
  std::map<std::string, std::string> values, before;
  const auto read = [&](const char* knob) -> absl::Status {
    if (const auto found = taken_.find(component); found != taken_.end()) {
      const auto had = found->second.before.find(knob);
      if (had != found->second.before.end()) {
        before[knob] = had->second;
        return absl::OkStatus();
      }
    }
    const absl::StatusOr<std::string> text = ReadFile(absl::StrCat(cgroup, "/", knob));
    if (!text.ok()) {
      return absl::FailedPreconditionError(absl::StrCat("component ", component, " has no ", knob,
                                                        " to be set: ", text.status().message()));
    }
    before[knob] = std::string(absl::StripAsciiWhitespace(*text));
    if (CanBe(knob, before[knob])) return absl::OkStatus();
    return absl::FailedPreconditionError(
        absl::StrCat(cgroup, "/", knob, ": cannot be \"", before[knob], "\""));
  };
  if (wanted.degraded || wanted.shrunk != 0 || wanted.fitted.weight != 0) {
    RETURN_IF_ERROR(read(kWeight));
    int weight = 0;
    (void)absl::SimpleAtoi(before[kWeight], &weight);
    values[kWeight] =
        absl::StrCat(WeightOf(wanted.fitted, wanted.degraded, wanted.shrunk != 0, weight));
  }
  if (wanted.fitted.cpu != 0) {
    RETURN_IF_ERROR(read(kQuota));
    values[kQuota] = absl::StrCat(wanted.fitted.cpu * kPeriod_us / 1000, " ", kPeriod_us);
  }
  if (wanted.shrunk != 0 || wanted.fitted.memory != 0) {
    RETURN_IF_ERROR(read(kMemory));
    values[kMemory] = absl::StrCat(wanted.shrunk != 0 ? wanted.shrunk : wanted.fitted.memory);
  }
  absl::Status first;
  for (const char* knob : {kWeight, kQuota, kMemory}) {
    if (!values.contains(knob)) first.Update(GiveBack(component, knob));
  }
  const auto say_why = [&wanted](Taken& taken) {
    taken.fitted = wanted.fitted;
    taken.degraded = wanted.degraded;
    taken.shrunk = wanted.shrunk;
  };
  if (const auto found = taken_.find(component); found != taken_.end()) say_why(found->second);
  for (const auto& [knob, value] : values) {
    say_why(taken_[component]);
    first.Update(Take(component, cgroup, knob, before[knob], value));
  }
  // Why it is taken is written down as well.
  if (taken_.contains(component)) first.Update(Write());
  return first;
}

absl::Status Limits::Degrade(const std::string& component, const std::string& cgroup) {
  std::lock_guard lock(mutex_);
  Taken wanted = Wanted(component);
  if (wanted.degraded) return absl::OkStatus();
  wanted.degraded = true;
  return Apply(component, cgroup, wanted);
}

absl::Status Limits::Fit(const std::string& component, const std::string& cgroup,
                         const FittedLimits& limits) {
  std::lock_guard lock(mutex_);
  Taken wanted = Wanted(component);
  if (wanted.fitted == limits) return absl::OkStatus();
  wanted.fitted = limits;
  return Apply(component, cgroup, wanted);
}

absl::Status Limits::Shrink(const std::string& component, const std::string& cgroup,
                            int64_t bytes) {
  std::lock_guard lock(mutex_);
  Taken wanted = Wanted(component);
  if (wanted.shrunk == bytes) return absl::OkStatus();
  wanted.shrunk = bytes;
  return Apply(component, cgroup, wanted);
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
  Taken wanted = Wanted(component);
  if (!wanted.degraded) return absl::OkStatus();
  wanted.degraded = false;
  return Apply(component, wanted.cgroup, wanted);
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
  return found != taken_.end() && found->second.degraded;
}

FittedLimits Limits::fitted(const std::string& component) const {
  std::lock_guard lock(mutex_);
  return Wanted(component).fitted;
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
