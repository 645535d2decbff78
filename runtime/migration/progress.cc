#include "runtime/migration/progress.h"

namespace starling::migration {

void ProgressBoard::Update(const std::function<void(starling::v1::MigrationProgress&)>& change) {
  std::lock_guard lock(mutex_);
  change(progress_);
  progress_.set_elapsed_s(Seconds(Clock::now() - begun_));
  ++version_;
  changed_.notify_all();
}

void ProgressBoard::Finish(const std::function<void(starling::v1::MigrationProgress&)>& change) {
  std::lock_guard lock(mutex_);
  change(progress_);
  progress_.set_elapsed_s(Seconds(Clock::now() - begun_));
  ++version_;
  finished_ = true;
  changed_.notify_all();
}

bool ProgressBoard::WaitNewer(uint64_t& version, starling::v1::MigrationProgress& progress,
                              Deadline deadline) {
  std::unique_lock lock(mutex_);
  const auto newer = [&] { return version_ > version || finished_; };
  if (deadline.at() == TimePoint::max()) {
    changed_.wait(lock, newer);
  } else {
    changed_.wait_until(lock, deadline.at(), newer);
  }
  progress = progress_;
  if (version_ > version) {
    version = version_;
    return true;
  }
  return !finished_;
}

starling::v1::MigrationProgress ProgressBoard::WaitFinished() {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [&] { return finished_; });
  return progress_;
}

bool ProgressBoard::finished() const {
  std::lock_guard lock(mutex_);
  return finished_;
}

starling::v1::MigrationProgress ProgressBoard::Latest() const {
  std::lock_guard lock(mutex_);
  return progress_;
}

}  // namespace starling::migration
