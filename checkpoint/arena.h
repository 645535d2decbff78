#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "absl/container/btree_map.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/fd.h"
#include "checkpoint/criu_images.h"
#include "checkpoint/lazy_index.h"
#include "checkpoint/page_stream.h"
#include "checkpoint/run_map.h"
#include "checkpoint/slot_map.h"

namespace starling::checkpoint {

// Of a run of whole pages: what the source announces and the target checks. XXH3 (64 bits, seed 0)
// of each page; of every 256 such hashes, one after the other, XXH3 again, with the result for
// those before them as its seed (0 for the first). `pages`, if given, receives the hash of each
// page.
uint64_t HashPages(std::span<const std::byte> bytes, uint64_t* pages = nullptr);

// The target's store of a ghost's memory: the latest content of every page in one memfd, made of
// chunks of equal size that are granted one after another, and an index that says which page of the
// component is in which slot. The source decides the slots (SlotMap) and writes to them from afar;
// what has landed is announced with its hash and only then indexed. There is no older content and
// no chain of parents.
//
// Thread-safe: any public call from any thread, except that nothing may land in a slot while it is
// being placed or written to an image.
class Arena {
 public:
  struct Options {
    std::string name = "arena";              // seen in /proc/PID/maps as memfd:NAME
    uint64_t chunk_bytes = 64u << 20;        // a multiple of the page size
    uint64_t max_bytes = uint64_t{1} << 40;  // address space reserved, not memory
    // Folder of the images to come, on a tmpfs. When given, the arena is a file below it instead of
    // a memfd, and WriteImages() into that folder lets CRIU read most pages where they are.
    std::string images_dir;
  };
  static absl::StatusOr<std::unique_ptr<Arena>> Create(const Options& options);
  ~Arena();
  Arena(const Arena&) = delete;
  Arena& operator=(const Arena&) = delete;

  // Adds one chunk. Its memory is where it is for as long as the arena lives, right behind the
  // chunk before; to be registered with the fabric, and deregistered before the arena goes. Errors:
  // kResourceExhausted at max_bytes or when there is no memory.
  absl::StatusOr<std::span<std::byte>> AddChunk();

  uint64_t slots() const;  // granted so far
  uint64_t chunk_slots() const { return chunk_slots_; }
  int fd() const { return fd_.get(); }  // memfd: slot s is at offset s * kPageSize

  // Memory of granted slots. Errors: kOutOfRange.
  absl::StatusOr<std::span<std::byte>> Slots(uint64_t slot, uint64_t pages) const;

  // The run's pages have landed in the slots from `slot` on. Whatever page was in these slots
  // before is no longer in the arena. Without `hash` they are known to be right, and not looked at.
  // Errors: kDataLoss if their hash is not `hash` (neither the run nor what was there is indexed
  // any more), kOutOfRange for slots that were not granted, kInvalidArgument for an impossible run.
  absl::Status Place(const PageRun& run, uint64_t slot, std::optional<uint64_t> hash);

  // Whether every page is still what was placed; nothing may land meanwhile. kDataLoss names the
  // first page that was found altered; kFailedPrecondition where some were placed without a hash.
  absl::Status Verify(int threads) const;

  // The run reads as zeros.
  absl::Status PlaceZero(const PageRun& run);

  // The run's pages will come into the slots from `slot` on, but are not there yet: until then only
  // a restore on demand can do without them. Errors as Place()'s.
  absl::Status Promise(const PageRun& run, uint64_t slot);

  // From here on CatchUp() of another arena can be told what landed since it was last called.
  void KeepChanges();

  // Makes this arena, of the same size of chunks, a copy of `from`, which keeps its changes and
  // into which nothing lands meanwhile: only slots are copied that something landed in since.
  // Returns how many. Errors: those of AddChunk(); kFailedPrecondition for another size, or where a
  // page was only promised. Nothing of this arena can be used after an error.
  absl::StatusOr<uint64_t> CatchUp(Arena& from);

  // Where the page at `address` is: a run from that page on with its slots (kZeroSlot: zeros), or
  // nothing: not in the arena.
  std::optional<SlotRun> Find(const AddressSpace& space, uint64_t address) const;

  struct Totals {
    uint64_t pages = 0;  // in slots
    uint64_t zero_pages = 0;
    uint64_t runs = 0;
  };
  Totals totals() const;

  // Makes the images of an eager restore of exactly what the list says: for each of its spaces a
  // pagemap and a pages file in `images_dir` (a folder, best on tmpfs; existing files are
  // replaced). What the arena has beyond the list is left out. Pages known to be zero are holes of
  // the files. `threads` copy at once. Errors: kFailedPrecondition naming the first listed page
  // that is neither in the arena nor known to be zero (nothing is written then), or that was only
  // promised and cannot be restored on demand; kInvalidArgument for a list that names a page twice.
  //
  // In Options::images_dir only pages are copied that CRIU cannot read in place: the arena's file
  // is given to it as the pages file of a parent image, and such a file has its pages in ascending
  // order of address. A source that sends its first round in that order gets slots in that order,
  // so that what is copied is what was mapped later.
  struct ImageTotals {
    uint64_t pages_in_place = 0;
    uint64_t pages_written = 0;
    uint64_t zero_pages = 0;
    uint64_t pages_lazy = 0;
    uint64_t pages_left_out = 0;  // in the arena but not in the list
    uint32_t files = 0;
  };
  //
  // `lazy`, if given, receives the pages of processes that can be restored on demand (see
  // LazyMappings; their mm images must be in `images_dir`); the pagemaps only name them. Of each
  // mapping that has such pages, one has to be in the arena.
  absl::StatusOr<ImageTotals> WriteImages(const FinalList& list, const std::string& images_dir,
                                          int threads, LazyIndex* lazy = nullptr) const;

 private:
  struct Owner {
    uint32_t space;  // index into names_
    uint64_t page;
    Owner Plus(uint64_t n) const { return {space, page + n}; }
    friend bool operator==(const Owner&, const Owner&) = default;
  };
  struct Space {
    uint32_t number = 0;
    RunMap<SlotValue> pages;
  };
  struct Copy;
  // Pages that lie in the arena's file as in a pages file: page to slot.
  using Base = RunMap<SlotValue>;

  Pagemap BaseOf(const Space& space, Base& base) const;
  absl::Status WriteBase(const AddressSpace& name, const Pagemap& pagemap) const;

  Arena(UniqueFd fd, std::byte* base, const Options& options);
  Space& SpaceOf(const AddressSpace& space);
  void Forget(Space& space, uint64_t page, uint64_t pages);
  void ForgetSlots(uint64_t slot, uint64_t pages);
  absl::StatusOr<std::span<std::byte>> AddChunkLocked();

  const UniqueFd fd_;
  std::byte* const base_;
  const std::string images_dir_;
  const uint64_t reserved_;
  const uint64_t chunk_slots_;

  mutable std::mutex mutex_;  // guards all below
  uint64_t slots_ = 0;
  std::vector<uint64_t> hashes_;  // of each slot's page as it was placed
  bool hashed_ = true;            // all that were placed
  absl::btree_map<AddressSpace, Space> spaces_;
  std::vector<AddressSpace> names_;
  // Slot to page, so that a slot that changes hands is nobody else's any more.
  RunMap<Owner> owners_;
  RunMap<Missing> promised_;  // of these slots
  bool keeps_changes_ = false;
  RunMap<Missing> changed_;  // slots, since the last CatchUp()
};

}  // namespace starling::checkpoint
