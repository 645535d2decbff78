#pragma once

#include <functional>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/fd.h"
#include "checkpoint/criu_version.h"
#include "checkpoint/frozen_memory.h"
#include "checkpoint/page_server.h"
#include "checkpoint/page_stream.h"

namespace starling::checkpoint {

// What CRIU has to do for one round; carried out by whoever holds the component (the keeper).
struct CriuWork {
  UniqueFd page_server;       // CRIU's end of the page stream; to be closed when CRIU is done
  std::string images_dir;     // absolute; made by the source
  std::string parent_images;  // relative to images_dir; empty: there is none
};

// A pre-dump or the final dump, blocking until CRIU is done. Runs on a thread of the source's
// making while the source receives the pages; must come to an end by itself (a deadline of its
// own).
using CriuWorker = std::function<absl::Status(CriuWork work)>;

// The final dump in two steps, so that CRIU's start does not lie inside the freeze.
struct CriuDumper {
  CriuWorker stage;                    // returns when CRIU is ready to seize the tree
  std::function<absl::Status()> dump;  // as a CriuWorker, of what was staged
};

// For those who do it all in one.
CriuDumper Unstaged(CriuWorker dump);

// Our end of the page stream of one pre-dump or dump of CRIU at a time.
class CriuStream {
 public:
  CriuStream(const CriuVersion& version, std::string folder)
      : version_(version), folder_(std::move(folder)) {}

  const std::string& folder() const { return folder_; }

  // Makes `name` below the folder anew, for CRIU's images, and the stream. `parent`: such a name
  // beside it, or empty.
  absl::StatusOr<CriuWork> Open(const std::string& name, const std::string& parent);

  // Runs `worker` on a thread and takes what CRIU sends meanwhile; returns when both have ended.
  // `before`, where given, is called on this thread when the worker has been started: CRIU waits
  // for it with its first page. An error of it ends both. `frozen`, of a final dump: its
  // CallPages() are not taken from CRIU (PageServerJob's `distrusted`).
  absl::StatusOr<PageServerResult> Serve(const std::string& name,
                                         const std::function<absl::Status()>& worker,
                                         std::function<bool(const AddressSpace&)> has_parent,
                                         PageSink& sink, LateFrozenMemory* frozen = nullptr,
                                         const std::function<absl::Status()>& before = {});

 private:
  const CriuVersion version_;
  const std::string folder_;
  UniqueFd ours_;
};

}  // namespace starling::checkpoint
