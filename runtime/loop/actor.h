#pragma once

#include <condition_variable>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <thread>
#include <utility>

#include "absl/status/status.h"
#include "runtime/agent/agent.h"
#include "runtime/decisions/decide.h"
#include "runtime/loop/limits.h"
#include "runtime/migration/progress.h"

namespace starling::loop {

// Carries out what was decided, one step after the other on a thread of its own, and tells of it by
// events. What is under way or failed lately is not begun again. Thread-safe.
class Actor {
 public:
  struct Parts {
    // Where a component's cgroup is; empty: it is not here.
    std::function<std::string(const std::string& component)> cgroup;
    // A lease was given back that nothing came of.
    std::function<void()> in_vain;
    // The processors of a group, in the kernel's notation.
    std::function<std::string(int group)> processors;
    // Puts a component to rest, or wakes it.
    std::function<absl::Status(const decisions::Step& step)> rest;
    // Grows when the component's user does something.
    std::function<uint64_t(const std::string& component)> activities;
    // ... after so long, while it was moved because they were away.
    std::function<void(Duration after)> came_back;
  };
  Actor(agent::Agent& agent, Limits& limits, Parts parts);
  ~Actor();

  // What else a lease needs to know.
  struct Terms {
    Duration length{};
    int priority = 0;
    double every_s = 0;  // of a ghost's rounds
  };
  // False: it is under way already.
  bool Submit(const decisions::Step& step, const Terms& terms);

  // Components that a move was begun for, until it is over.
  std::set<std::string> Moving() const;
  // A move of it failed lately: it is left alone for a while, longer each time. Or a ghost of it
  // could not be made, by StagingOf().
  bool RestsFromFailure(const std::string& component, TimePoint now) const;
  static std::string StagingOf(const std::string& component) { return "ghost " + component; }

 private:
  struct Job {
    std::string key;
    decisions::Step step;
    Terms terms;
  };
  struct Failure {
    int times = 0;
    TimePoint until{};
  };
  static constexpr Duration kFirstRest = std::chrono::seconds(20);
  static constexpr Duration kMostRest = std::chrono::minutes(10);

  void Work(const std::stop_token& stop);
  // Ghosts are made beside: a host that does not answer would hold up moves to others.
  void WorkOnGhosts(const std::stop_token& stop);
  void Finish(const Job& job);
  absl::Status Do(const decisions::Step& step, const Terms& terms);
  absl::Status Move(const decisions::Step& step);
  absl::Status AskForLease(const decisions::Step& step, const Terms& terms);
  absl::Status GiveBack(const decisions::Step& step);
  absl::Status MakeGhost(const decisions::Step& step, const Terms& terms);
  absl::Status DropGhost(const decisions::Step& step);
  // Moves that have ended since the last look.
  void Settle();
  // Moves that are not wanted any more, since the user is there.
  void CallOffIdle();
  void Failed(const std::string& component);

  agent::Agent& agent_;
  const agent::Host& host_;
  Limits& limits_;
  const Parts parts_;
  mutable std::mutex mutex_;
  std::condition_variable_any wake_;
  std::deque<Job> jobs_, ghost_jobs_;
  std::set<std::string> under_way_;
  std::map<std::string, std::shared_ptr<migration::ProgressBoard>> moves_;
  std::set<std::string> starting_;  // moves that are not on a board yet
  struct IdleMove {
    uint64_t activities = 0;  // when it began
    TimePoint since{};
  };
  // Only the thread's: those under way, and those that were called off for their users' sake.
  std::map<std::string, IdleMove> idle_moves_;
  std::set<std::string> stay_;
  std::map<std::string, Failure> failures_;
  std::jthread ghosts_thread_, thread_;
};

}  // namespace starling::loop
