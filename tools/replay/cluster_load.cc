#include "tools/replay/cluster_load.h"

#include <algorithm>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "tools/replay/statistics.h"

namespace starling::replay {
namespace {

constexpr int kDay = 288;
constexpr int kJitter = 12;  // steps
constexpr double kGiB = 1073741824;
// Of a machine whose memory was not recorded.
constexpr float kFlatMemory = 0.7f;

const Group* Find(const std::vector<Group>& groups, const std::string& name) {
  for (const Group& group : groups) {
    if (group.name == name) return &group;
  }
  return nullptr;
}

bool IsCpu(const std::string& unit) { return absl::StrContains(unit, "cpu_utilization"); }

}  // namespace

ClusterLoad::Machine ClusterLoad::MachineOf(const std::vector<double>& cpu,
                                            const std::vector<double>* memory) {
  Machine machine;
  for (const double percent : cpu) {
    machine.cpu.push_back(static_cast<float>(std::clamp(percent / 100, 0.0, 1.0)));
  }
  double most = 0;
  if (memory != nullptr) most = *std::max_element(memory->begin(), memory->end());
  for (size_t i = 0; i < machine.cpu.size(); ++i) {
    machine.memory.push_back(most > 0 ? static_cast<float>((*memory)[i] / most) : kFlatMemory);
  }
  const int days = static_cast<int>(cpu.size()) / kDay;
  machine.known = days >= 3;
  machine.days = std::max(1, machine.known ? days - 2 : days);
  return machine;
}

absl::StatusOr<ClusterLoad> ClusterLoad::Make(const std::vector<Group>& groups,
                                              const ClusterShape& shape) {
  ClusterLoad load;
  load.shape_ = shape;
  if (const Group* cpu = Find(groups, "bitbrains_cpu")) {
    const Group* memory = Find(groups, "bitbrains_mem");
    for (size_t i = 0; i < cpu->series.size(); ++i) {
      load.machines_.push_back(
          MachineOf(cpu->series[i], memory != nullptr ? &memory->series[i] : nullptr));
    }
  }
  for (const Group& group : groups) {
    if (!absl::StartsWith(group.name, "nab_") && group.name != "planetlab_cpu") continue;
    for (size_t i = 0; i < group.series.size(); ++i) {
      if (group.name == "planetlab_cpu" || IsCpu(group.units[i])) {
        load.machines_.push_back(MachineOf(group.series[i], nullptr));
      }
    }
  }
  std::erase_if(load.machines_, [](const Machine& machine) {
    return machine.cpu.size() < static_cast<size_t>(kDay);
  });
  if (load.machines_.empty()) {
    return absl::NotFoundError(
        "the traces hold no CPU of machines for a day; bitbrains, nab or planetlab have it");
  }

  Random random(shape.seed);
  double cpu = 0, memory = 0;
  for (int i = 0; i < shape.components; ++i) {
    Component component;
    component.name = absl::StrCat("c", i);
    const size_t dice = random.Below(10);
    component.priority = dice < 6 ? 0 : dice < 9 ? 1 : 2;
    component.bears_blackout_s = dice < 8 ? 1 : 0.4;
    component.machine = random.Below(load.machines_.size());
    const Machine& machine = load.machines_[component.machine];
    const int day = static_cast<int>(random.Below(static_cast<size_t>(machine.days)));
    component.offset = day * kDay + static_cast<int>(random.Below(2 * kJitter + 1));
    if (machine.known) component.offset = std::max(component.offset - kJitter, 0) + kKnown;
    component.cpu = 1000 * static_cast<double>(1 << random.Below(4));
    component.memory = kGiB * static_cast<double>(1 << random.Below(5));
    load.components_.push_back(std::move(component));
  }
  const int sample = 12;  // an hour
  double samples = 0;
  for (int step = 0; step < std::max(1, shape.steps); step += sample) {
    for (size_t c = 0; c < load.components_.size(); ++c) {
      cpu += load.Cpu(c, step);
      memory += load.Memory(c, step);
    }
    ++samples;
  }
  load.cpu_capacity_ = cpu / samples / shape.hosts / shape.load;
  load.memory_capacity_ = memory / samples / shape.hosts / shape.load;
  return load;
}

}  // namespace starling::replay
