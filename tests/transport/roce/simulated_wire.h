#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <deque>
#include <functional>
#include <map>
#include <random>
#include <vector>

#include "transport/roce/engine.h"

namespace starling::transport::roce {

// What goes wrong on the wire, each with its probability for a frame.
struct WireFaults {
  uint64_t seed = 1;
  double loss = 0;
  double duplication = 0;
  double reordering = 0;  // a frame is held up so that others pass it
  double corruption = 0;  // one bit is turned
};

struct PairHalf final : CompletionSink {
  void Complete(const WorkCompletion& completion) override { completions.push_back(completion); }
  EnginePair* pair = nullptr;
  std::deque<WorkCompletion> completions;
};

// Two engines on a wire in simulated time: no thread, no clock, the same for the same seed.
class SimulatedWire {
 public:
  explicit SimulatedWire(const WireFaults& faults = {}, const PairTuning& tuning = {},
                         const Path& wish = {})
      : faults_(faults), random_(faults.seed) {
    sides_[0].out.wire = sides_[1].out.wire = this;
    sides_[1].out.to = 0;
    Join(tuning, wish);
  }

  // Another queue pair between the two; returns its number in `pairs`.
  size_t Join(const PairTuning& tuning, const Path& wish) {
    auto& joined = pairs.emplace_back();
    for (size_t side = 0; side < 2; ++side) {
      joined[side] = std::make_unique<PairHalf>();
      joined[side]->pair = sides_[side].engine.MakePair(tuning, *joined[side]);
    }
    const uint32_t psn[2] = {wish.own_psn != 0 ? wish.own_psn : sides_[0].engine.RandomPsn(),
                             wish.peer_psn != 0 ? wish.peer_psn : sides_[1].engine.RandomPsn()};
    for (size_t side = 0; side < 2; ++side) {
      Path path = wish;
      path.peer_mac = Mac(1 - side);
      path.peer_ip = Ip(1 - side);
      path.peer_queue_pair = joined[1 - side]->pair->number();
      path.own_psn = psn[side];
      path.peer_psn = psn[1 - side];
      sides_[side].engine.Connect(*joined[side]->pair, path);
    }
    return pairs.size() - 1;
  }

  Engine& engine(size_t side) { return sides_[side].engine; }
  PairHalf& half(size_t side, size_t pair = 0) { return *pairs[pair][side]; }
  TimePoint now() const { return now_; }

  // Runs until `done` or for at most this much simulated time; false in the latter case.
  bool RunUntil(const std::function<bool()>& done, Duration most = std::chrono::seconds(60)) {
    const TimePoint end = now_ + most;
    while (true) {
      if (done()) return true;
      bool active = false;
      for (size_t side = 0; side < 2; ++side) {
        if (!gone_[side]) active |= sides_[side].engine.Transmit(sides_[side].out, now_, 32) > 0;
      }
      if (done()) return true;
      TimePoint next = active ? now_ + std::chrono::microseconds(1) : TimePoint::max();
      if (!flying_.empty()) next = std::min(next, flying_.begin()->first);
      for (size_t side = 0; side < 2; ++side) {
        if (!gone_[side]) next = std::min(next, std::max(now_, sides_[side].engine.NextTimer()));
      }
      if (next > end) {
        now_ = end;
        return done();
      }
      now_ = std::max(next, now_);
      while (!flying_.empty() && flying_.begin()->first <= now_) {
        const auto [to, frame] = std::move(flying_.begin()->second);
        flying_.erase(flying_.begin());
        if (!gone_[to]) sides_[to].engine.Receive(frame, now_);
      }
    }
  }

  // That side falls silent, as a machine that lost its power.
  void Silence(size_t side) { gone_[side] = true; }
  void Return(size_t side) { gone_[side] = false; }

  uint64_t frames_sent = 0;
  uint64_t frames_lost = 0;
  // Sees each frame that is sent; true keeps it off the wire.
  std::function<bool(size_t to, std::span<const std::byte> frame)> filter;
  std::vector<std::array<std::unique_ptr<PairHalf>, 2>> pairs;

  static MacAddress Mac(size_t side) { return {2, 0, 0, 0, 0, static_cast<uint8_t>(side + 1)}; }
  static uint32_t Ip(size_t side) { return 0x0a000001u + static_cast<uint32_t>(side); }

 private:
  struct Out final : FrameSink {
    bool HasRoom() override { return true; }
    void Send(const OutgoingFrame& frame) override {
      std::vector<std::byte> bytes;
      bytes.reserve(frame.bytes);
      bytes.insert(bytes.end(), frame.headers.begin(), frame.headers.end());
      for (const auto& part : frame.payload) bytes.insert(bytes.end(), part.begin(), part.end());
      bytes.insert(bytes.end(), frame.trailer.begin(), frame.trailer.end());
      EXPECT_EQ(bytes.size(), frame.bytes);
      wire->Fly(to, std::move(bytes));
    }
    SimulatedWire* wire = nullptr;
    size_t to = 1;
  };
  struct Side {
    Engine engine;
    Out out;
  };

  bool Chance(double probability) {
    return probability > 0 && std::uniform_real_distribution<double>(0, 1)(random_) < probability;
  }

  void Fly(size_t to, std::vector<std::byte> frame) {
    ++frames_sent;
    if (filter && filter(to, frame)) return;
    const int copies = Chance(faults_.duplication) ? 2 : 1;
    for (int copy = 0; copy < copies; ++copy) {
      if (Chance(faults_.loss)) {
        ++frames_lost;
        continue;
      }
      std::vector<std::byte> bytes = frame;
      if (Chance(faults_.corruption)) {
        bytes[random_() % bytes.size()] ^= std::byte{1} << static_cast<int>(random_() % 8);
      }
      Duration delay = std::chrono::microseconds(20);
      if (copy > 0 || Chance(faults_.reordering))
        delay += std::chrono::microseconds(random_() % 200);
      flying_.emplace(now_ + delay, std::make_pair(to, std::move(bytes)));
    }
  }

  const WireFaults faults_;
  std::mt19937_64 random_;
  TimePoint now_ = TimePoint(std::chrono::hours(1));
  std::multimap<TimePoint, std::pair<size_t, std::vector<std::byte>>> flying_;
  Side sides_[2] = {{Engine(Mac(0), Ip(0), 11), {}}, {Engine(Mac(1), Ip(1), 22), {}}};
  bool gone_[2] = {false, false};
};

// Memory registered with one engine.
struct EngineMemory {
  EngineMemory(Engine& engine, std::vector<std::byte> content, Access access)
      : bytes(std::move(content)), key(*engine.regions().Add(bytes, access)) {}
  uint64_t at(size_t offset) const { return reinterpret_cast<uint64_t>(bytes.data()) + offset; }
  Piece piece(size_t offset, size_t length) const {
    return {at(offset), static_cast<uint32_t>(length), key};
  }
  std::vector<std::byte> bytes;
  uint32_t key;
};

inline std::vector<std::byte> SeededBytes(size_t size, uint64_t seed) {
  std::mt19937_64 random(seed);
  std::vector<std::byte> bytes((size + 7) / 8 * 8);
  for (size_t i = 0; i < bytes.size(); i += 8) {
    const uint64_t value = random();
    std::memcpy(&bytes[i], &value, 8);
  }
  bytes.resize(size);
  return bytes;
}

inline WorkRequest Request(uint64_t id, Operation operation, std::initializer_list<Piece> pieces,
                           uint64_t remote_address = 0, uint32_t remote_key = 0) {
  WorkRequest request;
  request.id = id;
  request.operation = operation;
  request.signalled = true;
  for (const Piece& piece : pieces) request.pieces[request.piece_count++] = piece;
  request.remote_address = remote_address;
  request.remote_key = remote_key;
  return request;
}

}  // namespace starling::transport::roce
