#include "checkpoint/capture.h"

#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstring>

#include "checkpoint/local_sink.h"
#include "checkpoint/page_hashes.h"
#include "tests/checkpoint/child_process.h"

namespace starling::checkpoint {
namespace {

constexpr uint64_t kPages = 16384;  // 64 MiB: worth several threads

class CaptureTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (::geteuid() != 0) GTEST_SKIP() << "other processes' memory is for root alone";
    memory_ = static_cast<char*>(::mmap(nullptr, kPages * kPageSize, PROT_READ | PROT_WRITE,
                                        MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    ASSERT_NE(memory_, MAP_FAILED);
    // Every seventh page is zeros.
    for (uint64_t page = 0; page < kPages; ++page) {
      std::memset(memory_ + page * kPageSize, page % 7 == 0 ? 0 : static_cast<int>(page % 251 + 1),
                  kPageSize);
    }
    child_.Start([](int) { ::pause(); });
    process_ = ProcessMemory::Open(child_.pid()).value();
    arena_ = Arena::Create({.chunk_bytes = 4 << 20, .max_bytes = 1 << 28}).value();
  }
  void TearDown() override {
    child_.End();
    if (memory_ != nullptr) ::munmap(memory_, kPages * kPageSize);
  }
  std::vector<PageRange> All() const { return {{reinterpret_cast<uint64_t>(memory_), kPages}}; }

  void ExpectArenaHasAll() {
    for (uint64_t page = 0; page < kPages; ++page) {
      const auto found = arena_->Find(process_->space(), All()[0].address + page * kPageSize);
      ASSERT_TRUE(found.has_value()) << page;
      if (page % 7 == 0) {
        ASSERT_EQ(found->slot, kZeroSlot) << page;
        continue;
      }
      const auto bytes = arena_->Slots(found->slot, 1);
      ASSERT_TRUE(bytes.ok());
      ASSERT_EQ(std::memcmp(bytes->data(), memory_ + page * kPageSize, kPageSize), 0) << page;
    }
  }

  char* memory_ = nullptr;
  ChildProcess child_;
  std::unique_ptr<ProcessMemory> process_;
  std::unique_ptr<Arena> arena_;
};

TEST_F(CaptureTest, SeveralThreadsSendEachPageOnce) {
  for (const int threads : {1, 2, 3}) {
    arena_ = Arena::Create({.chunk_bytes = 4 << 20, .max_bytes = 1 << 28}).value();
    LocalSink sink(*arena_, 100, 3);
    CaptureOptions options;
    options.threads = threads;
    uint64_t seen = 0;
    options.hash = true;
    options.wanted = [&](const CaptureOptions::Read& page) {
      EXPECT_EQ(page.hash, PageHashes::Of(page.bytes));
      ++seen;
      return true;
    };
    uint64_t paced = 0;
    options.pace = [&](uint64_t bytes, Duration worked) {
      EXPECT_GT(worked, Duration::zero());
      paced += bytes;
      return Duration::zero();
    };
    const auto captured = Capture(*process_, All(), sink, options);
    ASSERT_TRUE(captured.ok()) << captured.status();
    const uint64_t zeros = (kPages + 6) / 7;
    EXPECT_EQ(CountPages(captured->sent), kPages - zeros);
    EXPECT_EQ(CountPages(captured->zero), zeros);
    EXPECT_EQ(seen, kPages);
    EXPECT_EQ(paced, (kPages - zeros) * kPageSize);
    EXPECT_TRUE(captured->gone.empty());
    EXPECT_EQ(sink.pages_put(), kPages - zeros);
    ExpectArenaHasAll();
  }
}

TEST_F(CaptureTest, WhatIsNotWantedIsNotSent) {
  LocalSink sink(*arena_, 100, 2);
  CaptureOptions options;
  options.threads = 2;
  options.wanted = [&](const CaptureOptions::Read& page) {
    return (page.address - All()[0].address) / kPageSize % 2 == 1;
  };
  const auto captured = Capture(*process_, All(), sink, options);
  ASSERT_TRUE(captured.ok()) << captured.status();
  EXPECT_EQ(CountPages(captured->kept), kPages / 2);
  EXPECT_EQ(CountPages(captured->sent) + CountPages(captured->zero), kPages / 2);
  EXPECT_FALSE(arena_->Find(process_->space(), All()[0].address).has_value());
}

TEST_F(CaptureTest, WhatIsNotMappedIsGoneOrAnError) {
  LocalSink sink(*arena_);
  std::vector<PageRange> ranges = {{0x1000, 2}};
  const auto captured = Capture(*process_, ranges, sink, {});
  ASSERT_TRUE(captured.ok()) << captured.status();
  EXPECT_EQ(CountPages(captured->gone), 2u);
  CaptureOptions frozen;
  frozen.frozen = true;
  EXPECT_EQ(Capture(*process_, ranges, sink, frozen).status().code(), absl::StatusCode::kDataLoss);
}

TEST_F(CaptureTest, ASinkThatFailsEndsAllThreads) {
  arena_ = Arena::Create({.chunk_bytes = 4 << 20, .max_bytes = 8 << 20}).value();
  LocalSink sink(*arena_, 64, 2);
  CaptureOptions options;
  options.threads = 2;
  EXPECT_EQ(Capture(*process_, All(), sink, options).status().code(),
            absl::StatusCode::kResourceExhausted);
}

}  // namespace
}  // namespace starling::checkpoint
