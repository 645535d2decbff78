#pragma once

#include <memory>
#include <mutex>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "checkpoint/tracker.h"

namespace starling::checkpoint {

// One tracker for several readers of what a component writes, where the kernel has one mark for
// each page and whoever lists clears it: what one reader's list has is kept for the others until
// theirs. To each of them it is a Tracker of its own. Thread-safe; always owned by a shared_ptr.
class SharedTracker : public std::enable_shared_from_this<SharedTracker> {
 public:
  using Make = std::function<std::unique_ptr<Tracker>()>;

  // A reader, for one thread at a time, beside other ones; its first list has everything. `make`
  // makes the tracker of all of them when this is the first one: of a kind that knows_writes(), and
  // that refers to nothing which the reader may outlive. `name` is that tracker's.
  // kFailedPrecondition: what is read already is read by a tracker of another name, or Alone().
  absl::StatusOr<std::unique_ptr<Tracker>> Join(absl::string_view name, const Make& make);

  // For a reader that uses the kernel's marks by other means: while what it returns lives there is
  // no other. kFailedPrecondition: there is one.
  absl::StatusOr<std::shared_ptr<void>> Alone();

  // Somebody else has used the kernel's marks: the next list of each reader has everything.
  void Forget();

  // While it lives no other thread's reader lists: none freezes the component, or lets it run, but
  // who holds it.
  [[nodiscard]] std::unique_lock<std::recursive_mutex> Hold();

 private:
  class Reader;
  enum class Way { kRunning, kFrozen, kLast };

  absl::StatusOr<MemoryChanges> List(Reader& reader, Way way);
  void ForgetAll();

  std::recursive_mutex mutex_;  // guards all below, and what readers keep
  std::unique_ptr<Tracker> tracker_;
  std::vector<Reader*> readers_;
  std::weak_ptr<void> alone_;
};

}  // namespace starling::checkpoint
