#include "checkpoint/missing_slots.h"

#include <algorithm>
#include <chrono>
#include <utility>

namespace starling::checkpoint {
namespace {

// Runs looked at in one go: nobody is served meanwhile.
constexpr int kLooksAtOnce = 256;

}  // namespace

MissingSlots::MissingSlots(RunMap<Missing> slots)
    : slots_(std::move(slots)), none_(slots_.empty()) {}

uint64_t MissingSlots::count() const {
  const std::lock_guard lock(mutex_);
  return slots_.key_count();
}

uint64_t MissingSlots::Present(uint64_t slot, uint64_t count) const {
  const std::lock_guard lock(mutex_);
  const auto away = slots_.FindFrom(slot);
  return away ? std::min(count, away->first - slot) : count;
}

std::optional<RunMap<SlotValue>::Run> MissingSlots::FindPresent(const RunMap<SlotValue>& pages,
                                                                uint64_t* page,
                                                                uint64_t end) const {
  const std::lock_guard lock(mutex_);
  for (int looks = 0; looks < kLooksAtOnce; ++looks) {
    auto run = pages.FindFrom(*page);
    if (!run || run->first >= end) {
      *page = end;
      return std::nullopt;
    }
    run->count = std::min(run->count, end - run->first);
    const auto away = slots_.FindFrom(run->value.slot);
    if (!away || away->first > run->value.slot) {
      if (away) run->count = std::min(run->count, away->first - run->value.slot);
      *page = run->first;
      return run;
    }
    *page = run->first + std::min(run->count, away->count);
  }
  return std::nullopt;
}

void MissingSlots::Want(uint64_t slot, uint64_t count) {
  const std::lock_guard lock(mutex_);
  const auto away = slots_.Find(slot);
  if (!away || !touched_.insert(slot).second) return;
  wanted_.push_back({slot, std::min(away->count, count)});
  wanted_changed_.notify_all();
}

std::vector<SlotRange> MissingSlots::All() {
  const std::lock_guard lock(mutex_);
  std::vector<SlotRange> all;
  slots_.ForEach([&](const RunMap<Missing>::Run& run) { all.push_back({run.first, run.count}); });
  wanted_.clear();
  for (const uint64_t slot : touched_) {
    if (slots_.Find(slot)) wanted_.push_back({slot, 1});
  }
  wanted_changed_.notify_all();
  return all;
}

std::vector<SlotRange> MissingSlots::TakeWanted(Deadline deadline) {
  std::unique_lock lock(mutex_);
  wanted_changed_.wait_until(lock, std::min(deadline.at(), Clock::now() + std::chrono::hours(1)),
                             [&] { return !wanted_.empty() || ended_; });
  return std::exchange(wanted_, {});
}

void MissingSlots::Arrived(std::span<const SlotRange> slots) {
  const std::lock_guard lock(mutex_);
  for (const SlotRange& run : slots) {
    slots_.Erase(run.first, run.count);
    touched_.erase(touched_.lower_bound(run.first), touched_.lower_bound(run.first + run.count));
  }
  none_ = slots_.empty();
  ++arrivals_;
}

void MissingSlots::Clear() {
  {
    const std::lock_guard lock(mutex_);
    slots_.Clear();
    none_ = true;
  }
  End();
}

void MissingSlots::End() {
  const std::lock_guard lock(mutex_);
  ended_ = true;
  wanted_changed_.notify_all();
}

}  // namespace starling::checkpoint
