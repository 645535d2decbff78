#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "tools/replay/traces.h"

namespace starling::replay {

struct ClusterShape {
  int hosts = 1000;
  int components = 20000;
  int steps = 288;    // of 300 s: a day
  double load = 0.6;  // mean use over capacity of the whole cluster, of each resource
  uint64_t seed = 1;
};

// What the components of a cluster use over a day, of recorded machines: each component is a
// machine of the traces on one of its days, moved by up to an hour, scaled to a size of its own.
// Machines with a day before are known for that long; of the others nothing is known before the day
// begins.
class ClusterLoad {
 public:
  static constexpr int kStep_s = 300;
  static constexpr int kKnown = 288;  // steps before the day

  // kNotFound when the traces hold no CPU of machines.
  static absl::StatusOr<ClusterLoad> Make(const std::vector<Group>& groups,
                                          const ClusterShape& shape);

  struct Component {
    std::string name;
    int priority = 0;  // 0 to 2
    double bears_blackout_s = 1;
    size_t machine = 0;
    int offset = 0;     // of step 0 in the machine's series
    double cpu = 0;     // thousandths of a processor at 100 %
    double memory = 0;  // bytes at its most
  };
  const std::vector<Component>& components() const { return components_; }

  // Step 0 is the day's first, -kKnown the first of the day before.
  double Cpu(size_t component, int step) const {
    const Component& c = components_[component];
    return c.cpu * At(machines_[c.machine].cpu, c.offset + step);
  }
  double Memory(size_t component, int step) const {
    const Component& c = components_[component];
    return c.memory * At(machines_[c.machine].memory, c.offset + step);
  }
  // Whether its use of the day before the first step is known.
  bool Known(size_t component) const { return machines_[components_[component].machine].known; }
  // Of one host.
  double cpu_capacity() const { return cpu_capacity_; }
  double memory_capacity() const { return memory_capacity_; }
  size_t machines() const { return machines_.size(); }
  const ClusterShape& shape() const { return shape_; }

 private:
  // Shares of what the machine has, by step; beyond the ends as at them.
  struct Machine {
    std::vector<float> cpu, memory;
    int days = 1;
    bool known = false;  // its first day is for learning
  };
  static double At(const std::vector<float>& values, int step) {
    const int last = static_cast<int>(values.size()) - 1;
    return static_cast<double>(values[static_cast<size_t>(step < 0      ? 0
                                                          : step > last ? last
                                                                        : step)]);
  }
  static Machine MachineOf(const std::vector<double>& cpu, const std::vector<double>* memory);

  ClusterShape shape_;
  std::vector<Machine> machines_;
  std::vector<Component> components_;
  double cpu_capacity_ = 0, memory_capacity_ = 0;
};

}  // namespace starling::replay
