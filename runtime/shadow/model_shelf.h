#pragma once

#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace starling::shadow {

// What the shadows of this host's components have learned, as bytes: kept in files over restarts of
// the agent, and handed over when a component moves. What it holds may have come from elsewhere; it
// is of bounded size, and whether it is any good only Shadow::Restore says. Thread-safe.
class ModelShelf {
 public:
  using Models = std::vector<std::string>;  // as of Shadow::Save
  static constexpr size_t kMostModels = 16;
  static constexpr size_t kMostBytes = 64 * 1024;  // of one model

  // Files are FOLDER/NAME.models. The folder is made.
  static absl::StatusOr<std::unique_ptr<ModelShelf>> Open(std::string folder);

  // Empty when nothing is known.
  Models Get(const std::string& component) const;
  // kInvalidArgument for more, or larger ones, than any shadow has.
  absl::Status Put(const std::string& component, Models models);
  // Forgets, here and on disk, what is not `wanted` (which may not call back).
  void KeepOnly(const std::function<bool(const std::string& component)>& wanted);
  // Writes what changed since the last call.
  absl::Status Flush();

 private:
  explicit ModelShelf(std::string folder) : folder_(std::move(folder)) {}
  std::string PathOf(const std::string& component) const;

  const std::string folder_;
  mutable std::mutex mutex_;
  std::map<std::string, Models> models_;
  std::set<std::string> changed_;
};

}  // namespace starling::shadow
