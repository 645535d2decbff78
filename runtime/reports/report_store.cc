#include "runtime/reports/report_store.h"

#include <algorithm>
#include <filesystem>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "base/file.h"
#include "base/status.h"
#include "runtime/names.h"
#include "runtime/reports/report_text.h"

namespace starling {
namespace {

namespace fs = std::filesystem;

constexpr char kJson[] = ".json";
constexpr char kText[] = ".txt";

// One report of the folder.
struct Entry {
  fs::file_time_type written;
  std::string component;
  std::string migration;
  std::string stem;  // path without ending

  friend bool operator<(const Entry& a, const Entry& b) {
    return std::tie(a.written, a.stem) < std::tie(b.written, b.stem);
  }
};

// The oldest first. A folder that is not there has none.
std::vector<Entry> List(const std::string& folder) {
  std::vector<Entry> entries;
  std::error_code error;
  for (fs::directory_iterator it(folder, error), end; !error && it != end; it.increment(error)) {
    if (it->path().extension() != kJson) continue;
    const std::string stem = it->path().stem();
    const std::vector<std::string> parts = absl::StrSplit(stem, '.');
    if (parts.size() != 2) continue;
    std::error_code gone;
    const fs::file_time_type written = fs::last_write_time(it->path(), gone);
    if (!gone) entries.push_back({written, parts[0], parts[1], absl::StrCat(folder, "/", stem)});
  }
  std::sort(entries.begin(), entries.end());
  return entries;
}

}  // namespace

absl::Status ReportStore::Save(v1::MigrationReport& report) const {
  if (keep_ == 0) return absl::OkStatus();
  RETURN_IF_ERROR(CheckComponentName(report.component()));
  RETURN_IF_ERROR(CheckMigrationId(report.migration_id()));
  RETURN_IF_ERROR(MakeDirectories(folder_, 0755));
  const std::string stem =
      absl::StrCat(folder_, "/", report.component(), ".", report.migration_id());
  report.set_file(absl::StrCat(stem, kJson));
  // The text first: what is listed has both.
  absl::Status status = WriteFileAtomic(absl::StrCat(stem, kText), MigrationReportText(report));
  status.Update(
      WriteFileAtomic(report.file(), absl::StrCat(MigrationReportJson(report), "\n")));
  if (!status.ok()) report.clear_file();
  RETURN_IF_ERROR(status);
  const std::vector<Entry> entries = List(folder_);
  for (size_t i = 0; i + static_cast<size_t>(keep_) < entries.size(); ++i) {
    std::error_code gone_already;
    fs::remove(absl::StrCat(entries[i].stem, kJson), gone_already);
    fs::remove(absl::StrCat(entries[i].stem, kText), gone_already);
  }
  return absl::OkStatus();
}

absl::StatusOr<v1::ReportResponse> ReportStore::Find(absl::string_view name) const {
  const std::vector<Entry> entries = List(folder_);
  auto found = std::find_if(entries.rbegin(), entries.rend(),
                            [&](const Entry& entry) { return entry.migration == name; });
  if (found == entries.rend()) {
    found = std::find_if(entries.rbegin(), entries.rend(),
                         [&](const Entry& entry) { return entry.component == name; });
  }
  if (found == entries.rend()) {
    return absl::NotFoundError(
        absl::StrCat("no migration of this name or number was reported in ", folder_,
                     "; the host that a component left has the report"));
  }
  v1::ReportResponse response;
  ASSIGN_OR_RETURN(*response.mutable_json(), ReadFile(absl::StrCat(found->stem, kJson)));
  ASSIGN_OR_RETURN(*response.mutable_text(), ReadFile(absl::StrCat(found->stem, kText)));
  return response;
}

}  // namespace starling
