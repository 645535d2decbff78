#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <iterator>
#include <optional>
#include <utility>
#include <vector>

#include "absl/container/btree_map.h"

namespace starling::checkpoint {

// A map from numbers (page numbers, slots) to values, kept as runs of adjacent keys in a B-tree, so
// that it costs by the run and not by the page. `Value` says what belongs to the key `n` further
// on:
//   Value Plus(uint64_t n) const;   bool operator==(const Value&) const;
// Adjacent runs whose values continue one another are one run. Not thread-safe.
template <typename Value>
class RunMap {
 public:
  struct Run {
    uint64_t first = 0;
    uint64_t count = 0;
    Value value{};
    friend bool operator==(const Run&, const Run&) = default;
  };

  bool empty() const { return runs_.empty(); }
  size_t run_count() const { return runs_.size(); }
  uint64_t key_count() const { return keys_; }

  // The part from `key` on of the run that holds it.
  std::optional<Run> Find(uint64_t key) const {
    auto it = runs_.upper_bound(key);
    if (it == runs_.begin()) return std::nullopt;
    --it;
    const uint64_t skip = key - it->first;
    if (skip >= it->second.count) return std::nullopt;
    return Run{key, it->second.count - skip, it->second.value.Plus(skip)};
  }

  // As Find(), or else the first run behind `key`.
  std::optional<Run> FindFrom(uint64_t key) const {
    if (auto there = Find(key)) return there;
    const auto it = runs_.lower_bound(key);
    if (it == runs_.end()) return std::nullopt;
    return Run{it->first, it->second.count, it->second.value};
  }

  // Calls f(first, count, const Value*) for every piece of [first, first + count) in order; the
  // pointer is null for pieces that are not in the map.
  template <typename F>
  void ForEachPiece(uint64_t first, uint64_t count, F&& f) const {
    const uint64_t end = first + count;
    auto it = runs_.upper_bound(first);
    if (it != runs_.begin()) {
      auto before = std::prev(it);
      if (before->first + before->second.count > first) it = before;
    }
    while (first < end) {
      if (it == runs_.end() || it->first >= end) {
        f(first, end - first, static_cast<const Value*>(nullptr));
        return;
      }
      if (it->first > first) {
        f(first, it->first - first, static_cast<const Value*>(nullptr));
        first = it->first;
      }
      const uint64_t stop = std::min(end, it->first + it->second.count);
      const Value value = it->second.value.Plus(first - it->first);
      f(first, stop - first, &value);
      first = stop;
      ++it;
    }
  }

  template <typename F>
  void ForEach(F&& f) const {
    for (const auto& [first, body] : runs_) f(Run{first, body.count, body.value});
  }

  // The first run, in order of keys, for which f(run) is true.
  template <typename F>
  std::optional<Run> FindIf(F&& f) const {
    for (const auto& [first, body] : runs_) {
      const Run run{first, body.count, body.value};
      if (f(run)) return run;
    }
    return std::nullopt;
  }

  // Removes [first, first + count); returns what was there, in order.
  std::vector<Run> Erase(uint64_t first, uint64_t count) {
    std::vector<Run> removed;
    if (count == 0) return removed;
    const uint64_t end = first + count;
    auto from = runs_.upper_bound(first);
    if (from != runs_.begin()) {
      auto before = std::prev(from);
      if (before->first + before->second.count > first) from = before;
    }
    auto to = from;
    std::optional<Run> left, right;
    for (; to != runs_.end() && to->first < end; ++to) {
      const uint64_t run_end = to->first + to->second.count;
      const uint64_t cut_from = std::max(first, to->first);
      const uint64_t cut_to = std::min(end, run_end);
      if (to->first < first) left = Run{to->first, first - to->first, to->second.value};
      if (run_end > end) right = Run{end, run_end - end, to->second.value.Plus(end - to->first)};
      removed.push_back({cut_from, cut_to - cut_from, to->second.value.Plus(cut_from - to->first)});
      keys_ -= cut_to - cut_from;
    }
    runs_.erase(from, to);
    if (left) runs_.insert({left->first, {left->count, left->value}});
    if (right) runs_.insert({right->first, {right->count, right->value}});
    return removed;
  }

  // Maps [first, first + count) to value, value.Plus(1), ...; returns what it replaced, which is
  // empty when nothing changed.
  std::vector<Run> Assign(uint64_t first, uint64_t count, const Value& value) {
    if (count == 0) return {};
    // Most pages sent again stay where they are.
    if (const auto there = Find(first); there && there->count >= count && there->value == value) {
      return {};
    }
    std::vector<Run> removed = Erase(first, count);
    keys_ += count;
    Body body{count, value};
    auto next = runs_.lower_bound(first);
    if (next != runs_.end() && next->first == first + count &&
        value.Plus(count) == next->second.value) {
      body.count += next->second.count;
      next = runs_.erase(next);
    }
    if (next != runs_.begin()) {
      auto before = std::prev(next);
      if (before->first + before->second.count == first &&
          before->second.value.Plus(before->second.count) == value) {
        before->second.count += body.count;
        return removed;
      }
    }
    runs_.insert({first, body});
    return removed;
  }

  void Clear() {
    runs_.clear();
    keys_ = 0;
  }

 private:
  struct Body {
    uint64_t count;
    Value value;
  };
  absl::btree_map<uint64_t, Body> runs_;
  uint64_t keys_ = 0;
};

}  // namespace starling::checkpoint
