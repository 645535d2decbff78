#include "checkpoint/criu_source.h"

#include <gtest/gtest.h>
#include <sys/socket.h>
#include <unistd.h>

#include <filesystem>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "base/file.h"
#include "checkpoint/local_sink.h"

namespace starling::checkpoint {
namespace {

constexpr AddressSpace kSeven{AddressSpace::Kind::kProcess, 7};

std::string Message(uint32_t command, uint32_t pages, uint64_t address) {
  std::string bytes(24, '\0');
  const uint64_t destination = 7 << 8 | 1;
  std::memcpy(bytes.data(), &command, 4);
  std::memcpy(bytes.data() + 4, &pages, 4);
  std::memcpy(bytes.data() + 8, &address, 8);
  std::memcpy(bytes.data() + 16, &destination, 8);
  return bytes;
}

// Plays CRIU: one process of four pages; once there is a parent only the second has changed.
absl::Status PlayCriu(CriuWork work, char content) {
  const int socket = work.page_server.get();
  const std::string open = Message(4, 0, 0);
  RETURN_IF_ERROR(WriteAll(socket, open.data(), open.size()));
  char parent = 0;
  ASSIGN_OR_RETURN(const bool answered, ReadExactly(socket, &parent, 1));
  if (!answered) return absl::UnavailableError("no answer");
  std::string stream;
  if (parent) {
    stream = Message(1 << 16 | 6, 1, 0x1000) + Message(4 << 16 | 6, 1, 0x2000) +
             std::string(kPageSize, content) + Message(1 << 16 | 6, 2, 0x3000);
  } else {
    stream = Message(4 << 16 | 6, 4, 0x1000) + std::string(4 * kPageSize, content);
  }
  stream += Message(0x1023, 0, 0);
  RETURN_IF_ERROR(WriteAll(socket, stream.data(), stream.size()));
  int32_t status = -1;
  ASSIGN_OR_RETURN(const bool closed, ReadExactly(socket, &status, sizeof(status)));
  if (!closed || status != 0) return absl::InternalError("CRIU failed: page server said no");
  return absl::OkStatus();
}

class CriuSourceTest : public ::testing::Test {
 protected:
  void SetUp() override {
    char name[] = "/tmp/starling-criu-source-XXXXXX";
    ASSERT_NE(::mkdtemp(name), nullptr);
    folder_ = name;
    arena_ = Arena::Create({.chunk_bytes = 1 << 20, .max_bytes = 1 << 24}).value();
    sink_ = std::make_unique<LocalSink>(*arena_);
  }
  void TearDown() override { ASSERT_TRUE(RemoveTree(folder_).ok()); }

  // What the frozen component holds where nothing was sent: its page number in every byte.
  class Memory : public FrozenMemory {
   public:
    absl::Status Read(const AddressSpace&, uint64_t address,
                      std::span<std::byte> bytes) const override {
      for (size_t i = 0; i < bytes.size(); ++i) {
        bytes[i] = static_cast<std::byte>((address + i) / kPageSize);
      }
      return absl::OkStatus();
    }
    absl::StatusOr<std::vector<PageRun>> HugeZeroPages(const PageRun& run) const override {
      // One that was sent and the one behind it that was not.
      EXPECT_LE(run.address, 0x4000u);
      EXPECT_GE(run.address + run.pages * kPageSize, 0x6000u);
      return std::vector<PageRun>{{run.space, 0x4000, 2}};
    }
    absl::StatusOr<std::vector<PageRun>> CallPages(const AddressSpace&) const override {
      return std::vector<PageRun>();
    }
  };

  CriuWorker Worker(char content) {
    return [this, content](CriuWork work) {
      works_.push_back(work.parent_images);
      EXPECT_TRUE(std::filesystem::is_directory(work.images_dir)) << work.images_dir;
      if (!next_failure_.ok()) return std::exchange(next_failure_, absl::OkStatus());
      return PlayCriu(std::move(work), content);
    };
  }

  std::string folder_;
  std::unique_ptr<Arena> arena_;
  std::unique_ptr<LocalSink> sink_;
  std::vector<std::string> works_;
  absl::Status next_failure_;
};

TEST_F(CriuSourceTest, SecondRoundAndFinalSendOnlyWhatChanged) {
  CriuSource source({3, 17, 1}, folder_, Worker('r'), Unstaged(Worker('f')), {});
  const RoundReport first = source.Round(*sink_).value();
  EXPECT_EQ(first.pages_sent, 4u);
  EXPECT_EQ(first.pages_unchanged, 0u);
  const RoundReport second = source.Round(*sink_).value();
  EXPECT_EQ(second.pages_sent, 1u);
  EXPECT_EQ(second.pages_unchanged, 3u);
  EXPECT_FALSE(std::filesystem::exists(absl::StrCat(folder_, "/round-1")));
  RoundReport report;
  const FinalList list = source.Final(*sink_, report).value();
  EXPECT_EQ(works_, (std::vector<std::string>{"", "../round-1", "../round-2"}));
  EXPECT_EQ(report.pages_sent, 1u);
  ASSERT_EQ(list.entries.size(), 3u);
  EXPECT_TRUE(list.entries[0].in_arena_before);
  EXPECT_FALSE(list.entries[1].in_arena_before);
  ASSERT_TRUE(sink_->Flush(Deadline::Never()).ok());
  const auto totals = arena_->WriteImages(list, source.final_images(), 1);
  ASSERT_TRUE(totals.ok()) << totals.status();
  EXPECT_EQ(totals->pages_written, 4u);
  const std::string pages = ReadFile(absl::StrCat(source.final_images(), "/pages-1.img")).value();
  EXPECT_EQ(pages[0], 'r');
  EXPECT_EQ(pages[kPageSize], 'f');
  EXPECT_EQ(pages[3 * kPageSize], 'r');
}

// A dump in which CRIU takes a page for unchanged that was never sent (read only, since).
absl::Status PlayUnsentPage(CriuWork work) {
  const int socket = work.page_server.get();
  const std::string stream =
      Message(4, 0, 0) + Message(1 << 16 | 6, 7, 0x1000) + Message(0x1023, 0, 0);
  RETURN_IF_ERROR(WriteAll(socket, stream.data(), stream.size()));
  char answers[5];
  return ReadExactly(socket, answers, sizeof(answers)).status();
}

TEST_F(CriuSourceTest, PageThatWasNeverSentIsReadFromTheFrozenComponent) {
  CriuSource source({3, 17, 1}, folder_, Worker('r'), Unstaged(PlayUnsentPage),
                    [] { return std::make_unique<Memory>(); });
  ASSERT_TRUE(source.Round(*sink_).ok());
  RoundReport report;
  const FinalList list = source.Final(*sink_, report).value();
  ASSERT_EQ(list.entries.size(), 3u);
  EXPECT_EQ(list.entries[0].run, (PageRun{kSeven, 0x1000, 3}));
  EXPECT_TRUE(list.entries[0].in_arena_before);
  EXPECT_EQ(list.entries[1].run, (PageRun{kSeven, 0x4000, 2}));
  EXPECT_TRUE(list.entries[1].in_arena_before);
  EXPECT_EQ(list.entries[2].run, (PageRun{kSeven, 0x6000, 2}));
  EXPECT_FALSE(list.entries[2].in_arena_before);
  EXPECT_EQ(report.pages_sent, 2u);
  EXPECT_EQ(report.pages_zero, 2u);
  EXPECT_EQ(report.pages_unchanged, 3u);
  ASSERT_TRUE(arena_->WriteImages(list, source.final_images(), 1).ok());
  const std::string pages = ReadFile(absl::StrCat(source.final_images(), "/pages-1.img")).value();
  EXPECT_EQ(pages[2 * kPageSize], 'r');
  EXPECT_EQ(pages[3 * kPageSize], 0) << "mapped to the huge zero page, stale in the arena";
  EXPECT_EQ(pages[4 * kPageSize], 0) << "the same huge page, whose other part was never sent";
  EXPECT_EQ(pages[5 * kPageSize], 6);
  EXPECT_EQ(pages[6 * kPageSize], 7);
}

// CRIU has just had the process make a call when its page is received: a page of CRIU's own code.
TEST_F(CriuSourceTest, PageThatCriuWritesToIsReadFromTheFrozenComponent) {
  class CallMemory : public Memory {
   public:
    absl::StatusOr<std::vector<PageRun>> HugeZeroPages(const PageRun&) const override {
      return std::vector<PageRun>();
    }
    absl::StatusOr<std::vector<PageRun>> CallPages(const AddressSpace& space) const override {
      return std::vector<PageRun>{{space, 0x2000, 1}, {space, 0x3000, 1}};
    }
  };
  for (const int rounds : {0, 1}) {
    CriuSource source({3, 17, 1}, folder_, Worker('r'), Unstaged(Worker('f')),
                      [] { return std::make_unique<CallMemory>(); });
    for (int i = 0; i < rounds; ++i) ASSERT_TRUE(source.Round(*sink_).ok());
    RoundReport report;
    const auto list = source.Final(*sink_, report);
    ASSERT_TRUE(list.ok()) << list.status();
    ASSERT_TRUE(sink_->Flush(Deadline::Never()).ok());
    ASSERT_TRUE(arena_->WriteImages(*list, source.final_images(), 1).ok());
    const std::string pages = ReadFile(absl::StrCat(source.final_images(), "/pages-1.img")).value();
    const char around = rounds == 0 ? 'f' : 'r';
    EXPECT_EQ(pages[0], around);
    EXPECT_EQ(pages[kPageSize], 2) << "as the frozen component has it";
    EXPECT_EQ(pages[2 * kPageSize], 3) << "also where CRIU takes it for unchanged";
    EXPECT_EQ(pages[3 * kPageSize], around);
  }
}

TEST_F(CriuSourceTest, PageThatWasNeverSentFailsTheDumpWhereItCannotBeRead) {
  CriuSource source({3, 17, 1}, folder_, Worker('r'), Unstaged(PlayUnsentPage), {});
  ASSERT_TRUE(source.Round(*sink_).ok());
  RoundReport report;
  const auto list = source.Final(*sink_, report);
  EXPECT_EQ(list.status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_TRUE(absl::StrContains(list.status().message(), "0x5000")) << list.status();
}

TEST_F(CriuSourceTest, AfterAFailedRoundEverythingIsSentAgain) {
  CriuSource source({3, 17, 1}, folder_, Worker('r'), Unstaged(Worker('f')), {});
  ASSERT_TRUE(source.Round(*sink_).ok());
  next_failure_ = absl::InternalError("CRIU failed to pre-dump: Error (x.c:1): no");
  const auto failed = source.Round(*sink_);
  EXPECT_EQ(failed.status().code(), absl::StatusCode::kInternal);
  EXPECT_TRUE(absl::StrContains(failed.status().message(), "x.c:1")) << failed.status();
  const RoundReport again = source.Round(*sink_).value();
  EXPECT_EQ(again.pages_sent, 4u);
  EXPECT_EQ(works_.back(), "");
}

TEST_F(CriuSourceTest, CriuThatEndsEarlyIsAnErrorEvenIfItClaimsSuccess) {
  CriuSource source({3, 17, 1}, folder_, [](CriuWork) { return absl::OkStatus(); },
                    Unstaged(Worker('f')), {});
  EXPECT_EQ(source.Round(*sink_).status().code(), absl::StatusCode::kDataLoss);
}

TEST_F(CriuSourceTest, FailedSinkIsTheErrorAndDoesNotHang) {
  class Broken : public LocalSink {
   public:
    using LocalSink::LocalSink;
    absl::Status Put(const PageRun&) override { return absl::UnavailableError("link down"); }
  };
  Broken sink(*arena_);
  CriuSource source({3, 17, 1}, folder_, Worker('r'), Unstaged(Worker('f')), {});
  const auto result = source.Round(sink);
  EXPECT_EQ(result.status().code(), absl::StatusCode::kUnavailable) << result.status();
}

TEST_F(CriuSourceTest, DescriptorHeldElsewhereDoesNotHangAFailedRound) {
  UniqueFd held;
  CriuSource source({3, 17, 1}, folder_,
                    [&](CriuWork work) {
                      held.Reset(::dup(work.page_server.get()));
                      return absl::DeadlineExceededError("the keeper does not answer");
                    },
                    Unstaged(Worker('f')), {});
  EXPECT_EQ(source.Round(*sink_).status().code(), absl::StatusCode::kDeadlineExceeded);
}

}  // namespace
}  // namespace starling::checkpoint
