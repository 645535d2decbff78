#pragma once

#include <condition_variable>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "base/clock.h"
#include "base/fd.h"
#include "runtime/config.h"
#include "runtime/journal.h"
#include "runtime/proto/keeper.pb.h"

namespace starling::agent {

// One copy of a component on this host: a keeper and what it keeps. The keeper outlives the agent;
// this is only the agent's hold of its socket. Thread-safe: every call uses a connection of its
// own, so that a slow one (CRIU at work) does not hold up the others.
class Copy {
 public:
  Copy(std::string name, std::string socket) : name_(std::move(name)), socket_(std::move(socket)) {}

  const std::string& name() const { return name_; }
  const std::string& socket() const { return socket_; }

  // Errors: the keeper's own, or kUnavailable when it cannot be reached (it is gone, and the
  // component with it).
  // `received`, if given, takes the descriptors that come with the answer.
  absl::StatusOr<keeper::v1::Reply> Call(const keeper::v1::Request& request, Deadline deadline,
                                         const std::vector<int>& fds = {},
                                         std::vector<UniqueFd>* received = nullptr) const;

  // The requests without an argument.
  // `term_s` as keeper.v1.Freeze.
  absl::Status Freeze(Deadline deadline, double term_s = 0) const;
  // `in_term` as keeper.v1.Thaw.
  absl::Status Thaw(Deadline deadline, bool in_term = false) const;
  absl::Status FenceUp(Deadline deadline) const;
  absl::Status FenceDown(Deadline deadline) const;
  absl::Status LetRun(Deadline deadline) const;
  absl::Status CancelCriu(Deadline deadline) const;
  absl::StatusOr<keeper::v1::Status> Status(Deadline deadline) const;

  // Kills the copy behind its fence and removes everything the keeper made. Fine when it is gone
  // already.
  absl::Status Destroy(Deadline deadline) const;

 private:
  std::string name_;
  std::string socket_;
};

// The components that live on this host, and who may change them. Thread-safe.
class ComponentTable {
 public:
  // The exclusive right to change one component; given back when it goes.
  class Claim {
   public:
    Claim() = default;
    Claim(Claim&& other) noexcept
        : table_(std::exchange(other.table_, nullptr)), name_(std::move(other.name_)) {}
    Claim& operator=(Claim&& other) noexcept;
    Claim(const Claim&) = delete;
    Claim& operator=(const Claim&) = delete;
    ~Claim() { Release(); }
    void Release();

   private:
    friend class ComponentTable;
    Claim(ComponentTable* table, std::string name) : table_(table), name_(std::move(name)) {}
    ComponentTable* table_ = nullptr;
    std::string name_;
  };

  // Called on a thread of the table's own when a component's tree has ended by itself.
  using ExitHandler =
      std::function<void(const std::shared_ptr<Copy>&, const absl::StatusOr<keeper::v1::Status>&)>;

  explicit ComponentTable(ExitHandler on_exit) : on_exit_(std::move(on_exit)) {}
  ~ComponentTable();

  // kFailedPrecondition "component X is busy: WHAT" while somebody else has the claim.
  absl::StatusOr<Claim> Take(absl::string_view name, absl::string_view what);

  // Waits for the claim instead of refusing.
  absl::StatusOr<Claim> TakeWhenFree(absl::string_view name, absl::string_view what,
                                     Deadline deadline);

  // From here on the copy's end is watched.
  void Add(std::shared_ptr<Copy> copy);
  // Stops watching; the copy itself is not touched.
  void Remove(absl::string_view name);
  // nullptr when no such copy lives here.
  std::shared_ptr<Copy> Find(absl::string_view name) const;
  // By name.
  std::vector<std::shared_ptr<Copy>> All() const;
  // Whether somebody has the claim.
  bool Busy(absl::string_view name) const;

 private:
  void Watch(const std::shared_ptr<Copy>& copy);

  ExitHandler on_exit_;
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  bool stopping_ = false;
  std::map<std::string, std::string> claims_;  // name, what for
  std::map<std::string, std::shared_ptr<Copy>> copies_;
  int watchers_ = 0;
};

}  // namespace starling::agent
