#include "runtime/loop/parking.h"

#include <algorithm>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "base/file.h"
#include "base/log.h"
#include "base/units.h"
#include "runtime/loop/memory_in.h"

namespace starling::loop {

using decisions::Rest;

namespace {

// Of what is paged out without looking whether somebody is to wake meanwhile.
constexpr int64_t kPiece = 16 << 20;

int64_t MemoryOf(const std::string& cgroup) {
  const absl::StatusOr<std::string> text = ReadFile(cgroup + "/memory.current");
  int64_t bytes = 0;
  return text.ok() && absl::SimpleAtoi(*text, &bytes) ? bytes : 0;
}

}  // namespace

Parking::Parking(Limits& limits, Parts parts, Duration term)
    : limits_(limits), parts_(std::move(parts)), term_(term) {
  thread_ = std::jthread([this](const std::stop_token& stop) { Watch(stop); });
}

Parking::~Parking() {
  thread_.request_stop();
  thread_.join();
}

absl::Status Parking::Park(const std::string& component, const std::string& cgroup, By by,
                           absl::string_view why) {
  std::lock_guard doing(doing_);
  const TimePoint now = Clock::now();
  Resting resting{cgroup, {Rest::kParked, by}, 0, 0, now, now, MemoryOf(cgroup)};
  if (const State before = Of(component); before.rest == Rest::kParked) {
    std::lock_guard lock(mutex_);
    By& before_by = resting_[component].state.by;
    before_by = std::max(before_by, by);
    return absl::OkStatus();
  }
  // What comes while it is being frozen has come for one that is parked.
  resting.activities = parts_.activities(component);
  resting.packets = parts_.packets(component);
  if (absl::Status frozen = parts_.freeze(component, Seconds(term_)); !frozen.ok()) return frozen;
  {
    std::lock_guard lock(mutex_);
    resting_[component] = std::move(resting);
  }
  wake_.notify_all();
  parts_.event(component, "parked", why);
  return absl::OkStatus();
}

absl::Status Parking::Shrink(const std::string& component, const std::string& cgroup, int64_t bytes,
                             absl::string_view why) {
  std::lock_guard doing(doing_);
  if (Of(component).rest != Rest::kNone) return absl::OkStatus();
  const TimePoint now = Clock::now();
  Resting resting{cgroup, {Rest::kShrunk, By::kPolicy}, 0, 0, now, now, 0};
  resting.activities = parts_.activities(component);
  if (absl::Status done = limits_.Shrink(component, cgroup, bytes); !done.ok()) return done;
  {
    std::lock_guard lock(mutex_);
    resting_[component] = std::move(resting);
  }
  wake_.notify_all();
  parts_.event(component, "shrunk",
               absl::StrCat("to ", FormatBytes(static_cast<uint64_t>(bytes)), ": ", why));
  return absl::OkStatus();
}

absl::Status Parking::Wake(const std::string& component, absl::string_view why) {
  std::unique_lock doing(doing_);
  Resting resting;
  {
    std::lock_guard lock(mutex_);
    const auto found = resting_.find(component);
    if (found == resting_.end()) return absl::OkStatus();
    resting = found->second;
  }
  if (resting.state.rest == Rest::kParked) {
    if (absl::Status thawed = parts_.thaw(component); !thawed.ok()) return thawed;
  }
  const absl::Status limits = limits_.Shrink(component, resting.cgroup, 0);
  {
    std::lock_guard lock(mutex_);
    resting_.erase(component);
  }
  doing.unlock();
  // It runs already, and what it touches first comes first; the rest is there before it is touched.
  const int64_t brought = BringIn(resting.cgroup);
  parts_.event(
      component, "woken",
      absl::StrCat(why, brought > 0 ? absl::StrCat("; asked for ",
                                                   FormatBytes(static_cast<uint64_t>(brought)),
                                                   " of its memory")
                                    : ""));
  return limits;
}

void Parking::WakeAll(absl::string_view why, bool others_too) {
  std::vector<std::string> names;
  {
    std::lock_guard lock(mutex_);
    for (const auto& [name, resting] : resting_) {
      if (others_too || resting.state.by == By::kPolicy) names.push_back(name);
    }
  }
  for (const std::string& name : names) {
    const absl::Status woken = Wake(name, why);
    if (!woken.ok()) parts_.event(name, "wake-failed", woken.message());
  }
}

Parking::State Parking::Of(const std::string& component) const {
  std::lock_guard lock(mutex_);
  const auto found = resting_.find(component);
  return found == resting_.end() ? State() : found->second.state;
}

void Parking::KeepOnly(const std::function<bool(const std::string&)>& lives) {
  std::lock_guard lock(mutex_);
  std::erase_if(resting_, [&](const auto& entry) { return !lives(entry.first); });
}

std::string Parking::Seen(const std::string& component, const Resting& resting) const {
  if (parts_.activities(component) != resting.activities) return "its user is there";
  if (resting.state.rest == Rest::kParked && parts_.packets(component) != resting.packets) {
    return "a packet came for it";
  }
  return "";
}

void Parking::Renew(const std::string& component, TimePoint now) {
  std::lock_guard doing(doing_);
  {
    std::lock_guard lock(mutex_);
    const auto found = resting_.find(component);
    if (found == resting_.end() || found->second.state.rest != Rest::kParked) return;
    found->second.renewed = now;
  }
  const absl::Status frozen = parts_.freeze(component, Seconds(term_));
  if (!frozen.ok())
    spdlog::warn("component {}: stays parked no longer: {}", component, frozen.ToString());
}

bool Parking::PageOutSome() {
  std::string cgroup;
  int64_t piece = 0;
  {
    std::lock_guard lock(mutex_);
    for (auto& [name, resting] : resting_) {
      if (resting.to_page_out <= 0) continue;
      piece = std::min(kPiece, resting.to_page_out);
      resting.to_page_out -= piece;
      cgroup = resting.cgroup;
      break;
    }
  }
  if (piece == 0) return false;
  // Without swap, or without such a controller, there is nothing that could be paged out.
  (void)Limits::PageOut(cgroup, piece);
  return true;
}

void Parking::Watch(const std::stop_token& stop) {
  bool busy = false;
  while (!stop.stop_requested()) {
    std::map<std::string, Resting> resting;
    {
      std::unique_lock lock(mutex_);
      wake_.wait(lock, stop, [&] { return !resting_.empty(); });
      if (!busy) wake_.wait_for(lock, stop, kLook, [] { return false; });
      resting = resting_;
    }
    if (stop.stop_requested()) return;
    const TimePoint now = Clock::now();
    for (const auto& [name, one] : resting) {
      const std::string why = Seen(name, one);
      if (!why.empty()) {
        const absl::Status woken = Wake(name, why);
        if (!woken.ok()) parts_.event(name, "wake-failed", woken.message());
        // What a person put to rest was no guess, and what another host did none of this one's.
        if (woken.ok() && one.state.by == By::kPolicy)
          parts_.came_back(one.state.rest, now - one.since);
      } else if (one.state.rest == Rest::kParked && now - one.renewed > term_ / 3) {
        Renew(name, now);
      }
    }
    busy = PageOutSome();
  }
}

}  // namespace starling::loop
