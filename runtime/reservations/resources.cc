#include "runtime/reservations/resources.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/units.h"

namespace starling::reservations {
namespace {

constexpr std::array<absl::string_view, kResources> kNames = {
    "cpu", "memory", "disk", "network", "storage", "gpu", "gpu-memory"};

}  // namespace

absl::string_view Name(Resource resource) { return kNames[static_cast<size_t>(resource)]; }

bool ParseResource(absl::string_view name, Resource& resource) {
  const auto found = std::find(kNames.begin(), kNames.end(), name);
  if (found == kNames.end()) return false;
  resource = static_cast<Resource>(found - kNames.begin());
  return true;
}

std::string Show(Resource resource, int64_t amount) {
  const auto thousandths = static_cast<double>(amount) / 1000;
  const std::string bytes = FormatBytes(static_cast<uint64_t>(std::max<int64_t>(amount, 0)));
  switch (resource) {
    case Resource::kCpu:
      return absl::StrFormat("%.1f processors", thousandths);
    case Resource::kGpu:
      return absl::StrFormat("%.1f GPUs", thousandths);
    case Resource::kNetwork:
    case Resource::kStorage:
      return absl::StrCat(bytes, "/s of ", Name(resource));
    default:
      return absl::StrCat(bytes, " of ", Name(resource));
  }
}

double DominantShare(const Amounts& part, const Amounts& whole) {
  double share = 0;
  for (size_t i = 0; i < kResources; ++i) {
    if (part.of[i] <= 0) continue;
    // Of what the host has none of, anything is more than all.
    share = std::max(
        share, static_cast<double>(part.of[i]) / std::max(1.0, static_cast<double>(whole.of[i])));
  }
  return share;
}

std::string Show(const Amounts& amounts) {
  std::string text;
  for (size_t i = 0; i < kResources; ++i) {
    if (amounts.of[i] == 0) continue;
    absl::StrAppend(&text, text.empty() ? "" : ", ", Show(static_cast<Resource>(i), amounts.of[i]));
  }
  return text.empty() ? "nothing" : text;
}

}  // namespace starling::reservations
