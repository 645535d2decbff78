#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>

#include "absl/strings/string_view.h"

// What a host has and a component needs. Whole numbers, so that what was added can be taken away
// again to the last byte.

namespace starling::reservations {

enum class Resource : uint8_t {
  kCpu,        // thousandths of a processor
  kMemory,     // bytes
  kDisk,       // bytes
  kNetwork,    // bytes a second
  kStorage,    // bytes a second
  kGpu,        // thousandths of a GPU
  kGpuMemory,  // bytes
};
inline constexpr size_t kResources = 7;

// "cpu", "memory", "disk", "network", "storage", "gpu", "gpu-memory".
absl::string_view Name(Resource resource);
// False: no resource of this name.
bool ParseResource(absl::string_view name, Resource& resource);
// "2.5 processors", "512.0 MiB", "10.0 MiB/s": for people.
std::string Show(Resource resource, int64_t amount);

// So much of each. Value type.
struct Amounts {
  // More than this of anything is not believed, so that sums cannot overflow.
  static constexpr int64_t kMost = int64_t{1} << 52;

  std::array<int64_t, kResources> of = {};

  int64_t& operator[](Resource resource) { return of[static_cast<size_t>(resource)]; }
  int64_t operator[](Resource resource) const { return of[static_cast<size_t>(resource)]; }

  Amounts& operator+=(const Amounts& other) {
    for (size_t i = 0; i < kResources; ++i) of[i] += other.of[i];
    return *this;
  }
  Amounts& operator-=(const Amounts& other) {
    for (size_t i = 0; i < kResources; ++i) of[i] -= other.of[i];
    return *this;
  }
  friend Amounts operator+(Amounts a, const Amounts& b) { return a += b; }
  friend Amounts operator-(Amounts a, const Amounts& b) { return a -= b; }
  bool operator==(const Amounts&) const = default;

  // What is above 0 of each, 0 of the others.
  Amounts AboveZero() const {
    Amounts above;
    for (size_t i = 0; i < kResources; ++i) above.of[i] = of[i] > 0 ? of[i] : 0;
    return above;
  }
  bool AnyAboveZero() const {
    for (const int64_t amount : of) {
      if (amount > 0) return true;
    }
    return false;
  }
  bool FitsIn(const Amounts& room) const { return !(*this - room).AnyAboveZero(); }
};

// The greatest share of `whole` that `part` takes of anything: 0 to 1 and more.
double DominantShare(const Amounts& part, const Amounts& whole);

// "2.5 processors, 512.0 MiB of memory"; "nothing".
std::string Show(const Amounts& amounts);

}  // namespace starling::reservations
