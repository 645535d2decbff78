#pragma once

#include <string>

#include "tools/witness/run.h"

namespace starling::witness {

// The result as JSON (schema 1): counts, latency, and both kinds of gaps with their times, one
// object.
std::string ToJson(const Result& result);

// The result for a person, a few lines.
std::string ToText(const Result& result);

}  // namespace starling::witness
