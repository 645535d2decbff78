#pragma once

#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/clock.h"
#include "checkpoint/file_landing.h"
#include "checkpoint/file_tree.h"
#include "runtime/proto/starling.pb.h"

// The files that a component ships, on their way: in rounds while it runs, the last one inside the
// freeze, as its memory.

namespace starling::migration {

// Where the shipped paths of a component are, and what lies beside them.
std::vector<checkpoint::FilePlace> PlacesOf(const v1::ComponentSpec& spec);

// Each of these does it for all paths, whatever becomes of one; the first error is the result.
absl::Status TakeBack(const v1::ComponentSpec& spec);
absl::Status Keep(const v1::ComponentSpec& spec, bool keep_old = false);
absl::Status SetAside(const v1::ComponentSpec& spec);

// The source's end. Used by one thread at a time.
class FileSender {
 public:
  // One stream of pieces to the target, the last one inside the freeze: `write` hands one over,
  // false when the stream has broken. Returns when the target has all of them, with its answer.
  using Write = std::function<bool(const v1::FilePiece&)>;
  using Stream =
      std::function<absl::Status(bool last, const std::function<absl::Status(const Write&)>&)>;

  // `wanted` is asked again and again; its error ends a round.
  static absl::StatusOr<std::unique_ptr<FileSender>> Create(std::string migration_id,
                                                            const v1::ComponentSpec& spec,
                                                            const std::string& cgroup,
                                                            Stream stream,
                                                            std::function<absl::Status()> wanted);

  // Sends what changed; `last`: the component is frozen, and what the trees are is sent too.
  absl::Status Round(bool last);
  uint64_t bytes_sent() const { return bytes_sent_; }

 private:
  FileSender() = default;
  absl::Status Send(const Write& write, bool last);

  std::string migration_id_;
  Stream stream_;
  std::function<absl::Status()> wanted_;
  uint64_t seed_ = 0;
  std::vector<checkpoint::FileTracker> trackers_;
  uint64_t bytes_sent_ = 0;
};

// The target's end. Thread-safe.
class FileReceiver {
 public:
  explicit FileReceiver(const v1::ComponentSpec& spec);

  // Errors: kDataLoss for what did not arrive as it was sent, or leads out of its tree;
  // kFailedPrecondition once closed.
  absl::Status Take(const v1::FilePiece& piece);
  // At the end of a stream: what came is on the disk.
  absl::Status Sync();
  uint64_t bytes() const;

  // Puts the trees in place, for the component to be restored on. kFailedPrecondition unless all
  // of them are whole.
  absl::Status Put();
  // Nothing is taken any more.
  void Close();

 private:
  struct Tree {
    std::unique_ptr<checkpoint::FileLanding> landing;
    checkpoint::FileTree entries;
    bool whole = false;
  };

  mutable std::mutex mutex_;
  const v1::ComponentSpec spec_;
  std::vector<Tree> trees_;
  bool closed_ = false;
};

}  // namespace starling::migration
