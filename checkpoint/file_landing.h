#pragma once

#include <cstdint>
#include <span>
#include <string>

#include "absl/container/btree_map.h"
#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "checkpoint/file_tree.h"

// The other end of a FileTracker: a tree that is built aside, block by block, and put in the place
// of another when it is whole.

namespace starling::checkpoint {

// Builds one tree. Used by one thread at a time.
class FileLanding {
 public:
  // `folder` is made for it, and must not exist; the tree's root will be `folder`/tree.
  FileLanding(std::string folder, uint64_t seed) : folder_(std::move(folder)), seed_(seed) {}

  // One block of a file. Errors: kDataLoss when its hash is not `hash`, or for a path that leads
  // out of the tree.
  absl::Status Write(const std::string& path, uint64_t offset, const BlockHash& hash,
                     std::span<const std::byte> bytes);

  // What was written so far is on the disk.
  absl::Status Sync() const;

  // Makes of what was written exactly this tree, on the disk. Errors: kDataLoss naming the file of
  // which a listed block did not come, or came with another hash; CheckTree()'s.
  absl::Status Finish(const FileTree& tree);

  // Where the whole tree is.
  std::string root() const;
  uint64_t bytes() const { return bytes_; }

 private:
  void Forget(const std::string& path);  // it and what is below it
  absl::Status Settle(const FileEntry& entry);
  absl::Status Remove(const FileTree& tree) const;
  absl::Status Describe(const FileEntry& entry) const;
  std::string PathOf(absl::string_view path) const;

  const std::string folder_;
  const uint64_t seed_;
  uint64_t bytes_ = 0;
  // By path: the blocks that are in the file.
  absl::btree_map<std::string, absl::btree_map<uint64_t, BlockHash>, PathLess> landed_;
};

// Names beside a shipped path, in the same folder and so on the same file system:
//   .starling.NAME.BASE.new      the tree that lands
//   .starling.NAME.BASE.placing  it is being put in place, or was and may still be taken back
//   .starling.NAME.BASE.old      what was at the path before
//   .starling.NAME.BASE.left     a copy that is out of date since its component left, or was
//                                restored from an older checkpoint
// Each step can be repeated after a crash in the middle of it. One at a time for a component.
class FilePlace {
 public:
  FilePlace(const std::string& component, std::string path);

  const std::string& path() const { return path_; }
  std::string landing() const { return Beside("new"); }
  bool placing() const;

  // Moves what is at the path aside, and the landed tree to it. kFailedPrecondition where more than
  // an empty folder is at the path, unless that is to be replaced.
  absl::Status Put(bool replace = false) const;
  // The path is as it was before Put(), and no trace is left of what landed.
  absl::Status TakeBack() const;
  // After Put(): what it moved aside goes, and so does what an earlier SetAside() left. With
  // `keep_old` what was moved aside stays, as SetAside() leaves it.
  absl::Status Keep(bool keep_old = false) const;
  // The component is elsewhere now: what is at the path is kept under another name, in the place of
  // what was kept before.
  absl::Status SetAside() const;

 private:
  std::string Beside(absl::string_view what) const;
  absl::Status SyncFolder() const;

  std::string path_;
  std::string folder_;
  std::string prefix_;
};

}  // namespace starling::checkpoint
