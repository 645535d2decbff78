#pragma once

#include <chrono>
#include <mutex>
#include <utility>

#include "absl/strings/str_cat.h"
#include "checkpoint/criu_session.h"
#include "runtime/keeper/keeper.h"

// What the keeper's source files share.

namespace starling::keeper {

// For what takes milliseconds unless the host is in trouble.
inline constexpr std::chrono::seconds kQuick{10};
// For killed processes to be gone: longer only in the kernel's uninterruptible sleep.
inline constexpr std::chrono::seconds kDeath{30};

// Of a dump or restore whose request names none.
inline constexpr std::chrono::seconds kCriu{120};

inline Deadline DeadlineOf(double timeout_s) {
  if (!(timeout_s > 0) || timeout_s > 86400) return Deadline::After(kCriu);
  return Deadline::After(
      std::chrono::duration_cast<Duration>(std::chrono::duration<double>(timeout_s)));
}

// Marks the keeper busy while it lives.
class Keeper::SlowOperation {
 public:
  static absl::StatusOr<SlowOperation> Begin(Keeper& keeper, const char* name) {
    // After a quick operation that is under way: a thaw must not land in a dump.
    const std::lock_guard control(keeper.control_mutex_);
    const std::lock_guard lock(keeper.mutex_);
    if (keeper.gone_) return absl::UnavailableError("the keeper is ending");
    if (keeper.busy_ != nullptr) {
      return absl::FailedPreconditionError(absl::StrCat("cannot ", name, " while a ", keeper.busy_,
                                                        " is under way: cancel it first"));
    }
    keeper.busy_ = name;
    keeper.cancelled_ = false;
    return SlowOperation(&keeper);
  }
  SlowOperation(SlowOperation&& other) noexcept : keeper_(std::exchange(other.keeper_, nullptr)) {}
  SlowOperation& operator=(SlowOperation&&) = delete;
  ~SlowOperation() {
    if (keeper_ == nullptr) return;
    const std::lock_guard lock(keeper_->mutex_);
    keeper_->busy_ = nullptr;
    keeper_->changed_.notify_all();
  }

  // Makes `session` the one that CancelCriu ends; nullptr when it is done. `page_server`: see
  // page_server_; -1: it is ended by force. kAborted if cancelled meanwhile.
  absl::Status SetCriu(checkpoint::CriuSession* session, int page_server = -1) {
    const std::lock_guard lock(keeper_->mutex_);
    const bool refused = session != nullptr && keeper_->cancelled_;
    keeper_->criu_ = refused ? nullptr : session;
    keeper_->page_server_ = refused ? -1 : page_server;
    return refused ? absl::AbortedError("called off") : absl::OkStatus();
  }

  // What an operation that was called off answers, however it ended.
  absl::Status Outcome(const absl::Status& status) const {
    const std::lock_guard lock(keeper_->mutex_);
    if (!keeper_->cancelled_) return status;
    if (status.ok()) return absl::AbortedError("called off when it was done");
    return absl::AbortedError(absl::StrCat("called off: ", status.message()));
  }

 private:
  explicit SlowOperation(Keeper* keeper) : keeper_(keeper) {}
  Keeper* keeper_;
};

}  // namespace starling::keeper
