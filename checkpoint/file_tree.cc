#include "checkpoint/file_tree.h"

#include <dirent.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <ctime>
#include <memory>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "base/fd.h"
#include "base/file.h"
#include "base/status.h"
#include "checkpoint/file_tree.pb.h"

namespace starling::checkpoint {
namespace {

constexpr size_t kMaxPath = 4096;
constexpr uint64_t kMaxFileBytes = uint64_t{1} << 62;
// A file's times count in ticks of the kernel: what is written within one after a look need not
// change them. Ten of the longest.
constexpr int64_t kTickNs = 100'000'000;

int64_t Nanoseconds(const timespec& time) {
  return static_cast<int64_t>(time.tv_sec) * 1'000'000'000 + time.tv_nsec;
}

int64_t Now() {
  timespec now;
  ::clock_gettime(CLOCK_REALTIME, &now);
  return Nanoseconds(now);
}

std::string Join(const std::string& folder, const std::string& name) {
  return folder.empty() ? name : absl::StrCat(folder, "/", name);
}

absl::Status CheckPath(const std::string& path) {
  bool good = path.size() <= kMaxPath && path.find('\0') == std::string::npos;
  for (const absl::string_view part : absl::StrSplit(path, '/')) {
    good = good && !part.empty() && part != "." && part != ".." && part.size() <= 255;
  }
  if (good || path.empty()) return absl::OkStatus();
  return absl::DataLossError("cannot be a path below its folder");
}

absl::Status CheckEntry(const FileEntry& entry) {
  RETURN_IF_ERROR(CheckPath(entry.path));
  const mode_t kind = entry.mode & S_IFMT;
  if (kind != S_IFREG && kind != S_IFDIR && kind != S_IFLNK && kind != S_IFIFO) {
    return absl::DataLossError("is of a kind that does not move");
  }
  if (kind != S_IFREG && (entry.size != 0 || !entry.blocks.empty())) {
    return absl::DataLossError("has content and is no regular file");
  }
  const bool has_target = !entry.link.empty();
  if (has_target != (kind == S_IFLNK) || entry.link.size() > kMaxPath ||
      entry.link.find('\0') != std::string::npos) {
    return absl::DataLossError("is a symbolic link to nothing, or has a target and is none");
  }
  if (entry.size > kMaxFileBytes) return absl::DataLossError("has an impossible size");
  uint64_t end = 0;
  for (const FileBlock& block : entry.blocks) {
    if (block.offset % kBlockBytes != 0 || block.offset < end || block.offset >= entry.size) {
      return absl::DataLossError(absl::StrCat("cannot have a block at ", block.offset));
    }
    end = block.offset + kBlockBytes;
  }
  for (const auto& [name, value] : entry.attributes) {
    if (name.empty() || name.find('\0') != std::string::npos) {
      return absl::DataLossError("has an extended attribute without a name");
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<std::vector<std::pair<std::string, std::string>>> ReadAttributes(
    const std::string& path) {
  std::vector<std::pair<std::string, std::string>> attributes;
  std::string names(64 << 10, '\0');
  const ssize_t size = ::llistxattr(path.c_str(), names.data(), names.size());
  if (size < 0) {
    if (errno == ENOTSUP) return attributes;
    return ErrnoStatus(absl::StrCat("list the extended attributes of ", path));
  }
  names.resize(static_cast<size_t>(size));
  for (const absl::string_view part : absl::StrSplit(names, '\0', absl::SkipEmpty())) {
    const std::string name(part);
    std::string value(64 << 10, '\0');
    const ssize_t bytes = ::lgetxattr(path.c_str(), name.c_str(), value.data(), value.size());
    if (bytes < 0) {
      if (errno == ENODATA) continue;
      return ErrnoStatus(absl::StrCat("read the extended attribute ", name, " of ", path));
    }
    value.resize(static_cast<size_t>(bytes));
    attributes.emplace_back(name, std::move(value));
  }
  std::sort(attributes.begin(), attributes.end());
  return attributes;
}

}  // namespace

bool PathLess::operator()(absl::string_view a, absl::string_view b) const {
  const auto rank = [](char c) { return c == '/' ? 0 : static_cast<unsigned char>(c); };
  return std::lexicographical_compare(a.begin(), a.end(), b.begin(), b.end(),
                                      [&](char x, char y) { return rank(x) < rank(y); });
}

uint64_t BlockSize(const FileEntry& entry, const FileBlock& block) {
  return std::min<uint64_t>(kBlockBytes, entry.size - block.offset);
}

absl::Status CheckTree(const FileTree& tree) {
  std::set<absl::string_view> folders;
  std::map<absl::string_view, mode_t> files;
  for (size_t i = 0; i < tree.size(); ++i) {
    const FileEntry& entry = tree[i];
    const auto wrong = [&entry](const absl::Status& status) {
      return Annotate(status, absl::StrCat("file '", entry.path, "'"));
    };
    if (const absl::Status status = CheckEntry(entry); !status.ok()) return wrong(status);
    if ((i == 0) != entry.path.empty() || (i > 0 && !PathLess()(tree[i - 1].path, entry.path))) {
      return wrong(absl::DataLossError("is not in its place in the list"));
    }
    const absl::string_view path = entry.path;
    if (i > 0) {
      const size_t slash = path.rfind('/');
      const absl::string_view parent =
          slash == absl::string_view::npos ? absl::string_view() : path.substr(0, slash);
      if (!folders.contains(parent)) {
        return wrong(absl::DataLossError("lies in a folder that is not listed"));
      }
    }
    if (!entry.same_as.empty()) {
      const auto first = files.find(entry.same_as);
      if (first == files.end() || first->second != (entry.mode & S_IFMT) || S_ISDIR(entry.mode) ||
          !entry.blocks.empty()) {
        return wrong(absl::DataLossError("is a hard link to nothing"));
      }
    } else if (S_ISDIR(entry.mode)) {
      folders.insert(path);
    } else if (i > 0) {
      files[path] = entry.mode & S_IFMT;
    }
  }
  if (tree.empty() || (!S_ISDIR(tree[0].mode) && !S_ISREG(tree[0].mode))) {
    return absl::DataLossError("a list of files has no root that is a folder or a file");
  }
  return absl::OkStatus();
}

std::string EncodeEntry(const FileEntry& entry) {
  files::Entry message;
  message.set_path(entry.path);
  message.set_mode(entry.mode);
  message.set_uid(entry.uid);
  message.set_gid(entry.gid);
  message.set_modified_ns(entry.modified_ns);
  message.set_size(entry.size);
  message.set_link(entry.link);
  message.set_same_as(entry.same_as);
  for (const auto& [name, value] : entry.attributes) {
    files::Attribute& attribute = *message.add_attributes();
    attribute.set_name(name);
    attribute.set_value(value);
  }
  bool tagged = false;
  for (const FileBlock& block : entry.blocks) tagged = tagged || block.tag != 0;
  for (const FileBlock& block : entry.blocks) {
    message.add_block(block.offset / kBlockBytes);
    message.add_hash(block.hash.low);
    message.add_hash(block.hash.high);
    if (tagged) message.add_tag(block.tag);
  }
  return message.SerializeAsString();
}

absl::StatusOr<FileEntry> DecodeEntry(absl::string_view bytes) {
  files::Entry message;
  if (!message.ParseFromArray(bytes.data(), static_cast<int>(bytes.size()))) {
    return absl::DataLossError("not an entry of a list of files");
  }
  if (message.hash_size() != 2 * message.block_size() ||
      (message.tag_size() != 0 && message.tag_size() != message.block_size())) {
    return absl::DataLossError("an entry of a list of files does not know its own blocks");
  }
  FileEntry entry;
  entry.path = message.path();
  entry.mode = message.mode();
  entry.uid = message.uid();
  entry.gid = message.gid();
  entry.modified_ns = message.modified_ns();
  entry.size = message.size();
  entry.link = message.link();
  entry.same_as = message.same_as();
  for (const files::Attribute& attribute : message.attributes()) {
    entry.attributes.emplace_back(attribute.name(), attribute.value());
  }
  for (int i = 0; i < message.block_size(); ++i) {
    if (message.block(i) > kMaxFileBytes / kBlockBytes) {
      return absl::DataLossError("an entry of a list of files has an impossible block");
    }
    entry.blocks.push_back({message.block(i) * kBlockBytes,
                            {message.hash(2 * i), message.hash(2 * i + 1)},
                            message.tag_size() == 0 ? 0 : message.tag(i)});
  }
  return entry;
}

std::set<uint64_t> WritableMappedFiles(const std::string& cgroup) {
  std::set<uint64_t> inodes;
  const auto pids = ReadFile(absl::StrCat(cgroup, "/cgroup.procs"));
  for (const absl::string_view pid :
       absl::StrSplit(pids.value_or(""), '\n', absl::SkipWhitespace())) {
    const auto maps = ReadFile(absl::StrCat("/proc/", pid, "/maps"));
    for (const absl::string_view line : absl::StrSplit(maps.value_or(""), '\n')) {
      // START-END rwxs OFFSET DEVICE INODE PATH
      const std::vector<absl::string_view> words =
          absl::StrSplit(line, absl::MaxSplits(' ', 5), absl::SkipEmpty());
      uint64_t inode = 0;
      if (words.size() < 5 || words[1].size() != 4 || words[1][1] != 'w' || words[1][3] != 's')
        continue;
      if (absl::SimpleAtoi(words[4], &inode) && inode != 0) inodes.insert(inode);
    }
  }
  return inodes;
}

struct FileTracker::Walk {
  bool last;
  const BlockSink& sink;
  Report& report;
  std::set<uint64_t> mapped;
  bool in_memory = false;  // on a tmpfs, which does not date what is written through a mapping
  dev_t device = 0;
  KnownFiles found;
  std::map<uint64_t, std::string> linked;  // inode of a file with several names: the first
};

absl::Status FileTracker::List(bool last, const BlockSink& sink, Report& report) {
  Walk walk{last, sink, report, mapped_()};
  struct stat info;
  struct statfs fs;
  if (::lstat(root_.c_str(), &info) != 0 || ::statfs(root_.c_str(), &fs) != 0) {
    return ErrnoStatus(root_);
  }
  if (!S_ISDIR(info.st_mode) && !S_ISREG(info.st_mode)) {
    return absl::FailedPreconditionError(absl::StrCat(root_, " is neither a folder nor a file"));
  }
  walk.device = info.st_dev;
  // An overlay may have its files on one.
  walk.in_memory = fs.f_type == TMPFS_MAGIC || fs.f_type == OVERLAYFS_SUPER_MAGIC;
  RETURN_IF_ERROR(Visit(walk, AT_FDCWD, root_, ""));
  // A file that was mapped while it was read may have been written without a trace.
  const std::set<uint64_t> mapped = mapped_();
  tree_.clear();
  for (auto& [path, known] : walk.found) {
    if (mapped.contains(known.inode)) known.settled = false;
    tree_.push_back(known.entry);
  }
  known_ = std::move(walk.found);
  return absl::OkStatus();
}

absl::Status FileTracker::Visit(Walk& walk, int parent, const std::string& name,
                                const std::string& path) {
  const std::string full = path.empty() ? root_ : absl::StrCat(root_, "/", path);
  // What vanishes while the component runs is gone, and in no list.
  const auto gone = [&walk](const absl::Status& status) {
    return !walk.last && absl::IsNotFound(status) ? absl::OkStatus() : status;
  };
  const int64_t now = Now();
  struct stat info;
  if (::fstatat(parent, name.c_str(), &info, AT_SYMLINK_NOFOLLOW) != 0) {
    return gone(ErrnoStatus(full));
  }
  if (S_ISSOCK(info.st_mode)) return absl::OkStatus();  // made again by whoever listens there
  if (S_ISCHR(info.st_mode) || S_ISBLK(info.st_mode)) {
    return absl::FailedPreconditionError(absl::StrCat(full, " is a device, which does not move"));
  }
  if (info.st_dev != walk.device) {
    return absl::FailedPreconditionError(
        absl::StrCat("another file system is mounted at ", full, ", which does not move"));
  }
  ++walk.report.files;
  Known known;
  known.inode = info.st_ino;
  known.changed_ns = Nanoseconds(info.st_ctim);
  FileEntry& entry = known.entry;
  entry.path = path;
  entry.mode = info.st_mode;
  entry.uid = info.st_uid;
  entry.gid = info.st_gid;
  entry.modified_ns = Nanoseconds(info.st_mtim);
  auto attributes = ReadAttributes(full);
  if (!attributes.ok()) return gone(attributes.status());
  entry.attributes = *std::move(attributes);

  if (S_ISDIR(info.st_mode)) {
    const UniqueFd folder(
        ::openat(parent, name.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
    if (!folder) return gone(ErrnoStatus(full));
    walk.found[path] = std::move(known);
    return VisitFolder(walk, folder.get(), path);
  }
  if (info.st_nlink > 1) {
    const auto [first, fresh] = walk.linked.try_emplace(info.st_ino, path);
    if (!fresh) {
      entry.same_as = first->second;
      walk.found[path] = std::move(known);
      return absl::OkStatus();
    }
  }
  if (S_ISLNK(info.st_mode)) {
    entry.link.resize(kMaxPath);
    const ssize_t size = ::readlinkat(parent, name.c_str(), entry.link.data(), kMaxPath);
    if (size < 0) return gone(ErrnoStatus(full));
    entry.link.resize(static_cast<size_t>(size));
  }
  if (S_ISREG(info.st_mode)) {
    entry.size = static_cast<uint64_t>(info.st_size);
    const auto before = known_.find(path);
    const bool same = before != known_.end() && before->second.settled &&
                      before->second.inode == known.inode &&
                      before->second.changed_ns == known.changed_ns &&
                      before->second.entry.modified_ns == entry.modified_ns &&
                      before->second.entry.size == entry.size && !walk.in_memory &&
                      !walk.mapped.contains(known.inode);
    if (same) {
      entry.blocks = before->second.entry.blocks;
      known.settled = true;
    } else {
      // No access time is left behind, where that is allowed.
      constexpr int kFlags = O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC;
      UniqueFd file(::openat(parent, name.c_str(), kFlags | O_NOATIME));
      if (!file && errno == EPERM) file.Reset(::openat(parent, name.c_str(), kFlags));
      if (!file) return gone(ErrnoStatus(full));
      struct stat opened;
      if (::fstat(file.get(), &opened) != 0) return ErrnoStatus(full);
      if (opened.st_ino != info.st_ino || opened.st_dev != info.st_dev) {
        return gone(absl::NotFoundError(absl::StrCat(full, " was replaced meanwhile")));
      }
      RETURN_IF_ERROR(ReadBlocks(walk, file.get(), path, known));
      known.settled = known.changed_ns < now - kTickNs;
    }
  }
  walk.found[path] = std::move(known);
  return absl::OkStatus();
}

absl::Status FileTracker::VisitFolder(Walk& walk, int folder, const std::string& path) {
  const std::unique_ptr<DIR, int (*)(DIR*)> stream(::fdopendir(::dup(folder)), ::closedir);
  if (stream == nullptr) return ErrnoStatus(absl::StrCat("list ", root_, "/", path));
  std::vector<std::string> names;
  while (true) {
    errno = 0;
    const dirent* const entry = ::readdir(stream.get());
    if (entry == nullptr) break;
    const absl::string_view name = entry->d_name;
    if (name != "." && name != "..") names.emplace_back(name);
  }
  if (errno != 0) return ErrnoStatus(absl::StrCat("list ", root_, "/", path));
  // The first name of a linked file is the first in the list.
  std::sort(names.begin(), names.end());
  for (const std::string& name : names) {
    RETURN_IF_ERROR(Visit(walk, folder, name, Join(path, name)));
  }
  return absl::OkStatus();
}

absl::Status FileTracker::ReadBlocks(Walk& walk, int file, const std::string& path, Known& known) {
  const auto before = known_.find(path);
  const std::vector<FileBlock> none;
  const std::vector<FileBlock>& old = before == known_.end() ? none : before->second.entry.blocks;
  const uint64_t old_size = before == known_.end() ? 0 : before->second.entry.size;
  auto next_old = old.begin();
  std::vector<std::byte> bytes(kBlockBytes);
  FileEntry& entry = known.entry;
  uint64_t offset = 0;
  while (offset < entry.size) {
    const off_t data = ::lseek(file, static_cast<off_t>(offset), SEEK_DATA);
    if (data < 0 && errno == ENXIO) break;  // holes to the end
    if (data < 0) return ErrnoStatus(absl::StrCat("find content in ", root_, "/", path));
    offset = static_cast<uint64_t>(data) / kBlockBytes * kBlockBytes;
    if (offset >= entry.size) break;
    FileBlock block;
    block.offset = offset;
    const uint64_t wanted = BlockSize(entry, block);
    uint64_t got = 0;
    while (got < wanted) {
      const ssize_t n =
          ::pread(file, bytes.data() + got, wanted - got, static_cast<off_t>(offset + got));
      if (n < 0 && errno == EINTR) continue;
      if (n < 0) return ErrnoStatus(absl::StrCat("read ", root_, "/", path));
      if (n == 0) break;
      got += static_cast<uint64_t>(n);
    }
    if (got < wanted) {
      if (walk.last) {
        return absl::DataLossError(
            absl::StrCat(root_, "/", path, " became shorter while nothing may write to it"));
      }
      break;  // cut meanwhile; the next list sees it
    }
    const std::span<const std::byte> content(bytes.data(), wanted);
    walk.report.bytes_read += wanted;
    block.hash = HashBlock(content, seed_);
    while (next_old != old.end() && next_old->offset < offset) ++next_old;
    const bool same = next_old != old.end() && next_old->offset == offset &&
                      next_old->hash == block.hash &&
                      std::min<uint64_t>(kBlockBytes, old_size - offset) == wanted;
    if (same) {
      block.tag = next_old->tag;
    } else {
      ++walk.report.blocks_changed;
      walk.report.bytes_changed += wanted;
      RETURN_IF_ERROR(walk.sink(path, block, content));
    }
    entry.blocks.push_back(block);
    offset += kBlockBytes;
  }
  return absl::OkStatus();
}

}  // namespace starling::checkpoint
