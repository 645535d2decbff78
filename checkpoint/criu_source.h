#pragma once

#include <functional>
#include <set>
#include <string>

#include "absl/container/btree_map.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/fd.h"
#include "checkpoint/criu_version.h"
#include "checkpoint/frozen_memory.h"
#include "checkpoint/page_server.h"
#include "checkpoint/page_stream.h"
#include "checkpoint/run_map.h"

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

// CRIU itself as the tracker of what changed (soft-dirty bits) and as the reader.
class CriuSource : public PageSource {
 public:
  // `folder`: absolute, existing, empty, best on tmpfs. Each round's images go into a folder of
  // their own below it ("round-1", ...; only the last one is kept, as the next one's parent), the
  // final dump's into "final".
  // `memory` opens the component's memory once the final dump is done, with the component frozen
  // again and alive; without it a page that was mapped but never sent fails the final dump.
  CriuSource(const CriuVersion& version, std::string folder, CriuWorker pre_dump, CriuDumper dumper,
             FrozenMemoryOpener memory);

  const char* tracker_name() const override { return "criu-predump"; }
  // A round that failed leaves pages unsent of which CRIU knows no more that they have changed:
  // the next one sends everything.
  absl::StatusOr<RoundReport> Round(PageSink& sink) override;
  absl::Status Stage() override;
  absl::StatusOr<FinalList> Final(PageSink& sink, RoundReport& report) override;

  // The skeleton's folder: all images but the memory. Its link "parent" is gone, since the memory
  // images made from the arena need no parent.
  std::string final_images() const;

 private:
  struct Sent {
    Sent Plus(uint64_t) const { return {}; }
    friend bool operator==(const Sent&, const Sent&) = default;
  };

  // Makes the folder and the page stream of a pre-dump or dump; ours_ is our end of it.
  absl::StatusOr<CriuWork> Open(const std::string& name);
  // Runs `worker` and takes what CRIU sends meanwhile.
  absl::StatusOr<PageServerResult> Serve(const std::function<absl::Status()>& worker,
                                         const std::string& name, PageSink& sink);
  void Forget();
  void Remember(const FinalList& list);
  // Makes good for what CRIU took for unchanged and is not (see FrozenMemory).
  absl::StatusOr<FinalList> Settle(const FinalList& list, PageSink& sink, RoundReport& report);
  absl::Status SendUnsent(const FrozenMemory& memory, const PageRun& run, PageSink& sink,
                          RoundReport& report);

  const CriuVersion version_;
  const std::string folder_;
  const CriuWorker pre_dump_;
  const CriuDumper dumper_;
  const FrozenMemoryOpener memory_;
  UniqueFd ours_;
  bool staged_ = false;
  int round_ = 0;
  std::string parent_;                                // name of the last good round's folder
  std::set<AddressSpace> known_;                      // what that round told of
  absl::btree_map<AddressSpace, RunMap<Sent>> sent_;  // pages that were sent at any time
};

}  // namespace starling::checkpoint
