#include "runtime/ghosts/book.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <filesystem>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "base/file.h"
#include "base/status.h"
#include "runtime/names.h"

namespace starling::ghosts {
namespace {

constexpr size_t kMostBytes = 64 << 10;
// Of a file that WriteFileAtomic() did not finish; hosts may be called so as well.
constexpr absl::string_view kUnfinished = ".new";

}  // namespace

std::string Book::PathOf(const v1::GhostWish& wish) const {
  return absl::StrCat(folder_, "/", wish.component(), "@", wish.on());
}

absl::Status Book::Put(const v1::GhostRecord& record) const {
  RETURN_IF_ERROR(CheckComponentName(record.wish().component()));
  RETURN_IF_ERROR(CheckHostName(record.wish().on()));
  RETURN_IF_ERROR(MakeDirectories(folder_, 0700));
  return WriteFileAtomic(PathOf(record.wish()), record.SerializeAsString(), 0600);
}

absl::Status Book::Remove(const v1::GhostWish& wish) const {
  RETURN_IF_ERROR(CheckComponentName(wish.component()));
  RETURN_IF_ERROR(CheckHostName(wish.on()));
  const std::string path = PathOf(wish);
  if (::unlink(path.c_str()) == 0 || errno == ENOENT) return absl::OkStatus();
  return ErrnoStatus(absl::StrCat("remove ", path));
}

absl::StatusOr<std::vector<v1::GhostRecord>> Book::All() const {
  std::vector<std::string> names;
  std::error_code error;
  if (!std::filesystem::exists(folder_, error)) return std::vector<v1::GhostRecord>();
  for (const auto& entry : std::filesystem::directory_iterator(folder_, error)) {
    const std::string name = entry.path().filename().string();
    names.push_back(name);
  }
  if (error) return ErrnoStatus(error.value(), absl::StrCat("read ", folder_));
  std::sort(names.begin(), names.end());
  std::vector<v1::GhostRecord> all;
  for (const std::string& name : names) {
    const std::string path = absl::StrCat(folder_, "/", name);
    ASSIGN_OR_RETURN(const std::string bytes, ReadFile(path, kMostBytes));
    v1::GhostRecord record;
    const bool reads =
        record.ParseFromString(bytes) &&
        name == absl::StrCat(record.wish().component(), "@", record.wish().on()) &&
        CheckComponentName(record.wish().component()).ok() &&
        CheckHostName(record.wish().on()).ok() &&
        (record.migration_id().empty() || CheckMigrationId(record.migration_id()).ok());
    if (reads) all.push_back(std::move(record));
    if (reads || absl::EndsWith(name, kUnfinished)) continue;
    return absl::DataLossError(absl::StrCat(
        path,
        " is no record of a ghost: look on that host whether the component was failed over "
        "(`starling ps` there), then remove the file"));
  }
  return all;
}

}  // namespace starling::ghosts
