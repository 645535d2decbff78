#include "runtime/ghosts/ghosts.h"

#include "absl/strings/str_cat.h"
#include "base/status.h"

namespace starling::ghosts {
namespace {

// How long a host that may have started a component is waited for before the component that runs
// here is let alone; it is asked again all the while.
constexpr auto kAskTimeout = std::chrono::seconds(3);

}  // namespace

Ghosts::Ghosts(agent::Host& host, FindPeer peer, FailedOver failed_over)
    : host_(host),
      peer_(std::move(peer)),
      failed_over_(std::move(failed_over)),
      book_(host.config.GhostsPath()) {}

absl::Status Ghosts::Recover() {
  ASSIGN_OR_RETURN(std::vector<v1::GhostRecord> records, book_.All());
  for (v1::GhostRecord& record : records) {
    const v1::GhostWish& wish = record.wish();
    // One that became a migration is settled by that first.
    const bool moved = host_.journal.GetMigration(record.migration_id()).ok();
    if (!record.migration_id().empty() && wish.checkpoint_every_s() > 0 && !moved) {
      const auto peer = peer_(wish.on());
      v1::QueryRequest query;
      query.set_migration_id(record.migration_id());
      absl::StatusOr<v1::VerdictResponse> verdict = absl::UnavailableError("it is no peer");
      if (peer.ok()) verdict = (*peer)->Query(query, Deadline::After(kAskTimeout));
      if (verdict.ok() && verdict->verdict() == v1::COMMITTED) {
        failed_over_(wish.component(), wish.on(), verdict->epoch());
        RETURN_IF_ERROR(book_.Remove(wish));
        continue;
      }
    }
    recovered_.push_back(std::move(record));
  }
  return absl::OkStatus();
}

void Ghosts::Start(const std::set<std::string>& moving) {
  std::vector<v1::GhostRecord> records;
  {
    const std::lock_guard lock(mutex_);
    records = std::move(recovered_);
  }
  for (v1::GhostRecord& record : records) {
    const std::string component = record.wish().component();
    const absl::StatusOr<ComponentRow> row = host_.journal.GetComponent(component);
    const std::string on = record.wish().on();
    Add(std::move(record), moving.contains(component));
    if (!row.ok()) {
      Ended(component, /*lost=*/false);
    } else if (row->state == v1::LEFT) {
      Left(component, row->where);
    } else if (row->state == v1::EXITED || row->state == v1::LOST) {
      Ended(component, row->state == v1::LOST);
    }
  }
}

void Ghosts::Add(v1::GhostRecord record, bool paused) {
  const absl::StatusOr<std::shared_ptr<agent::PeerClient>> peer = peer_(record.wish().on());
  if (!peer.ok()) {
    // Its record stays, for when the host is a peer again.
    host_.Event(record.wish().component(), "ghost-lost", peer.status().message());
    return;
  }
  Session::Parts parts;
  parts.host = &host_;
  parts.book = &book_;
  parts.peer = *peer;
  parts.record = std::move(record);
  parts.failed_over = failed_over_;
  parts.paused = paused;
  const std::pair key(parts.record.wish().component(), parts.record.wish().on());
  const std::lock_guard lock(mutex_);
  parts.tracker = TrackerOf(key.first);
  all_[key] = std::make_shared<Session>(std::move(parts));
}

std::shared_ptr<checkpoint::SharedTracker> Ghosts::TrackerOf(const std::string& component) const {
  for (const auto& [key, session] : all_) {
    if (key.first == component) return session->tracker().shared_from_this();
  }
  return std::make_shared<checkpoint::SharedTracker>();
}

absl::StatusOr<v1::GhostInfo> Ghosts::Add(const v1::GhostWish& wish) {
  Sweep();
  std::unique_lock adding(adding_);
  const std::pair key(wish.component(), wish.on());
  {
    const std::lock_guard lock(mutex_);
    for (const auto& [other, session] : all_) {
      if (other.first != wish.component()) continue;
      if (other == key) {
        return absl::FailedPreconditionError(absl::StrCat(
            "host ", wish.on(), " keeps a ghost of ", wish.component(),
            " already: `starling ghost drop ", wish.component(), " --on ", wish.on(), "` first"));
      }
      if (wish.checkpoint_every_s() > 0 && session->wish().checkpoint_every_s() > 0 &&
          !session->finished()) {
        return absl::FailedPreconditionError(
            absl::StrCat("component ", wish.component(), " has instants on host ", other.second,
                         ", and of two hosts that have some each could start it: add one without "
                         "checkpoint_every, or drop that one first"));
      }
    }
  }
  v1::GhostRecord record;
  *record.mutable_wish() = wish;
  RETURN_IF_ERROR(book_.Put(record));
  Add(std::move(record), /*paused=*/false);
  std::shared_ptr<Session> session;
  {
    const std::lock_guard lock(mutex_);
    session = all_[key];
  }
  adding.unlock();
  if (session == nullptr) return absl::NotFoundError("that host is no peer");
  const absl::Status made = session->WaitMade(Deadline::After(host_.config.migration.step_timeout));
  if (!made.ok()) {
    session->Drop();
    return Annotate(made, absl::StrCat("a ghost of ", wish.component(), " on host ", wish.on()));
  }
  return session->Describe();
}

absl::Status Ghosts::Drop(const std::string& component, const std::string& on) {
  Sweep();
  std::shared_ptr<Session> session;
  {
    const std::lock_guard lock(mutex_);
    if (const auto found = all_.find({component, on}); found != all_.end()) session = found->second;
  }
  if (session == nullptr) {
    return absl::NotFoundError(absl::StrCat("host ", on, " keeps no ghost of component ", component,
                                            ": `starling ghost list` lists them"));
  }
  session->Drop();
  host_.Event(component, "ghost-dropped", absl::StrCat("the one on host ", on));
  return absl::OkStatus();
}

void Ghosts::Sweep() {
  std::vector<std::shared_ptr<Session>> ended;
  const std::lock_guard lock(mutex_);
  std::erase_if(all_, [&](const auto& each) {
    if (!each.second->finished()) return false;
    ended.push_back(each.second);
    return true;
  });
}

std::vector<v1::GhostInfo> Ghosts::List() const {
  std::vector<v1::GhostInfo> all;
  const std::lock_guard lock(mutex_);
  for (const auto& [key, session] : all_) {
    if (!session->finished()) all.push_back(session->Describe());
  }
  return all;
}

std::vector<std::shared_ptr<Session>> Ghosts::Of(const std::string& component) const {
  std::vector<std::shared_ptr<Session>> sessions;
  const std::lock_guard lock(mutex_);
  for (const auto& [key, session] : all_) {
    if (key.first == component && !session->finished()) sessions.push_back(session);
  }
  return sessions;
}

Ghosts::Quiet& Ghosts::Quiet::operator=(Quiet&& other) noexcept {
  if (this == &other) return *this;
  End();
  sessions_ = std::move(other.sessions_);
  other.sessions_.clear();
  tracker_used_ = other.tracker_used_;
  return *this;
}

void Ghosts::Quiet::End() {
  // Before any of them goes on.
  if (tracker_used_ && !sessions_.empty()) sessions_.front()->tracker().Forget();
  for (const auto& session : sessions_) session->Resume(tracker_used_);
  sessions_.clear();
}

Ghosts::Quiet Ghosts::Hush(const std::string& component) {
  Quiet quiet;
  quiet.sessions_ = Of(component);
  for (const auto& session : quiet.sessions_) session->Pause();
  return quiet;
}

absl::StatusOr<std::shared_ptr<migration::SourceMigration>> Ghosts::Take(
    const Quiet& quiet, const std::string& to, const std::string& transport) {
  std::shared_ptr<Session> there;
  for (const auto& session : quiet.sessions_) {
    if (session->wish().on() == to) {
      there = session;
    } else if (session->wish().checkpoint_every_s() > 0) {
      // A failover there would start what runs elsewhere by then.
      RETURN_IF_ERROR(session->GiveBack());
    }
  }
  if (there == nullptr) return nullptr;
  const bool same =
      transport.empty() || (host_.fabric != nullptr && transport == host_.fabric->name());
  if (same) {
    if (auto migration = there->Release()) return migration;
  }
  RETURN_IF_ERROR(there->GiveBack());
  return nullptr;
}

bool Ghosts::Has(const std::string& component, const std::string& on) const {
  const std::lock_guard lock(mutex_);
  const auto found = all_.find({component, on});
  return found != all_.end() && !found->second->finished();
}

void Ghosts::Left(const std::string& component, const std::string& to) {
  for (const auto& session : Of(component)) {
    if (session->wish().on() == to) {
      session->Left();
    } else {
      // Nothing here could keep it fresh any more.
      session->Drop();
      host_.Event(component, "ghost-dropped",
                  absl::StrCat("the one on host ", session->wish().on(),
                               ": the component has gone to host ", to));
    }
  }
}

void Ghosts::Ended(const std::string& component, bool lost) {
  for (const auto& session : Of(component)) {
    if (lost) {
      session->ComponentLost();
    } else {
      session->Drop();
    }
  }
}

absl::Status Ghosts::MayRun(const std::string& component) const {
  for (const auto& session : Of(component)) {
    const v1::GhostInfo info = session->Describe();
    if (info.wish().checkpoint_every_s() <= 0 || info.migration_id().empty()) continue;
    return absl::FailedPreconditionError(absl::StrCat(
        "host ", info.wish().on(), " keeps an instant of component ", component,
        " and may have started it from there: `starling ghost drop ", component, " --on ",
        info.wish().on(), "` first, which is done when that host has answered"));
  }
  return absl::OkStatus();
}

}  // namespace starling::ghosts
