#include "checkpoint/memory_source.h"

#include <gtest/gtest.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include <atomic>
#include <cstring>
#include <fstream>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "base/file.h"
#include "base/status.h"
#include "checkpoint/local_sink.h"
#include "tests/checkpoint/child_process.h"

namespace starling::checkpoint {
namespace {

constexpr int kPages = 32;

// A tracker that is told which pages were written, at the latest when it is asked: `asked` is
// called with 1, 2, ... before each list. In list `renewed_in` the process is another one.
class ToldTracker : public Tracker {
 public:
  ToldTracker(std::string cgroup, const std::vector<PageRange>& written,
              std::function<void(int)>& asked, const int& renewed_in)
      : cgroup_(std::move(cgroup)), written_(written), asked_(asked), renewed_in_(renewed_in) {}
  const char* name() const override { return "told"; }
  bool exact() const override { return false; }
  absl::StatusOr<MemoryChanges> List() override {
    ++lists_;
    if (asked_) asked_(lists_);
    if (lists_ == renewed_in_) known_.Clear();
    MemoryChanges changes;
    ASSIGN_OR_RETURN(auto processes, OpenProcesses(cgroup_));
    for (auto& memory : processes) {
      ProcessChanges process;
      process.memory = std::move(memory);
      std::vector<ResidentRange> scanned;
      RETURN_IF_ERROR(ListResident(process, scanned));
      process.is_new = known_.Learn(*process.memory);
      process.changed = process.is_new ? process.resident : written_;
      changes.processes.push_back(std::move(process));
    }
    return changes;
  }
  absl::StatusOr<MemoryChanges> ListLast() override {
    auto changes = List();
    Forget();
    return changes;
  }
  absl::StatusOr<MemoryChanges> ListFrozen() override { return List(); }
  bool goes_on() const override { return true; }
  void Forget() override { known_.Clear(); }
  void Sent(const AddressSpace&, uint64_t, std::span<const std::byte>) override {}

 private:
  const std::string cgroup_;
  const std::vector<PageRange>& written_;
  std::function<void(int)>& asked_;
  const int& renewed_in_;
  int lists_ = 0;
  KnownProcesses known_;
};

// A source over the memory of a real child, with a CRIU that is played.
class MemorySourceTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (::geteuid() != 0) GTEST_SKIP() << "other processes' memory is for root alone";
    char name[] = "/tmp/starling-memory-source-XXXXXX";
    ASSERT_NE(::mkdtemp(name), nullptr);
    folder_ = name;
    Map(kPages);
    arena_ = Arena::Create({.chunk_bytes = 4 << 20, .max_bytes = 1 << 28}).value();
    sink_ = std::make_unique<LocalSink>(*arena_, 7);
  }
  void TearDown() override {
    child_.End();
    if (memory_ != nullptr) ::munmap(memory_, static_cast<size_t>(pages_) * kPageSize);
    if (folder_.empty()) return;
    ASSERT_TRUE(RemoveTree(folder_).ok());
  }

  // The child's memory to be, of so many pages.
  void Map(int pages) {
    if (memory_ != nullptr) ::munmap(memory_, static_cast<size_t>(pages_) * kPageSize);
    pages_ = pages;
    const size_t bytes = static_cast<size_t>(pages) * kPageSize;
    memory_ = static_cast<char*>(
        ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    ASSERT_NE(memory_, MAP_FAILED);
    ::madvise(memory_, bytes, MADV_NOHUGEPAGE);
  }

  void Start(const std::function<void(int)>& body, bool told = false) {
    child_.Start(body);
    std::ofstream(absl::StrCat(folder_, "/cgroup.procs")) << child_.pid() << "\n";
    space_ = {AddressSpace::Kind::kProcess, InnermostPid(child_.pid()).value()};
    MemorySource::Options options;
    options.version = {3, 17, 1};
    options.folder = absl::StrCat(folder_, "/images");
    options.max_rate_bytes_per_s = max_rate_;
    options.goes_on = goes_on_;
    source_ = std::make_unique<MemorySource>(
        options,
        told ? std::make_unique<ToldTracker>(folder_, written_, asked_, renewed_in_)
             : MakeHashTracker(folder_),
        Unstaged([this](CriuWork work) { return PlayCriu(std::move(work)); }),
        [this] { return OpenCgroupMemory(folder_); });
  }
  void Write(int page, char content) {
    std::memset(memory_ + static_cast<size_t>(page) * kPageSize, content, kPageSize);
  }
  uint64_t Address(int page) const {
    return reinterpret_cast<uint64_t>(memory_) + static_cast<uint64_t>(page) * kPageSize;
  }

  std::string Message(uint32_t command, uint32_t pages, uint64_t address, uint64_t destination) {
    std::string bytes(24, '\0');
    std::memcpy(bytes.data(), &command, 4);
    std::memcpy(bytes.data() + 4, &pages, 4);
    std::memcpy(bytes.data() + 8, &address, 8);
    std::memcpy(bytes.data() + 16, &destination, 8);
    return bytes;
  }
  // Lists holes_ as unchanged, sends sent_ with content 'C', and a page of shared memory.
  absl::Status PlayCriu(CriuWork work) {
    parent_images_ = work.parent_images;
    inventory_ = ReadFile(absl::StrCat(work.images_dir, "/", work.parent_images, "/inventory.img"))
                     .value_or("");
    const int socket = work.page_server.get();
    const uint64_t process = space_.id << 8 | 1, shared = 5 << 8 | 2;
    std::string stream = Message(4, 0, 0, process);
    for (const int page : holes_) stream += Message(1 << 16 | 6, 1, Address(page), process);
    for (const int page : sent_) {
      stream += Message(4 << 16 | 6, 1, Address(page), process) + std::string(kPageSize, 'C');
    }
    stream += Message(4, 0, 0, shared);
    stream += Message(4 << 16 | 6, 1, 0, shared) + std::string(kPageSize, 'S');
    stream += Message(0x1023, 0, 0, 0);
    RETURN_IF_ERROR(WriteAll(socket, stream.data(), stream.size()));
    char answers[6] = {};
    RETURN_IF_ERROR(ReadExactly(socket, answers, sizeof(answers)).status());
    answers_ = {answers[0], answers[1]};
    return absl::OkStatus();
  }

  // What the arena has for a page of the child's: its content, '0' for zeros, '-' for nothing,
  // '?' for a mix.
  char InArena(int page) {
    const auto slot = arena_->Find(space_, Address(page));
    if (!slot) return '-';
    if (slot->slot == kZeroSlot) return '0';
    const auto bytes = arena_->Slots(slot->slot, 1).value();
    for (const std::byte byte : bytes) {
      if (byte != bytes[0]) return '?';
    }
    return static_cast<char>(bytes[0]);
  }
  std::string Arena32() {
    std::string all;
    for (int page = 0; page < kPages; ++page) all += InArena(page);
    return all;
  }

  double max_rate_ = 0;
  bool goes_on_ = false;
  std::string folder_;
  char* memory_ = nullptr;
  int pages_ = 0;
  AddressSpace space_;
  ChildProcess child_;
  std::unique_ptr<Arena> arena_;
  std::unique_ptr<LocalSink> sink_;
  std::unique_ptr<MemorySource> source_;
  std::vector<PageRange> written_;
  std::function<void(int)> asked_;
  int renewed_in_ = 0;
  std::vector<int> holes_, sent_;
  std::string parent_images_, inventory_;
  std::vector<char> answers_;
};

TEST_F(MemorySourceTest, RoundsBringTheArenaUpToDate) {
  Start([this](int step) {
    if (step == 0) {
      // Runs that are longer than the sink's room, with zeros among them.
      for (int page = 0; page < 20; ++page) Write(page, page % 5 == 4 ? 0 : 'a');
    } else {
      Write(3, 'b');
      Write(4, 'b');
      Write(5, 0);
      Write(25, 'n');
      ::madvise(memory_ + 10 * kPageSize, 3 * kPageSize, MADV_DONTNEED);
    }
  });
  child_.Step();
  ASSERT_TRUE(source_->Round(*sink_).ok());
  EXPECT_EQ(Arena32(), "aaaa0aaaa0aaaa0aaaa0------------");
  child_.Step();
  const uint64_t before = sink_->pages_put();
  const RoundReport report = source_->Round(*sink_).value();
  EXPECT_EQ(Arena32(),
            "aaabb0aaa0000a0aaaa0"
            "-----n------");
  EXPECT_EQ(sink_->pages_put() - before, report.pages_sent);
  EXPECT_GE(report.pages_sent, 3u);
  EXPECT_GE(report.pages_unchanged, 13u);
}

TEST_F(MemorySourceTest, PagesWrittenBeforeEveryRoundAreLeftForTheLast) {
  Start(
      [this](int step) {
        const auto content = static_cast<char>('a' + step);
        for (int page = 0; page < 4; ++page) Write(page, content);
      },
      /*told=*/true);
  const auto round = [&](std::vector<PageRange> written) {
    written_ = std::move(written);
    child_.Step();
    return source_->Round(*sink_).value();
  };
  const PageRange one = {Address(1), 1}, two = {Address(2), 1}, both = {Address(1), 2};
  EXPECT_EQ(round({}).pages_deferred, 0u);
  EXPECT_EQ(round({both}).pages_deferred, 0u) << "the first list says nothing of a page";
  EXPECT_EQ(InArena(1), 'b');
  EXPECT_EQ(round({{Address(0), 4}}).pages_deferred, 2u);
  EXPECT_EQ(InArena(1), 'b');
  EXPECT_EQ(InArena(0), 'c') << "written before this round alone";
  EXPECT_EQ(round({both}).pages_deferred, 2u);
  EXPECT_EQ(InArena(2), 'b');
  EXPECT_EQ(round({two}).pages_deferred, 1u);
  EXPECT_EQ(InArena(1), 'e') << "sent as soon as it rests";
  ::kill(child_.pid(), SIGSTOP);
  written_ = {one};
  holes_ = {0, 1, 2, 3};
  RoundReport report;
  const auto list = source_->Final(*sink_, report);
  ASSERT_TRUE(list.ok()) << list.status();
  EXPECT_EQ(InArena(2), 'e') << "deferred, and sent although it was not written since";
}

// What is written before a long round sends it comes once, with its newest content; what is written
// after that comes again with the next.
TEST_F(MemorySourceTest, ALongRoundIsListedAgain) {
  constexpr int kMany = 4 * 8192, kLast = kMany - 1;
  Map(kMany);
  max_rate_ = 500e6;  // so that listing is short beside it
  Start(
      [this](int step) {
        for (int page = 0; page < kMany; ++page) {
          if (step == 0 || page == 0 || page == kLast) Write(page, static_cast<char>('a' + step));
        }
      },
      /*told=*/true);
  child_.Step();
  asked_ = [this](int list) {
    if (list == 2) child_.Step();
    written_.clear();
    if (list == 2) written_ = {{Address(0), 1}, {Address(kLast), 1}};
  };
  RoundReport report = source_->Round(*sink_).value();
  EXPECT_GE(report.lists, 2u);
  EXPECT_GT(report.listed_after, Duration::zero());
  EXPECT_LT(report.listed_after, report.elapsed);
  EXPECT_EQ(InArena(0), 'a');
  EXPECT_EQ(InArena(kLast), 'b');
  report = source_->Round(*sink_).value();
  EXPECT_EQ(report.lists, 1u);
  EXPECT_EQ(report.pages_sent, 1u);
  EXPECT_EQ(InArena(0), 'b');
  EXPECT_EQ(source_->Round(*sink_).value().pages_sent, 0u);
}

// What was sent of the process before counts no more, whether a round or the last list comes next.
TEST_F(MemorySourceTest, AProcessThatIsAnotherInTheMiddleOfARoundIsSentWhole) {
  constexpr int kMany = 4 * 8192;
  Map(kMany);
  max_rate_ = 500e6;
  renewed_in_ = 2;
  goes_on_ = true;
  for (const bool last : {false, true}) {
    child_.End();
    sink_ = std::make_unique<LocalSink>(*arena_, 7);
    Start(
        [this](int) {
          for (int page = 0; page < kMany; ++page) Write(page, 'a');
        },
        /*told=*/true);
    child_.Step();
    ASSERT_GE(source_->Round(*sink_).value().lists, 2u);
    RoundReport report;
    if (last) {
      ::kill(child_.pid(), SIGSTOP);
      const auto list = source_->Final(*sink_, report);
      ASSERT_TRUE(list.ok()) << list.status();
    } else {
      report = source_->Round(*sink_).value();
    }
    EXPECT_GE(report.pages_sent, static_cast<uint64_t>(kMany)) << last;
  }
}

TEST(ListAgainTest, TheMoreIsWrittenTheSooner) {
  EXPECT_NEAR(ListAgainAfter_s(0.08, 200'000, 5000), 2.5, 0.1);
  EXPECT_NEAR(ListAgainAfter_s(0.02, 200'000, 5000), 1.26, 0.1);
  EXPECT_GT(ListAgainAfter_s(0.08, 200'000, 10), 30);
  EXPECT_GT(ListAgainAfter_s(0.08, 200'000, 0), 1000);
}

TEST(HotPagesTest, AreThoseThatTwoListsShareBeyondChance) {
  const auto pages = [](uint64_t first, uint64_t count) {
    return std::vector<PageRange>{{first * kPageSize, count}};
  };
  const std::vector<PageRange> hot = pages(10, 10);
  EXPECT_EQ(HotPages(hot, hot, 1000), hot);
  EXPECT_EQ(HotPages(pages(0, 20), pages(10, 30), 1000), hot);
  EXPECT_TRUE(HotPages(pages(0, 10), pages(10, 10), 1000).empty());
  // A fifth of all pages each, a twentieth of all in common: chance has a 25th.
  EXPECT_TRUE(HotPages(pages(0, 200), pages(150, 200), 1000).empty());
  EXPECT_FALSE(HotPages(pages(0, 200), pages(110, 200), 1000).empty());
  // All of it, all the time: nothing is hotter than the rest.
  EXPECT_TRUE(HotPages(pages(0, 100), pages(0, 100), 100).empty());
  EXPECT_TRUE(HotPages({}, {}, 0).empty());
}

TEST_F(MemorySourceTest, PagesBesideWrittenOnesAreNotSentAgain) {
  Start(
      [this](int step) {
        if (step == 0) {
          for (int page = 0; page < 8; ++page) Write(page, 'a');
        } else {
          Write(5, static_cast<char>('a' + step));
        }
      },
      /*told=*/true);
  child_.Step();
  ASSERT_TRUE(source_->Round(*sink_).ok());
  // As of one bit for a huge page.
  written_ = {{Address(0), 8}};
  child_.Step();
  RoundReport report = source_->Round(*sink_).value();
  EXPECT_EQ(report.pages_sent, 1u);
  EXPECT_GE(report.pages_unchanged, 7u);
  EXPECT_EQ(InArena(5), 'b');
  // What was damaged on its way is sent all the same.
  const std::vector<PageRun> damaged = {{space_, Address(6), 1}};
  source_->Resend(damaged);
  written_.clear();
  EXPECT_EQ(source_->Round(*sink_).value().pages_sent, 1u);
  ::kill(child_.pid(), SIGSTOP);
  written_ = {{Address(0), 8}};
  holes_ = {0, 1, 2, 3, 4, 5, 6, 7};
  const uint64_t before = sink_->pages_put();
  const auto list = source_->Final(*sink_, report);
  ASSERT_TRUE(list.ok()) << list.status();
  EXPECT_EQ(sink_->pages_put() - before, report.pages_from_criu);
  EXPECT_EQ(InArena(0), 'a');
}

TEST_F(MemorySourceTest, WhatIsHeldBackGoesElsewhereTheMostRecentlyWrittenFirst) {
  class Aside : public LocalSink {
   public:
    using LocalSink::LocalSink;
    absl::Status PutAll(std::span<const PageRun> runs) override {
      order.insert(order.end(), runs.begin(), runs.end());
      return LocalSink::PutAll(runs);
    }
    std::vector<PageRun> order;
  };
  Start(
      [this](int step) {
        const auto content = static_cast<char>('a' + step);
        for (int page = 0; page < 4; ++page) Write(page, content);
      },
      /*told=*/true);
  const auto round = [&](std::vector<PageRange> written) {
    written_ = std::move(written);
    child_.Step();
    ASSERT_TRUE(source_->Round(*sink_).ok());
  };
  round({});
  round({{Address(1), 2}});
  round({{Address(0), 4}});  // leaves 1 and 2 for the last
  ::kill(child_.pid(), SIGSTOP);
  written_ = {{Address(2), 1}};
  holes_ = {0, 1, 2, 3};
  sent_ = {4};
  const auto elsewhere = Arena::Create({.chunk_bytes = 4 << 20, .max_bytes = 1 << 28}).value();
  Aside aside(*elsewhere);
  source_->HoldBack(aside);
  const uint64_t before = sink_->pages_put();
  RoundReport report;
  const auto list = source_->Final(*sink_, report);
  ASSERT_TRUE(list.ok()) << list.status();
  EXPECT_EQ(aside.order, (std::vector<PageRun>{{space_, Address(2), 1}, {space_, Address(1), 1}}));
  EXPECT_EQ(sink_->pages_put() - before, 2u) << "CRIU's go where they always do";
  EXPECT_EQ(InArena(1), 'b');
  // 2 was written before the last list and before this one.
  EXPECT_EQ(list->recent,
            (std::vector<PageRun>{
                {space_, Address(2), 1}, {space_, Address(0), 2}, {space_, Address(3), 1}}));
}

// A ghost's instants: after a final round the next ones bring what was written since.
TEST_F(MemorySourceTest, RoundsGoOnAfterAFinalOneWhereTheyAreToldTo) {
  for (const bool goes_on : {true, false}) {
    goes_on_ = goes_on;
    Start(
        [this](int step) {
          const auto content = static_cast<char>('a' + step);
          for (int page = 0; page < 8; ++page) {
            if (step == 0 || page == step) Write(page, content);
          }
        },
        /*told=*/true);
    const auto round = [&](std::vector<PageRange> written) {
      written_ = std::move(written);
      child_.Step();
      return source_->Round(*sink_).value();
    };
    round({});
    ::kill(child_.pid(), SIGSTOP);
    written_.clear();
    holes_ = {0, 1, 2, 3, 4, 5, 6};
    sent_ = {7};  // by CRIU itself, with something of its own in it
    RoundReport report;
    ASSERT_TRUE(source_->Final(*sink_, report).ok());
    EXPECT_EQ(InArena(7), 'C');
    ::kill(child_.pid(), SIGCONT);
    report = round({{Address(1), 1}});
    EXPECT_EQ(InArena(1), 'b');
    EXPECT_EQ(InArena(7), 'a') << "what CRIU sent is not known, and comes again";
    if (goes_on) {
      EXPECT_EQ(report.pages_sent, 2u);
    } else {
      EXPECT_GE(report.pages_sent, 8u);
    }
    // And another instant.
    ::kill(child_.pid(), SIGSTOP);
    written_ = {{Address(1), 1}};
    holes_ = {0, 1, 2, 3, 4, 5, 6, 7};
    sent_.clear();
    const auto list = source_->Final(*sink_, report);
    ASSERT_TRUE(list.ok()) << list.status();
    EXPECT_EQ(InArena(1), 'b');
    ::kill(child_.pid(), SIGCONT);
    child_.End();
    source_.reset();
  }
}

TEST_F(MemorySourceTest, ALimitMayChangeDuringARound) {
  Start([this](int) {
    for (int page = 0; page < kPages; ++page) Write(page, 'a');
  });
  std::atomic<double> limit = kPages * kPageSize / 1000.0;
  MemorySource::Options options;
  options.version = {3, 17, 1};
  options.folder = absl::StrCat(folder_, "/images");
  options.max_rate = [&] { return limit.load(); };
  MemorySource source(options, MakeHashTracker(folder_),
                      Unstaged([this](CriuWork work) { return PlayCriu(std::move(work)); }),
                      [this] { return OpenCgroupMemory(folder_); });
  child_.Step();
  // All of it would take a quarter of an hour; a piece has to be waited for before it is looked
  // again.
  limit = 0;
  const RoundReport report = source.Round(*sink_).value();
  EXPECT_GE(report.pages_sent, static_cast<uint64_t>(kPages));
  EXPECT_EQ(report.held_back, Duration::zero());
}

TEST_F(MemorySourceTest, WhatWasDamagedOnItsWayComesAgain) {
  // Told, so that what a sanitizer writes in the child beside the test is not counted.
  Start(
      [this](int) {
        for (int page = 0; page < 4; ++page) Write(page, 'a');
      },
      /*told=*/true);
  child_.Step();
  ASSERT_TRUE(source_->Round(*sink_).ok());
  const std::vector<PageRun> damaged = {{space_, Address(1), 2}};
  source_->Resend(damaged);
  const RoundReport again = source_->Round(*sink_).value();
  EXPECT_EQ(again.pages_sent, 2u);
  // And what is damaged in the last round is read from the frozen component.
  ::kill(child_.pid(), SIGSTOP);
  source_->Resend(damaged);
  sink_->Refuse(damaged[0]);
  holes_ = {0, 1, 2, 3};
  RoundReport report;
  const uint64_t before = sink_->pages_put();
  const auto list = source_->Final(*sink_, report);
  ASSERT_TRUE(list.ok()) << list.status();
  EXPECT_EQ(sink_->pages_put() - before, 2u + 2u + report.pages_from_criu);
}

TEST_F(MemorySourceTest, FinalSendsTheRestAndTakesCriusListAsTheAuthority) {
  Start([this](int step) {
    if (step == 0) {
      for (int page = 0; page < 8; ++page) Write(page, 'a');
    } else {
      Write(2, 'b');
    }
  });
  child_.Step();
  ASSERT_TRUE(source_->Round(*sink_).ok());
  ASSERT_TRUE(source_->Stage().ok());
  child_.Step();
  ::kill(child_.pid(), SIGSTOP);
  holes_ = {0, 1, 2, 3};
  sent_ = {4};
  RoundReport report;
  const auto list = source_->Final(*sink_, report);
  ASSERT_TRUE(list.ok()) << list.status();
  EXPECT_EQ(parent_images_, "../parent");
  EXPECT_FALSE(inventory_.empty());
  EXPECT_EQ(answers_, (std::vector<char>{1, 0})) << "a parent for processes, none for the shared";
  EXPECT_EQ(InArena(2), 'b');
  EXPECT_EQ(InArena(4), 'C') << "what CRIU sends comes after what was read";
  EXPECT_EQ(report.pages_from_criu, 2u);
  EXPECT_EQ(report.pages_shared, 1u);
  ASSERT_EQ(list->entries.size(), 3u);
  EXPECT_EQ(list->entries[0].run, (PageRun{space_, Address(0), 4}));
  EXPECT_TRUE(list->entries[0].in_arena_before);
  EXPECT_FALSE(list->entries[1].in_arena_before);
}

TEST_F(MemorySourceTest, AHoleThatWasNeverSentIsReadFromTheFrozenComponent) {
  Start([this](int) { Write(0, 'a'); });
  child_.Step();
  ASSERT_TRUE(source_->Round(*sink_).ok());
  ::kill(child_.pid(), SIGSTOP);
  holes_ = {0, 9};  // nobody has ever written to the second
  RoundReport report;
  const auto list = source_->Final(*sink_, report);
  ASSERT_TRUE(list.ok()) << list.status();
  EXPECT_EQ(InArena(9), '0');
}

TEST_F(MemorySourceTest, AHoleWithoutAPageBehindItCallsItOff) {
  Start([this](int) {
    Write(0, 'a');
    ::munmap(memory_ + 9 * kPageSize, kPageSize);
  });
  child_.Step();
  ASSERT_TRUE(source_->Round(*sink_).ok());
  ::kill(child_.pid(), SIGSTOP);
  holes_ = {0, 9};
  RoundReport report;
  EXPECT_EQ(source_->Final(*sink_, report).status().code(), absl::StatusCode::kDataLoss);
}

TEST_F(MemorySourceTest, AfterAFailedRoundEverythingIsSentAgain) {
  class Breaking : public LocalSink {
   public:
    using LocalSink::LocalSink;
    absl::Status PutAll(std::span<const PageRun> runs) override {
      if (broken) return absl::UnavailableError("link down");
      return LocalSink::PutAll(runs);
    }
    bool broken = false;
  };
  Breaking sink(*arena_);
  Start([this](int step) {
    for (int page = 0; page < 8; ++page) {
      if (step == 0 || page == 5) Write(page, static_cast<char>('a' + step));
    }
  });
  child_.Step();
  const RoundReport first = source_->Round(sink).value();
  child_.Step();
  sink.broken = true;
  EXPECT_EQ(source_->Round(sink).status().code(), absl::StatusCode::kUnavailable);
  sink.broken = false;
  const RoundReport again = source_->Round(sink).value();
  EXPECT_GE(again.pages_sent + again.pages_zero, first.pages_sent + first.pages_zero);
  EXPECT_EQ(InArena(5), 'b');
}

TEST_F(MemorySourceTest, AProcessThatEndedTakesItsPagesAlong) {
  Start([this](int) { Write(0, 'a'); });
  child_.Step();
  ASSERT_TRUE(source_->Round(*sink_).ok());
  EXPECT_EQ(InArena(0), 'a');
  std::ofstream(absl::StrCat(folder_, "/cgroup.procs")) << "";
  ASSERT_TRUE(source_->Round(*sink_).ok());
  EXPECT_EQ(InArena(0), '0');
}

TEST_F(MemorySourceTest, RoundsKeepToTheRate) {
  max_rate_ = 4e6;
  Start([this](int step) {
    for (int page = 0; page < kPages; ++page) Write(page, static_cast<char>('a' + step));
  });
  child_.Step();
  const TimePoint start = Clock::now();
  uint64_t bytes = 0;
  for (int round = 0; round < 3; ++round) {
    const RoundReport report = source_->Round(*sink_).value();
    bytes += report.pages_sent * kPageSize;
    child_.Step();
  }
  const double burst = max_rate_ / 4;
  EXPECT_GE(Seconds(Clock::now() - start), (static_cast<double>(bytes) - burst) / max_rate_ * 0.99);
}

}  // namespace
}  // namespace starling::checkpoint
