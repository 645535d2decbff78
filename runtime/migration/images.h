#pragma once

#include <map>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "base/fd.h"
#include "runtime/proto/starling.pb.h"

// The skeleton of a component on its way: CRIU's image files without memory, in a folder on the run
// folder's tmpfs.

namespace starling::migration {

// Longest part of a component's standard output that travels with it.
inline constexpr size_t kLogTailBytes = 1u << 20;
// A skeleton larger than this is refused by the target: something else than a skeleton is being
// sent.
inline constexpr uint64_t kMaxImageBytes = uint64_t{1} << 30;

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
