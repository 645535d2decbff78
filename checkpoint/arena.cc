#include "checkpoint/arena.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <thread>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/file.h"
#include "base/status.h"
#include "base/xxh3.h"
#include "checkpoint/criu_images.h"

namespace starling::checkpoint {
namespace {

// Largest piece that one thread copies before it takes the next: large enough for few system calls,
// small enough that threads end together.
constexpr uint64_t kCopyPages = 2048;
constexpr int kMaxVectors = 512;

// Below the folder of the images: the parent image that the arena's own file is the pages of.
constexpr char kBaseFolder[] = "arena";
// Pages whose hashes are taken at once.
constexpr size_t kHashesAtOnce = 256;
constexpr char kArenaFile[] = "memory";
constexpr char kParentLink[] = "parent";  // CRIU's name for it

std::string SpaceName(const AddressSpace& space) {
  return absl::StrCat(space.kind == AddressSpace::Kind::kProcess ? "process " : "shared memory ",
                      space.id);
}

absl::Status CheckRun(const PageRun& run) {
  const uint64_t first = run.address / kPageSize;
  if (run.address % kPageSize != 0 || run.pages == 0 || run.pages > (uint64_t{1} << 52) - first) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "%u pages from address %#x on cannot be a run of pages", run.pages, run.address));
  }
  return absl::OkStatus();
}

}  // namespace

uint64_t HashPages(std::span<const std::byte> bytes, uint64_t* pages) {
  // Chained by blocks, so that nothing is allocated however long the run is.
  std::array<uint64_t, kHashesAtOnce> block;
  uint64_t chain = 0;
  for (size_t at = 0; at < bytes.size();) {
    size_t count = 0;
    for (; count < block.size() && at < bytes.size(); ++count, at += kPageSize) {
      block[count] = Xxh3(bytes.data() + at, kPageSize);
    }
    if (pages != nullptr) pages = std::copy_n(block.begin(), count, pages);
    chain = Xxh3(block.data(), count * sizeof(uint64_t), chain);
  }
  return chain;
}

absl::StatusOr<std::unique_ptr<Arena>> Arena::Create(const Options& options) {
  if (options.chunk_bytes == 0 || options.chunk_bytes % kPageSize != 0 ||
      options.max_bytes < options.chunk_bytes) {
    return absl::InvalidArgumentError(absl::StrCat("an arena cannot have chunks of ",
                                                   options.chunk_bytes, " bytes and at most ",
                                                   options.max_bytes));
  }
  UniqueFd fd;
  if (options.images_dir.empty()) {
    fd.Reset(::memfd_create(options.name.c_str(), MFD_CLOEXEC));
    if (!fd) return ErrnoStatus("memfd_create of an arena");
  } else {
    const std::string folder = absl::StrCat(options.images_dir, "/", kBaseFolder);
    RETURN_IF_ERROR(MakeDirectories(folder, 0700));
    ASSIGN_OR_RETURN(
        fd, OpenFile(absl::StrCat(folder, "/", kArenaFile), O_RDWR | O_CREAT | O_EXCL, 0600));
  }
  // Address space for all chunks to come, so that a run of slots is one piece of memory.
  void* base = ::mmap(nullptr, options.max_bytes, PROT_NONE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (base == MAP_FAILED) return ErrnoStatus("reserve the arena's address space");
  return std::unique_ptr<Arena>(new Arena(std::move(fd), static_cast<std::byte*>(base), options));
}

Arena::Arena(UniqueFd fd, std::byte* base, const Options& options)
    : fd_(std::move(fd)),
      base_(base),
      images_dir_(options.images_dir),
      reserved_(options.max_bytes),
      chunk_slots_(options.chunk_bytes / kPageSize) {}

Arena::~Arena() { ::munmap(base_, reserved_); }

uint64_t Arena::slots() const {
  const std::lock_guard lock(mutex_);
  return slots_;
}

absl::StatusOr<std::span<std::byte>> Arena::AddChunk() {
  const std::lock_guard lock(mutex_);
  return AddChunkLocked();
}

absl::StatusOr<std::span<std::byte>> Arena::AddChunkLocked() {
  const uint64_t start = slots_ * kPageSize;
  const uint64_t size = chunk_slots_ * kPageSize;
  if (start + size > reserved_) {
    return absl::ResourceExhaustedError(
        absl::StrCat("the arena has reached its limit of ", reserved_, " bytes"));
  }
  if (::ftruncate(fd_.get(), static_cast<off_t>(start + size)) != 0) {
    return ErrnoStatus("grow the arena");
  }
  void* chunk = ::mmap(base_ + start, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED,
                       fd_.get(), static_cast<off_t>(start));
  if (chunk == MAP_FAILED) return ErrnoStatus("map a chunk of the arena");
  slots_ += chunk_slots_;
  hashes_.resize(slots_);
  return std::span(static_cast<std::byte*>(chunk), size);
}

absl::StatusOr<std::span<std::byte>> Arena::Slots(uint64_t slot, uint64_t pages) const {
  const std::lock_guard lock(mutex_);
  if (slot > slots_ || pages > slots_ - slot) {
    return absl::OutOfRangeError(
        absl::StrCat("slots ", slot, " to ", slot + pages, " are beyond the arena's ", slots_));
  }
  return std::span(base_ + slot * kPageSize, pages * kPageSize);
}

Arena::Space& Arena::SpaceOf(const AddressSpace& space) {
  const auto [found, fresh] = spaces_.try_emplace(space);
  if (fresh) {
    found->second.number = static_cast<uint32_t>(names_.size());
    names_.push_back(space);
  }
  return found->second;
}

void Arena::Forget(Space& space, uint64_t page, uint64_t pages) {
  for (const auto& old : space.pages.Erase(page, pages)) {
    if (old.value.slot != kZeroSlot) owners_.Erase(old.value.slot, old.count);
  }
}

void Arena::ForgetSlots(uint64_t slot, uint64_t pages) {
  for (const auto& old : owners_.Erase(slot, pages)) {
    spaces_.at(names_[old.value.space]).pages.Erase(old.value.page, old.count);
  }
}

absl::Status Arena::Place(const PageRun& run, uint64_t slot, std::optional<uint64_t> hash) {
  RETURN_IF_ERROR(CheckRun(run));
  ASSIGN_OR_RETURN(const std::span<std::byte> bytes, Slots(slot, run.pages));
  std::vector<uint64_t> hashes(hash ? run.pages : 0);
  const bool intact = !hash || HashPages(bytes, hashes.data()) == *hash;
  const uint64_t page = run.address / kPageSize;
  const std::lock_guard lock(mutex_);
  Space& space = SpaceOf(run.space);
  // Most pages come again to where they were.
  const auto there = space.pages.Find(page);
  const bool in_place = there && there->count >= run.pages && there->value.slot == slot;
  if (intact)
    std::copy(hashes.begin(), hashes.end(), hashes_.begin() + static_cast<ptrdiff_t>(slot));
  hashed_ = hashed_ && hash.has_value();
  promised_.Erase(slot, run.pages);
  if (keeps_changes_) changed_.Assign(slot, run.pages, {});
  if (intact && in_place) return absl::OkStatus();
  Forget(space, page, run.pages);
  ForgetSlots(slot, run.pages);
  if (!intact) {
    return absl::DataLossError(
        absl::StrFormat("%u pages from %#x on of %s did not arrive as they were sent (slot %u)",
                        run.pages, run.address, SpaceName(run.space), slot));
  }
  space.pages.Assign(page, run.pages, {slot});
  owners_.Assign(slot, run.pages, {space.number, page});
  return absl::OkStatus();
}

absl::Status Arena::Promise(const PageRun& run, uint64_t slot) {
  RETURN_IF_ERROR(CheckRun(run));
  RETURN_IF_ERROR(Slots(slot, run.pages).status());
  const uint64_t page = run.address / kPageSize;
  const std::lock_guard lock(mutex_);
  Space& space = SpaceOf(run.space);
  Forget(space, page, run.pages);
  ForgetSlots(slot, run.pages);
  space.pages.Assign(page, run.pages, {slot});
  owners_.Assign(slot, run.pages, {space.number, page});
  promised_.Assign(slot, run.pages, {});
  return absl::OkStatus();
}

absl::Status Arena::Verify(int threads) const {
  // What lies where, in pieces that threads take in turn.
  struct Piece {
    uint64_t slot, pages;
    Owner owner;
  };
  std::vector<Piece> pieces;
  {
    const std::lock_guard lock(mutex_);
    if (!hashed_)
      return absl::FailedPreconditionError("the arena has pages that came without a hash");
    const auto add = [&](const RunMap<Owner>::Run& run) {
      for (uint64_t done = 0; done < run.count; done += kHashesAtOnce) {
        pieces.push_back({run.first + done, std::min<uint64_t>(kHashesAtOnce, run.count - done),
                          run.value.Plus(done)});
      }
    };
    owners_.ForEach([&](const RunMap<Owner>::Run& run) {
      promised_.ForEachPiece(run.first, run.count,
                             [&](uint64_t slot, uint64_t count, const Missing* promised) {
                               const auto owner = run.value.Plus(slot - run.first);
                               if (promised == nullptr) add({slot, count, owner});
                             });
    });
  }
  std::atomic<size_t> next{0};
  std::mutex failing;
  absl::Status failed;
  const auto work = [&] {
    std::array<uint64_t, kHashesAtOnce> hashes;
    for (size_t i = next++; i < pieces.size(); i = next++) {
      const Piece& piece = pieces[i];
      (void)HashPages({base_ + piece.slot * kPageSize, piece.pages * kPageSize}, hashes.data());
      const auto expected = hashes_.begin() + static_cast<ptrdiff_t>(piece.slot);
      const auto [wrong, as_placed] = std::mismatch(
          hashes.begin(), hashes.begin() + static_cast<ptrdiff_t>(piece.pages), expected);
      const auto at = static_cast<uint64_t>(wrong - hashes.begin());
      if (at == piece.pages) continue;
      const std::lock_guard lock(failing);
      failed = absl::DataLossError(absl::StrFormat(
          "page %#x of %s is not what had landed: slot %u of the arena was altered since",
          (piece.owner.page + at) * kPageSize, SpaceName(names_[piece.owner.space]),
          piece.slot + at));
      next = pieces.size();
    }
  };
  std::vector<std::jthread> others;
  for (int i = 1; i < threads; ++i) others.emplace_back(work);
  work();
  others.clear();
  return failed;
}

absl::Status Arena::PlaceZero(const PageRun& run) {
  RETURN_IF_ERROR(CheckRun(run));
  const uint64_t page = run.address / kPageSize;
  const std::lock_guard lock(mutex_);
  Space& space = SpaceOf(run.space);
  Forget(space, page, run.pages);
  space.pages.Assign(page, run.pages, {kZeroSlot});
  return absl::OkStatus();
}

std::optional<SlotRun> Arena::Find(const AddressSpace& space, uint64_t address) const {
  const std::lock_guard lock(mutex_);
  const auto found = spaces_.find(space);
  if (found == spaces_.end()) return std::nullopt;
  const auto run = found->second.pages.Find(address / kPageSize);
  if (!run) return std::nullopt;
  return SlotRun{run->first * kPageSize, run->count, run->value.slot};
}

Arena::Totals Arena::totals() const {
  const std::lock_guard lock(mutex_);
  Totals totals;
  totals.pages = owners_.key_count();
  for (const auto& [name, space] : spaces_) {
    totals.zero_pages += space.pages.key_count();
    totals.runs += space.pages.run_count();
  }
  totals.zero_pages -= totals.pages;
  return totals;
}

// One piece of a pages file: slots that are adjacent in the file, not in the arena.
struct Arena::Copy {
  int file;
  uint64_t offset;  // bytes
  std::vector<iovec> pieces;
  uint64_t pages = 0;
};

namespace {

struct PlannedSpace {
  Pagemap pagemap;
  Pagemap base;  // of the parent image; no entries: there is none
  uint64_t pages = 0;
  std::vector<SlotRun> slots;  // in the file's order
};

// Pages that may be restored on demand, and the mapping they belong to.
struct MappingOf {
  uint64_t number;
  MappingOf Plus(uint64_t) const { return *this; }
  friend bool operator==(const MappingOf&, const MappingOf&) = default;
};
using OnDemand = RunMap<MappingOf>;

absl::StatusOr<OnDemand> ReadOnDemand(const std::string& images_dir, uint64_t pid) {
  const std::string path = absl::StrCat(images_dir, "/", MmFileName(pid));
  ASSIGN_OR_RETURN(const std::string image, ReadFile(path));
  absl::StatusOr<std::vector<LazyMapping>> mappings = LazyMappings(image);
  if (!mappings.ok()) return Annotate(mappings.status(), path);
  OnDemand pages;
  for (const LazyMapping& mapping : *mappings) {
    pages.Assign(mapping.first, mapping.count, {mapping.first});
  }
  return pages;
}

// The list by space, in ascending order of address, adjacent runs joined.
absl::StatusOr<absl::btree_map<AddressSpace, std::vector<PageRun>>> BySpace(const FinalList& list) {
  absl::btree_map<AddressSpace, std::vector<PageRun>> spaces;
  for (const FinalList::Entry& entry : list.entries) {
    std::vector<PageRun>& runs = spaces[entry.run.space];
    if (entry.run.pages == 0) continue;
    RETURN_IF_ERROR(CheckRun(entry.run));
    runs.push_back(entry.run);
  }
  for (auto& [name, runs] : spaces) {
    std::sort(runs.begin(), runs.end(),
              [](const PageRun& a, const PageRun& b) { return a.address < b.address; });
    std::vector<PageRun> joined;
    for (const PageRun& run : runs) {
      if (!joined.empty()) {
        const uint64_t end = joined.back().address + joined.back().pages * kPageSize;
        if (run.address < end) {
          return absl::InvalidArgumentError(absl::StrFormat(
              "the final list names the page at %#x of %s twice", run.address, SpaceName(name)));
        }
        if (run.address == end) {
          joined.back().pages += run.pages;
          continue;
        }
      }
      joined.push_back(run);
    }
    runs = std::move(joined);
  }
  return spaces;
}

absl::Status WriteVectors(int file, uint64_t offset, std::vector<iovec>& pieces) {
  size_t at = 0;
  while (at < pieces.size()) {
    const int count = static_cast<int>(std::min<size_t>(pieces.size() - at, kMaxVectors));
    const ssize_t wrote = ::pwritev(file, &pieces[at], count, static_cast<off_t>(offset));
    if (wrote < 0 && errno == EINTR) continue;
    if (wrote < 0) return ErrnoStatus("write pages into an image");
    if (wrote == 0) return absl::DataLossError("write pages into an image: nothing was written");
    offset += static_cast<uint64_t>(wrote);
    for (auto left = static_cast<size_t>(wrote); left > 0;) {
      const size_t part = std::min(left, pieces[at].iov_len);
      pieces[at].iov_base = static_cast<std::byte*>(pieces[at].iov_base) + part;
      pieces[at].iov_len -= part;
      left -= part;
      if (pieces[at].iov_len == 0) ++at;
    }
  }
  return absl::OkStatus();
}

}  // namespace

// The pages of the space whose slots ascend with their addresses, as many as can be (the heaviest
// ascending sequence of runs). What lies between them in the file belongs to others: a pagemap has
// no way to leave bytes of its file out, so that such a gap is listed at addresses between its
// neighbours, which nobody asks for; where there are too few, the run behind the gap is left out.
Pagemap Arena::BaseOf(const Space& space, Base& base) const {
  struct Link {
    uint64_t slot, page, count;
    uint64_t weight;  // pages of the heaviest sequence that ends here
    int before;       // its last run but this; -1: none
  };
  std::vector<Link> links;
  absl::btree_map<uint64_t, int> best;  // page after a sequence's end: the heaviest such sequence
  owners_.ForEach([&](const RunMap<Owner>::Run& run) {
    if (run.value.space != space.number) return;
    Link link = {run.first, run.value.page, run.count, run.count, -1};
    auto after = best.upper_bound(link.page);
    if (after != best.begin()) {
      link.before = std::prev(after)->second;
      link.weight += links[static_cast<size_t>(link.before)].weight;
    }
    const uint64_t end = link.page + link.count;
    auto at = best.lower_bound(end);
    if (at != best.begin() &&
        links[static_cast<size_t>(std::prev(at)->second)].weight >= link.weight)
      return;
    if (at != best.end() && at->first == end &&
        links[static_cast<size_t>(at->second)].weight >= link.weight)
      return;
    while (at != best.end() && links[static_cast<size_t>(at->second)].weight <= link.weight)
      at = best.erase(at);
    links.push_back(link);
    best[end] = static_cast<int>(links.size()) - 1;
  });
  std::vector<const Link*> chosen;
  for (int i = best.empty() ? -1 : best.rbegin()->second; i >= 0;
       i = links[static_cast<size_t>(i)].before) {
    chosen.push_back(&links[static_cast<size_t>(i)]);
  }
  Pagemap pagemap;
  uint64_t slot = 0;
  uint64_t page = 0;
  for (auto it = chosen.rbegin(); it != chosen.rend(); ++it) {
    const Link& link = **it;
    const uint64_t gap = link.slot - slot;
    if (link.page - page < gap) continue;
    if (gap > 0) pagemap.entries.push_back({page * kPageSize, gap, kPagePresent});
    pagemap.entries.push_back({link.page * kPageSize, link.count, kPagePresent});
    base.Assign(link.page, link.count, {link.slot});
    slot = link.slot + link.count;
    page = link.page + link.count;
  }
  return pagemap;
}

absl::Status Arena::WriteBase(const AddressSpace& name, const Pagemap& pagemap) const {
  const std::string folder = absl::StrCat(images_dir_, "/", kBaseFolder, "/");
  const std::string memory = absl::StrCat(folder, kArenaFile);
  const std::string pages = absl::StrCat(folder, PagesFileName(pagemap.pages_id));
  if (::link(memory.c_str(), pages.c_str()) != 0 && errno != EEXIST)
    return ErrnoStatus(absl::StrCat("make ", pages));
  const std::string path = absl::StrCat(folder, PagemapFileName(name));
  ASSIGN_OR_RETURN(const UniqueFd file, OpenFile(path, O_WRONLY | O_CREAT | O_TRUNC, 0600));
  const std::string bytes = EncodePagemap(pagemap);
  return Annotate(WriteAll(file.get(), bytes.data(), bytes.size()), path);
}

absl::StatusOr<Arena::ImageTotals> Arena::WriteImages(const FinalList& list,
                                                      const std::string& images_dir, int threads,
                                                      LazyIndex* lazy) const {
  ASSIGN_OR_RETURN(const auto spaces, BySpace(list));
  const bool in_place = !images_dir_.empty() && images_dir == images_dir_;
  ImageTotals totals;
  std::vector<std::pair<AddressSpace, PlannedSpace>> plan;
  {
    const std::lock_guard lock(mutex_);
    const RunMap<SlotValue> none;
    for (const auto& space : spaces) {
      // No structured bindings: clang does not let lambdas capture them.
      const auto& name = space.first;
      const auto& runs = space.second;
      const auto found = spaces_.find(name);
      const RunMap<SlotValue>& pages = found == spaces_.end() ? none : found->second.pages;
      PlannedSpace planned;
      planned.pagemap.pages_id = static_cast<uint32_t>(plan.size()) + 1;
      Base base;
      OnDemand on_demand;
      LazyProcess lazy_process;
      if (lazy != nullptr && name.kind == AddressSpace::Kind::kProcess) {
        ASSIGN_OR_RETURN(on_demand, ReadOnDemand(images_dir, name.id));
      }
      if (in_place && found != spaces_.end()) {
        planned.base = BaseOf(found->second, base);
        planned.base.pages_id = planned.pagemap.pages_id;
      }
      const auto add = [&planned](uint64_t first, uint64_t count, uint32_t flags) {
        auto& entries = planned.pagemap.entries;
        const uint64_t address = first * kPageSize;
        if (!entries.empty() && entries.back().flags == flags &&
            entries.back().address + entries.back().pages * kPageSize == address) {
          entries.back().pages += count;
        } else {
          entries.push_back({address, count, flags});
        }
      };
      absl::Status missing;
      constexpr uint64_t kNoPage = ~uint64_t{0};
      uint64_t last_mapping = kNoPage;
      uint64_t unproven = kNoPage;  // first listed page of the mapping, until one is in the arena
      const auto all_away = [&] {
        return absl::FailedPreconditionError(
            absl::StrFormat("all pages of the mapping around %#x of %s are still at the source",
                            unproven * kPageSize, SpaceName(name)));
      };
      for (const PageRun& run : runs) {
        pages.ForEachPiece(
            run.address / kPageSize, run.pages,
            [&](uint64_t first, uint64_t count, const SlotValue* value) {
              if (value == nullptr) {
                if (!missing.ok()) return;
                missing = absl::FailedPreconditionError(absl::StrFormat(
                    "the page at %#x of %s (the first of %u) is part of the component, but is "
                    "neither in the arena nor known to be zero",
                    first * kPageSize, SpaceName(name), count));
                return;
              }
              const auto eager = [&](uint64_t part, uint64_t pages_of_it, const SlotValue* there) {
                const uint64_t slot = value->Plus(part - first).slot;
                if (const auto away = promised_.FindFrom(slot);
                    slot != kZeroSlot && away && away->first < slot + pages_of_it) {
                  missing.Update(absl::FailedPreconditionError(absl::StrFormat(
                      "the page at %#x of %s is still at the source and cannot be restored on "
                      "demand",
                      (part + away->first - slot) * kPageSize, SpaceName(name))));
                }
                if (there != nullptr) {
                  totals.pages_in_place += pages_of_it;
                  add(part, pages_of_it, kPageParent);
                  return;
                }
                planned.slots.push_back({part * kPageSize, pages_of_it, slot});
                planned.pages += pages_of_it;
                (slot == kZeroSlot ? totals.zero_pages : totals.pages_written) += pages_of_it;
                add(part, pages_of_it, kPagePresent);
              };
              on_demand.ForEachPiece(
                  first, count, [&](uint64_t part, uint64_t pages_of_it, const MappingOf* mapping) {
                    if (mapping == nullptr) {
                      base.ForEachPiece(part, pages_of_it, eager);
                      return;
                    }
                    const SlotValue slot = value->Plus(part - first);
                    if (slot.slot == kZeroSlot) {
                      // What is not listed reads as zeros.
                      totals.zero_pages += pages_of_it;
                      return;
                    }
                    totals.pages_lazy += pages_of_it;
                    add(part, pages_of_it, kPageLazy);
                    lazy_process.pages.Assign(part, pages_of_it, slot);
                    if (last_mapping != mapping->number) {
                      if (unproven != kNoPage) missing.Update(all_away());
                      unproven = part;
                      last_mapping = mapping->number;
                    }
                    promised_.ForEachPiece(
                        slot.slot, pages_of_it, [&](uint64_t at, uint64_t n, const Missing* away) {
                          if (away != nullptr) {
                            lazy->missing.Assign(at, n, {});
                          } else if (unproven != kNoPage) {
                            lazy_process.mappings.push_back(part + at - slot.slot);
                            unproven = kNoPage;
                          }
                        });
                  });
            });
      }
      if (unproven != kNoPage) missing.Update(all_away());
      if (!missing.ok()) return missing;
      for (const PageRun& run : list.recent) {
        if (lazy == nullptr || run.space != name) continue;
        lazy_process.recent.push_back({run.address / kPageSize, run.pages});
      }
      if (!lazy_process.pages.empty()) lazy->processes[name.id] = std::move(lazy_process);
      plan.emplace_back(name, std::move(planned));
    }
    totals.pages_left_out =
        owners_.key_count() - totals.pages_written - totals.pages_in_place - totals.pages_lazy;
  }

  ASSIGN_OR_RETURN(const UniqueFd folder, OpenFile(images_dir, O_RDONLY | O_DIRECTORY));
  if (in_place && ::symlinkat(kBaseFolder, folder.get(), kParentLink) != 0 && errno != EEXIST) {
    return ErrnoStatus(absl::StrCat("make ", images_dir, "/", kParentLink));
  }
  std::vector<UniqueFd> files;
  std::vector<Copy> copies;
  for (auto& [name, planned] : plan) {
    if (!planned.base.entries.empty()) RETURN_IF_ERROR(WriteBase(name, planned.base));
    const std::string pagemap_name = PagemapFileName(name);
    const std::string pages_name = PagesFileName(planned.pagemap.pages_id);
    constexpr int kFlags = O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC;
    const UniqueFd pagemap(::openat(folder.get(), pagemap_name.c_str(), kFlags, 0600));
    if (!pagemap) return ErrnoStatus(absl::StrCat("make ", images_dir, "/", pagemap_name));
    const std::string bytes = EncodePagemap(planned.pagemap);
    RETURN_IF_ERROR(Annotate(WriteAll(pagemap.get(), bytes.data(), bytes.size()), pagemap_name));
    UniqueFd file(::openat(folder.get(), pages_name.c_str(), kFlags, 0600));
    if (!file) return ErrnoStatus(absl::StrCat("make ", images_dir, "/", pages_name));
    // Zero pages are not written: the file reads as zeros there.
    if (::ftruncate(file.get(), static_cast<off_t>(planned.pages * kPageSize)) != 0) {
      return ErrnoStatus(absl::StrCat("size ", images_dir, "/", pages_name));
    }
    uint64_t offset = 0;
    for (const SlotRun& run : planned.slots) {
      if (run.slot == kZeroSlot) {
        offset += run.pages * kPageSize;
        continue;
      }
      for (uint64_t done = 0; done < run.pages;) {
        const uint64_t count = std::min(run.pages - done, kCopyPages);
        const bool follows = !copies.empty() && copies.back().file == file.get() &&
                             copies.back().offset + copies.back().pages * kPageSize == offset &&
                             copies.back().pages + count <= kCopyPages &&
                             copies.back().pieces.size() < kMaxVectors;
        if (!follows) copies.push_back({file.get(), offset, {}, 0});
        copies.back().pieces.push_back({base_ + (run.slot + done) * kPageSize, count * kPageSize});
        copies.back().pages += count;
        offset += count * kPageSize;
        done += count;
      }
    }
    files.push_back(std::move(file));
    totals.files += 2;
  }

  std::atomic<size_t> next{0};
  std::mutex error_mutex;
  absl::Status error;
  auto work = [&] {
    for (size_t i; (i = next.fetch_add(1)) < copies.size();) {
      if (absl::Status status = WriteVectors(copies[i].file, copies[i].offset, copies[i].pieces);
          !status.ok()) {
        const std::lock_guard lock(error_mutex);
        error.Update(status);
        next.store(copies.size());
      }
    }
  };
  std::vector<std::thread> helpers;
  for (int i = 1; i < threads && static_cast<size_t>(i) < copies.size(); ++i) {
    helpers.emplace_back(work);
  }
  work();
  for (std::thread& helper : helpers) helper.join();
  if (!error.ok()) return error;
  return totals;
}

}  // namespace starling::checkpoint
