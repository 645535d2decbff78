#include "checkpoint/arena.h"

#include <gtest/gtest.h>
#include <sys/stat.h>

#include <cstring>
#include <filesystem>
#include <map>
#include <random>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "base/file.h"
#include "checkpoint/criu_images.h"
#include "checkpoint/local_sink.h"

namespace starling::checkpoint {
namespace {

constexpr AddressSpace kOne{AddressSpace::Kind::kProcess, 1};
constexpr AddressSpace kTwo{AddressSpace::Kind::kProcess, 22};
constexpr AddressSpace kShared{AddressSpace::Kind::kSharedMemory, 1};

PageRun Pages(const AddressSpace& space, uint64_t page, uint64_t pages) {
  return {space, page * kPageSize, pages};
}

Arena::Options Small() { return {.chunk_bytes = 16 * kPageSize, .max_bytes = 1024 * kPageSize}; }

// The content of a page told by one number.
void Fill(std::span<std::byte> page, uint32_t content) {
  for (size_t i = 0; i < page.size(); i += sizeof(content)) {
    std::memcpy(page.data() + i, &content, sizeof(content));
  }
}

class ArenaTest : public ::testing::Test {
 protected:
  void SetUp() override {
    char name[] = "/tmp/starling-arena-XXXXXX";
    ASSERT_NE(::mkdtemp(name), nullptr);
    folder_ = name;
    arena_ = Arena::Create(Small()).value();
  }
  void TearDown() override { ASSERT_TRUE(RemoveTree(folder_).ok()); }

  void PutPages(LocalSink& sink, const AddressSpace& space, uint64_t page,
                const std::vector<uint32_t>& contents) {
    const auto room = sink.Acquire(contents.size()).value();
    ASSERT_EQ(room.size(), contents.size() * kPageSize);
    for (size_t i = 0; i < contents.size(); ++i) {
      Fill(room.subspan(i * kPageSize, kPageSize), contents[i]);
    }
    ASSERT_TRUE(sink.Put(Pages(space, page, contents.size())).ok());
  }

  static uint32_t ContentAt(const std::string& pages, size_t offset) {
    uint32_t content = 0;
    EXPECT_LE(offset + kPageSize, pages.size());
    std::memcpy(&content, pages.data() + offset, sizeof(content));
    EXPECT_EQ(std::memcmp(pages.data() + offset, pages.data() + offset + 4, kPageSize - 4), 0);
    return content;
  }

  // One image as CRIU reads it: entries ascend, the pages file has the pages of the present ones
  // one after another, and those of the parent's are looked up there.
  std::map<uint64_t, uint32_t> ReadImages(const AddressSpace& space) {
    const std::string pagemap_path = absl::StrCat(folder_, "/", PagemapFileName(space));
    const Pagemap pagemap = DecodePagemap(ReadFile(pagemap_path).value()).value();
    const std::string pages =
        ReadFile(absl::StrCat(folder_, "/", PagesFileName(pagemap.pages_id))).value();
    std::map<uint64_t, uint32_t> contents;
    size_t offset = 0;
    uint64_t last_end = 0;
    uint32_t last_flags = 0;
    for (const PagemapEntry& entry : pagemap.entries) {
      EXPECT_TRUE(entry.flags == kPagePresent || entry.flags == kPageParent);
      EXPECT_TRUE(contents.empty() || entry.address > last_end || entry.flags != last_flags)
          << "not ascending, or not joined";
      last_end = entry.address + entry.pages * kPageSize;
      last_flags = entry.flags;
      for (uint64_t i = 0; i < entry.pages; ++i) {
        const uint64_t page = entry.address / kPageSize + i;
        if (entry.flags == kPageParent) {
          contents[page] = ReadParent(space, page);
        } else {
          contents[page] = ContentAt(pages, offset);
          offset += kPageSize;
        }
      }
    }
    EXPECT_EQ(offset, pages.size());
    return contents;
  }

  uint32_t ReadParent(const AddressSpace& space, uint64_t page) {
    const std::string parent = absl::StrCat(folder_, "/parent/");
    const Pagemap pagemap =
        DecodePagemap(ReadFile(parent + PagemapFileName(space)).value()).value();
    size_t offset = 0;
    uint64_t last_end = 0;
    for (const PagemapEntry& entry : pagemap.entries) {
      EXPECT_GE(entry.address, last_end) << "not ascending";
      last_end = entry.address + entry.pages * kPageSize;
      const uint64_t first = entry.address / kPageSize;
      if (page >= first && page < first + entry.pages) {
        return ContentAt(ReadFile(parent + PagesFileName(pagemap.pages_id)).value(),
                         offset + (page - first) * kPageSize);
      }
      offset += entry.pages * kPageSize;
    }
    ADD_FAILURE() << "page " << page << " is not in the parent image";
    return 0;
  }

  std::string folder_;
  std::unique_ptr<Arena> arena_;
};

TEST_F(ArenaTest, GrowsByChunksThatStayInOnePiece) {
  const auto first = arena_->AddChunk().value();
  const auto second = arena_->AddChunk().value();
  EXPECT_EQ(first.data() + first.size(), second.data());
  EXPECT_EQ(arena_->slots(), 32u);
  EXPECT_EQ(arena_->Slots(10, 20)->data(), first.data() + 10 * kPageSize);
  EXPECT_EQ(arena_->Slots(30, 3).status().code(), absl::StatusCode::kOutOfRange);
  EXPECT_EQ(arena_->Slots(~0ull, 2).status().code(), absl::StatusCode::kOutOfRange);
  struct stat info {};
  ASSERT_EQ(::fstat(arena_->fd(), &info), 0);
  EXPECT_EQ(info.st_size, 32 * static_cast<off_t>(kPageSize));
  while (arena_->slots() < 1024) ASSERT_TRUE(arena_->AddChunk().ok());
  EXPECT_EQ(arena_->AddChunk().status().code(), absl::StatusCode::kResourceExhausted);
}

TEST_F(ArenaTest, WrongHashIsRefusedAndNothingOfItIsKept) {
  const auto chunk = arena_->AddChunk().value();
  Fill(chunk.first(2 * kPageSize), 7);
  const uint64_t hash = HashPages(chunk.first(2 * kPageSize));
  ASSERT_TRUE(arena_->Place(Pages(kOne, 100, 2), 0, hash).ok());
  ASSERT_TRUE(arena_->Find(kOne, 101 * kPageSize).has_value());
  chunk[kPageSize + 5] ^= std::byte{1};
  const absl::Status status = arena_->Place(Pages(kOne, 100, 2), 0, hash);
  EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss);
  EXPECT_TRUE(absl::StrContains(status.message(), "process 1")) << status;
  // The slots were overwritten: the older content is gone as well.
  EXPECT_FALSE(arena_->Find(kOne, 100 * kPageSize).has_value());
  EXPECT_EQ(arena_->totals().pages, 0u);
}

TEST_F(ArenaTest, WhatWasAlteredAfterItLandedIsFound) {
  std::span<std::byte> chunk = arena_->AddChunk().value();
  for (size_t i = 0; i < chunk.size(); ++i) chunk[i] = static_cast<std::byte>(i * 7 + i / 4096);
  ASSERT_TRUE(
      arena_->Place(Pages(kOne, 100, 5), 1, HashPages(chunk.subspan(kPageSize, 5 * kPageSize)))
          .ok());
  EXPECT_TRUE(arena_->Verify(1).ok());
  chunk[0] ^= std::byte{1};  // nobody's
  EXPECT_TRUE(arena_->Verify(2).ok());
  chunk[4 * kPageSize + 77] ^= std::byte{4};
  const absl::Status altered = arena_->Verify(2);
  EXPECT_EQ(altered.code(), absl::StatusCode::kDataLoss);
  EXPECT_NE(altered.message().find("0x67000"), absl::string_view::npos) << altered;
  // Placed anew, it is what it should be.
  ASSERT_TRUE(
      arena_->Place(Pages(kOne, 103, 1), 4, HashPages(chunk.subspan(4 * kPageSize, kPageSize)))
          .ok());
  EXPECT_TRUE(arena_->Verify(1).ok());
}

TEST_F(ArenaTest, ImpossibleRunsAndSlotsAreRefused) {
  ASSERT_TRUE(arena_->AddChunk().ok());
  EXPECT_EQ(arena_->Place({kOne, 5, 1}, 0, 0).code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(arena_->Place(Pages(kOne, 0, 0), 0, 0).code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(arena_->Place(Pages(kOne, 0, 17), 0, 0).code(), absl::StatusCode::kOutOfRange);
  EXPECT_EQ(arena_->Place(Pages(kOne, 0, 1), 16, 0).code(), absl::StatusCode::kOutOfRange);
  EXPECT_EQ(arena_->PlaceZero({kOne, 0, ~0ull}).code(), absl::StatusCode::kInvalidArgument);
}

TEST_F(ArenaTest, SlotThatChangesHandsIsNotFoundUnderItsOldPage) {
  const auto chunk = arena_->AddChunk().value();
  Fill(chunk, 1);
  const uint64_t hash = HashPages(chunk.first(4 * kPageSize));
  ASSERT_TRUE(arena_->Place(Pages(kOne, 10, 4), 0, hash).ok());
  ASSERT_TRUE(arena_->Place(Pages(kTwo, 50, 2), 1, HashPages(chunk.first(2 * kPageSize))).ok());
  EXPECT_TRUE(arena_->Find(kOne, 10 * kPageSize).has_value());
  EXPECT_FALSE(arena_->Find(kOne, 11 * kPageSize).has_value());
  EXPECT_FALSE(arena_->Find(kOne, 12 * kPageSize).has_value());
  EXPECT_EQ(arena_->Find(kOne, 13 * kPageSize)->slot, 3u);
  EXPECT_EQ(arena_->totals().pages, 4u);
}

TEST_F(ArenaTest, ImagesHoldWhatTheListSaysAndNoMore) {
  LocalSink sink(*arena_);
  PutPages(sink, kOne, 100, {1, 2, 3, 4});
  PutPages(sink, kShared, 0, {9});
  PutPages(sink, kOne, 90, {5, 6});
  PutPages(sink, kOne, 102, {33});
  ASSERT_TRUE(sink.PutZero(Pages(kOne, 92, 3)).ok());
  PutPages(sink, kOne, 500, {77});  // unmapped since: not in the list
  FinalList list;
  // A hole and its neighbour, out of order, as CRIU may list them.
  list.entries = {{Pages(kOne, 101, 3), true},
                  {Pages(kOne, 90, 5), true},
                  {Pages(kOne, 100, 1), false},
                  {Pages(kShared, 0, 1), false},
                  {Pages(kTwo, 0, 0), false}};
  const auto totals = arena_->WriteImages(list, folder_, 2);
  ASSERT_TRUE(totals.ok()) << totals.status();
  EXPECT_EQ(totals->pages_written, 7u);
  EXPECT_EQ(totals->zero_pages, 3u);
  EXPECT_EQ(totals->pages_left_out, 1u);
  EXPECT_EQ(totals->files, 6u);
  using Contents = std::map<uint64_t, uint32_t>;
  EXPECT_EQ(
      ReadImages(kOne),
      (Contents{
          {90, 5}, {91, 6}, {92, 0}, {93, 0}, {94, 0}, {100, 1}, {101, 2}, {102, 33}, {103, 4}}));
  EXPECT_EQ(ReadImages(kShared), (Contents{{0, 9}}));
  EXPECT_EQ(ReadImages(kTwo), Contents{});
}

TEST_F(ArenaTest, PagesSentInOrderAreReadInPlace) {
  Arena::Options options = Small();
  options.images_dir = folder_;
  arena_ = Arena::Create(options).value();
  LocalSink sink(*arena_);
  // A first round in ascending order over two processes, then changes, and a page below all others.
  PutPages(sink, kOne, 1000, {1, 2, 3, 4});
  PutPages(sink, kOne, 2000, {5, 6});
  PutPages(sink, kTwo, 1500, {7, 8, 9});
  PutPages(sink, kOne, 1001, {22});
  PutPages(sink, kOne, 900, {10});
  FinalList list;
  list.entries = {{Pages(kOne, 900, 1), false},
                  {Pages(kOne, 1000, 4), true},
                  {Pages(kOne, 2001, 1), true},
                  {Pages(kTwo, 1500, 3), true}};
  const auto totals = arena_->WriteImages(list, folder_, 1);
  ASSERT_TRUE(totals.ok()) << totals.status();
  EXPECT_EQ(totals->pages_in_place, 8u);
  EXPECT_EQ(totals->pages_written, 1u);
  EXPECT_EQ(totals->pages_left_out, 1u);
  using Contents = std::map<uint64_t, uint32_t>;
  EXPECT_EQ(ReadImages(kOne),
            (Contents{{900, 10}, {1000, 1}, {1001, 22}, {1002, 3}, {1003, 4}, {2001, 6}}));
  EXPECT_EQ(ReadImages(kTwo), (Contents{{1500, 7}, {1501, 8}, {1502, 9}}));
}

TEST_F(ArenaTest, MissingPageCallsTheImagesOffAndIsNamed) {
  LocalSink sink(*arena_);
  PutPages(sink, kOne, 100, {1, 2, 3, 4});
  FinalList list;
  list.entries = {{Pages(kOne, 100, 2), true}, {Pages(kOne, 103, 3), true}};
  const auto totals = arena_->WriteImages(list, folder_, 1);
  EXPECT_EQ(totals.status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_TRUE(absl::StrContains(totals.status().message(), "0x68000")) << totals.status();
  EXPECT_TRUE(std::filesystem::is_empty(folder_));
  list.entries = {{Pages(kTwo, 1, 1), false}};
  EXPECT_EQ(arena_->WriteImages(list, folder_, 1).status().code(),
            absl::StatusCode::kFailedPrecondition);
}

TEST_F(ArenaTest, ListThatNamesAPageTwiceIsRefused) {
  LocalSink sink(*arena_);
  PutPages(sink, kOne, 100, {1, 2, 3, 4});
  FinalList list;
  list.entries = {{Pages(kOne, 100, 2), true}, {Pages(kOne, 101, 1), false}};
  EXPECT_EQ(arena_->WriteImages(list, folder_, 1).status().code(),
            absl::StatusCode::kInvalidArgument);
}

TEST_F(ArenaTest, CritReadsOurPagemap) {
  if (!std::filesystem::exists("/usr/bin/crit")) GTEST_SKIP() << "crit is not installed";
  LocalSink sink(*arena_);
  PutPages(sink, kOne, 100, {1, 2, 3, 4});
  FinalList list;
  list.entries = {{Pages(kOne, 100, 1), true}, {Pages(kOne, 102, 2), true}};
  ASSERT_TRUE(arena_->WriteImages(list, folder_, 1).ok());
  const std::string command = absl::StrCat("/usr/bin/crit show ", folder_, "/pagemap-1.img >",
                                           folder_, "/shown 2>", folder_, "/errors");
  ASSERT_EQ(std::system(command.c_str()), 0) << ReadFile(absl::StrCat(folder_, "/errors")).value();
  const std::string shown = ReadFile(absl::StrCat(folder_, "/shown")).value();
  for (const char* part : {"\"PAGEMAP\"", "\"0x64000\"", "\"0x66000\"", "\"nr_pages\": 2",
                           "PE_PRESENT", "\"pages_id\": 1"}) {
    EXPECT_TRUE(absl::StrContains(shown, part)) << part << " is not in " << shown;
  }
}

// Random writes, zeros and space drops against a map of pages; in the end the images say the same.
class ArenaWaysTest : public ArenaTest, public ::testing::WithParamInterface<bool> {};
INSTANTIATE_TEST_SUITE_P(CopiedAndInPlace, ArenaWaysTest, ::testing::Bool());

TEST_P(ArenaWaysTest, BehavesAsAMapOfPages) {
  const bool in_place = GetParam();
  for (uint32_t seed = 1; seed <= 5; ++seed) {
    std::mt19937 random(seed);
    ASSERT_TRUE(RemoveTree(folder_).ok());
    ASSERT_TRUE(MakeDirectories(folder_).ok());
    Arena::Options options = Small();
    if (in_place) options.images_dir = folder_;
    arena_ = Arena::Create(options).value();
    LocalSink sink(*arena_);
    std::map<AddressSpace, std::map<uint64_t, uint32_t>> naive;
    const AddressSpace spaces[] = {kOne, kTwo, kShared};
    for (int step = 0; step < 1200; ++step) {
      const AddressSpace& space = spaces[random() % 3];
      const uint64_t page = random() % 150;
      const uint64_t pages = 1 + random() % 12;
      if (random() % 5 == 0) {
        ASSERT_TRUE(sink.PutZero(Pages(space, page, pages)).ok());
        for (uint64_t i = 0; i < pages; ++i) naive[space][page + i] = 0;
      } else {
        std::vector<uint32_t> contents(pages);
        for (uint64_t i = 0; i < pages; ++i) {
          contents[i] = 1 + random() % 1000000;
          naive[space][page + i] = contents[i];
        }
        PutPages(sink, space, page, contents);
      }
      if (random() % 50 == 0) {
        ASSERT_TRUE(sink.Flush(Deadline::Never()).ok());
      }
    }
    FinalList list;
    uint64_t data = 0, zero = 0;
    for (const auto& [space, pages] : naive) {
      for (const auto& [page, content] : pages) {
        const auto found = arena_->Find(space, page * kPageSize);
        ASSERT_TRUE(found.has_value());
        ASSERT_EQ(found->address, page * kPageSize);
        ASSERT_EQ(found->slot == kZeroSlot, content == 0);
        (content == 0 ? zero : data) += 1;
        if (random() % 8) list.entries.push_back({Pages(space, page, 1), random() % 2 == 0});
      }
    }
    EXPECT_EQ(arena_->totals().pages, data);
    EXPECT_EQ(arena_->totals().zero_pages, zero);
    std::shuffle(list.entries.begin(), list.entries.end(), random);
    const auto totals = arena_->WriteImages(list, folder_, 3);
    ASSERT_TRUE(totals.ok()) << totals.status();
    const uint64_t placed = totals->pages_written + totals->pages_in_place;
    EXPECT_EQ(placed + totals->zero_pages, list.entries.size());
    EXPECT_EQ(placed + totals->pages_left_out, data);
    EXPECT_EQ(totals->pages_in_place > 0, in_place);
    std::map<AddressSpace, std::map<uint64_t, uint32_t>> expected;
    for (const auto& entry : list.entries) {
      const uint64_t page = entry.run.address / kPageSize;
      expected[entry.run.space][page] = naive[entry.run.space][page];
    }
    for (const auto& [space, pages] : expected) ASSERT_EQ(ReadImages(space), pages);
  }
}

// What a second arena has is what the first had when it last caught up, whatever lands since.
TEST_F(ArenaTest, ASecondArenaKeepsOneMoment) {
  LocalSink sink(*arena_);
  const auto then = Arena::Create(Small()).value();
  EXPECT_EQ(then->CatchUp(*arena_).status().code(), absl::StatusCode::kFailedPrecondition);
  // Some of it landed before anybody asked.
  PutPages(sink, kOne, 100, {1, 2, 3, 4});
  arena_->KeepChanges();
  PutPages(sink, kTwo, 7, {70});
  EXPECT_EQ(then->CatchUp(*arena_).value(), 5u);
  EXPECT_EQ(then->CatchUp(*arena_).value(), 0u) << "nothing landed since";

  FinalList list;
  list.entries = {{Pages(kOne, 100, 4), true}, {Pages(kTwo, 7, 1), true}};
  const std::map<uint64_t, uint32_t> one = {{100, 1}, {101, 2}, {102, 3}, {103, 4}};
  const auto is_as_it_was = [&] {
    ASSERT_TRUE(then->Verify(2).ok());
    ASSERT_TRUE(then->WriteImages(list, folder_, 2).ok());
    EXPECT_EQ(ReadImages(kOne), one);
    EXPECT_EQ(ReadImages(kTwo), (std::map<uint64_t, uint32_t>{{7, 70}}));
  };
  is_as_it_was();
  // Written again, zeroed, ended, its slot given to another, and more than there was room for.
  PutPages(sink, kOne, 101, {22});
  ASSERT_TRUE(sink.PutZero(Pages(kOne, 103, 1)).ok());
  ASSERT_TRUE(sink.PutZero(Pages(kTwo, 7, 1)).ok());
  ASSERT_TRUE(sink.Flush(Deadline::Never()).ok());
  for (uint32_t i = 0; i < 40; ++i) PutPages(sink, kOne, 200 + i, {500 + i});
  is_as_it_was();

  EXPECT_EQ(then->CatchUp(*arena_).value(), 41u);
  ASSERT_TRUE(then->Verify(2).ok());
  list.entries = {{Pages(kOne, 100, 4), true}, {Pages(kOne, 200, 40), true}};
  ASSERT_TRUE(then->WriteImages(list, folder_, 2).ok());
  auto now = ReadImages(kOne);
  EXPECT_EQ(now[100], 1u);
  EXPECT_EQ(now[101], 22u);
  EXPECT_EQ(now[103], 0u);
  EXPECT_EQ(now[239], 539u);
  EXPECT_EQ(then->Find(kTwo, 7 * kPageSize)->slot, kZeroSlot);
}

TEST_F(ArenaTest, AMomentThatWasAlteredIsNotTakenForWhole) {
  LocalSink sink(*arena_);
  const auto then = Arena::Create(Small()).value();
  arena_->KeepChanges();
  PutPages(sink, kOne, 100, {1, 2});
  ASSERT_TRUE(then->CatchUp(*arena_).ok());
  then->Slots(1, 1)->front() ^= std::byte{1};
  const absl::Status status = then->Verify(1);
  EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss);
  EXPECT_TRUE(absl::StrContains(status.message(), "page 0x65000")) << status;
}

TEST_F(ArenaTest, AMomentHasWholePagesOfOneKindOfArena) {
  arena_->KeepChanges();
  ASSERT_TRUE(arena_->AddChunk().ok());
  const auto other = Arena::Create({.chunk_bytes = 8 * kPageSize, .max_bytes = 64 * kPageSize});
  EXPECT_EQ((*other)->CatchUp(*arena_).status().code(), absl::StatusCode::kFailedPrecondition);
  ASSERT_TRUE(arena_->Promise(Pages(kOne, 100, 1), 0).ok());
  const auto then = Arena::Create(Small()).value();
  EXPECT_EQ(then->CatchUp(*arena_).status().code(), absl::StatusCode::kFailedPrecondition);
}

}  // namespace
}  // namespace starling::checkpoint
