#pragma once

#include <map>
#include <mutex>
#include <string>

namespace starling::migration {

// What the freeze costs without any memory (skeleton dump, images, restore, commit), as learned
// from the moves that this agent has made: of the component itself where it has moved before, else
// of others. Thread-safe.
class BlackoutHistory {
 public:
  // Seconds. Before the first move, a guess.
  double Expected(const std::string& component) const;
  // A move whose component was held for `held_s`, of which memory took `memory_s`.
  void Learn(const std::string& component, double held_s, double memory_s);

 private:
  static constexpr double kGuess = 0.3;
  static constexpr double kNewest = 0.5;

  mutable std::mutex mutex_;
  std::map<std::string, double> seconds_;
  double any_ = kGuess;
};

}  // namespace starling::migration
