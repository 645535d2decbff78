#pragma once

#include <functional>
#include <set>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "checkpoint/criu_stream.h"
#include "checkpoint/criu_version.h"
#include "checkpoint/frozen_memory.h"
#include "checkpoint/page_stream.h"
#include "checkpoint/sent_pages.h"

namespace starling::checkpoint {

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
  void Resend(std::span<const PageRun> runs) override;
  absl::Status Stage() override;
  bool rounds_after_stage() const override { return false; }  // the round would be of the same CRIU
  absl::StatusOr<FinalList> Final(PageSink& sink, RoundReport& report) override;

  std::string final_images() const override;

 private:
  // Runs `worker` and takes what CRIU sends meanwhile.
  absl::StatusOr<PageServerResult> Serve(const std::function<absl::Status()>& worker,
                                         const std::string& name, PageSink& sink,
                                         LateFrozenMemory* frozen = nullptr);
  void Forget();
  void Remember(const FinalList& list);

  CriuStream stream_;
  const CriuWorker pre_dump_;
  const CriuDumper dumper_;
  const FrozenMemoryOpener memory_;
  bool staged_ = false;
  int round_ = 0;
  std::string parent_;            // name of the last good round's folder
  std::set<AddressSpace> known_;  // what that round told of
  SentPages sent_;                // at any time
};

}  // namespace starling::checkpoint
