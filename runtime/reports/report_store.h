#pragma once

#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "runtime/proto/starling.pb.h"

namespace starling {

// The reports of this host's migrations as files: FOLDER/COMPONENT.MIGRATION.json, and .txt for
// people. Thread-safe: every call works on the files alone.
class ReportStore {
 public:
  // Keeps the `keep` latest reports; 0: none.
  ReportStore(std::string folder, int keep) : folder_(std::move(folder)), keep_(keep) {}

  // Writes `report`, whose `file` it sets, and removes the oldest beyond what is kept.
  absl::Status Save(v1::MigrationReport& report) const;

  // Of a migration by its id, or the latest of a component. kNotFound when there is none.
  absl::StatusOr<v1::ReportResponse> Find(absl::string_view name) const;

 private:
  std::string folder_;
  int keep_;
};

}  // namespace starling
