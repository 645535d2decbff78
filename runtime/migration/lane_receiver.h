#pragma once

#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <thread>
#include <vector>

#include "absl/status/statusor.h"
#include "checkpoint/arena.h"
#include "runtime/migration/batch.h"
#include "runtime/migration/lane_grants.h"
#include "runtime/migration/sealed_channel.h"
#include "runtime/proto/starling.pb.h"
#include "transport/fabric.h"

namespace starling::migration {

// The landing ring that a source asked for: slots for batches that are packed or sealed.
struct RingOptions {
  uint32_t slots = 0;  // 0: none
  uint64_t slot_bytes = 0;
};

// Of every arena that pages land in.
inline constexpr uint64_t kArenaChunkBytes = 32u << 20;

// The target's end of a migration's data connections: the arena, registered chunk by chunk, the
// landing ring, and a thread for each connection that decodes what came through the ring and checks
// what every batch says against what lies there. Thread-safe.
class LaneReceiver {
 public:
  struct Options {
    uint64_t arena_bytes = 0;  // at least
    uint64_t max_arena_bytes = checkpoint::Arena::Options().max_bytes;
    std::string images_dir;  // see checkpoint::Arena; empty: in memory alone
    RingOptions ring;
    std::vector<ChannelKeys> keys;  // of the data connections by their numbers; none: plain
    // Sealed batches are known by their tags alone, and come without hashes: the arena cannot be
    // verified.
    bool by_tag = false;
    // The source asks each connection for what it may write to: then that are memory windows where
    // the fabrics have them, and connections may come over `rails`.
    bool grant_by_connection = false;
    // Further devices, rail 1 and up; null for one that is not there.
    std::vector<transport::Fabric*> rails;
    // Hears, on some thread, what was not taken from the source: a message or a batch that was
    // altered, repeated or left out, is not sealed where it has to be, or says what cannot be.
    std::function<void(absl::string_view)> refused;
  };
  // Errors: kInvalidArgument for a ring beyond what a source may ask for; kResourceExhausted.
  static absl::StatusOr<std::unique_ptr<LaneReceiver>> Create(transport::Fabric& fabric,
                                                              Options options);
  ~LaneReceiver();

  // Whether the keys of chunks() and ring() are of no use, and each connection is granted its own.
  bool grants_by_connection() const { return by_connection_; }
  // Whether those are memory windows, which end with the connection.
  bool windows() const { return windows_; }
  std::vector<v1::ArenaChunk> chunks() const;
  // Nothing where there is no ring.
  std::optional<v1::ArenaChunk> ring() const;
  // At least `bytes` more. kResourceExhausted when there is no memory for it.
  absl::StatusOr<std::vector<v1::ArenaChunk>> Grow(uint64_t bytes);

  // Takes one more data connection, the source's `number`th from 0 on. One that comes again, with a
  // higher `attempt` than any before, takes the place of the one that the source has lost: that is
  // ended first, so that nothing of it lands any more. No attempt comes twice.
  absl::Status Accept(uint32_t number, std::unique_ptr<transport::Incoming> incoming,
                      uint32_t attempt = 0, size_t rail = 0);

  // Ends the connections and takes the arena's registration back, so that nobody can write to it
  // any more. The error of a connection that ended and was not made again, if there was one.
  absl::Status Close();

  const checkpoint::Arena& arena() const { return *arena_; }
  // For an arena that is to be as this one is now; see checkpoint::Arena.
  void KeepChanges() { arena_->KeepChanges(); }
  absl::StatusOr<uint64_t> CopyTo(checkpoint::Arena& other) { return other.CatchUp(*arena_); }
  // After Close(): as the arena's.
  absl::Status Promise(const checkpoint::PageRun& run, uint64_t slot) {
    return arena_->Promise(run, slot);
  }

 private:
  // What one connection's thread knows.
  struct Lane {
    std::unique_ptr<SealedChannel> channel;  // null while it is being made again
    uint32_t attempt = 0;
    size_t rail = 0;
    std::vector<Granted> ring;    // as it was granted to this connection: one or none
    std::vector<Granted> chunks;  // likewise, from the first on
    absl::Status ended;           // guarded by mutex_
    std::thread thread;
    uint64_t sequence = 0;
    Answer answer;  // the next one
    std::vector<std::byte> unsealed;
    std::vector<std::byte> unpacked;
  };

  // The same memory, registered with each rail's device; null for a rail that is not there.
  using Rails = std::vector<std::unique_ptr<transport::MemoryRegion>>;

  LaneReceiver(transport::Fabric& fabric, Options options,
               std::unique_ptr<checkpoint::Arena> arena);

  absl::StatusOr<Rails> Register(std::span<std::byte> memory) const;
  v1::ArenaChunk Describe(const Rails& rails) const;
  absl::Status AnswerGrants(absl::string_view message, Lane& lane);
  absl::StatusOr<Granted> GrantTo(Lane& lane, const Rails& rails) const;

  absl::Status MakeRing();
  void Serve(Lane& lane);
  void TellRefused(const absl::Status& status) const;
  absl::Status Apply(absl::string_view message, Lane& lane);
  absl::Status Land(const Batch& batch, Lane& lane);
  absl::Status Unpack(const Batch& batch, Lane& lane);
  absl::Status PlaceCopy(const BatchRun& run);

  std::vector<transport::Fabric*> fabrics_;  // by rail
  const Options options_;
  bool windows_ = false;
  bool by_connection_ = false;
  absl::Status failed_;  // of Close()
  std::unique_ptr<checkpoint::Arena> arena_;
  std::span<std::byte> ring_memory_;
  mutable std::mutex mutex_;  // guards all below
  bool closed_ = false;
  Rails ring_;                                       // empty: none
  std::deque<Rails> regions_;                        // by chunk; what is there stays where it is
  std::map<uint32_t, std::unique_ptr<Lane>> lanes_;  // by the source's numbers
};

}  // namespace starling::migration
