#pragma once

#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "checkpoint/shared_tracker.h"
#include "runtime/agent/components.h"
#include "runtime/agent/host.h"
#include "runtime/agent/peer_client.h"
#include "runtime/ghosts/book.h"
#include "runtime/migration/source.h"

namespace starling::ghosts {

// One ghost, at the host where its component runs: makes it, keeps it fresh, makes it again when it
// is lost, and gives it back. Has a thread of its own. All public calls from any thread.
class Session {
 public:
  struct Parts {
    agent::Host* host = nullptr;
    Book* book = nullptr;
    std::shared_ptr<agent::PeerClient> peer;
    v1::GhostRecord record;
    bool paused = false;  // from the beginning, until Resume()
    // What finds written pages for all ghosts of the component.
    std::shared_ptr<checkpoint::SharedTracker> tracker;
    // The other host says that it started the component from an instant, with this epoch. What
    // runs here is to end.
    std::function<void(const std::string& component, const std::string& host, uint64_t epoch)>
        failed_over;
  };
  explicit Session(Parts parts);
  // Leaves the ghost as it is, for the next agent.
  ~Session();

  const v1::GhostWish& wish() const { return parts_.record.wish(); }
  checkpoint::SharedTracker& tracker() const { return *parts_.tracker; }
  v1::GhostInfo Describe() const;

  // Waits until the ghost was made or could not be for the first time.
  absl::Status WaitMade(Deadline deadline);

  // Ends what it does at this moment, as fast as it can, and does nothing until Resume().
  void Pause();
  // `tracker_used`: somebody else has had the component's memory tracked meanwhile, so that
  // everything has to be sent again.
  void Resume(bool tracker_used);
  // Of a paused one: the ghost, to become a migration; null when there is none to go on from. It
  // is the caller's from here on.
  std::shared_ptr<migration::SourceMigration> Release();
  // Of a paused one: the other host has let go of it, durably. kUnavailable when it is not heard;
  // kAborted when it has started the component.
  absl::Status GiveBack();

  // It is not wanted any more. Its record goes when the other host has let go of it.
  void Drop();
  // The component ended by a fault of its host: an instant, if there is one, is kept for a
  // failover.
  void ComponentLost();
  // All that was to be done is done, and the record is gone.
  bool finished() const;
  // Its migration has left: nothing is to be given back.
  void Left();

 private:
  enum class State { kMaking, kCold, kWarm, kHeld, kWaiting, kKept, kMoving };

  void Run(const std::stop_token& stop);
  void Renew(const std::stop_token& stop);
  // One turn of the loop: returns how long to wait for the next.
  Duration Turn();
  Duration Make();
  Duration Refresh();
  // True when the other host keeps nothing any more.
  bool Settle();
  void Lose(const absl::Status& why);
  void Set(State state, const std::string& why = "");
  void Finish();
  absl::Status Save();

  Parts parts_;
  mutable std::mutex mutex_;  // guards all below but where it is said
  std::condition_variable_any changed_;
  State state_ = State::kMaking;
  std::string why_;
  absl::Status made_;  // of the last time
  uint64_t attempts_ = 0;
  bool paused_ = false;
  bool idle_ = false;  // the thread waits
  bool dropped_ = false;
  bool lost_ = false;
  bool finished_ = false;
  bool remake_ = false;      // its source
  bool existed_ = false;     // the other host has kept it, at some time
  bool lost_there_ = false;  // and keeps it no more, for a reason of which nothing is known yet
  uint64_t instants_ = 0;
  std::optional<TimePoint> instant_at_;
  Duration instant_held_{};
  std::shared_ptr<migration::SourceMigration> migration_;
  // The thread's own.
  TimePoint next_round_{};
  TimePoint next_instant_{};
  int failures_ = 0;  // in a row
  std::jthread renewing_;
  std::jthread thread_;
};

}  // namespace starling::ghosts
