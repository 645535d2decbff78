#pragma once

#include <atomic>
#include <condition_variable>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "absl/status/statusor.h"
#include "runtime/agent/components.h"
#include "runtime/agent/host.h"
#include "runtime/agent/peer_client.h"
#include "runtime/hold_points.h"
#include "runtime/migration/files.h"
#include "runtime/migration/ghost_value.h"
#include "runtime/migration/images.h"
#include "runtime/migration/lane_receiver.h"
#include "runtime/migration/page_fetch.h"
#include "runtime/proto/ghost.pb.h"
#include "runtime/spec.h"

namespace starling::migration {

// The target's side of all migrations to this host: what the source's agent asks for over the Peer
// service. The journal's word is the only one that counts; what is in memory here can be lost at
// any time. Thread-safe.
class Targets {
 public:
  explicit Targets(agent::Host& host);
  ~Targets();

  // Begins to accept data connections and to watch leases. `other` is offered those that show no
  // token of a migration; false: refused.
  using TakeOther =
      std::function<bool(const std::string& provider, std::unique_ptr<transport::Incoming>&)>;
  absl::Status Start(TakeOther other);

  // Takes up what an agent before this one left: kills what was pending, holds what is prepared,
  // finishes what is committed or aborted. Call once, before Start().
  absl::Status Recover();

  // `wish`: it is a ghost, until it is restored.
  absl::StatusOr<v1::ReserveResponse> Reserve(const v1::ReserveRequest& request,
                                              const v1::GhostWish* wish = nullptr);
  absl::StatusOr<v1::GrowResponse> Grow(const v1::GrowRequest& request);
  absl::Status Renew(const std::string& id);
  // The folder for the stream's files.
  absl::StatusOr<std::string> ImagesFolder(const std::string& id);
  // Where the stream's files go.
  absl::StatusOr<std::shared_ptr<FileReceiver>> Files(const std::string& id);
  absl::StatusOr<v1::RestoreResponse> Restore(const v1::RestoreRequest& request);
  absl::StatusOr<v1::ProbeResponse> Probe(const v1::ProbeRequest& request);
  // `offer_open`: the source still has what is missing here. Without, only a copy that is whole can
  // become the one that lives.
  absl::StatusOr<v1::VerdictResponse> Commit(const v1::CommitRequest& request);
  absl::StatusOr<v1::VerdictResponse> Abort(const std::string& id, const std::string& reason);
  absl::StatusOr<v1::VerdictResponse> Query(const std::string& id);

  // The host that reserved it; empty for a migration that is not known.
  std::string Owner(const std::string& id);

  // Begins to fetch what `copy`, which came here by this migration, still has at its source.
  void Fetch(const MigrationRow& row, const std::shared_ptr<agent::Copy>& copy);

  // --- Ghosts that are kept here, in target_ghost.cc.

  // An empty folder for the skeleton of a ghost's next instant.
  absl::StatusOr<std::string> InstantFolder(const std::string& id, uint64_t instant);
  // What has landed, and that skeleton, are what a failover starts from.
  absl::StatusOr<v1::CommitInstantResponse> CommitInstant(const v1::CommitInstantRequest& instant);
  std::vector<v1::GhostInfo> Ghosts();
  // The same, with what decides which of them go when their room is needed.
  struct KeptHere {
    std::string id, component, source;
    KeptGhost facts;
  };
  std::vector<KeptHere> ListKept();
  // Whether a migration to here is under way; a ghost that is kept fresh is none.
  bool Arriving();
  // Its migration, and the host that the component runs on. kNotFound.
  struct GhostOf {
    std::string id;
    std::string source;
  };
  absl::StatusOr<GhostOf> FindGhost(const std::string& component);
  // Room that ghosts of the component have here already.
  uint64_t GhostBytes(const std::string& component);
  bool IsGhost(const std::string& id);
  // Starts the component from its ghost's last whole instant. The caller answers for it that it
  // runs nowhere else and never will again. kFailedPrecondition without such an instant; after
  // another error the ghost is as it was.
  // `probe`: instead of its owner's; see ProbeFor().
  absl::StatusOr<v1::FailoverResponse> Failover(const std::string& id, const ProbeSpec& probe);

  // A person's word for a component that is prepared here while its source is silent. kNotFound
  // when there is none.
  absl::Status Resolve(const std::string& component, bool here);

 private:
  // What a ghost has beyond that of a migration.
  struct Kept {
    explicit Kept(const v1::GhostWish& wanted) : wish(wanted) {}
    const v1::GhostWish wish;
    const TimePoint made = Clock::now();
    std::atomic<uint64_t> arena_bytes{0};  // as Ghost::room_bytes
    std::atomic<bool> ghost{true};         // not yet a migration
    std::atomic<bool> whole{false};        // there is an instant
    TimePoint leased{};                    // the lease of its room was renewed; the lease loop's
    std::atomic<TimePoint> taken{TimePoint{}};  // by this host's clock
    std::atomic<uint64_t> instants{0};
    std::unique_ptr<checkpoint::Arena> memory;  // as it was then
    v1::CommitInstantRequest instant;
    std::string folder;   // its images
    std::string landing;  // those of the next one
  };
  // One ghost being made. `busy` serialises the requests of one migration; `mutex` only guards the
  // lease.
  struct Ghost {
    MigrationRow row;
    agent::ComponentTable::Claim claim;
    std::shared_ptr<agent::Copy> copy;
    std::unique_ptr<LaneReceiver> receiver;
    std::shared_ptr<FileReceiver> files;
    std::string images;
    std::string token;
    std::string provider;                       // of its data connections
    std::shared_ptr<agent::PeerClient> source;  // only where it is to be asked for what it keeps
    std::mutex busy;
    TimePoint last_heard;     // guarded by Targets::mutex_
    bool committed = false;   // and waits for the source's copy to end; guarded by Targets::mutex_
    uint64_t room_bytes = 0;  // that its lease has for its arena; guarded by busy
    bool prepared = false;    // guarded by busy
    std::vector<std::string> models;  // of its shadow at the source; guarded by busy
    bool park = false;                // once it runs here; guarded by busy
    std::unique_ptr<Kept> kept;       // of a ghost; guarded by busy but for what it says otherwise
  };

  absl::StatusOr<std::shared_ptr<Ghost>> Find(const std::string& id, bool heard = true);
  absl::StatusOr<v1::ReserveResponse> Prepare(const v1::ReserveRequest& request,
                                              const std::shared_ptr<Ghost>& ghost);
  absl::StatusOr<v1::RestoreResponse> RestoreGhost(Ghost& ghost, const v1::RestoreRequest& request);
  // After a durable verdict, with the ghost's `busy` held: let it run, or make an end of it.
  absl::Status LetRun(Ghost& ghost, uint64_t epoch);
  void Discard(Ghost& ghost);
  absl::StatusOr<v1::VerdictResponse> Conclude(const std::string& id, const VerdictRow& verdict);
  void Forget(const std::string& id);
  void StopFetching(const std::string& id);
  void SweepFetches();
  // A keeper with an empty, fenced copy.
  absl::Status MakeCopy(Ghost& ghost);
  absl::Status RestoreInstant(Ghost& ghost, const ProbeSpec& asked);
  // Of a copy that is restored and held: thaws it behind its fence, probes it, freezes it again.
  absl::StatusOr<v1::ProbeResponse> ProbeHeld(const agent::Copy& copy,
                                              const ProbeSpec& probe) const;
  // Whether a silent source is waited for, since a failover may come.
  bool HoldOn(Ghost& ghost);
  // With `busy` held, before an arena of so many bytes is made: its lease has to have room for
  // them. kResourceExhausted when there is none, not even without ghosts that matter less.
  absl::Status TakeRoom(Ghost& ghost, uint64_t arena_bytes);
  // Whether any were dropped.
  bool DropGhostsFor(uint64_t bytes, int priority);
  // Ghosts whose room was taken for something firmer.
  std::vector<std::string> WithoutRoom();
  std::shared_ptr<agent::PeerClient> Source(const MigrationRow& row) const;
  void Fetch(const MigrationRow& row, const std::shared_ptr<agent::Copy>& copy,
             const std::shared_ptr<agent::PeerClient>& source);
  void AcceptLoop(const std::stop_token& stop, transport::Listener& listener,
                  const std::string& provider, size_t rail);
  // Has a thread of its own take what comes there.
  void Accept(std::unique_ptr<transport::Listener> listening, const std::string& provider,
              size_t rail);
  void LeaseLoop(const std::stop_token& stop);
  std::atomic<bool> ended_{false};  // a migration, since the lease loop last looked

  agent::Host& host_;
  HoldPoints hold_;
  std::mutex mutex_;
  std::condition_variable_any wake_;
  std::map<std::string, std::shared_ptr<Ghost>> ghosts_;
  std::mutex fetches_mutex_;
  std::map<std::string, std::unique_ptr<PageFetch>> fetches_;  // by migration
  TakeOther other_;
  std::vector<std::unique_ptr<transport::Listener>> listeners_;  // one for each transport and rail
  // By transport: the host's, without the devices of those that cannot be listened on. As Start()
  // leaves it.
  std::map<std::string, std::vector<agent::Rail>> rails_;
  std::vector<std::jthread> accepting_;
  std::jthread leases_;
};

}  // namespace starling::migration
