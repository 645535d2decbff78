#pragma once

#include <string>

#include "runtime/proto/starling.pb.h"

// What a migration was like, as JSON and for people: pure functions of its report.

namespace starling {

// Version of the JSON object. docs/cli.md describes it; fields are only added.
inline constexpr uint32_t kReportSchema = 1;

// One object, on one line. What is not known is null.
std::string MigrationReportJson(const v1::MigrationReport& report);

// How it ended and its main figures; a few lines, the last one without a newline.
std::string ReportSummary(const v1::MigrationReport& report);

// All of it; ends with a newline.
std::string MigrationReportText(const v1::MigrationReport& report);

}  // namespace starling
