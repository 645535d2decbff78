#pragma once

#include <string>

#include "runtime/proto/loop.pb.h"

// What `starling forecast`, `leases` and `why` show, as pure functions of the agent's messages; as
// render.h. Text ends with a newline, JSON does not.

namespace starling::cli {

std::string ForecastText(const v1::ForecastResponse& forecast);
std::string ForecastJson(const v1::ForecastResponse& forecast);

std::string LeasesText(const v1::LeasesResponse& leases);
std::string LeasesJson(const v1::LeasesResponse& leases);

// `name`: of the component that was asked for; empty: all.
std::string WhyText(const std::string& name, const v1::WhyResponse& why);
std::string WhyJson(const v1::WhyResponse& why);

}  // namespace starling::cli
