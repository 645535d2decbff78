#pragma once

#include <memory>
#include <random>
#include <span>
#include <vector>

#include "transport/roce/queue_pair_parts.h"
#include "transport/roce/regions.h"
#include "transport/roce/requester.h"
#include "transport/roce/responder.h"

// RoCEv2's reliable connections without any I/O: frames come in by Receive(), go out into a
// FrameSink by Transmit(), and the time is handed in. Everything happens on the caller's thread and
// nothing is kept of what is passed by reference.

namespace starling::transport::roce {

// One queue pair of an engine. Made by Engine::MakePair(), which owns it.
class EnginePair {
 public:
  EnginePair(uint32_t number, const PairTuning& tuning, const RegionTable& regions,
             CompletionSink& completions)
      : number_(number),
        requester_(path_, tuning, regions, completions, counts_),
        responder_(path_, tuning, regions, completions, counts_) {}

  uint32_t number() const { return number_; }
  const PairCounts& counts() const { return counts_; }
  bool failed() const { return requester_.failed() || responder_.failed(); }
  bool idle() const { return requester_.idle(); }

  bool CanPost() const { return requester_.HasRoom(); }
  void Post(const WorkRequest& request) { requester_.Post(request); }
  bool CanPostReceive() const { return responder_.HasRoom(); }
  void PostReceive(uint64_t id, const Piece& buffer) { responder_.PostReceive(id, buffer); }

 private:
  friend class Engine;

  // After a failure of either half neither goes on.
  void EndTogether();

  const uint32_t number_;
  bool connected_ = false;
  Path path_;
  PairCounts counts_;
  Requester requester_;
  Responder responder_;
};

class Engine {
 public:
  struct Counts {
    uint64_t frames = 0;     // given to Receive()
    uint64_t not_ours = 0;   // other protocols, other addresses
    uint64_t malformed = 0;  // no packet at all, or of a service that is not ours
    uint64_t unknown = 0;    // no such queue pair, another peer's address, another partition
    uint64_t bad_icrc = 0;
  };

  Engine(const MacAddress& mac, uint32_t ip, uint64_t seed)
      : mac_(mac), ip_(ip), random_(seed), regions_(seed * 0x9e3779b97f4a7c15u + 1) {}

  RegionTable& regions() { return regions_; }

  // `completions` outlives the pair. nullptr when there are too many.
  EnginePair* MakePair(const PairTuning& tuning, CompletionSink& completions);
  // Of `path` the own addresses and number are filled in.
  void Connect(EnginePair& pair, Path path);
  void DestroyPair(EnginePair* pair);

  // A first sequence number, by chance.
  uint32_t RandomPsn() { return static_cast<uint32_t>(random_()) & kMask24; }

  void Receive(std::span<const std::byte> frame, TimePoint now);

  // Sends answers and requests of all pairs in turn, at most `budget` frames; returns how many.
  size_t Transmit(FrameSink& out, TimePoint now, size_t budget);

  // The next point in time at which Transmit() has something to do by itself.
  TimePoint NextTimer() const;

  size_t pair_count() const { return used_; }
  const Counts& counts() const { return counts_; }

 private:
  static constexpr unsigned kSlotBits = 10;

  EnginePair* Find(uint32_t number) const;

  const MacAddress mac_;
  const uint32_t ip_;
  std::mt19937_64 random_;
  RegionTable regions_;
  std::vector<std::unique_ptr<EnginePair>> pairs_;  // by the low bits of their numbers
  size_t used_ = 0;
  size_t turn_ = 0;
  Counts counts_;
};

}  // namespace starling::transport::roce
