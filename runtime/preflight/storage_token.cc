#include "runtime/preflight/storage_token.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "base/fd.h"
#include "base/file.h"
#include "base/random.h"
#include "base/status.h"
#include "runtime/preflight/file_content.h"
#include "runtime/preflight/limits.h"

namespace starling::preflight {
namespace {

constexpr char kPrefix[] = ".starling-storage-";

absl::StatusOr<std::string> RandomHex() {
  ASSIGN_OR_RETURN(const std::string bytes, RandomBytes(16));
  return absl::BytesToHexString(bytes);
}

bool IsReadOnly(const std::string& path) {
  struct statvfs fs;
  return ::statvfs(path.c_str(), &fs) == 0 && (fs.f_flag & ST_RDONLY) != 0;
}

absl::Status WriteToken(const std::string& path) {
  ASSIGN_OR_RETURN(const std::string content, RandomHex());
  ASSIGN_OR_RETURN(const UniqueFd fd,
                   OpenFile(path, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW, 0600));
  RETURN_IF_ERROR(WriteAll(fd.get(), content.data(), content.size()));
  // Network file systems may keep data back until then.
  if (::fsync(fd.get()) != 0) return ErrnoStatus(path);
  return absl::OkStatus();
}

}  // namespace

StorageTokens& StorageTokens::operator=(StorageTokens&& other) noexcept {
  if (this != &other) {
    Remove();
    paths_ = std::exchange(other.paths_, {});
  }
  return *this;
}

StorageTokens::~StorageTokens() { Remove(); }

void StorageTokens::Remove() {
  for (const std::string& path : paths_) ::unlink(path.c_str());
  paths_.clear();
}

StorageTokens StorageTokens::Write(const std::string& root, const std::string& host,
                                   v1::ExamineRequest* request,
                                   std::vector<v1::Obstacle>* obstacles) {
  StorageTokens tokens;
  const v1::ComponentSpec spec = request->spec();
  for (std::string shared : spec.shared()) {
    while (shared.size() > 1 && shared.back() == '/') shared.pop_back();
    struct stat stat;
    if (::stat((root + shared).c_str(), &stat) != 0) {
      obstacles->push_back(MakeObstacle(Limit::kSharedMissing, shared, {{"host", host}}));
      continue;
    }
    if (!S_ISDIR(stat.st_mode) || IsReadOnly(root + shared)) continue;
    const auto name = RandomHex();
    absl::Status status = name.status();
    const std::string inside =
        absl::StrCat(shared, shared == "/" ? "" : "/", kPrefix, name.value_or(""));
    const std::string path = root + inside;
    if (status.ok()) {
      tokens.paths_.push_back(path);
      status = WriteToken(path);
    }
    if (status.ok()) {
      const auto content = LookAtFile(path, Hash::kAlways);
      status = content.status();
      if (status.ok()) {
        v1::FileFact* file = request->add_files();
        file->set_path(inside);
        file->set_shared(true);
        file->set_size(static_cast<uint64_t>(content->stat.st_size));
        file->set_content_hash(content->hash);
      }
    }
    if (!status.ok()) {
      obstacles->push_back(
          MakeObstacle(Limit::kSharedUnwritable, shared, {{"cause", status.message()}}));
    }
  }
  return tokens;
}

bool IsStorageToken(const std::string& path) {
  const size_t slash = path.rfind('/');
  return slash != std::string::npos &&
         absl::StartsWith(absl::string_view(path).substr(slash + 1), kPrefix);
}

std::string StorageTokenFolder(const std::string& path) {
  const size_t slash = path.rfind('/');
  return slash == 0 ? "/" : path.substr(0, slash);
}

}  // namespace starling::preflight
