#pragma once

#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "absl/container/btree_map.h"
#include "absl/container/btree_set.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/token_bucket.h"
#include "checkpoint/criu_stream.h"
#include "checkpoint/criu_version.h"
#include "checkpoint/frozen_memory.h"
#include "checkpoint/page_hashes.h"
#include "checkpoint/page_stream.h"
#include "checkpoint/sent_pages.h"
#include "checkpoint/tracker.h"

namespace starling::checkpoint {

// Of the pages that were written before this list, those that will be written again soon: they are
// in the list before it as well. None where the two lists, of a process of `resident` pages, share
// hardly more than lists of their length do by chance: writes fall anywhere then, and to leave such
// pages out would only have more of them stale when the component is frozen. Sorted ranges. Pure.
std::vector<PageRange> HotPages(const std::vector<PageRange>& changed,
                                const std::vector<PageRange>& before, uint64_t resident);

// When to list again in a round, in seconds since the last list, which took `cost_s`. A page that
// is written after a list and before the round sends it is sent in vain once more by the next one.
// Of `resident` pages, all of which are sent in turn and written to at random, that wastes
// written_per_s * interval / (2 * resident) of the time, and lists take cost_s / interval of it:
// least in sum at sqrt(2 * cost_s * resident / written_per_s). What is sent in vain makes the next
// rounds longer as well; a list has the component pause, or fault again. Pure.
double ListAgainAfter_s(double cost_s, uint64_t resident, double written_per_s);

// Memory that stays out of CRIU: rounds are listed by a tracker and read from outside, straight
// into the sink. A page that was written before each of two rounds in a row is hot: it is left for
// the last one for as long as every further list has it. CRIU carries only the skeleton, and what
// trackers do not own (shared memory, huge pages): its final dump is told that it has a parent, and
// finds every other page unchanged.
class MemorySource : public PageSource {
 public:
  struct Options {
    CriuVersion version;
    std::string folder;               // as CriuSource's
    int threads = 1;                  // that read, as CaptureOptions'
    double max_rate_bytes_per_s = 0;  // of rounds, not of the final one; 0: no limit
    // Asked all the while, instead of the limit above, where given: it may change at any time.
    std::function<double()> max_rate;
    // Final() may be followed by further rounds, of which each sends what was written since, where
    // the tracker goes on. Without, and with others, the next round sends everything.
    bool goes_on = false;
    // Asked after each piece that a thread has read, by one at a time: how long it shall rest after
    // so much work. May be null.
    std::function<Duration(uint64_t bytes, Duration worked)> hold_back;
    // Longest that the final round's pages may take to land before CRIU's are sent after them.
    Duration flush_timeout = std::chrono::seconds(120);
  };
  MemorySource(Options options, std::unique_ptr<Tracker> tracker, CriuDumper dumper,
               FrozenMemoryOpener memory);

  const char* tracker_name() const override { return tracker_->name(); }
  // After a round that failed the next one sends everything.
  absl::StatusOr<RoundReport> Round(PageSink& sink) override;
  void Resend(std::span<const PageRun> runs) override;
  absl::Status Stage() override;
  bool rounds_after_stage() const override { return true; }
  void HoldBack(PageSink& sink) override { held_back_ = &sink; }
  absl::StatusOr<FinalList> Final(PageSink& sink, RoundReport& report) override;

  std::string final_images() const override;

 private:
  // Of the component's tracked memory, what is asked of a list within a round.
  struct Writes {
    TimePoint listed;          // when the last list was
    Duration cost{};           // what it took
    uint64_t resident = 0;     // pages
    double written_per_s = 0;  // pages, between the last two lists,
    bool known = false;        // if there were two
  };
  // Between two parts of a round: lists again if that is worth it.
  absl::Status ListAgain(const AddressSpace& space, std::span<const PageRange> unsent,
                         RoundReport& report);
  void Learn(const MemoryChanges& changes, TimePoint began, Duration took);

  // Sends what changed, puts as zeros what is gone, and adds to the report.
  absl::Status Send(const MemoryChanges& changes, bool frozen, PageSink& sink, RoundReport& report);
  absl::Status SendProcess(const ProcessChanges& process, bool frozen, PageSink& sink,
                           RoundReport& report);
  absl::Status PutGone(const AddressSpace& space, std::span<const PageRange> ranges,
                       PageSink& sink);
  std::vector<PageRange> SentRanges(const AddressSpace& space) const;
  void Remember(const AddressSpace& space, const std::vector<PageRange>& ranges);
  void Forget();
  // What CRIU sent beside us is in the sink, and we do not know with which content.
  void ForgetSentByOthers(const FinalList& list);
  Duration Pause(uint64_t bytes);

  const Options options_;
  const std::unique_ptr<Tracker> tracker_;
  const CriuDumper dumper_;
  const FrozenMemoryOpener memory_;
  CriuStream stream_;
  double rate_limit_;
  TokenBucket rate_;
  PageHashes hashes_;  // of what was sent, where the tracker is not exact
  SentPages sent_;
  // Of each process: what the list before had as written, unless that was everything; and which of
  // it was left for the last round, because it had been written in the list before that as well.
  struct Recent {
    std::vector<PageRange> changed;
    std::vector<PageRange> deferred;
    std::vector<PageRange> again;  // written after the last round had sent it, before that ended
  };
  absl::btree_map<AddressSpace, Recent> recent_;
  // Spaces that became another process's in the middle of a round: the last one, and this one.
  absl::btree_set<AddressSpace> renewed_, renewed_now_;
  Writes writes_;
  TimePoint round_listed_;             // the round's first list
  std::vector<PageRun> written_last_;  // for the final list
  PageSink* held_back_ = nullptr;
  bool staged_ = false;
};

}  // namespace starling::checkpoint
