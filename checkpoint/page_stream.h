#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/clock.h"

// The seam between memory and wire. A PageSource knows what changed in a component and reads it; a
// PageSink takes pages to where the ghost is kept. `runtime/migration` is the one place that joins
// a source to a sink made of the transport; neither side knows the other.

namespace starling::checkpoint {

inline constexpr size_t kPageSize = 4096;

// What a page belongs to, by the component's own numbering, so that it means the same on every
// host: a process (its pid inside the component's pid namespace) or an anonymous shared memory
// object (CRIU's shmem id).
struct AddressSpace {
  enum class Kind : uint8_t { kProcess = 1, kSharedMemory = 2 };
  Kind kind = Kind::kProcess;
  uint64_t id = 0;
  friend auto operator<=>(const AddressSpace&, const AddressSpace&) = default;
};

// `pages` adjacent pages from `address` on (a multiple of kPageSize; an offset for shared memory).
struct PageRun {
  AddressSpace space;
  uint64_t address = 0;
  uint64_t pages = 0;
  friend bool operator==(const PageRun&, const PageRun&) = default;
};

// One thread's way to where pages go.
class PageLane {
 public:
  virtual ~PageLane() = default;

  // Room for up to `pages` pages in memory that the lane can send from without another copy; the
  // span may be shorter than asked for, never empty. It belongs to the caller until the next call
  // of Put(), PutAll() or Discard(), one at a time.
  virtual absl::StatusOr<std::span<std::byte>> Acquire(size_t pages) = 0;

  // Sends run.pages pages from the start of the span last acquired. Returns before they have
  // landed.
  virtual absl::Status Put(const PageRun& run) = 0;

  // The same for several runs whose pages lie one after the other from the start of the span on.
  virtual absl::Status PutAll(std::span<const PageRun> runs) = 0;

  // Gives the span last acquired back unused.
  virtual void Discard() = 0;

  // The run reads as zeros now (given back, or never written); no bytes are sent.
  virtual absl::Status PutZero(const PageRun& run) = 0;
};

// Where pages go. Itself a lane, that uses all there is, for one thread at a time. Between two
// flushes a page is put once.
class PageSink : public PageLane {
 public:
  // Lanes that threads may use beside one another, while nobody uses the sink itself. Valid as long
  // as the sink.
  virtual std::span<PageLane* const> lanes() = 0;

  // Waits until every page put so far is at the target and its hash was checked there. Returns what
  // did not come through whole: it counts as never sent. Used by nobody else meanwhile.
  virtual absl::StatusOr<std::vector<PageRun>> Flush(Deadline deadline) = 0;
};

// One pass over a component's memory.
struct RoundReport {
  uint64_t pages_sent = 0;
  uint64_t pages_zero = 0;
  uint64_t pages_resent = 0;  // of a final round: damaged on their way
  // Written in each of the last rounds, and left for the last one.
  uint64_t pages_deferred = 0;
  uint64_t pages_unchanged = 0;  // known by the tracker not to have changed since the last round
  Duration elapsed{};
  Duration paused{};  // time within `elapsed` in which the component could not run

  // Where the time went, for those who know: to list what changed; to read that and hand it to the
  // sink (which waits for a link that is slower). The rest is CRIU's.
  Duration listing{};
  Duration sending{};
  Duration held_back{};  // of that, by limits of the rate and for the component's sake
  // Of a final round's pages_sent, what came from CRIU: what no tracker owns, and of that what is
  // shared memory, which it sends whole.
  uint64_t pages_from_criu = 0;
  uint64_t pages_shared = 0;
  // Of which all has to be sent in every round, because their writes are not known.
  uint32_t processes_unwatched = 0;
  // How often what was written was listed: more than once in a long round, so that what is written
  // before it is sent is not sent twice. And how long after the round's first list, on average over
  // all pages, that list was after which a page was sent: what the next round has was written since.
  uint32_t lists = 1;
  Duration listed_after{};
};

// The final content as the checkpointer lists it: the authority on what the restored component has.
// Runs are in CRIU's order (ascending address within a space). A run of no pages says that the
// space exists and has none.
struct FinalList {
  struct Entry {
    PageRun run;
    bool in_arena_before =
        false;  // not sent in the final round: the sink must have it from an earlier one
  };
  std::vector<Entry> entries;
  // What was written last, as far as the source knows: what a restore on demand may put in place
  // first. A hint, the most recently written first, not all of it, and possibly with pages that no
  // entry has.
  std::vector<PageRun> recent;
};

// Where pages come from: a tracker of what changed and a reader. Rounds run while the component
// runs; Final runs once, while it is frozen. Used by one thread at a time.
class PageSource {
 public:
  virtual ~PageSource() = default;
  virtual const char* tracker_name()
      const = 0;  // for reports: "criu-predump", "pagemap-scan", "soft-dirty", ...
  // Its pages may still be on their way.
  virtual absl::StatusOr<RoundReport> Round(PageSink& sink) = 0;
  // What a flush after a round returned: to be sent again.
  virtual void Resend(std::span<const PageRun> runs) = 0;
  // Does what of the final round can be done before the freeze. The component still runs, and has
  // to be frozen soon. Final() does it itself where it was not called.
  virtual absl::Status Stage() = 0;
  // Whether rounds are possible between Stage() and Final().
  virtual bool rounds_after_stage() const = 0;
  // What Final() reads by itself goes to `sink` instead of its own: pages that may stay behind for
  // a while, the most recently written first. Zeros go there as well. `sink` is used by Final()
  // alone. Sources whose pages come from CRIU have none of that kind.
  virtual void HoldBack(PageSink& /*sink*/) {}
  // Sends what is left and says what the whole is. The skeleton images are left in the folder the
  // source was made with.
  virtual absl::StatusOr<FinalList> Final(PageSink& sink, RoundReport& report) = 0;

  // The skeleton's folder: all images but the memory. Its link "parent" is gone, since the memory
  // images made from the arena need no parent.
  virtual std::string final_images() const = 0;
};

}  // namespace starling::checkpoint
