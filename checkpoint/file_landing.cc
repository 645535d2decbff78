#include "checkpoint/file_landing.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <filesystem>
#include <map>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "base/fd.h"
#include "base/file.h"
#include "base/status.h"

namespace starling::checkpoint {
namespace {

constexpr char kTree[] = "tree";

bool Exists(const std::string& path) {
  struct stat info;
  return ::lstat(path.c_str(), &info) == 0;
}

absl::Status Rename(const std::string& from, const std::string& to) {
  if (::rename(from.c_str(), to.c_str()) == 0) return absl::OkStatus();
  return ErrnoStatus(absl::StrCat("rename ", from, " to ", to));
}

absl::Status PunchHole(int file, uint64_t from, uint64_t to) {
  if (from >= to) return absl::OkStatus();
  if (::fallocate(file, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, static_cast<off_t>(from),
                  static_cast<off_t>(to - from)) != 0) {
    return ErrnoStatus("make a hole");
  }
  return absl::OkStatus();
}

}  // namespace

std::string FileLanding::root() const { return absl::StrCat(folder_, "/", kTree); }

std::string FileLanding::PathOf(absl::string_view path) const {
  return path.empty() ? root() : absl::StrCat(root(), "/", path);
}

absl::Status FileLanding::Write(const std::string& path, uint64_t offset, const BlockHash& hash,
                                std::span<const std::byte> bytes) {
  // A list of one file, with the folders that it needs, is checked as any other.
  FileTree steps;
  if (!path.empty()) steps.push_back({.path = "", .mode = S_IFDIR});
  for (size_t slash = path.find('/'); slash != std::string::npos;
       slash = path.find('/', slash + 1)) {
    steps.push_back({.path = path.substr(0, slash), .mode = S_IFDIR});
  }
  steps.push_back({.path = path,
                   .mode = S_IFREG,
                   .size = offset + bytes.size(),
                   .blocks = {{.offset = offset, .hash = hash}}});
  RETURN_IF_ERROR(CheckTree(steps));
  if (bytes.empty() || bytes.size() > kBlockBytes || HashBlock(bytes, seed_) != hash) {
    return absl::DataLossError(
        absl::StrCat("file '", path, "' arrived damaged in its block at ", offset));
  }
  RETURN_IF_ERROR(MakeDirectories(folder_, 0700));
  // Only folders and regular files of our own are here until the tree is finished. A name may have
  // changed from one to the other meanwhile.
  for (const FileEntry& step : steps) {
    const std::string full = PathOf(step.path);
    struct stat info;
    if (::lstat(full.c_str(), &info) == 0) {
      if ((info.st_mode & S_IFMT) == step.mode) continue;
      RETURN_IF_ERROR(RemoveTree(full));
    }
    Forget(step.path);
    if (S_ISDIR(step.mode) && ::mkdir(full.c_str(), 0700) != 0) return ErrnoStatus(full);
  }
  const std::string full = PathOf(path);
  ASSIGN_OR_RETURN(const UniqueFd file, OpenFile(full, O_WRONLY | O_CREAT | O_NOFOLLOW, 0600));
  for (size_t done = 0; done < bytes.size();) {
    const ssize_t n = ::pwrite(file.get(), bytes.data() + done, bytes.size() - done,
                               static_cast<off_t>(offset + done));
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return ErrnoStatus(absl::StrCat("write ", full));
    done += static_cast<size_t>(n);
  }
  landed_[path][offset] = hash;
  bytes_ += bytes.size();
  return absl::OkStatus();
}

void FileLanding::Forget(const std::string& path) {
  const std::string below = absl::StrCat(path, "/");
  auto at = landed_.lower_bound(path);
  while (at != landed_.end() && (at->first == path || absl::StartsWith(at->first, below))) {
    at = landed_.erase(at);
  }
}

absl::Status FileLanding::Sync() const {
  const absl::StatusOr<UniqueFd> folder = OpenFile(folder_, O_RDONLY | O_DIRECTORY);
  if (absl::IsNotFound(folder.status())) return absl::OkStatus();  // nothing was written
  RETURN_IF_ERROR(folder.status());
  if (::syncfs(folder->get()) != 0) return ErrnoStatus(absl::StrCat("sync ", folder_));
  return absl::OkStatus();
}

// What is here and not in the tree, or is of another kind there.
absl::Status FileLanding::Remove(const FileTree& tree) const {
  std::map<std::string, mode_t> wanted;
  for (const FileEntry& entry : tree) {
    wanted[PathOf(entry.path)] = entry.same_as.empty() ? entry.mode & S_IFMT : 0;
  }
  std::vector<std::string> unwanted;
  std::error_code error;
  std::vector<std::string> folders = {folder_};
  while (!folders.empty()) {
    const std::string folder = folders.back();
    folders.pop_back();
    for (const auto& item : std::filesystem::directory_iterator(folder, error)) {
      const std::string path = item.path().string();
      struct stat info;
      if (::lstat(path.c_str(), &info) != 0) return ErrnoStatus(path);
      const auto found = wanted.find(path);
      if (found == wanted.end() || found->second != (info.st_mode & S_IFMT)) {
        unwanted.push_back(path);
      } else if (S_ISDIR(info.st_mode)) {
        folders.push_back(path);
      }
    }
    if (error) return ErrnoStatus(error.value(), absl::StrCat("list ", folder));
  }
  for (const std::string& path : unwanted) RETURN_IF_ERROR(RemoveTree(path));
  return absl::OkStatus();
}

absl::Status FileLanding::Settle(const FileEntry& entry) {
  const std::string full = PathOf(entry.path);
  if (!entry.same_as.empty()) {
    if (::link(PathOf(entry.same_as).c_str(), full.c_str()) == 0) return absl::OkStatus();
    return ErrnoStatus(absl::StrCat("link ", full));
  }
  switch (entry.mode & S_IFMT) {
    case S_IFDIR:
      if (::mkdir(full.c_str(), 0700) != 0 && errno != EEXIST) return ErrnoStatus(full);
      return absl::OkStatus();
    case S_IFLNK:
      if (::symlink(entry.link.c_str(), full.c_str()) != 0) return ErrnoStatus(full);
      return absl::OkStatus();
    case S_IFIFO:
      if (::mkfifo(full.c_str(), 0600) != 0) return ErrnoStatus(full);
      return absl::OkStatus();
    default:
      break;
  }
  ASSIGN_OR_RETURN(const UniqueFd file, OpenFile(full, O_WRONLY | O_CREAT | O_NOFOLLOW, 0600));
  if (::ftruncate(file.get(), static_cast<off_t>(entry.size)) != 0) return ErrnoStatus(full);
  auto& landed = landed_[entry.path];
  auto next = landed.begin();
  // What came once and is not in the list any more reads as zeros.
  const auto drop = [&](uint64_t before) -> absl::Status {
    for (; next != landed.end() && next->first < before; ++next) {
      RETURN_IF_ERROR(Annotate(
          PunchHole(file.get(), next->first, std::min(next->first + kBlockBytes, entry.size)),
          full));
    }
    return absl::OkStatus();
  };
  for (const FileBlock& block : entry.blocks) {
    RETURN_IF_ERROR(drop(block.offset));
    if (next == landed.end() || next->first != block.offset || next->second != block.hash) {
      return absl::DataLossError(absl::StrCat("file '", entry.path, "': its block at ",
                                              block.offset, " did not arrive as it is listed"));
    }
    ++next;
  }
  return drop(entry.size);
}

absl::Status FileLanding::Describe(const FileEntry& entry) const {
  if (!entry.same_as.empty()) return absl::OkStatus();
  const std::string full = PathOf(entry.path);
  if (::lchown(full.c_str(), entry.uid, entry.gid) != 0) return ErrnoStatus(full);
  if (!S_ISLNK(entry.mode) && ::chmod(full.c_str(), entry.mode & 07777) != 0) {
    return ErrnoStatus(full);
  }
  for (const auto& [name, value] : entry.attributes) {
    if (::lsetxattr(full.c_str(), name.c_str(), value.data(), value.size(), 0) != 0) {
      return ErrnoStatus(absl::StrCat("set the extended attribute ", name, " of ", full));
    }
  }
  timespec times[2];
  times[1].tv_sec = entry.modified_ns / 1'000'000'000;
  times[1].tv_nsec = entry.modified_ns % 1'000'000'000;
  if (times[1].tv_nsec < 0) {
    times[1].tv_nsec += 1'000'000'000;
    --times[1].tv_sec;
  }
  times[0] = times[1];
  if (::utimensat(AT_FDCWD, full.c_str(), times, AT_SYMLINK_NOFOLLOW) != 0) {
    return ErrnoStatus(full);
  }
  return absl::OkStatus();
}

absl::Status FileLanding::Finish(const FileTree& tree) {
  RETURN_IF_ERROR(CheckTree(tree));
  RETURN_IF_ERROR(MakeDirectories(folder_, 0700));
  RETURN_IF_ERROR(Remove(tree));
  for (const FileEntry& entry : tree) RETURN_IF_ERROR(Settle(entry));
  // From the inside out: what is made in a folder dates it.
  for (auto entry = tree.rbegin(); entry != tree.rend(); ++entry) {
    RETURN_IF_ERROR(Describe(*entry));
  }
  return Sync();
}

FilePlace::FilePlace(const std::string& component, std::string path) : path_(std::move(path)) {
  const size_t slash = path_.rfind('/');
  folder_ = slash == 0 ? "/" : path_.substr(0, slash);
  // No component has a dot in its name.
  prefix_ = absl::StrCat(slash == 0 ? "" : folder_, "/.starling.", component, ".",
                         path_.substr(slash + 1), ".");
}

std::string FilePlace::Beside(absl::string_view what) const { return absl::StrCat(prefix_, what); }

absl::Status FilePlace::SyncFolder() const {
  ASSIGN_OR_RETURN(const UniqueFd folder, OpenFile(folder_, O_RDONLY | O_DIRECTORY));
  if (::fsync(folder.get()) != 0) return ErrnoStatus(absl::StrCat("fsync ", folder_));
  return absl::OkStatus();
}

bool FilePlace::placing() const { return Exists(Beside("placing")); }

absl::Status FilePlace::Put(bool replace) const {
  std::error_code error;
  if (!replace && Exists(path_) &&
      !(std::filesystem::is_directory(path_, error) && std::filesystem::is_empty(path_, error))) {
    return absl::FailedPreconditionError(
        absl::StrCat("something has come to ", path_, " meanwhile: it is left alone"));
  }
  const std::string landed = absl::StrCat(landing(), "/", kTree);
  RETURN_IF_ERROR(WriteFileAtomic(Beside("placing"), "", 0600));
  if (Exists(path_)) RETURN_IF_ERROR(Rename(path_, Beside("old")));
  RETURN_IF_ERROR(Rename(landed, path_));
  return SyncFolder();
}

absl::Status FilePlace::TakeBack() const {
  const std::string landed = absl::StrCat(landing(), "/", kTree);
  if (placing()) {
    // Was the landed tree put in place, it is not where it landed any more.
    if (Exists(landing()) && !Exists(landed) && Exists(path_)) {
      RETURN_IF_ERROR(Rename(path_, landed));
    }
    if (Exists(Beside("old"))) RETURN_IF_ERROR(Rename(Beside("old"), path_));
    RETURN_IF_ERROR(SyncFolder());
  }
  RETURN_IF_ERROR(RemoveTree(landing()));
  return RemoveTree(Beside("placing"));
}

absl::Status FilePlace::Keep(bool keep_old) const {
  if (!placing()) return absl::OkStatus();
  if (Exists(Beside("old")) && keep_old) {
    RETURN_IF_ERROR(RemoveTree(Beside("left")));
    RETURN_IF_ERROR(Rename(Beside("old"), Beside("left")));
  } else if (!keep_old) {
    RETURN_IF_ERROR(RemoveTree(Beside("left")));
  }
  RETURN_IF_ERROR(RemoveTree(Beside("old")));
  RETURN_IF_ERROR(RemoveTree(landing()));
  RETURN_IF_ERROR(RemoveTree(Beside("placing")));
  return SyncFolder();
}

absl::Status FilePlace::SetAside() const {
  if (!Exists(path_)) return absl::OkStatus();  // done before
  RETURN_IF_ERROR(RemoveTree(Beside("left")));
  RETURN_IF_ERROR(Rename(path_, Beside("left")));
  return SyncFolder();
}

}  // namespace starling::checkpoint
