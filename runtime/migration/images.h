#pragma once

#include <map>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "base/fd.h"
#include "runtime/proto/starling.pb.h"

// A component on its way: CRIU's image files, and at the target the arena beside them, in folders
// on a tmpfs.

namespace starling::migration {

// Longest part of a component's standard output that travels with it.
inline constexpr size_t kLogTailBytes = 1u << 20;
// A skeleton larger than this is refused by the target: something else than a skeleton is being
// sent.
inline constexpr uint64_t kMaxImageBytes = uint64_t{1} << 30;

// Makes RUN_DIR/images a tmpfs of its own, unless it is one already or has something in it. An
// arena on it is made of huge pages where the kernel has them for tmpfs: to clear, to map and to
// pin 2 MiB costs little more than 4 KiB. And it may be as large as memory, where a system's /run
// is often a tenth of that. Not thread-safe. Errors: kPermissionDenied and the like where mounting
// is not allowed; RUN_DIR/images can be used all the same.
absl::Status MountImages(const std::string& run_dir);

// RUN_DIR/images/MIGRATION.WAY, where way is "out" at the source and "in" at the target.
std::string ImagesPath(const std::string& run_dir, const std::string& migration_id,
                       absl::string_view way);

// False for what the target makes itself or does not need: pagemaps, pages, logs, statistics.
bool IsSkeletonImage(const std::string& file);

std::string LogPath(const std::string& log_dir, const std::string& component);

// The end of the file, empty when there is none.
std::string ReadLogTail(const std::string& path);

// Takes the pieces of a stream of images into `folder`, which exists. Not thread-safe.
class ImageReceiver {
 public:
  explicit ImageReceiver(std::string folder) : folder_(std::move(folder)) {}

  // Errors: kInvalidArgument for a name that is not a plain file name, kDataLoss for a hash that
  // does not fit, kResourceExhausted beyond kMaxImageBytes.
  absl::Status Take(const v1::ImagePiece& piece);
  // kDataLoss when a file has been begun and not ended.
  absl::Status Finish() const;
  uint64_t bytes() const { return bytes_; }

 private:
  std::string folder_;
  std::map<std::string, std::string> open_;
  uint64_t bytes_ = 0;
};

}  // namespace starling::migration
