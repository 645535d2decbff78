#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "base/clock.h"
#include "predictor/keep_warm.h"

namespace starling::loop {

// What is remembered of components and the hosts that room was wanted on for them: when that was
// last, how likely it is to be again (predictor::KeepWarmModel, a step a minute), and what it takes
// to keep a ghost fresh there. It begins anew with the agent. No I/O, no clock. Not thread-safe.
class GhostNeeds {
 public:
  // Pairs of component and host that are remembered at most: about 2 KiB each. Those that were not
  // needed for longest go.
  static constexpr size_t kMost = 512;

  // Something was decided that a ghost of the component on that host is for.
  void Needed(const std::string& component, const std::string& host, TimePoint now);
  // What a ghost has sent by now, as agents tell it: `rounds` of them, the first of which has
  // everything.
  void Saw(const std::string& component, const std::string& host, uint32_t rounds,
           uint64_t bytes_sent, TimePoint now);
  // The ghost is not there any more.
  void Gone(const std::string& component, const std::string& host);
  // It was not worth keeping.
  void GivenUp(const std::string& component, TimePoint now) { given_up_[component] = now; }
  // To be told the time at least once a minute, which is when something is learned.
  void Step(TimePoint now);
  // Forgets components that are not here any more.
  void KeepOnly(const std::function<bool(const std::string& component)>& here);

  // That it is needed there in the next minute. 0 until it was needed twice, with a pause between:
  // before that nothing speaks for it.
  double Again(const std::string& component, const std::string& host) const;
  // Seconds since it was needed, or since it was first seen.
  double UnneededFor(const std::string& component, const std::string& host, TimePoint now) const;
  // Since the ghost was first seen.
  double Age(const std::string& component, const std::string& host, TimePoint now) const;
  // What kept a ghost of it fresh lately, on any host; nothing while there was none for two rounds.
  std::optional<double> WrittenPerSecond(const std::string& component) const;
  // False for so long after one of it was given up.
  bool MayStage(const std::string& component, TimePoint now, double rest_s) const;

 private:
  using Key = std::pair<std::string, std::string>;
  struct Pair {
    predictor::Activations past;
    predictor::WarmFeatures features = {};
    int gap = 0;
    bool foretold = false;  // features are for the minute that goes on
    bool in_this_minute = false;
    int times = 0;  // needed after a minute without
    double again = 0;
    TimePoint needed_at{};  // or first seen
    // Of the ghost.
    std::optional<TimePoint> since;
    uint32_t rounds = 0;
    uint64_t bytes = 0;
    TimePoint bytes_at{};
  };
  Pair& Of(const std::string& component, const std::string& host, TimePoint now);
  const Pair* Find(const std::string& component, const std::string& host) const;

  std::map<Key, Pair> pairs_;
  std::map<std::string, double> written_;  // bytes a second, by component
  std::map<std::string, TimePoint> given_up_;
  std::unique_ptr<predictor::KeepWarmModel> model_;  // with the first pair
  std::optional<TimePoint> minute_;                  // its beginning
};

}  // namespace starling::loop
