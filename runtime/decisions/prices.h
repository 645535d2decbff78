#pragma once

#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "runtime/decisions/policy.h"

namespace starling::decisions {

// Prices as somebody writes them down while they change. A CSV file with a line of names first:
// `timestamp_utc` ("2016-03-13T08:26:49Z", fractions of a second are passed over), `price_usd_h`
// (of any currency: all costs are in the same unit) and, where they differ, `host`.
class PriceFeed {
 public:
  PriceFeed() = default;
  // kInvalidArgument as "NAME:LINE: what is wrong".
  static absl::StatusOr<PriceFeed> Parse(absl::string_view text, absl::string_view name);

  // The last one of this host, or of all, that is not later than `time_s`.
  std::optional<double> At(double time_s, const std::string& host) const;

 private:
  // By host ("": all), by time.
  std::map<std::string, std::vector<std::pair<double, double>>> prices_;
};

// What an hour of `host` costs: by the feed, else by the first rule that fits, else 0.
double PriceOf(const Policy& policy, const PriceFeed& feed, const std::string& host, double time_s,
               int minute_of_week);

}  // namespace starling::decisions
