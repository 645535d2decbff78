#include "runtime/agent/components.h"

#include "absl/strings/str_cat.h"
#include "base/log.h"
#include "base/status.h"
#include "runtime/keeper_client.h"

namespace starling::agent {

using keeper::v1::Reply;
using keeper::v1::Request;

namespace {

// How long a watcher waits in one request before it looks whether it is still wanted.
constexpr auto kWatchSlice = std::chrono::seconds(5);

}  // namespace

absl::StatusOr<Reply> Copy::Call(const Request& request, Deadline deadline,
                                 const std::vector<int>& fds,
                                 std::vector<UniqueFd>* received) const {
  absl::StatusOr<keeper::KeeperClient> client = keeper::KeeperClient::Connect(socket_);
  if (!client.ok()) {
    return absl::UnavailableError(
        absl::StrCat("the keeper of component ", name_, " is gone: ", client.status().message()));
  }
  return client->Call(request, fds, deadline, received);
}

absl::Status Copy::Freeze(Deadline deadline, double term_s) const {
  Request request;
  request.mutable_freeze()->set_term_s(term_s);
  return Call(request, deadline).status();
}
absl::Status Copy::Thaw(Deadline deadline, bool in_term) const {
  Request request;
  request.mutable_thaw()->set_in_term(in_term);
  return Call(request, deadline).status();
}
absl::Status Copy::FenceUp(Deadline deadline) const {
  Request request;
  request.mutable_fence_up();
  return Call(request, deadline).status();
}
absl::Status Copy::FenceDown(Deadline deadline) const {
  Request request;
  request.mutable_fence_down();
  return Call(request, deadline).status();
}
absl::Status Copy::LetRun(Deadline deadline) const {
  Request request;
  request.mutable_let_run();
  return Call(request, deadline).status();
}
absl::Status Copy::CancelCriu(Deadline deadline) const {
  Request request;
  request.mutable_cancel_criu();
  return Call(request, deadline).status();
}

absl::StatusOr<keeper::v1::Status> Copy::Status(Deadline deadline) const {
  Request request;
  request.mutable_status();
  ASSIGN_OR_RETURN(const Reply reply, Call(request, deadline));
  return reply.status();
}

absl::Status Copy::Destroy(Deadline deadline) const {
  Request request;
  request.mutable_quit();
  const absl::Status status = Call(request, deadline).status();
  return absl::IsUnavailable(status) ? absl::OkStatus() : status;
}

ComponentTable::Claim& ComponentTable::Claim::operator=(Claim&& other) noexcept {
  if (this != &other) {
    Release();
    table_ = std::exchange(other.table_, nullptr);
    name_ = std::move(other.name_);
  }
  return *this;
}

void ComponentTable::Claim::Release() {
  if (ComponentTable* table = std::exchange(table_, nullptr)) {
    std::lock_guard lock(table->mutex_);
    table->claims_.erase(name_);
    table->changed_.notify_all();
  }
}

ComponentTable::~ComponentTable() {
  std::unique_lock lock(mutex_);
  stopping_ = true;
  copies_.clear();
  changed_.wait(lock, [&] { return watchers_ == 0; });
}

absl::StatusOr<ComponentTable::Claim> ComponentTable::Take(absl::string_view name,
                                                           absl::string_view what) {
  return TakeWhenFree(name, what, Deadline(TimePoint::min()));
}

absl::StatusOr<ComponentTable::Claim> ComponentTable::TakeWhenFree(absl::string_view name,
                                                                   absl::string_view what,
                                                                   Deadline deadline) {
  std::unique_lock lock(mutex_);
  const std::string key(name);
  if (!changed_.wait_until(lock, deadline.at(), [&] { return !claims_.contains(key); })) {
    return absl::FailedPreconditionError(
        absl::StrCat("component ", key, " is busy: ", claims_[key]));
  }
  claims_.emplace(key, std::string(what));
  return Claim(this, key);
}

void ComponentTable::Add(std::shared_ptr<Copy> copy) {
  std::lock_guard lock(mutex_);
  copies_[copy->name()] = copy;
  ++watchers_;
  std::thread([this, copy = std::move(copy)] {
    Watch(copy);
    std::lock_guard lock(mutex_);
    --watchers_;
    changed_.notify_all();
  }).detach();
}

void ComponentTable::Remove(absl::string_view name) {
  std::lock_guard lock(mutex_);
  copies_.erase(std::string(name));
}

std::shared_ptr<Copy> ComponentTable::Find(absl::string_view name) const {
  std::lock_guard lock(mutex_);
  const auto found = copies_.find(std::string(name));
  return found == copies_.end() ? nullptr : found->second;
}

std::vector<std::shared_ptr<Copy>> ComponentTable::All() const {
  std::lock_guard lock(mutex_);
  std::vector<std::shared_ptr<Copy>> all;
  for (const auto& [name, copy] : copies_) all.push_back(copy);
  return all;
}

bool ComponentTable::Busy(absl::string_view name) const {
  std::lock_guard lock(mutex_);
  return claims_.contains(std::string(name));
}

void ComponentTable::Watch(const std::shared_ptr<Copy>& copy) {
  const auto wanted = [&] {
    const auto found = copies_.find(copy->name());
    return !stopping_ && found != copies_.end() && found->second == copy;
  };
  Request request;
  request.mutable_watch();
  while (true) {
    const absl::StatusOr<Reply> reply = copy->Call(request, Deadline::After(kWatchSlice));
    if (absl::IsDeadlineExceeded(reply.status())) {
      std::lock_guard lock(mutex_);
      if (!wanted()) return;
      continue;
    }
    {
      std::lock_guard lock(mutex_);
      if (!wanted()) return;
    }
    if (reply.ok()) {
      on_exit_(copy, reply->status());
    } else {
      on_exit_(copy, reply.status());
    }
    return;
  }
}

}  // namespace starling::agent
