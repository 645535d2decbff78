#pragma once

#include <optional>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"

namespace starling::loop {

// Processors of this host that share their last cache, and which of them a component is confined
// to.

using Processors = std::vector<int>;  // ascending

// A list as the kernel writes it: "0-3,8". Nothing for what is none, or has a number above 65535.
std::optional<Processors> ParseProcessors(absl::string_view text);

// As the kernel reads it.
std::string WriteProcessors(const Processors& processors);

// Groups of processors by last-level cache, in the order of their first ones; processors without a
// known cache are in none. Empty where nothing is known. `system`: /sys/devices/system.
std::vector<Processors> ProcessorGroups(const std::string& system = "/sys/devices/system");

// The group that the cgroup is confined to by its cpuset.cpus, or -1: it is not confined, or not to
// one group. Linux balances what is not confined by itself.
int GroupOf(const std::string& cgroup, const std::vector<Processors>& groups);

}  // namespace starling::loop
