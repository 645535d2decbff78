#pragma once

#include <sys/types.h>

#include <cstdint>
#include <functional>
#include <map>
#include <set>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "absl/container/btree_map.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "checkpoint/block_hash.h"

// Files and folders that move with a component, seen like its memory: what is there, which blocks
// changed since it was looked at last.

namespace starling::checkpoint {

// min(kBlockBytes, what is left of the file) bytes at a multiple of kBlockBytes.
struct FileBlock {
  uint64_t offset = 0;
  BlockHash hash;
  uint64_t tag = 0;  // whatever the one who took the block wants to find again
  friend bool operator==(const FileBlock&, const FileBlock&) = default;
};

struct FileEntry {
  std::string path;  // below the root, without a slash at either end; empty: the root itself
  uint32_t mode = 0;
  uint32_t uid = 0;
  uint32_t gid = 0;
  int64_t modified_ns = 0;
  uint64_t size = 0;              // of regular files
  std::string link;               // of symbolic links
  std::string same_as;            // a hard link: path of the earlier entry that is the same file
  std::vector<FileBlock> blocks;  // ascending; the rest of the file is holes
  std::vector<std::pair<std::string, std::string>> attributes;  // extended ones, by name
  friend bool operator==(const FileEntry&, const FileEntry&) = default;
};

// The order of paths in a list: a folder before what is in it, and that before its neighbours.
struct PathLess {
  bool operator()(absl::string_view a, absl::string_view b) const;
};

// Ascending by path.
using FileTree = std::vector<FileEntry>;

uint64_t BlockSize(const FileEntry& entry, const FileBlock& block);

// Whether a tree that came from outside can be made without a step out of its root or over itself:
// order, paths, kinds (folders, regular files, symbolic links, FIFOs), links, blocks. Errors:
// kDataLoss naming the entry.
absl::Status CheckTree(const FileTree& tree);

std::string EncodeEntry(const FileEntry& entry);
// Errors: kDataLoss for what is no entry. CheckTree() looks at what it says.
absl::StatusOr<FileEntry> DecodeEntry(absl::string_view bytes);

// Inode numbers of the files that processes of a cgroup have mapped shared and writable: what they
// write there need not change a file's times.
std::set<uint64_t> WritableMappedFiles(const std::string& cgroup);

// Looks at one tree again and again. Used by one thread at a time.
class FileTracker {
 public:
  // A block that is not the same as in the list before. May set the block's tag, which is kept for
  // as long as the block is the same.
  using BlockSink = std::function<absl::Status(const std::string& path, FileBlock& block,
                                               std::span<const std::byte> bytes)>;
  struct Report {
    uint64_t files = 0;       // of any kind, folders too
    uint64_t bytes_read = 0;  // hashed
    uint64_t blocks_changed = 0;
    uint64_t bytes_changed = 0;
  };

  // `root` is a folder or a regular file. `mapped`: see WritableMappedFiles.
  FileTracker(std::string root, uint64_t seed, std::function<std::set<uint64_t>()> mapped)
      : root_(std::move(root)), seed_(seed), mapped_(std::move(mapped)) {}

  // A file that its times say was not written since it was read is not read again, unless it is
  // mapped for writing. `last`: nothing can write any more, so that what cannot be read is an
  // error; otherwise it is left for the next list. Errors: kFailedPrecondition for what cannot move
  // (devices, other file systems mounted below), the sink's, kNotFound without a root.
  absl::Status List(bool last, const BlockSink& sink, Report& report);

  const std::string& root() const { return root_; }
  const FileTree& tree() const { return tree_; }  // of the last list that was OK

 private:
  struct Known {
    FileEntry entry;
    uint64_t inode = 0;
    int64_t changed_ns = 0;
    bool settled = false;  // written again, its times would be others
  };
  using KnownFiles = absl::btree_map<std::string, Known, PathLess>;
  struct Walk;

  absl::Status Visit(Walk& walk, int parent, const std::string& name, const std::string& path);
  absl::Status VisitFolder(Walk& walk, int folder, const std::string& path);
  absl::Status ReadBlocks(Walk& walk, int file, const std::string& path, Known& known);

  const std::string root_;
  const uint64_t seed_;
  const std::function<std::set<uint64_t>()> mapped_;
  KnownFiles known_;
  FileTree tree_;
};

}  // namespace starling::checkpoint
