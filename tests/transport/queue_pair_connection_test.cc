#include "transport/queue_pair_connection.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <deque>

#include "absl/strings/str_cat.h"
#include "tests/transport/fake_world.h"

namespace starling::transport {
namespace {

using ::testing::HasSubstr;

// What every connection promises is in fabric_contract_test.cc. Here is how this one does it.

// --- over a fake network ---

TEST(QueuePairConnection, CreditComesBackWhenTheSendQueueWasFull) {
  // b's send queue is full of writes while it takes a's messages; the credit must follow once there
  // is room.
  World world(
      {.delay_min = std::chrono::milliseconds(2), .delay_max = std::chrono::milliseconds(2)},
      {.send_depth = 32, .messages = 4});
  Registered source(*world.fabric_b, RandomBytes(4096, 1), Access::kLocal);
  Registered target(*world.fabric_a, std::vector<std::byte>(8192), Access::kRemoteWrite);
  for (int i = 0; i < 4; ++i) ASSERT_TRUE(world.a->Send("x", Soon()).ok());
  ASSERT_TRUE(world.b->Receive(Soon()).ok());
  for (int i = 0; i < 32; ++i) {
    ASSERT_TRUE(
        world.b->Write(*source.region, 0, 16, target.at(i % 2 * 4096), target.key(), Soon()).ok());
  }
  for (int i = 0; i < 3; ++i) ASSERT_TRUE(world.b->Receive(Soon()).ok());
  EXPECT_TRUE(absl::IsDeadlineExceeded(world.b->Receive(InMilliseconds(50)).status()));
  for (int i = 0; i < 4; ++i) EXPECT_TRUE(world.a->Send("x", Soon()).ok()) << i;
  source.region.reset();
  target.region.reset();
}

TEST(QueuePairConnection, NeighbouringWritesBecomeOne) {
  World world;
  constexpr size_t kPages = 16;
  Registered source(*world.fabric_a, RandomBytes(kPages * 4096 * 2, 1), Access::kLocal);
  Registered target(*world.fabric_b, std::vector<std::byte>(kPages * 4096), Access::kRemoteWrite);
  // Every second page of the source to adjacent pages of the target: gathered, eight pieces a
  // write.
  for (size_t i = 0; i < kPages; ++i) {
    ASSERT_TRUE(
        world.a->Write(*source.region, i * 8192, 4096, target.at(i * 4096), target.key(), Soon())
            .ok());
  }
  const uint64_t doorbells = world.network.counts().doorbells;
  auto sent = world.a->Send("done", Soon());
  ASSERT_TRUE(sent.ok() && world.b->Receive(Soon()).ok());
  EXPECT_EQ(world.network.counts().writes, kPages / kMaxPieces);
  EXPECT_EQ(world.network.counts().doorbells, doorbells + 1);
  for (size_t i = 0; i < kPages; ++i) {
    EXPECT_EQ(std::memcmp(&source.bytes[i * 8192], &target.bytes[i * 4096], 4096), 0) << i;
  }
  // Adjacent on both sides: one piece, however many there are.
  for (size_t i = 0; i < kPages; ++i) {
    ASSERT_TRUE(
        world.a->Write(*source.region, i * 4096, 4096, target.at(i * 4096), target.key(), Soon())
            .ok());
  }
  ASSERT_TRUE(world.a->Send("done", Soon()).ok() && world.b->Receive(Soon()).ok());
  EXPECT_EQ(world.network.counts().writes, kPages / kMaxPieces + 1);
  EXPECT_EQ(std::memcmp(source.bytes.data(), target.bytes.data(), kPages * 4096), 0);
  source.region.reset();
  target.region.reset();
  world.ExpectNothingLeft();
}

TEST(QueuePairConnection, LongWritesAreCut) {
  World world;
  constexpr size_t kBytes = 3 * kMaxWriteBytes + 12345;
  Registered source(*world.fabric_a, RandomBytes(kBytes, 1), Access::kLocal);
  Registered target(*world.fabric_b, std::vector<std::byte>(kBytes), Access::kRemoteWrite);
  ASSERT_TRUE(world.a->Write(*source.region, 0, kBytes, target.at(0), target.key(), Soon()).ok());
  ASSERT_TRUE(world.a->Send("done", Soon()).ok() && world.b->Receive(Soon()).ok());
  EXPECT_EQ(world.network.counts().writes, 4u);
  EXPECT_EQ(std::memcmp(source.bytes.data(), target.bytes.data(), kBytes), 0);
  EXPECT_EQ(world.a->bytes_sent(), kBytes + 12);
  source.region.reset();
  target.region.reset();
  world.ExpectNothingLeft();
}

// --- over a queue pair that does as it is told: what a peer or a device that misbehaves may do ---

class ScriptedQueuePair final : public QueuePair {
 public:
  absl::Status Post(std::span<const WorkRequest> requests) override {
    posted.insert(posted.end(), requests.begin(), requests.end());
    return post_answer;
  }
  absl::Status PostReceive(uint64_t id, const Piece& buffer) override {
    receives.push_back({id, buffer});
    return absl::OkStatus();
  }
  absl::StatusOr<size_t> Poll(std::span<WorkCompletion> completions) override {
    const size_t n = std::min(completions.size(), script.size());
    std::copy_n(script.begin(), n, completions.begin());
    script.erase(script.begin(), script.begin() + static_cast<ptrdiff_t>(n));
    return n;
  }
  absl::Status Arm() override { return absl::OkStatus(); }
  absl::StatusOr<Event> Wait(Deadline) override { return Event::kNothing; }
  void Wake() override {}
  const std::string& description() const override { return name; }

  // A message from the peer, put into the next posted buffer.
  void Arrive(uint64_t header, uint32_t bytes) {
    const auto [id, buffer] = receives.front();
    receives.pop_front();
    std::memcpy(reinterpret_cast<void*>(buffer.address), &header, sizeof(header));
    script.push_back({.id = id, .received = true, .bytes = bytes});
  }

  std::string name = "scripted";
  std::vector<WorkRequest> posted;
  std::deque<std::pair<uint64_t, Piece>> receives;
  std::deque<WorkCompletion> script;
  absl::Status post_answer;
};

struct Scripted {
  explicit Scripted(const ConnectionTuning& tuning = {.send_depth = 32, .messages = 4}) {
    auto made = std::make_unique<ScriptedQueuePair>();
    queue_pair = made.get();
    auto connected = QueuePairConnection::Make(std::move(made), *fabric, tuning);
    EXPECT_TRUE(connected.ok()) << connected.status();
    connection = std::move(*connected);
  }
  FakeNetwork network;
  std::unique_ptr<Fabric> fabric = network.Open("a");
  ScriptedQueuePair* queue_pair;
  std::unique_ptr<QueuePairConnection> connection;
};

TEST(QueuePairConnectionHostile, ImpossibleSizesAreRefused) {
  for (const uint32_t bytes : {0u, 7u, static_cast<uint32_t>(kMaxMessageBytes + 1), UINT32_MAX}) {
    Scripted scripted;
    scripted.queue_pair->Arrive(0, bytes);
    const absl::Status status = scripted.connection->Receive(Soon()).status();
    EXPECT_TRUE(absl::IsDataLoss(status)) << bytes << ": " << status;
  }
}

TEST(QueuePairConnectionHostile, MoreTakenThanSentIsRefused) {
  for (const uint64_t took : {uint64_t{2}, uint64_t{1} << 62, UINT64_MAX}) {
    Scripted scripted;
    ASSERT_TRUE(scripted.connection->Send("one", Soon()).ok());
    scripted.queue_pair->Arrive(took, 8);
    EXPECT_TRUE(absl::IsDataLoss(scripted.connection->Receive(Soon()).status())) << took;
  }
}

TEST(QueuePairConnectionHostile, CountsThatGoBackAreRefused) {
  Scripted scripted;
  ASSERT_TRUE(scripted.connection->Send("one", Soon()).ok());
  scripted.queue_pair->Arrive(1, 8);
  EXPECT_TRUE(scripted.connection->Receive(Soon()).ok());
  scripted.queue_pair->Arrive(0, 8);
  EXPECT_TRUE(absl::IsDataLoss(scripted.connection->Receive(Soon()).status()));
}

TEST(QueuePairConnectionHostile, MessagesBeyondTheCreditAreRefused) {
  Scripted scripted;
  for (int i = 0; i < 5; ++i) scripted.queue_pair->Arrive(0, 8);
  for (int i = 0; i < 4; ++i) EXPECT_TRUE(scripted.connection->Receive(Soon()).ok()) << i;
  const absl::Status status = scripted.connection->Receive(Soon()).status();
  EXPECT_TRUE(absl::IsDataLoss(status)) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr("credit"));
}

TEST(QueuePairConnectionHostile, CreditOnlyMessagesAreNotGivenOut) {
  Scripted scripted;
  const size_t posted = scripted.queue_pair->receives.size();
  scripted.queue_pair->Arrive(uint64_t{1} << 63, 8);
  EXPECT_TRUE(absl::IsDeadlineExceeded(scripted.connection->Receive(InMilliseconds(0)).status()));
  EXPECT_EQ(scripted.queue_pair->receives.size(), posted);  // its buffer is back
}

TEST(QueuePairConnectionHostile, CompletionsOutOfOrderAreAnError) {
  Scripted scripted;
  const auto first = scripted.connection->Send("one", Soon());
  ASSERT_TRUE(scripted.connection->Send("two", Soon()).ok());
  scripted.queue_pair->script.push_back({.id = scripted.queue_pair->posted[1].id});
  EXPECT_TRUE(absl::IsInternal(scripted.connection->WaitCompleted(*first, Soon())));
}

TEST(QueuePairConnectionHostile, PostThatFailsEndsTheConnection) {
  Scripted scripted;
  scripted.queue_pair->post_answer = absl::ResourceExhaustedError("no room");
  EXPECT_TRUE(absl::IsResourceExhausted(scripted.connection->Send("one", Soon()).status()));
  EXPECT_TRUE(absl::IsResourceExhausted(scripted.connection->Receive(Soon()).status()));
}

// A report is asked for often enough that the queue can never be full of requests that nothing
// gives back.
TEST(QueuePairConnectionHostile, WritesAreReportedInTime) {
  Scripted scripted({.send_depth = 64, .messages = 4});
  std::vector<std::byte> memory(4096);
  const auto region = scripted.fabric->Register(memory, Access::kLocal);
  ASSERT_TRUE(region.ok());
  for (uint64_t i = 0; i < 64; ++i) {
    ASSERT_TRUE(scripted.connection->Write(**region, 0, 8, i % 2 * 4096, 1, Soon()).ok());
  }
  EXPECT_TRUE(absl::IsDeadlineExceeded(
      scripted.connection->Write(**region, 0, 8, 0, 1, InMilliseconds(0))));
  ASSERT_EQ(scripted.queue_pair->posted.size(), 64u);
  size_t since = 0;
  for (const WorkRequest& request : scripted.queue_pair->posted) {
    since = request.signalled ? 0 : since + 1;
    EXPECT_LT(since, 16u);
    if (request.signalled) scripted.queue_pair->script.push_back({.id = request.id});
  }
  EXPECT_EQ(since, 0u);
  EXPECT_TRUE(scripted.connection->Write(**region, 0, 8, 0, 1, Soon()).ok());
}

}  // namespace
}  // namespace starling::transport
