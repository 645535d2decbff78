#include "runtime/decisions/prices.h"

#include <time.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"

namespace starling::decisions {
namespace {

std::optional<double> SecondsOf(absl::string_view text) {
  if (text.size() > 40) return std::nullopt;
  std::tm tm = {};
  const std::string copy(text);
  const char* rest = strptime(copy.c_str(), "%Y-%m-%dT%H:%M:%S", &tm);
  if (rest == nullptr) return std::nullopt;
  if (*rest == '.') rest += std::strspn(rest + 1, "0123456789") + 1;
  if (std::strcmp(rest, "Z") != 0 && *rest != '\0') return std::nullopt;
  return static_cast<double>(timegm(&tm));
}

}  // namespace

absl::StatusOr<PriceFeed> PriceFeed::Parse(absl::string_view text, absl::string_view name) {
  constexpr absl::string_view kNames[] = {"timestamp_utc", "price_usd_h", "host"};
  std::optional<size_t> columns[3];
  PriceFeed feed;
  size_t number = 0;
  for (absl::string_view line : absl::StrSplit(text, '\n')) {
    ++number;
    line = absl::StripAsciiWhitespace(line);
    if (line.empty()) continue;
    const auto wrong = [&](absl::string_view what) {
      return absl::InvalidArgumentError(absl::StrCat(name, ":", number, ": ", what));
    };
    const std::vector<absl::string_view> fields = absl::StrSplit(line, ',');
    if (!columns[0]) {
      for (size_t i = 0; i < fields.size(); ++i) {
        for (size_t k = 0; k < 3; ++k) {
          if (fields[i] == kNames[k]) columns[k] = i;
        }
      }
      if (columns[0] && columns[1]) continue;
      return wrong("the first line has to name the columns timestamp_utc and price_usd_h");
    }
    const auto field = [&](size_t k) {
      return columns[k] && *columns[k] < fields.size() ? fields[*columns[k]] : absl::string_view();
    };
    const auto time_s = SecondsOf(field(0));
    double price = 0;
    if (!time_s) return wrong(absl::StrCat("'", absl::CHexEscape(field(0)), "' is no time"));
    if (!absl::SimpleAtod(field(1), &price) || !(price >= 0 && price <= 1e9)) {
      return wrong(absl::StrCat("'", absl::CHexEscape(field(1)), "' is no price"));
    }
    feed.prices_[std::string(field(2))].emplace_back(*time_s, price);
  }
  if (!columns[0]) return absl::InvalidArgumentError(absl::StrCat(name, ":1: is empty"));
  for (auto& [host, prices] : feed.prices_) std::stable_sort(prices.begin(), prices.end());
  return feed;
}

std::optional<double> PriceFeed::At(double time_s, const std::string& host) const {
  auto found = prices_.find(host);
  if (found == prices_.end()) found = prices_.find("");
  if (found == prices_.end()) return std::nullopt;
  const auto& prices = found->second;
  const auto after = std::upper_bound(prices.begin(), prices.end(),
                                      std::pair(time_s, std::numeric_limits<double>::infinity()));
  if (after == prices.begin()) return std::nullopt;
  return std::prev(after)->second;
}

double PriceOf(const Policy& policy, const PriceFeed& feed, const std::string& host, double time_s,
               int minute_of_week) {
  if (const auto price = feed.At(time_s, host)) return *price;
  for (const PriceRule& rule : policy.prices) {
    if (!rule.host.empty() && rule.host != host) continue;
    const bool now = std::any_of(rule.hours.begin(), rule.hours.end(), [&](const Hours& hours) {
      return hours.Contains(minute_of_week);
    });
    if (rule.hours.empty() || now) return rule.per_hour;
  }
  return 0;
}

}  // namespace starling::decisions
