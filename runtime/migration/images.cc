#include "runtime/migration/images.h"

#include <fcntl.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <system_error>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "base/file.h"
#include "base/status.h"
#include "base/xxh3.h"

namespace starling::migration {
namespace {

constexpr unsigned long kMountFlags = MS_NOSUID | MS_NODEV | MS_NOEXEC;
// What a host grants to arenas is bounded by its reservations, not here.
constexpr char kMountOptions[] = "mode=0700,size=100%";

}  // namespace

absl::Status MountImages(const std::string& run_dir) {
  const std::string folder = absl::StrCat(run_dir, "/images");
  RETURN_IF_ERROR(MakeDirectories(run_dir));
  RETURN_IF_ERROR(MakeDirectories(folder, 0700));
  struct stat above, here;
  if (::stat(run_dir.c_str(), &above) != 0 || ::stat(folder.c_str(), &here) != 0)
    return ErrnoStatus(absl::StrCat("stat ", folder));
  std::error_code error;
  if (above.st_dev != here.st_dev || !std::filesystem::is_empty(folder, error) || error)
    return absl::OkStatus();
  const auto mount = [&folder](const std::string& options) {
    return ::mount("starling-images", folder.c_str(), "tmpfs", kMountFlags, options.c_str()) == 0;
  };
  // A kernel without huge pages for tmpfs does not know the option.
  if (mount(absl::StrCat(kMountOptions, ",huge=within_size")) || mount(kMountOptions))
    return absl::OkStatus();
  return ErrnoStatus(absl::StrCat("mount a tmpfs at ", folder));
}

std::string ImagesPath(const std::string& run_dir, const std::string& migration_id,
                       absl::string_view way) {
  return absl::StrCat(run_dir, "/images/", migration_id, ".", way);
}

bool IsSkeletonImage(const std::string& file) {
  return absl::EndsWith(file, ".img") && !absl::StartsWith(file, "pagemap-") &&
         !absl::StartsWith(file, "pages-");
}

std::string LogPath(const std::string& log_dir, const std::string& component) {
  return absl::StrCat(log_dir, "/", component, ".log");
}

std::string ReadLogTail(const std::string& path) {
  const absl::StatusOr<UniqueFd> fd = OpenFile(path, O_RDONLY);
  struct stat info;
  if (!fd.ok() || ::fstat(fd->get(), &info) != 0) return "";
  const auto size = static_cast<size_t>(info.st_size);
  std::string tail(std::min(size, kLogTailBytes), '\0');
  const ssize_t got =
      ::pread(fd->get(), tail.data(), tail.size(), static_cast<off_t>(size - tail.size()));
  tail.resize(got > 0 ? static_cast<size_t>(got) : 0);
  return tail;
}

absl::Status ImageReceiver::Take(const v1::ImagePiece& piece) {
  const std::string& file = piece.file();
  if (file.empty() || file.size() > 200 || file[0] == '.' || absl::StrContains(file, '/') ||
      file.find('\0') != std::string::npos || !IsSkeletonImage(file)) {
    return absl::InvalidArgumentError(absl::StrCat("'", file, "' cannot be the name of an image"));
  }
  bytes_ += piece.data().size();
  if (bytes_ > kMaxImageBytes) {
    return absl::ResourceExhaustedError(
        absl::StrCat("images larger than ", kMaxImageBytes, " bytes are not taken"));
  }
  std::string& content = open_[file];
  content.append(piece.data());
  if (!piece.last()) return absl::OkStatus();
  if (Xxh3(content.data(), content.size()) != piece.hash()) {
    return absl::DataLossError(absl::StrCat("image ", file, " arrived damaged"));
  }
  const std::string path = absl::StrCat(folder_, "/", file);
  ASSIGN_OR_RETURN(const UniqueFd fd,
                   OpenFile(path, O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW, 0600));
  RETURN_IF_ERROR(Annotate(WriteAll(fd.get(), content.data(), content.size()), path));
  open_.erase(file);
  return absl::OkStatus();
}

absl::Status ImageReceiver::Finish() const {
  if (open_.empty()) return absl::OkStatus();
  return absl::DataLossError(absl::StrCat("image ", open_.begin()->first, " is not whole"));
}

}  // namespace starling::migration
