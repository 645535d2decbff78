#include "checkpoint/page_server.h"

#include <gtest/gtest.h>
#include <sys/socket.h>

#include <cstring>
#include <random>
#include <string>
#include <thread>

#include "absl/strings/match.h"
#include "base/fd.h"
#include "base/file.h"
#include "checkpoint/criu_images.h"
#include "checkpoint/local_sink.h"

namespace starling::checkpoint {
namespace {

constexpr CriuVersion kNarrow{3, 17, 1};
constexpr CriuVersion kWide{4, 2, 0};
constexpr uint32_t kOpen2 = 4, kParent = 5, kAdd = 6, kClose = 0x1023;

std::string Number(uint64_t value, size_t size) {
  std::string bytes;
  for (size_t i = 0; i < size; ++i) bytes.push_back(static_cast<char>(value >> (8 * i)));
  return bytes;
}

std::string Message(const CriuVersion& version, uint32_t command, uint64_t pages, uint64_t address,
                    uint64_t destination) {
  const bool wide = version >= kWide;
  return Number(command, 4) + (wide ? Number(0, 4) + Number(pages, 8) : Number(pages, 4)) +
         Number(address, 8) + Number(destination, 8);
}

uint64_t Pid(uint64_t pid) { return pid << 8 | 1; }
uint64_t Shmem(uint64_t id) { return id << 8 | 2; }
uint32_t Add(uint32_t flags) { return flags << 16 | kAdd; }

absl::StatusOr<PageServerMessage> Parse(const CriuVersion& version, const std::string& bytes) {
  return PageServerParser::For(version)->Parse(std::as_bytes(std::span(bytes)));
}

TEST(PageServerParser, SizeFollowsTheVersion) {
  EXPECT_EQ(PageServerParser::For({3, 17, 1})->message_size(), 24u);
  EXPECT_EQ(PageServerParser::For({4, 1, 1})->message_size(), 24u);
  EXPECT_EQ(PageServerParser::For({4, 2, 0})->message_size(), 32u);
  EXPECT_EQ(PageServerParser::For({3, 10, 0}).status().code(), absl::StatusCode::kUnimplemented);
  EXPECT_EQ(PageServerParser::For({5, 0, 0}).status().code(), absl::StatusCode::kUnimplemented);
}

TEST(PageServerParser, ReadsWhatCriuSends) {
  using Kind = PageServerMessage::Kind;
  for (const CriuVersion& version : {kNarrow, kWide}) {
    const auto open = Parse(version, Message(version, kOpen2, 0, 0, Pid(42))).value();
    EXPECT_EQ(open.kind, Kind::kOpen);
    EXPECT_EQ(open.run.space, (AddressSpace{AddressSpace::Kind::kProcess, 42}));
    const auto parent = Parse(version, Message(version, kParent, 0, 0, Shmem(7))).value();
    EXPECT_EQ(parent.kind, Kind::kAskParent);
    EXPECT_EQ(parent.run.space, (AddressSpace{AddressSpace::Kind::kSharedMemory, 7}));
    const auto pages =
        Parse(version, Message(version, Add(4 | 2), 3, 0x7f0000001000, Pid(42))).value();
    EXPECT_EQ(pages.kind, Kind::kPages);
    EXPECT_EQ(pages.run.address, 0x7f0000001000u);
    EXPECT_EQ(pages.run.pages, 3u);
    EXPECT_EQ(Parse(version, Message(version, Add(1), 1, 0, Pid(1)))->kind, Kind::kHole);
    EXPECT_EQ(Parse(version, Message(version, kClose, 0, 0, 0))->kind, Kind::kClose);
    EXPECT_EQ(Parse(version, Message(version, kClose + 1, 0, 0, 0))->kind, Kind::kClose);
  }
}

TEST(PageServerParser, RefusesWhatCannotBe) {
  for (const CriuVersion& version : {kNarrow, kWide}) {
    const std::string bad[] = {
        Message(version, 0, 1, 0, Pid(1)),
        Message(version, 7, 1, 0, Pid(1)),  // GET belongs to lazy pages
        Message(version, 0x1022, 0, 0, Pid(1)),
        Message(version, Add(0), 1, 0, Pid(1)),  // neither present nor in the parent
        Message(version, Add(2), 1, 0, Pid(1)),  // left at the source
        Message(version, Add(5), 1, 0, Pid(1)),
        Message(version, Add(8), 1, 0, Pid(1)),
        Message(version, Add(4), 0, 0, Pid(1)),
        Message(version, Add(4), 1, 0x1001, Pid(1)),
        Message(version, Add(4), 2, (uint64_t{1} << 57) - kPageSize, Pid(1)),
        Message(version, Add(4), 1, ~uint64_t{0} << 12, Pid(1)),
        Message(version, Add(4), 1, 0, Pid(0)),
        Message(version, Add(4), 1, 0, Pid((1 << 22) + 1)),
        Message(version, Add(4), 1, 0, 42 << 8 | 3),
        Message(version, kOpen2, 0, 0, 0),
        "",
        Message(version, kClose, 0, 0, 0) + "x",
        Message(version, kClose, 0, 0, 0).substr(1),
    };
    for (const std::string& bytes : bad) {
      EXPECT_EQ(Parse(version, bytes).status().code(), absl::StatusCode::kInvalidArgument);
    }
  }
  EXPECT_FALSE(Parse(kWide, Message(kWide, Add(4), ~uint64_t{0}, 0, Pid(1))).ok());
}

TEST(PageServerParser, AnswersEveryBitPatternWithoutAnImpossibleRun) {
  std::mt19937_64 random(7);
  for (const CriuVersion& version : {kNarrow, kWide}) {
    const auto parser = PageServerParser::For(version).value();
    int good = 0;
    for (int i = 0; i < 200000; ++i) {
      std::string bytes =
          Message(version, Add(random() % 8), random() % 3 ? random() % 9 : random(),
                  (random() >> (random() % 64)) & ~uint64_t{random() % 2 ? 4095u : 0u},
                  random() % 2 ? Pid(random() % 300) : random());
      if (random() % 4 == 0) bytes[random() % bytes.size()] = static_cast<char>(random());
      const auto message = parser.Parse(std::as_bytes(std::span(bytes)));
      if (!message.ok()) continue;
      ++good;
      const PageRun& run = message->run;
      if (message->kind == PageServerMessage::Kind::kPages ||
          message->kind == PageServerMessage::Kind::kHole) {
        ASSERT_EQ(run.address % kPageSize, 0u);
        ASSERT_GT(run.pages, 0u);
        ASSERT_LE(run.address / kPageSize + run.pages, uint64_t{1} << 45);
      }
    }
    EXPECT_GT(good, 1000);
  }
}

// What CRIU's side of one stream reads back.
class PageServerTest : public ::testing::Test {
 protected:
  void SetUp() override {
    int ends[2];
    ASSERT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), 0);
    server_.Reset(ends[0]);
    criu_.Reset(ends[1]);
    arena_ = Arena::Create({.chunk_bytes = 1 << 20, .max_bytes = 1 << 26}).value();
    sink_ = std::make_unique<LocalSink>(*arena_, 3);  // so that runs are split
  }

  PageServerJob Job(bool parent) {
    PageServerJob job;
    job.socket = server_.get();
    job.version = kNarrow;
    job.has_parent = [parent](const AddressSpace&) { return parent; };
    job.deadline = Deadline::After(std::chrono::seconds(30));
    return job;
  }

  // Serves while `bytes` are written; then CRIU's end is closed unless `keep_open`.
  absl::StatusOr<PageServerResult> Serve(const PageServerJob& job, const std::string& bytes,
                                         PageSink& sink, bool keep_open = false) {
    std::thread writer([&] {
      (void)WriteAll(criu_.get(), bytes.data(), bytes.size());
      if (!keep_open) ::shutdown(criu_.get(), SHUT_WR);
    });
    auto result = ServePages(job, sink);
    if (!result.ok()) ::shutdown(server_.get(), SHUT_RDWR);
    writer.join();
    char buffer[256];
    const ssize_t got = ::recv(criu_.get(), buffer, sizeof(buffer), MSG_DONTWAIT);
    answers_.assign(buffer, got > 0 ? static_cast<size_t>(got) : 0);
    return result;
  }

  static std::string Page(char content) { return std::string(kPageSize, content); }
  std::string Of(uint32_t command, uint64_t pages = 0, uint64_t address = 0,
                 uint64_t destination = 0) {
    return Message(kNarrow, command, pages, address, destination);
  }

  UniqueFd server_, criu_;
  std::unique_ptr<Arena> arena_;
  std::unique_ptr<LocalSink> sink_;
  std::string answers_;
};

constexpr AddressSpace kFive{AddressSpace::Kind::kProcess, 5};
constexpr AddressSpace kShm{AddressSpace::Kind::kSharedMemory, 9};

TEST_F(PageServerTest, WholeDump) {
  std::string pages;
  for (char c = 'a'; c < 'h'; ++c) pages += Page(c);
  const std::string stream = Of(kParent, 0, 0, Pid(5)) + Of(kOpen2, 0, 0, Pid(5)) +
                             Of(Add(4), 7, 0x10000, Pid(5)) + pages +
                             Of(Add(1), 2, 0x17000, Pid(5)) + Of(Add(1), 3, 0x19000, Pid(5)) +
                             Of(kOpen2, 0, 0, Shmem(8)) + Of(kOpen2, 0, 0, Shmem(9)) +
                             Of(Add(4), 1, 0, Shmem(9)) + Page(0) + Of(kClose);
  const auto result = Serve(Job(true), stream, *sink_);
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_EQ(answers_, std::string("\1\0\0\0"
                                  "\1"
                                  "\1"
                                  "\1"
                                  "\0\0\0\0",
                                  11));
  EXPECT_EQ(result->report.pages_sent, 7u);
  EXPECT_EQ(result->report.pages_zero, 1u);
  EXPECT_EQ(result->report.pages_unchanged, 5u);
  EXPECT_EQ(result->opened.size(), 3u);
  ASSERT_EQ(result->list.entries.size(), 4u);
  EXPECT_EQ(result->list.entries[0].run, (PageRun{kFive, 0x10000, 7}));
  EXPECT_FALSE(result->list.entries[0].in_arena_before);
  EXPECT_EQ(result->list.entries[1].run, (PageRun{kFive, 0x17000, 5}));
  EXPECT_TRUE(result->list.entries[1].in_arena_before);
  EXPECT_EQ(result->list.entries[2].run.pages, 0u);
  EXPECT_EQ(result->list.entries[3].run, (PageRun{kShm, 0, 1}));
  for (int i = 0; i < 7; ++i) {
    const auto found = arena_->Find(kFive, 0x10000 + i * kPageSize);
    ASSERT_TRUE(found.has_value());
    EXPECT_EQ(static_cast<char>((*arena_->Slots(found->slot, 1))[17]), 'a' + i);
  }
  EXPECT_EQ(arena_->Find(kShm, 0)->slot, kZeroSlot);
}

// What CRIU sends of such pages, or says of them, does not count; what lies around them does.
TEST_F(PageServerTest, DistrustedPagesAreListedAndNotTaken) {
  PageServerJob job = Job(true);
  job.distrusted = [](const AddressSpace& space) -> absl::StatusOr<std::vector<PageRun>> {
    if (space == kShm) return std::vector<PageRun>();
    return std::vector<PageRun>{{space, 0x1000, 1},  {space, 0x10000, 1}, {space, 0x12000, 1},
                                {space, 0x14000, 1}, {space, 0x21000, 1}, {space, 0x90000, 1}};
  };
  std::string pages;
  for (char c = 'a'; c < 'f'; ++c) pages += Page(c);
  const auto result = Serve(job,
                            Of(kOpen2, 0, 0, Pid(5)) + Of(Add(4), 5, 0x10000, Pid(5)) + pages +
                                Of(Add(1), 3, 0x20000, Pid(5)) + Of(kOpen2, 0, 0, Shmem(9)) +
                                Of(Add(4), 1, 0x10000, Shmem(9)) + Page('s') + Of(kClose),
                            *sink_);
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_EQ(
      result->distrusted,
      (std::vector<PageRun>{
          {kFive, 0x10000, 1}, {kFive, 0x12000, 1}, {kFive, 0x14000, 1}, {kFive, 0x21000, 1}}));
  EXPECT_EQ(result->report.pages_sent, 3u);
  EXPECT_EQ(result->report.pages_unchanged, 6u);
  std::vector<std::pair<PageRun, bool>> list;
  for (const FinalList::Entry& entry : result->list.entries) {
    list.emplace_back(entry.run, entry.in_arena_before);
  }
  EXPECT_EQ(list, (std::vector<std::pair<PageRun, bool>>{{{kFive, 0x10000, 1}, true},
                                                         {{kFive, 0x11000, 1}, false},
                                                         {{kFive, 0x12000, 1}, true},
                                                         {{kFive, 0x13000, 1}, false},
                                                         {{kFive, 0x14000, 1}, true},
                                                         {{kFive, 0x20000, 3}, true},
                                                         {{kShm, 0x10000, 1}, false}}));
  for (const uint64_t address : {0x10000, 0x12000, 0x14000}) {
    EXPECT_FALSE(arena_->Find(kFive, address).has_value()) << address;
  }
  const auto found = arena_->Find(kFive, 0x13000);
  ASSERT_TRUE(found.has_value());
  EXPECT_EQ(static_cast<char>((*arena_->Slots(found->slot, 1))[17]), 'd');
}

TEST_F(PageServerTest, MemoryThatCannotBeLookedAtIsToldToCriuAtTheClose) {
  PageServerJob job = Job(false);
  job.distrusted = [](const AddressSpace&) { return absl::NotFoundError("process 5 is gone"); };
  const auto result =
      Serve(job, Of(kOpen2, 0, 0, Pid(5)) + Of(Add(4), 1, 0x10000, Pid(5)) + Page('a') + Of(kClose),
            *sink_);
  EXPECT_EQ(result.status().code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(answers_, std::string("\0\xff\xff\xff\xff", 5));
}

TEST_F(PageServerTest, EndWithoutCloseIsDataLossWhereverItComes) {
  const std::string stream = Of(kOpen2, 0, 0, Pid(5)) + Of(Add(4), 2, 0x10000, Pid(5)) + Page('a') +
                             Page('b') + Of(kClose);
  for (const size_t size : {size_t{0}, size_t{1}, size_t{24}, size_t{30}, size_t{48}, size_t{49},
                            size_t{5000}, 48 + 2 * kPageSize, stream.size() - 1}) {
    SetUp();
    const auto result = Serve(Job(false), stream.substr(0, size), *sink_);
    EXPECT_EQ(result.status().code(), absl::StatusCode::kDataLoss) << size << result.status();
  }
}

TEST_F(PageServerTest, ForeignStreamsAreRefused) {
  for (const std::string& stream :
       {Of(Add(4), 1, 0, Pid(5)) + Page('a'),                             // not opened
        Of(kOpen2, 0, 0, Pid(5)) + Of(Add(4), 1, 0, Pid(6)) + Page('a'),  // another's
        Of(kOpen2, 0, 0, Pid(5)) + Of(Add(1), 1, 0, Pid(5)),              // no parent
        std::string(200, '\xff'), std::string("GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")}) {
    SetUp();
    const auto result = Serve(Job(false), stream + Of(kClose), *sink_);
    EXPECT_EQ(result.status().code(), absl::StatusCode::kInvalidArgument) << result.status();
  }
}

TEST_F(PageServerTest, SilenceEndsAtTheDeadline) {
  PageServerJob job = Job(false);
  job.deadline = Deadline::After(std::chrono::milliseconds(30));
  EXPECT_EQ(Serve(job, Of(kOpen2, 0, 0, Pid(5)), *sink_, true).status().code(),
            absl::StatusCode::kDeadlineExceeded);
}

// An answer once waited for its reader without end, past the deadline and any cancelling by it.
TEST_F(PageServerTest, AnswersThatNobodyReadsEndAtTheDeadline) {
  const int least = 1;  // the kernel makes it its smallest
  ASSERT_EQ(::setsockopt(server_.get(), SOL_SOCKET, SO_SNDBUF, &least, sizeof(least)), 0);
  std::string questions;
  for (int i = 0; i < 1000; ++i) questions += Of(kParent, 0, 0, Pid(5));
  PageServerJob job = Job(false);
  job.deadline = Deadline::After(std::chrono::milliseconds(30));
  EXPECT_EQ(Serve(job, questions, *sink_).status().code(), absl::StatusCode::kDeadlineExceeded);
}

// Fails at its nth page.
class FailingSink : public LocalSink {
 public:
  FailingSink(Arena& arena, int good) : LocalSink(arena, 1), good_(good) {}
  absl::Status Put(const PageRun& run) override {
    if (good_-- <= 0) return absl::UnavailableError("the link is down");
    return LocalSink::Put(run);
  }

 private:
  int good_;
};

TEST_F(PageServerTest, FailingSinkIsToldToCriuAtTheClose) {
  std::string pages;
  for (int i = 0; i < 200; ++i) pages += Page('a');
  FailingSink sink(*arena_, 2);
  const auto result =
      Serve(Job(false),
            Of(kOpen2, 0, 0, Pid(5)) + Of(Add(4), 200, 0x10000, Pid(5)) + pages +
                Of(kOpen2, 0, 0, Pid(6)) + Of(Add(4), 1, 0x10000, Pid(6)) + Page('b') + Of(kClose),
            sink);
  EXPECT_EQ(result.status().code(), absl::StatusCode::kUnavailable);
  EXPECT_TRUE(absl::StrContains(result.status().message(), "link is down"));
  EXPECT_EQ(answers_, std::string("\0\0\xff\xff\xff\xff", 6));
}

}  // namespace
}  // namespace starling::checkpoint
