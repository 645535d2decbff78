#pragma once

#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <utility>

#include "absl/strings/str_replace.h"
#include "checkpoint/tracker.h"

namespace starling::checkpoint {

// A tracker that tests are run with, one kind after the other.
struct TrackerKind {
  const char* name;  // the tracker's own
  // Why it cannot be tried here, or null.
  const char* (*missing)();
  std::unique_ptr<Tracker> (*make)(const std::string& cgroup, Freezer freezer);
};

inline constexpr TrackerKind kSoftDirtyKind = {
    "soft-dirty",
    [] { return HasSoftDirty() ? nullptr : "this kernel does not track soft-dirty pages"; },
    [](const std::string& cgroup, Freezer freezer) {
      return MakeSoftDirtyTracker(cgroup, std::move(freezer));
    }};
inline constexpr TrackerKind kPagemapScanKind = {
    "pagemap-scan",
    [] { return HasAsyncProtection() ? nullptr : "this kernel does not protect asynchronously"; },
    [](const std::string& cgroup, Freezer) { return MakePagemapScanTracker(cgroup); }};
inline constexpr TrackerKind kHashKind = {
    "hash", []() -> const char* { return nullptr; },
    [](const std::string& cgroup, Freezer) { return MakeHashTracker(cgroup); }};

// Of a test with it: gtest has no hyphens in names.
inline std::string TestName(const ::testing::TestParamInfo<TrackerKind>& info) {
  return absl::StrReplaceAll(info.param.name, {{"-", "_"}});
}

}  // namespace starling::checkpoint
