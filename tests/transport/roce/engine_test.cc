#include "transport/roce/engine.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/units.h"
#include "tests/transport/roce/simulated_wire.h"

namespace starling::transport::roce {
namespace {

using Bytes = std::vector<std::byte>;

int Error(WorkError error) { return static_cast<int>(error); }

// Every operation at sizes around the path MTU, at each path MTU.
class EveryOperation : public testing::TestWithParam<uint32_t> {};

TEST_P(EveryOperation, ArrivesWhole) {
  const uint32_t mtu = GetParam();
  SimulatedWire wire({}, {.receive_depth = 256}, {.mtu = mtu});
  const size_t longest = 5 * mtu + 13;
  EngineMemory source(wire.engine(0), SeededBytes(longest, 1), Access::kLocal);
  EngineMemory target(wire.engine(1), Bytes(longest), Access::kRemoteWrite);
  EngineMemory remote(wire.engine(1), SeededBytes(longest, 2), Access::kRemoteRead);
  EngineMemory fetched(wire.engine(0), Bytes(longest), Access::kLocal);
  EngineMemory inbox(wire.engine(1), Bytes(longest), Access::kLocal);
  PairHalf& a = wire.half(0);
  PairHalf& b = wire.half(1);
  uint64_t id = 0;
  for (const size_t bytes :
       {size_t{0}, size_t{1}, size_t{2}, size_t{3}, size_t{4}, size_t{mtu - 1}, size_t{mtu},
        size_t{mtu + 1}, size_t{2 * mtu}, size_t{3 * mtu - 2}, longest}) {
    SCOPED_TRACE(bytes);
    const size_t shift = longest - bytes;
    const auto done = [&] { return !a.completions.empty(); };
    const auto finish = [&] {
      ASSERT_TRUE(wire.RunUntil(done));
      EXPECT_EQ(a.completions.front().id, id);
      EXPECT_EQ(a.completions.front().error, 0) << a.completions.front().error_text;
      a.completions.pop_front();
    };
    std::fill(target.bytes.begin(), target.bytes.end(), std::byte{0});
    a.pair->Post(
        Request(++id, Operation::kWrite, {source.piece(shift, bytes)}, target.at(0), target.key));
    finish();
    EXPECT_EQ(std::memcmp(target.bytes.data(), &source.bytes[shift], bytes), 0);
    if (bytes < longest) {
      EXPECT_EQ(target.bytes[bytes], std::byte{0});
    }

    std::fill(target.bytes.begin(), target.bytes.end(), std::byte{0});
    b.pair->PostReceive(1000 + id, inbox.piece(0, longest));
    WorkRequest immediate = Request(++id, Operation::kWriteImmediate, {source.piece(shift, bytes)},
                                    target.at(0), target.key);
    immediate.immediate = 0xfeed0000u + static_cast<uint32_t>(bytes);
    a.pair->Post(immediate);
    finish();
    ASSERT_EQ(b.completions.size(), 1u);
    EXPECT_TRUE(b.completions[0].has_immediate);
    EXPECT_EQ(b.completions[0].immediate, immediate.immediate);
    b.completions.clear();
    EXPECT_EQ(std::memcmp(target.bytes.data(), &source.bytes[shift], bytes), 0);

    b.pair->PostReceive(1000 + id, inbox.piece(0, longest));
    a.pair->Post(Request(++id, Operation::kMessage, {source.piece(shift, bytes)}));
    finish();
    ASSERT_EQ(b.completions.size(), 1u);
    EXPECT_EQ(b.completions[0].bytes, bytes);
    EXPECT_FALSE(b.completions[0].has_immediate);
    b.completions.clear();
    EXPECT_EQ(std::memcmp(inbox.bytes.data(), &source.bytes[shift], bytes), 0);

    a.pair->Post(Request(++id, Operation::kRead, {fetched.piece(shift, bytes)}, remote.at(shift),
                         remote.key));
    finish();
    EXPECT_EQ(std::memcmp(&fetched.bytes[shift], &remote.bytes[shift], bytes), 0);
  }
  EXPECT_EQ(a.pair->counts().packets_sent_again, 0u);
  EXPECT_EQ(b.pair->counts().naks_sent, 0u);
}

INSTANTIATE_TEST_SUITE_P(PathMtu, EveryOperation, testing::Values(1024u, 2048u, 4096u));

TEST(RoceEngine, GathersPiecesAndScattersThem) {
  SimulatedWire wire({}, {}, {.mtu = 1024});
  EngineMemory source(wire.engine(0), SeededBytes(16 * 1024, 1), Access::kLocal);
  EngineMemory target(wire.engine(1), Bytes(16 * 1024), Access::kRemoteWrite);
  PairHalf& a = wire.half(0);
  // Pieces of odd lengths, out of order.
  const std::initializer_list<Piece> pieces = {source.piece(5000, 700), source.piece(100, 1),
                                               source.piece(9000, 3001), source.piece(0, 50)};
  Bytes wanted;
  for (const Piece& piece : pieces) {
    const auto* from = reinterpret_cast<const std::byte*>(piece.address);
    wanted.insert(wanted.end(), from, from + piece.bytes);
  }
  a.pair->Post(Request(1, Operation::kWrite, pieces, target.at(10), target.key));
  ASSERT_TRUE(wire.RunUntil([&] { return a.completions.size() == 1; }));
  EXPECT_EQ(std::memcmp(&target.bytes[10], wanted.data(), wanted.size()), 0);

  EngineMemory remote(wire.engine(1), SeededBytes(3752, 3), Access::kRemoteRead);
  a.pair->Post(Request(2, Operation::kRead, pieces, remote.at(0), remote.key));
  ASSERT_TRUE(wire.RunUntil([&] { return a.completions.size() == 2; }));
  size_t at = 0;
  for (const Piece& piece : pieces) {
    EXPECT_EQ(
        std::memcmp(reinterpret_cast<const void*>(piece.address), &remote.bytes[at], piece.bytes),
        0);
    at += piece.bytes;
  }
}

// Sequence numbers have 24 bits.
TEST(RoceEngine, SequenceNumbersWrap) {
  SimulatedWire wire({.seed = 3, .loss = 0.02}, {}, {.own_psn = 0xfffff0, .peer_psn = 0xfffffe});
  EngineMemory source(wire.engine(0), SeededBytes(200 * 1024, 1), Access::kRemoteRead);
  EngineMemory target(wire.engine(1), Bytes(200 * 1024), Access::kRemoteWrite);
  EngineMemory back(wire.engine(1), Bytes(200 * 1024), Access::kLocal);
  wire.half(0).pair->Post(
      Request(1, Operation::kWrite, {source.piece(0, 200 * 1024)}, target.at(0), target.key));
  wire.half(1).pair->Post(
      Request(2, Operation::kRead, {back.piece(0, 200 * 1024)}, source.at(0), source.key));
  ASSERT_TRUE(wire.RunUntil(
      [&] { return !wire.half(0).completions.empty() && !wire.half(1).completions.empty(); }));
  EXPECT_EQ(target.bytes, source.bytes);
  EXPECT_EQ(back.bytes, source.bytes);
}

struct Soak {
  WireFaults faults;
  uint32_t mtu;
  PairTuning tuning;
  int operations;
};

// Operations by chance in both directions on two queue pairs at once, over a wire that loses,
// repeats, reorders and corrupts: every content arrives, every message once and in order.
void RunSoak(const Soak& soak) {
  SimulatedWire wire(soak.faults, soak.tuning, {.mtu = soak.mtu});
  wire.Join(soak.tuning, {.mtu = soak.mtu});
  std::mt19937_64 random(soak.faults.seed * 77 + 1);
  constexpr size_t kBytes = 256 * 1024;
  constexpr size_t kMessage = 9000;
  struct Direction {
    Direction(SimulatedWire& wire, size_t pair, size_t from, uint64_t seed)
        : sender(wire.half(from, pair)),
          receiver(wire.half(1 - from, pair)),
          source(wire.engine(from), SeededBytes(kBytes, seed), Access::kLocal),
          target(wire.engine(1 - from), Bytes(kBytes), Access::kRemoteWrite),
          remote(wire.engine(1 - from), SeededBytes(kBytes, seed + 1), Access::kRemoteRead),
          fetched(wire.engine(from), Bytes(kBytes), Access::kLocal),
          inbox(wire.engine(1 - from), Bytes(kMessage * 64), Access::kLocal),
          model_target(kBytes),
          model_fetched(kBytes) {}
    PairHalf& sender;
    PairHalf& receiver;
    EngineMemory source, target, remote, fetched, inbox;
    Bytes model_target, model_fetched;
    std::deque<std::pair<size_t, size_t>> messages;  // offset in source, bytes
    std::deque<uint32_t> immediates;
    std::deque<bool> kinds;  // of what takes receives, in order: whether with an immediate
    uint64_t posted = 0, done = 0, receives = 0, received = 0;
  };
  std::deque<Direction> directions;
  for (size_t pair = 0; pair < 2; ++pair) {
    for (size_t from = 0; from < 2; ++from)
      directions.emplace_back(wire, pair, from, random() % 1000000);
  }
  const auto step = [&] {
    for (size_t d = 0; d < directions.size(); ++d) {
      Direction& one = directions[d];
      // Completions of a half are of what it sent and of what it received, which is the other
      // direction's.
      Direction& other = directions[d ^ 1];
      while (!one.sender.completions.empty()) {
        const WorkCompletion c = one.sender.completions.front();
        one.sender.completions.pop_front();
        ASSERT_EQ(c.error, 0) << c.error_text;
        if (!c.received) {
          ASSERT_EQ(c.id, ++one.done);
          continue;
        }
        const bool immediate = other.kinds.front();
        other.kinds.pop_front();
        ASSERT_EQ(c.has_immediate, immediate);
        ASSERT_EQ(c.id, other.received % 64);
        ++other.received;
        if (immediate) {
          ASSERT_EQ(c.immediate, other.immediates.front());
          other.immediates.pop_front();
        } else {
          const auto [offset, bytes] = other.messages.front();
          other.messages.pop_front();
          ASSERT_EQ(c.bytes, bytes);
          ASSERT_EQ(
              std::memcmp(&other.inbox.bytes[c.id * kMessage], &other.source.bytes[offset], bytes),
              0);
        }
      }
      // Receives now and then, so that some messages find none.
      if (one.receives - one.received < 8 && random() % 50 == 0) {
        for (int i = 0; i < 4; ++i) {
          const uint64_t slot = one.receives++ % 64;
          one.receiver.pair->PostReceive(slot, one.inbox.piece(slot * kMessage, kMessage));
        }
      }
      while (one.posted < static_cast<uint64_t>(soak.operations) && one.posted - one.done < 6) {
        const auto operation = static_cast<Operation>(random() % 4);
        const size_t most = operation == Operation::kMessage ? kMessage : kBytes / 2;
        const size_t bytes = random() % (random() % 4 == 0 ? most : 6000);
        const size_t from = random() % (kBytes - bytes);
        const size_t to = random() % (kBytes - bytes);
        WorkRequest request = Request(++one.posted, operation, {one.source.piece(from, bytes)});
        switch (operation) {
          case Operation::kMessage:
            one.messages.emplace_back(from, bytes);
            one.kinds.push_back(false);
            break;
          case Operation::kRead:
            request.pieces[0] = one.fetched.piece(to, bytes);
            request.remote_address = one.remote.at(from);
            request.remote_key = one.remote.key;
            std::copy_n(&one.remote.bytes[from], bytes, &one.model_fetched[to]);
            break;
          case Operation::kWriteImmediate:
            request.immediate = static_cast<uint32_t>(random());
            one.immediates.push_back(request.immediate);
            one.kinds.push_back(true);
            [[fallthrough]];
          case Operation::kWrite:
            request.remote_address = one.target.at(to);
            request.remote_key = one.target.key;
            std::copy_n(&one.source.bytes[from], bytes, &one.model_target[to]);
            break;
          case Operation::kBind:  // the device's own, never on the wire
            break;
        }
        one.sender.pair->Post(request);
      }
    }
  };
  bool finished = false;
  const bool in_time = wire.RunUntil(
      [&] {
        if (testing::Test::HasFatalFailure()) return true;
        step();
        finished = std::all_of(directions.begin(), directions.end(), [&](const Direction& d) {
          return d.done == static_cast<uint64_t>(soak.operations) && d.kinds.empty();
        });
        return finished;
      },
      std::chrono::minutes(30));
  ASSERT_TRUE(in_time && finished);
  for (const Direction& one : directions) {
    EXPECT_EQ(one.target.bytes, one.model_target);
    EXPECT_EQ(one.fetched.bytes, one.model_fetched);
  }
  if (soak.faults.loss > 0) {
    EXPECT_GT(wire.frames_lost, 0u);
  }
  if (soak.faults.corruption > 0) {
    EXPECT_GT(wire.engine(0).counts().bad_icrc + wire.engine(1).counts().bad_icrc, 0u);
  }
}

class EveryFault : public testing::TestWithParam<int> {};

TEST_P(EveryFault, LeavesEveryContentWhole) {
  const auto seed = static_cast<uint64_t>(GetParam());
  std::mt19937_64 random(seed);
  const auto some = [&](double most) {
    return random() % 3 == 0 ? 0.0 : std::uniform_real_distribution<double>(most / 5, most)(random);
  };
  PairTuning tuning;
  tuning.window = 1u << (4 + random() % 5);
  tuning.min_window = std::min<uint32_t>(tuning.window, 1u << (random() % 5));
  tuning.ack_every = 1u << (random() % 6);
  tuning.reads = 1 + random() % 16;
  tuning.read_packets = 1u << (random() % 7);
  tuning.give_up = std::chrono::minutes(5);
  const Soak soak = {.faults = {.seed = seed,
                                .loss = some(0.05),
                                .duplication = some(0.05),
                                .reordering = some(0.1),
                                .corruption = some(0.02)},
                     .mtu = 1024u << (random() % 3),
                     .tuning = tuning,
                     .operations = 60};
  SCOPED_TRACE(testing::Message() << "seed " << seed << ": mtu " << soak.mtu << ", window "
                                  << tuning.window << ", loss " << soak.faults.loss
                                  << ", duplication " << soak.faults.duplication << ", reordering "
                                  << soak.faults.reordering);
  RunSoak(soak);
}

INSTANTIATE_TEST_SUITE_P(Seeds, EveryFault, testing::Range(1, 61));

TEST(RoceEngine, MuchContentOverABadWire) {
  SimulatedWire wire({.seed = 5, .loss = 0.01, .duplication = 0.001, .reordering = 0.01}, {},
                     {.mtu = 4096});
  constexpr size_t kBytes = 64 * kMiB;
  constexpr size_t kEach = kMiB;
  for (size_t from = 0; from < 2; ++from) {
    EngineMemory source(wire.engine(from), SeededBytes(kBytes, from), Access::kLocal);
    EngineMemory target(wire.engine(1 - from), Bytes(kBytes), Access::kRemoteWrite);
    PairHalf& half = wire.half(from);
    for (size_t i = 0; i < kBytes / kEach; ++i) {
      half.pair->Post(Request(i, Operation::kWrite, {source.piece(i * kEach, kEach)},
                              target.at(i * kEach), target.key));
    }
    ASSERT_TRUE(wire.RunUntil([&] { return half.completions.size() == kBytes / kEach; }));
    EXPECT_TRUE(target.bytes == source.bytes);
    half.completions.clear();
  }
  // What was sent again stays within reason: some packets for each one that was lost.
  const PairCounts& counts = wire.half(0).pair->counts();
  EXPECT_GT(counts.packets_sent_again, 0u);
  EXPECT_LT(counts.packets_sent_again, counts.packets_sent / 2);
}

TEST(RoceEngine, AcknowledgesSeldomAndCumulatively) {
  SimulatedWire wire({}, {}, {.mtu = 4096});
  EngineMemory source(wire.engine(0), SeededBytes(kMiB, 1), Access::kLocal);
  EngineMemory target(wire.engine(1), Bytes(kMiB), Access::kRemoteWrite);
  PairHalf& a = wire.half(0);
  a.pair->Post(Request(1, Operation::kWrite, {source.piece(0, kMiB)}, target.at(0), target.key));
  ASSERT_TRUE(wire.RunUntil([&] { return !a.completions.empty(); }));
  EXPECT_EQ(a.pair->counts().packets_sent, 256u);
  EXPECT_LE(wire.half(1).pair->counts().packets_sent, 256u / 16 + 1);
}

TEST(RoceEngine, OneGapOneNak) {
  SimulatedWire wire({}, {}, {.mtu = 1024});
  EngineMemory source(wire.engine(0), SeededBytes(64 * 1024, 1), Access::kLocal);
  EngineMemory target(wire.engine(1), Bytes(64 * 1024), Access::kRemoteWrite);
  PairHalf& a = wire.half(0);
  int seen = 0;
  wire.filter = [&](size_t to, std::span<const std::byte>) { return to == 1 && ++seen == 10; };
  a.pair->Post(
      Request(1, Operation::kWrite, {source.piece(0, 64 * 1024)}, target.at(0), target.key));
  ASSERT_TRUE(wire.RunUntil([&] { return !a.completions.empty(); }));
  EXPECT_EQ(target.bytes, source.bytes);
  EXPECT_EQ(wire.half(1).pair->counts().naks_sent, 1u);
  EXPECT_EQ(a.pair->counts().naks_received, 1u);
  EXPECT_EQ(a.pair->counts().timeouts, 0u);
}

TEST(RoceEngine, LostResponseIsAskedForByAnImpliedNak) {
  SimulatedWire wire({}, {}, {.mtu = 1024});
  EngineMemory remote(wire.engine(1), SeededBytes(32 * 1024, 1), Access::kRemoteRead);
  EngineMemory fetched(wire.engine(0), Bytes(32 * 1024), Access::kLocal);
  EngineMemory target(wire.engine(1), Bytes(1024), Access::kRemoteWrite);
  PairHalf& a = wire.half(0);
  int seen = 0;
  wire.filter = [&](size_t to, std::span<const std::byte>) { return to == 0 && ++seen == 20; };
  a.pair->Post(
      Request(1, Operation::kRead, {fetched.piece(0, 32 * 1024)}, remote.at(0), remote.key));
  a.pair->Post(Request(2, Operation::kWrite, {fetched.piece(0, 10)}, target.at(0), target.key));
  ASSERT_TRUE(wire.RunUntil([&] { return a.completions.size() == 2; }));
  EXPECT_EQ(fetched.bytes, remote.bytes);
  EXPECT_EQ(a.pair->counts().implied_naks, 1u);
  EXPECT_EQ(a.pair->counts().timeouts, 0u);
  EXPECT_EQ(wire.half(1).pair->counts().reads_replayed, 1u);
}

TEST(RoceEngine, LostAcknowledgementIsMadeUpForByTheTimer) {
  SimulatedWire wire;
  EngineMemory source(wire.engine(0), SeededBytes(100, 1), Access::kLocal);
  EngineMemory inbox(wire.engine(1), Bytes(100), Access::kLocal);
  PairHalf& a = wire.half(0);
  PairHalf& b = wire.half(1);
  b.pair->PostReceive(1, inbox.piece(0, 100));
  b.pair->PostReceive(2, inbox.piece(0, 100));
  int seen = 0;
  wire.filter = [&](size_t to, std::span<const std::byte>) { return to == 0 && ++seen == 1; };
  a.pair->Post(Request(1, Operation::kMessage, {source.piece(0, 100)}));
  ASSERT_TRUE(wire.RunUntil([&] { return !a.completions.empty(); }));
  EXPECT_EQ(a.pair->counts().timeouts, 1u);
  EXPECT_EQ(b.pair->counts().duplicates, 1u);
  EXPECT_EQ(b.completions.size(), 1u) << "a message that came twice is received once";
}

TEST(RoceEngine, MessageWithoutReceiveWaits) {
  SimulatedWire wire;
  EngineMemory source(wire.engine(0), SeededBytes(5000, 1), Access::kLocal);
  EngineMemory inbox(wire.engine(1), Bytes(5000), Access::kLocal);
  PairHalf& a = wire.half(0);
  PairHalf& b = wire.half(1);
  a.pair->Post(Request(1, Operation::kMessage, {source.piece(0, 5000)}));
  EXPECT_FALSE(wire.RunUntil([&] { return !a.completions.empty(); }, std::chrono::seconds(30)));
  EXPECT_GT(a.pair->counts().rnr_naks_received, 100u);
  EXPECT_EQ(a.pair->counts().timeouts, 0u);
  // Not more often than the peer asked for.
  EXPECT_LT(a.pair->counts().rnr_naks_received, 30'000'000u / 640 + 1);
  b.pair->PostReceive(7, inbox.piece(0, 5000));
  ASSERT_TRUE(wire.RunUntil([&] { return !a.completions.empty(); }));
  ASSERT_EQ(b.completions.size(), 1u);
  EXPECT_EQ(b.completions[0].bytes, 5000u);
  EXPECT_EQ(inbox.bytes, source.bytes);
}

TEST(RoceEngine, PeerThatDisappearsIsNoticed) {
  SimulatedWire wire;
  EngineMemory source(wire.engine(0), SeededBytes(kMiB, 1), Access::kLocal);
  EngineMemory target(wire.engine(1), Bytes(kMiB), Access::kRemoteWrite);
  PairHalf& a = wire.half(0);
  for (uint64_t i = 0; i < 4; ++i)
    a.pair->Post(Request(i, Operation::kWrite, {source.piece(0, kMiB)}, target.at(0), target.key));
  ASSERT_FALSE(
      wire.RunUntil([&] { return !a.completions.empty(); }, std::chrono::microseconds(50)));
  wire.Silence(1);
  const TimePoint gone = wire.now();
  ASSERT_TRUE(wire.RunUntil([&] { return a.completions.size() == 4; }));
  EXPECT_EQ(a.completions[0].error, Error(WorkError::kRetriesExceeded));
  EXPECT_EQ(a.completions[1].error, Error(WorkError::kFlushed));
  EXPECT_EQ(a.completions[3].error, Error(WorkError::kFlushed));
  const PairTuning tuning;
  EXPECT_GE(wire.now() - gone, tuning.give_up - std::chrono::seconds(1));
  EXPECT_LE(wire.now() - gone, tuning.give_up + 2 * tuning.max_timeout);
  // What is posted from here on comes back at once.
  a.pair->Post(Request(9, Operation::kWrite, {source.piece(0, 1)}, target.at(0), target.key));
  EXPECT_EQ(a.completions.back().id, 9u);
  EXPECT_EQ(a.completions.back().error, Error(WorkError::kFlushed));
}

TEST(RoceEngine, PeerThatComesBackInTimeIsGoneOnWith) {
  SimulatedWire wire;
  EngineMemory source(wire.engine(0), SeededBytes(kMiB, 1), Access::kLocal);
  EngineMemory target(wire.engine(1), Bytes(kMiB), Access::kRemoteWrite);
  PairHalf& a = wire.half(0);
  a.pair->Post(Request(1, Operation::kWrite, {source.piece(0, kMiB)}, target.at(0), target.key));
  wire.RunUntil([] { return false; }, std::chrono::microseconds(50));
  wire.Silence(1);
  EXPECT_FALSE(wire.RunUntil([&] { return !a.completions.empty(); }, std::chrono::seconds(3)));
  wire.Return(1);
  ASSERT_TRUE(wire.RunUntil([&] { return !a.completions.empty(); }));
  EXPECT_EQ(a.completions[0].error, 0);
  EXPECT_EQ(target.bytes, source.bytes);
}

struct Intrusion {
  const char* name;
  Operation operation;
  Access granted;
  int64_t offset;
  size_t bytes;
  bool wrong_key;
};

class EveryIntrusion : public testing::TestWithParam<Intrusion> {};

// Memory that was not granted is not touched, and both sides learn of it.
TEST_P(EveryIntrusion, IsRefused) {
  const Intrusion& c = GetParam();
  SimulatedWire wire;
  EngineMemory source(wire.engine(0), SeededBytes(10000, 1), Access::kLocal);
  EngineMemory target(wire.engine(1), Bytes(8192), c.granted);
  EngineMemory inbox(wire.engine(1), Bytes(100), Access::kLocal);
  PairHalf& a = wire.half(0);
  PairHalf& b = wire.half(1);
  b.pair->PostReceive(5, inbox.piece(0, 100));
  const Bytes before = source.bytes;
  a.pair->Post(Request(1, c.operation, {source.piece(0, c.bytes)},
                       target.at(0) + static_cast<uint64_t>(c.offset),
                       c.wrong_key ? target.key ^ 0x10000 : target.key));
  a.pair->Post(Request(2, Operation::kMessage, {source.piece(0, 10)}));
  ASSERT_TRUE(wire.RunUntil([&] { return a.completions.size() == 2; }));
  EXPECT_EQ(a.completions[0].error, Error(WorkError::kRemoteAccess));
  EXPECT_EQ(a.completions[1].error, Error(WorkError::kFlushed));
  ASSERT_EQ(b.completions.size(), 1u);
  EXPECT_EQ(b.completions[0].error, Error(WorkError::kFlushed));
  EXPECT_EQ(target.bytes, Bytes(8192));
  EXPECT_EQ(source.bytes, before);
  EXPECT_EQ(b.pair->counts().refused, 1u);
}

INSTANTIATE_TEST_SUITE_P(
    RoceEngine, EveryIntrusion,
    testing::Values(
        Intrusion{"write_behind", Operation::kWrite, Access::kRemoteWrite, 8000, 200, false},
        Intrusion{"write_before", Operation::kWrite, Access::kRemoteWrite, -1, 10, false},
        Intrusion{"long_write", Operation::kWrite, Access::kRemoteWrite, 1, 8192, false},
        Intrusion{"write_with_wrong_key", Operation::kWrite, Access::kRemoteWrite, 0, 10, true},
        Intrusion{"write_to_readable", Operation::kWrite, Access::kRemoteRead, 0, 10, false},
        Intrusion{"write_to_private", Operation::kWrite, Access::kLocal, 0, 10, false},
        Intrusion{"immediate_behind", Operation::kWriteImmediate, Access::kRemoteWrite, 8192, 1,
                  false},
        Intrusion{"read_behind", Operation::kRead, Access::kRemoteRead, 8000, 200, false},
        Intrusion{"read_of_writable", Operation::kRead, Access::kRemoteWrite, 0, 10, false},
        Intrusion{"read_with_wrong_key", Operation::kRead, Access::kRemoteRead, 0, 10, true}),
    [](const auto& info) { return std::string(info.param.name); });

TEST(RoceEngine, GrantTakenBackWhileItIsWrittenTo) {
  SimulatedWire wire;
  EngineMemory source(wire.engine(0), SeededBytes(kMiB, 1), Access::kLocal);
  EngineMemory target(wire.engine(1), Bytes(kMiB), Access::kRemoteWrite);
  PairHalf& a = wire.half(0);
  a.pair->Post(Request(1, Operation::kWrite, {source.piece(0, kMiB)}, target.at(0), target.key));
  wire.RunUntil([&] { return target.bytes[100 * 1024] != std::byte{0}; });
  wire.engine(1).regions().Remove(target.key);
  const Bytes then = target.bytes;
  EXPECT_NE(then, source.bytes);
  ASSERT_TRUE(wire.RunUntil([&] { return !a.completions.empty(); }));
  EXPECT_EQ(a.completions[0].error, Error(WorkError::kRemoteAccess));
  EXPECT_EQ(target.bytes, then);
}

TEST(RoceEngine, MessageLongerThanItsReceive) {
  SimulatedWire wire;
  EngineMemory source(wire.engine(0), SeededBytes(5000, 1), Access::kLocal);
  EngineMemory inbox(wire.engine(1), Bytes(5000), Access::kLocal);
  PairHalf& a = wire.half(0);
  PairHalf& b = wire.half(1);
  b.pair->PostReceive(1, inbox.piece(0, 4999));
  a.pair->Post(Request(1, Operation::kMessage, {source.piece(0, 5000)}));
  ASSERT_TRUE(wire.RunUntil([&] { return !a.completions.empty() && !b.completions.empty(); }));
  EXPECT_EQ(a.completions[0].error, Error(WorkError::kRemoteInvalid));
  EXPECT_EQ(b.completions[0].error, Error(WorkError::kLocalLength));
  EXPECT_EQ(inbox.bytes[4999], std::byte{0});
}

TEST(RoceEngine, OwnMemoryIsLookedAtToo) {
  SimulatedWire wire;
  EngineMemory source(wire.engine(0), SeededBytes(100, 1), Access::kLocal);
  EngineMemory target(wire.engine(1), Bytes(200), Access::kRemoteWrite);
  PairHalf& a = wire.half(0);
  a.pair->Post(Request(1, Operation::kWrite, {source.piece(0, 101)}, target.at(0), target.key));
  ASSERT_TRUE(wire.RunUntil([&] { return !a.completions.empty(); }));
  EXPECT_EQ(a.completions[0].error, Error(WorkError::kLocalProtection));
  EXPECT_EQ(wire.frames_sent, 0u);
}

TEST(RoceEngine, PartitionAndTrafficClassAreOnEveryPacket) {
  SimulatedWire wire({}, {}, {.mtu = 1024, .partition = 0x8007, .traffic_class = 0x68});
  EngineMemory source(wire.engine(0), SeededBytes(3000, 1), Access::kLocal);
  EngineMemory target(wire.engine(1), Bytes(3000), Access::kRemoteWrite);
  int seen = 0;
  wire.filter = [&](size_t, std::span<const std::byte> frame) {
    Packet packet;
    EXPECT_EQ(Decode(frame, packet), DecodeError::kNone);
    EXPECT_EQ(packet.headers.partition, 0x8007);
    EXPECT_EQ(packet.headers.traffic_class, 0x68);
    ++seen;
    return false;
  };
  PairHalf& a = wire.half(0);
  a.pair->Post(Request(1, Operation::kWrite, {source.piece(0, 3000)}, target.at(0), target.key));
  ASSERT_TRUE(wire.RunUntil([&] { return !a.completions.empty(); }));
  EXPECT_EQ(seen, 4);  // three packets and an acknowledgement
}

TEST(RoceEngine, OtherPartitionsAreNotHeard) {
  SimulatedWire wire({}, {.give_up = std::chrono::seconds(3)}, {.partition = 0x8007});
  EngineMemory source(wire.engine(0), SeededBytes(100, 1), Access::kLocal);
  EngineMemory target(wire.engine(1), Bytes(100), Access::kRemoteWrite);
  wire.filter = [&](size_t to, std::span<const std::byte> frame) {
    // As if the sender were in another partition, with an ICRC that is right.
    Packet packet;
    EXPECT_EQ(Decode(frame, packet), DecodeError::kNone);
    packet.headers.partition = 0x8008;
    std::array<std::byte, kMaxFrameBytes> other;
    size_t bytes = EncodeHeaders(packet.headers, packet.payload.size(), other.data());
    uint32_t crc = StartIcrc({other.data(), bytes});
    crc = ContinueIcrc(crc, packet.payload);
    std::copy(packet.payload.begin(), packet.payload.end(), &other[bytes]);
    bytes += packet.payload.size();
    bytes += EncodeTrailer(crc, packet.payload.size(), &other[bytes]);
    EXPECT_TRUE(IcrcIsRight({other.data(), bytes}));
    wire.engine(to).Receive({other.data(), bytes}, wire.now());
    return true;
  };
  PairHalf& a = wire.half(0);
  a.pair->Post(Request(1, Operation::kWrite, {source.piece(0, 100)}, target.at(0), target.key));
  ASSERT_TRUE(wire.RunUntil([&] { return !a.completions.empty(); }));
  EXPECT_EQ(a.completions[0].error, Error(WorkError::kRetriesExceeded));
  EXPECT_EQ(target.bytes, Bytes(100));
  EXPECT_GT(wire.engine(1).counts().unknown, 0u);
}

TEST(RoceEngine, PairsComeAndGo) {
  Engine engine(SimulatedWire::Mac(0), SimulatedWire::Ip(0), 1);
  PairHalf sink;
  std::vector<EnginePair*> pairs;
  std::vector<uint32_t> numbers;
  for (int i = 0; i < 100; ++i) {
    pairs.push_back(engine.MakePair({}, sink));
    ASSERT_NE(pairs.back(), nullptr);
    EXPECT_GT(pairs.back()->number(), 1u);
    EXPECT_LE(pairs.back()->number(), kMask24);
    numbers.push_back(pairs.back()->number());
  }
  std::sort(numbers.begin(), numbers.end());
  EXPECT_EQ(std::adjacent_find(numbers.begin(), numbers.end()), numbers.end());
  for (EnginePair* pair : pairs) engine.DestroyPair(pair);
  EXPECT_EQ(engine.pair_count(), 0u);
  EXPECT_EQ(engine.MakePair({}, sink)->number() & 1023, 0u) << "places are used again";
}

}  // namespace
}  // namespace starling::transport::roce
