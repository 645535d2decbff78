#pragma once

#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "runtime/ghosts/session.h"

namespace starling::ghosts {

// The ghosts of this host's components, at other hosts. Thread-safe.
class Ghosts {
 public:
  using FindPeer =
      std::function<absl::StatusOr<std::shared_ptr<agent::PeerClient>>(const std::string& host)>;
  using FailedOver =
      std::function<void(const std::string& component, const std::string& host, uint64_t epoch)>;
  Ghosts(agent::Host& host, FindPeer peer, FailedOver failed_over);

  // Reads what an agent before this one kept, and asks the hosts that may have started a component
  // from an instant: `failed_over` is called for those that did. Once, before any copy is let run.
  absl::Status Recover();
  // Takes the ghosts up again. Once, when it is known which components live here. Those of `moving`
  // components stay as they are until Hush() has been called for them, and that has ended.
  void Start(const std::set<std::string>& moving);

  // Returns when the ghost is there. kFailedPrecondition: there is such a one, or a second one with
  // instants of the component was asked for: two hosts might fail it over.
  absl::StatusOr<v1::GhostInfo> Add(const v1::GhostWish& wish);
  // kNotFound.
  absl::Status Drop(const std::string& component, const std::string& on);
  std::vector<v1::GhostInfo> List() const;
  bool Has(const std::string& component, const std::string& on) const;

  // Nothing of the component is read or frozen for ghosts while it lives.
  class Quiet {
   public:
    Quiet() = default;
    Quiet(Quiet&& other) noexcept = default;
    Quiet& operator=(Quiet&& other) noexcept;
    ~Quiet() { End(); }
    void End();
    // Their memory is not tracked as it was: all of it is to be sent again.
    void TrackerUsed() { tracker_used_ = true; }

   private:
    friend class Ghosts;
    std::vector<std::shared_ptr<Session>> sessions_;
    bool tracker_used_ = false;
  };
  Quiet Hush(const std::string& component);

  // For a migration to `to`, of which `quiet` is held: its ghost there, or null, and then that host
  // keeps nothing of it. Other hosts have let go of instants. `transport`: as MigrateRequest's.
  absl::StatusOr<std::shared_ptr<migration::SourceMigration>> Take(const Quiet& quiet,
                                                                   const std::string& to,
                                                                   const std::string& transport);
  // The component has left for `to`.
  void Left(const std::string& component, const std::string& to);
  // It ended here; `lost`: by a fault of its host, so that a failover may follow.
  void Ended(const std::string& component, bool lost);
  // Whether a component of this name may be started: not while another host may have started it
  // from an instant and has not said.
  absl::Status MayRun(const std::string& component) const;

 private:
  void Add(v1::GhostRecord record, bool paused);
  // What finds written pages for the ghosts of a component. With mutex_ held.
  std::shared_ptr<checkpoint::SharedTracker> TrackerOf(const std::string& component) const;
  void Sweep();
  std::vector<std::shared_ptr<Session>> Of(const std::string& component) const;

  agent::Host& host_;
  const FindPeer peer_;
  const FailedOver failed_over_;
  Book book_;
  std::mutex adding_;  // one at a time
  mutable std::mutex mutex_;
  std::vector<v1::GhostRecord> recovered_;
  std::map<std::pair<std::string, std::string>, std::shared_ptr<Session>> all_;  // component, host
};

}  // namespace starling::ghosts
