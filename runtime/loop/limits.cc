#include "runtime/loop/limits.h"

#include <unistd.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <set>
#include <stdexcept>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
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

constexpr int kSchema = 4;
// Knew of no protection and no storage; had weights and processors alone.
constexpr int kOlderSchema = 3, kOldestSchema = 2;
constexpr char kWeight[] = "cpu.weight";
constexpr char kProcessors[] = "cpuset.cpus";
constexpr char kQuota[] = "cpu.max";
constexpr char kMemory[] = "memory.high";
constexpr char kLow[] = "memory.low";
// Of this file each line is of a device: its name here is "io.max MAJOR:MINOR".
constexpr absl::string_view kIo = "io.max ";
// A tenth of a second, the kernel's own.
constexpr int64_t kPeriod_us = 100000;
constexpr int kDegradedPart = 2, kShrunkPart = 10;

bool IsDevice(absl::string_view text) {
  const std::vector<absl::string_view> numbers = absl::StrSplit(text, ':');
  uint32_t number = 0;
  return numbers.size() == 2 && absl::SimpleAtoi(numbers[0], &number) &&
         absl::SimpleAtoi(numbers[1], &number);
}

// "rbps=max wbps=1048576 riops=max wiops=max", in whatever order.
bool IsIoLimit(absl::string_view text) {
  const std::vector<absl::string_view> words = absl::StrSplit(text, ' ');
  return std::all_of(words.begin(), words.end(), [](absl::string_view word) {
    const std::vector<absl::string_view> parts = absl::StrSplit(word, '=');
    uint64_t number = 0;
    return parts.size() == 2 &&
           (parts[0] == "rbps" || parts[0] == "wbps" || parts[0] == "riops" ||
            parts[0] == "wiops") &&
           (parts[1] == "max" || absl::SimpleAtoi(parts[1], &number));
  });
}

// Whether this can have been in such a file: what is written down may be damaged.
bool CanBe(const std::string& knob, const std::string& text) {
  int64_t number = 0;
  if (absl::StartsWith(knob, kIo)) return IsDevice(knob.substr(kIo.size())) && IsIoLimit(text);
  if (knob == kLow) return text == "max" || absl::SimpleAtoi(text, &number);
  if (knob == kWeight) return absl::SimpleAtoi(text, &number);
  if (knob == kProcessors) return ParseProcessors(text).has_value();
  if (knob == kMemory) return text == "max" || absl::SimpleAtoi(text, &number);
  if (knob != kQuota) return false;
  const std::vector<absl::string_view> words = absl::StrSplit(text, ' ');
  return words.size() == 2 && absl::SimpleAtoi(words[1], &number) &&
         (words[0] == "max" || absl::SimpleAtoi(words[0], &number));
}

// Writes to a file of a cgroup; see kIo.
absl::Status WriteTo(const std::string& cgroup, const std::string& knob, const std::string& value) {
  if (!absl::StartsWith(knob, kIo)) return WriteKnob(absl::StrCat(cgroup, "/", knob), value);
  return WriteKnob(cgroup + "/io.max", absl::StrCat(knob.substr(kIo.size()), " ", value));
}

// What is in it, and nothing where there is no such file. Of a device that is not limited the
// kernel has no line.
absl::StatusOr<std::string> ReadFrom(const std::string& cgroup, const std::string& knob) {
  if (!absl::StartsWith(knob, kIo)) {
    ASSIGN_OR_RETURN(const std::string text, ReadFile(absl::StrCat(cgroup, "/", knob)));
    return std::string(absl::StripAsciiWhitespace(text));
  }
  ASSIGN_OR_RETURN(const std::string text, ReadFile(cgroup + "/io.max"));
  for (absl::string_view line : absl::StrSplit(text, '\n')) {
    if (absl::ConsumePrefix(&line, absl::StrCat(knob.substr(kIo.size()), " "))) {
      return std::string(absl::StripAsciiWhitespace(line));
    }
  }
  return std::string("rbps=max wbps=max");
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
    if (schema != kSchema && schema != kOlderSchema && schema != kOldestSchema) {
      throw std::invalid_argument("of another version");
    }
    for (const auto& [name, entry] : json.at("taken").items()) {
      Taken taken;
      entry.at("cgroup").get_to(taken.cgroup);
      entry.at("before").get_to(taken.before);
      if (schema == kOldestSchema) {
        taken.degraded = taken.before.contains(kWeight);
      } else {
        taken.degraded = entry.at("degraded");
        taken.shrunk = entry.at("shrunk");
        taken.fitted = {entry.at("cpu"), entry.at("memory"), entry.at("weight")};
        taken.protect = entry.value("protect", int64_t{0});
        taken.io = entry.value("io", int64_t{0});
        taken.devices = entry.value("devices", std::vector<std::string>());
      }
      const bool sane = CheckComponentName(name).ok() && CheckAbsolutePath(taken.cgroup).ok() &&
                        std::min({taken.shrunk, taken.fitted.cpu, taken.fitted.memory,
                                  taken.protect, taken.io}) >= 0 &&
                        std::all_of(taken.devices.begin(), taken.devices.end(), IsDevice) &&
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
    json["taken"][name] = {{"cgroup", taken.cgroup},
                           {"before", taken.before},
                           {"degraded", taken.degraded},
                           {"shrunk", taken.shrunk},
                           {"cpu", taken.fitted.cpu},
                           {"memory", taken.fitted.memory},
                           {"weight", taken.fitted.weight},
                           {"protect", taken.protect},
                           {"io", taken.io},
                           {"devices", taken.devices}};
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
  if (done.ok()) done = WriteTo(cgroup, knob, value);
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
  const auto read = [&](const std::string& knob) -> absl::Status {
    if (const auto found = taken_.find(component); found != taken_.end()) {
      const auto had = found->second.before.find(knob);
      if (had != found->second.before.end()) {
        before[knob] = had->second;
        return absl::OkStatus();
      }
    }
    const absl::StatusOr<std::string> text = ReadFrom(cgroup, knob);
    if (!text.ok()) {
      return absl::FailedPreconditionError(absl::StrCat("component ", component, " has no ", knob,
                                                        " to be set: ", text.status().message()));
    }
    before[knob] = *text;
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
  if (wanted.protect != 0) {
    RETURN_IF_ERROR(read(kLow));
    values[kLow] = absl::StrCat(wanted.protect);
  }
  for (const std::string& device : wanted.devices) {
    const std::string knob = absl::StrCat(kIo, device);
    RETURN_IF_ERROR(read(knob));
    values[knob] = absl::StrCat("rbps=", wanted.io, " wbps=", wanted.io);
  }
  absl::Status first;
  // All but the processors, which go by themselves.
  const std::map<std::string, std::string> taken_before = Wanted(component).before;
  for (const auto& [knob, had] : taken_before) {
    if (knob != kProcessors && !values.contains(knob)) first.Update(GiveBack(component, knob));
  }
  const auto say_why = [&wanted](Taken& taken) {
    taken.fitted = wanted.fitted;
    taken.degraded = wanted.degraded;
    taken.shrunk = wanted.shrunk;
    taken.protect = wanted.protect;
    taken.io = wanted.io;
    taken.devices = wanted.devices;
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

absl::Status Limits::Protect(const std::string& component, const std::string& cgroup,
                             int64_t bytes) {
  std::lock_guard lock(mutex_);
  Taken wanted = Wanted(component);
  if (wanted.protect == bytes) return absl::OkStatus();
  wanted.protect = bytes;
  absl::Status done = Apply(component, cgroup, wanted);
  done.Update(ProtectParent(cgroup));
  return done;
}

absl::Status Limits::ProtectParent(const std::string& cgroup) const {
  const std::string parent = cgroup.substr(0, cgroup.rfind('/'));
  int64_t all = 0;
  for (const auto& [name, taken] : taken_) {
    if (taken.cgroup.substr(0, taken.cgroup.rfind('/')) == parent) all += taken.protect;
  }
  const std::string knob = absl::StrCat(parent, "/", kLow);
  // The root of all groups has none.
  if (::access(knob.c_str(), F_OK) != 0) return absl::OkStatus();
  return WriteKnob(knob, absl::StrCat(all));
}

absl::Status Limits::HoldIo(const std::string& component, const std::string& cgroup,
                            int64_t bytes_per_s, const std::vector<std::string>& devices) {
  std::lock_guard lock(mutex_);
  Taken wanted = Wanted(component);
  if (bytes_per_s != 0 && devices.empty()) {
    return absl::FailedPreconditionError(absl::StrCat(
        "component ", component, " cannot be held to ", bytes_per_s,
        " bytes a second: no storage device is known (resources.storage_devices names them)"));
  }
  if (wanted.io == bytes_per_s && (bytes_per_s == 0 || wanted.devices == devices)) {
    return absl::OkStatus();
  }
  wanted.io = bytes_per_s;
  wanted.devices = bytes_per_s == 0 ? std::vector<std::string>() : devices;
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
    RETURN_IF_ERROR(WriteTo(taken.cgroup, knob, before->second));
  }
  if (knob == kLow) taken.protect = 0;
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
    if (taken.protect != 0) first.Update(ProtectParent(taken.cgroup));
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
  std::set<std::string> unprotected;  // in whose group less is to be protected now
  const size_t gone = std::erase_if(taken_, [&](const auto& entry) {
    if (lives(entry.first)) return false;
    if (entry.second.protect != 0) unprotected.insert(entry.second.cgroup);
    return true;
  });
  if (gone == 0) return;
  for (const std::string& cgroup : unprotected) {
    const absl::Status less = ProtectParent(cgroup);
    if (!less.ok()) spdlog::warn("{}", less.ToString());
  }
  if (const absl::Status written = Write(); !written.ok()) spdlog::warn("{}", written.ToString());
}

absl::Status Limits::PageOut(const std::string& cgroup, int64_t bytes) {
  const absl::Status done = WriteKnob(cgroup + "/memory.reclaim", absl::StrCat(bytes));
  // EAGAIN: less than that was to be had.
  return absl::IsUnavailable(done) ? absl::OkStatus() : done;
}

}  // namespace starling::loop
