#include <fcntl.h>
#include <signal.h>
#include <sys/socket.h>

#include <thread>

#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "base/file.h"
#include "base/log.h"
#include "base/status.h"
#include "runtime/keeper/ipc.h"
#include "runtime/keeper/keeper.h"
#include "runtime/keeper/protocol.h"
#include "runtime/keeper/slow_operation.h"
#include "runtime/keeper/tcp_repair.h"

// The part of the keeper that puts CRIU to work.

namespace starling::keeper {
namespace {

using std::chrono::seconds;

// For a CRIU that is called off in a dump to put the tree in order by itself.
constexpr seconds kCancelGrace{10};

void AddPhase(v1::PhaseTimes& phases, const std::string& name, Duration d) {
  auto* phase = phases.add_phases();
  phase->set_name(name);
  phase->set_seconds(Seconds(d));
}

// Where CRIU's time went, between the stages it tells us of; "hold" is our own work at a stage.
// Counted from `begun` on, when CRIU was started or told to go on; `last`: when it stood ready.
v1::PhaseTimes PhasesOf(const checkpoint::CriuResult& result, TimePoint begun, TimePoint last,
                        TimePoint ended) {
  v1::PhaseTimes phases;
  if (last > begun) AddPhase(phases, "criu-start", last - begun);
  for (const checkpoint::CriuStage& stage : result.stages) {
    if (stage.told < begun) continue;
    AddPhase(phases, absl::StrCat("until-", stage.stage), stage.told - last);
    if (stage.answered - stage.told > std::chrono::microseconds(100)) {
      AddPhase(phases, absl::StrCat("hold-", stage.stage), stage.answered - stage.told);
    }
    last = stage.answered;
  }
  AddPhase(phases, "until-exit", result.finished - last);
  AddPhase(phases, "after-exit", ended - result.finished);
  AddPhase(phases, "total", ended - begun);
  return phases;
}

}  // namespace

// What differs between CRIU's tasks; descriptors are borrowed.
struct Keeper::CriuStart {
  int images_dir = -1;
  int ipc_namespace = -1;
  int page_server = -1;
  int cgroup_procs = -1;
  std::string preload;  // beside what a fenced network asks for; see CriuOptions
  std::vector<checkpoint::InheritedFd> inherited;
};

absl::StatusOr<std::unique_ptr<checkpoint::CriuSession>> Keeper::StartCriu(CriuStart start,
                                                                           Deadline deadline) {
  checkpoint::CriuOptions criu;
  criu.binary = options_.criu;
  criu.preload = std::move(start.preload);
  if (networked()) {
    absl::StrAppend(&criu.preload, criu.preload.empty() ? "" : ":", options_.criu_fenced);
  }
  criu.pid_namespace = sandbox_->pid_namespace();
  criu.mount_namespace = sandbox_->mount_namespace();
  criu.network_namespace = sandbox_->network_namespace();
  criu.ipc_namespace = start.ipc_namespace;
  criu.cgroup_procs = start.cgroup_procs;
  criu.images_dir = start.images_dir;
  criu.page_server = start.page_server;
  criu.inherited = std::move(start.inherited);
  return checkpoint::CriuSession::Start(criu, deadline);
}

// CRIU dumps an IPC namespace that it is not in. That costs time inside the freeze, and most
// components have nothing there.
absl::StatusOr<std::unique_ptr<checkpoint::CriuSession>> Keeper::StartDump(
    const std::string& images_dir, int page_server, UniqueFd* left_out, Deadline deadline) {
  ASSIGN_OR_RETURN(const UniqueFd images, OpenFile(images_dir, O_RDONLY | O_DIRECTORY));
  ASSIGN_OR_RETURN(const UniqueFd procs, keepers_cgroup_->OpenProcs());
  pid_t root = 0;
  {
    const std::lock_guard lock(mutex_);
    root = root_pid_;
  }
  ASSIGN_OR_RETURN(UniqueFd ipc, OpenFile(absl::StrCat("/proc/", root, "/ns/ipc"), O_RDONLY));
  ASSIGN_OR_RETURN(const bool dumped, HasIpcObjects(ipc.get()));
  CriuStart start;
  start.images_dir = images.get();
  start.ipc_namespace = dumped ? -1 : ipc.get();
  start.page_server = page_server;
  start.cgroup_procs = procs.get();
  ASSIGN_OR_RETURN(auto criu, StartCriu(std::move(start), deadline));
  if (!dumped) *left_out = std::move(ipc);
  return criu;
}

absl::StatusOr<v1::PhaseTimes> Keeper::PreDump(const v1::PreDump& request, UniqueFd page_server) {
  const TimePoint begun = Clock::now();
  const Deadline deadline = DeadlineOf(request.timeout_s());
  ASSIGN_OR_RETURN(SlowOperation operation, SlowOperation::Begin(*this, "pre-dump"));
  RETURN_IF_ERROR(NeedTree());
  RETURN_IF_ERROR(WaitFilled(deadline));
  UniqueFd left_out;
  ASSIGN_OR_RETURN(auto criu,
                   StartDump(request.images_dir(), page_server.get(), &left_out, deadline));
  RETURN_IF_ERROR(operation.SetCriu(criu.get(), page_server.get()));
  checkpoint::PreDumpRequest dump;
  dump.pid = root_inside_;
  dump.parent_images = request.parent_dir();
  auto result = criu->PreDump(
      dump, [](const checkpoint::CriuNotification&) { return absl::OkStatus(); }, deadline);
  (void)operation.SetCriu(nullptr);
  RETURN_IF_ERROR(Annotate(operation.Outcome(result.status()), "pre-dump"));
  return PhasesOf(*result, begun, result->started, Clock::now());
}

// A dump between StageDump and its end. CRIU's RPC runs on a thread of its own, since the two calls
// come one after the other.
struct Keeper::StagedDump {
  StagedDump(SlowOperation o, std::unique_ptr<checkpoint::CriuSession> c, UniqueFd fd)
      : operation(std::move(o)), criu(std::move(c)), page_server(std::move(fd)) {}
  ~StagedDump() {
    if (thread.joinable()) thread.join();
    (void)operation.SetCriu(nullptr);
  }

  SlowOperation operation;  // ends last
  std::unique_ptr<checkpoint::CriuSession> criu;
  UniqueFd page_server;
  UniqueFd ipc_left_out;  // of the component, when there was nothing in it
  absl::StatusOr<checkpoint::CriuResult> result = absl::AbortedError("called off");
  // Guarded by the keeper's mutex_.
  bool waiting = false;  // CRIU stands before the tree
  bool went = false;     // the word was given
  bool done = false;
  std::thread thread;
};

bool Keeper::DumpWaits() const { return staged_ && !staged_->went; }

absl::Status Keeper::StageDump(const v1::StageDump& request, UniqueFd page_server) {
  const Deadline deadline = DeadlineOf(request.timeout_s());
  ASSIGN_OR_RETURN(SlowOperation operation, SlowOperation::Begin(*this, "dump"));
  RETURN_IF_ERROR(NeedTree());
  RETURN_IF_ERROR(WaitFilled(deadline));
  UniqueFd left_out;
  ASSIGN_OR_RETURN(auto criu,
                   StartDump(request.images_dir(), page_server.get(), &left_out, deadline));
  auto staged =
      std::make_unique<StagedDump>(std::move(operation), std::move(criu), std::move(page_server));
  staged->ipc_left_out = std::move(left_out);
  RETURN_IF_ERROR(staged->operation.SetCriu(staged->criu.get(), staged->page_server.get()));
  checkpoint::DumpRequest dump;
  dump.pid = root_inside_;
  dump.parent_images = request.parent_dir();
  dump.freeze_cgroup = cgroup_->path();
  dump.network_lock = checkpoint::NetworkLock::kNftables;
  staged->thread = std::thread([this, dump, deadline, job = staged.get()] {
    auto result = job->criu->Dump(
        dump,
        [&](const checkpoint::CriuNotification& told) -> absl::Status {
          // CRIU thaws the group once it has seized the tasks, and lets them go after post-dump.
          // They stop in the frozen group again before they run one instruction.
          if (told.stage == "post-dump") {
            RETURN_IF_ERROR(cgroup_->RequestFrozen(true));
            return cgroup_->WaitFrozen(true, Deadline::After(kQuick));
          }
          if (told.stage == "pre-dump") {
            std::unique_lock lock(mutex_);
            job->waiting = true;
            changed_.notify_all();
            changed_.wait(lock, [&] { return job->went || cancelled_; });
          }
          return job->operation.Outcome(absl::OkStatus());
        },
        deadline);
    const std::lock_guard lock(mutex_);
    job->result = std::move(result);
    job->done = true;
    changed_.notify_all();
  });
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [&] { return staged->waiting || staged->done; });
  if (staged->done || cancelled_) {
    lock.unlock();
    staged->thread.join();
    return Annotate(staged->operation.Outcome(staged->result.status()), "stage a dump");
  }
  staged_ = std::move(staged);
  return absl::OkStatus();
}

absl::StatusOr<v1::PhaseTimes> Keeper::Dump() {
  const TimePoint begun = Clock::now();
  ASSIGN_OR_RETURN(const bool frozen, cgroup_->Frozen());
  if (!frozen) return absl::FailedPreconditionError("a dump needs a frozen tree: freeze it first");
  if (networked()) {
    const std::lock_guard lock(mutex_);
    if (!fenced_) {
      return absl::FailedPreconditionError("a dump happens behind the fence: raise it first");
    }
  }
  StagedDump* job;
  {
    // After a quick operation that is under way: a thaw must not land in a dump.
    const std::lock_guard control(control_mutex_);
    const std::lock_guard lock(mutex_);
    if (!DumpWaits()) {
      return absl::FailedPreconditionError("no dump is staged: stage it before the freeze");
    }
    job = staged_.get();
    if (job->ipc_left_out) {
      ASSIGN_OR_RETURN(const bool used, HasIpcObjects(job->ipc_left_out.get()));
      if (used) {
        return absl::FailedPreconditionError(
            "the component made its first System V objects while CRIU stood ready to dump it: "
            "move it again");
      }
    }
    job->went = true;
    changed_.notify_all();
  }
  job->thread.join();
  std::unique_ptr<StagedDump> staged;
  {
    const std::lock_guard lock(mutex_);
    staged = std::move(staged_);
  }
  // After a CRIU that failed or died the tree may run behind the fence: it is held at once, and
  // what was dumped of it is not used.
  absl::Status held = cgroup_->RequestFrozen(true);
  (void)staged->operation.SetCriu(nullptr);
  held.Update(cgroup_->WaitFrozen(true, Deadline::After(kQuick)));
  if (!staged->result.ok()) held.Update(MendAfterDump());
  const absl::Status status = staged->operation.Outcome(staged->result.status());
  if (!held.ok()) {
    return absl::InternalError(absl::StrCat(
        "the dumped tree cannot be held as it was: ", held.message(), "; ", status.message()));
  }
  RETURN_IF_ERROR(Annotate(status, "dump"));
  // What came before the word to go on did not lie in the freeze.
  return PhasesOf(*staged->result, begun, begun, Clock::now());
}

absl::Status Keeper::MendAfterDump() {
  ASSIGN_OR_RETURN(const int sockets, EndTcpRepair(*cgroup_));
  if (sockets > 0) {
    spdlog::warn("{}: CRIU left {} sockets in repair mode", options_.spec.name(), sockets);
  }
  const std::lock_guard control(control_mutex_);
  return fence_ ? fence_->RemoveTables("CRIU-") : absl::OkStatus();
}

absl::StatusOr<v1::PhaseTimes> Keeper::Restore(const v1::Restore& request, UniqueFd arena) {
  const TimePoint begun = Clock::now();
  const Deadline deadline = DeadlineOf(request.timeout_s());
  ASSIGN_OR_RETURN(SlowOperation operation, SlowOperation::Begin(*this, "restore"));
  {
    const std::lock_guard lock(mutex_);
    if (tree_ || exited_)
      return absl::FailedPreconditionError("this keeper's component exists already");
    if (networked() && !fenced_) {
      return absl::FailedPreconditionError("a restore happens behind the fence: raise it first");
    }
  }
  checkpoint::RestoreRequest restore;
  restore.lazy_pages = request.lazy();
  restore.tcp_close = request.close_connections();
  // A component that comes back under another name, or where logs are elsewhere, writes to the log
  // that it has here.
  UniqueFd log;
  std::vector<checkpoint::InheritedFd> inherited;
  if (absl::string_view was = request.log_path(); !was.empty()) {
    const std::string path = absl::StrCat(options_.log_dir, "/", options_.spec.name(), ".log");
    ASSIGN_OR_RETURN(log, OpenFile(path, O_WRONLY | O_APPEND));
    absl::ConsumePrefix(&was, "/");
    inherited.push_back({log.get(), std::string(was)});
  }
  if (request.lazy()) RETURN_IF_ERROR(ServeLazily(request.images_dir(), std::move(arena)));
  // CRIU has to run, and it runs in the component's group.
  RETURN_IF_ERROR(cgroup_->RequestFrozen(false));
  ASSIGN_OR_RETURN(const UniqueFd procs, cgroup_->OpenProcs());
  ASSIGN_OR_RETURN(const UniqueFd images, OpenFile(request.images_dir(), O_RDONLY | O_DIRECTORY));
  ASSIGN_OR_RETURN(const bool dumped, HasIpcImages(images.get()));
  CriuStart start;
  start.images_dir = images.get();
  // One that was dumped is made by CRIU; else the component gets the one made for it here.
  start.ipc_namespace = dumped ? -1 : sandbox_->ipc_namespace();
  start.cgroup_procs = procs.get();
  start.preload = options_.criu_root;
  start.inherited = std::move(inherited);
  ASSIGN_OR_RETURN(auto criu, StartCriu(std::move(start), deadline));
  absl::StatusOr<checkpoint::CriuResult> result = absl::AbortedError("called off");
  if (operation.SetCriu(criu.get()).ok()) {
    // The last moment before the restored tree runs: every task is stopped by CRIU. CRIU itself is
    // taken out of the group, so that it can let go of them and end while they stay.
    result = criu->Restore(
        restore,
        [this, &criu](const checkpoint::CriuNotification& told) -> absl::Status {
          if (told.stage != "pre-resume") return absl::OkStatus();
          RETURN_IF_ERROR(keepers_cgroup_->Add(criu->pid()));
          return cgroup_->RequestFrozen(true);
        },
        deadline);
  }
  (void)operation.SetCriu(nullptr);
  criu.reset();
  absl::Status status = operation.Outcome(result.status());
  pid_t host = 0;
  if (status.ok()) status = cgroup_->WaitFrozen(true, Deadline::After(kQuick));
  if (status.ok()) {
    const absl::StatusOr<pid_t> found = HostPid(*cgroup_, result->pid);
    status = found.status();
    host = found.value_or(0);
  }
  if (status.ok() && request.lazy()) status = lazy()->Restored(Deadline::After(kQuick));
  if (status.ok()) {
    const std::lock_guard lock(sandbox_mutex_);
    status = sandbox_->Adopt(result->pid, Deadline::After(kQuick));
  }
  if (status.ok()) status = CheckTree(*cgroup_, host);
  if (!status.ok()) {
    absl::Status cleaned = cgroup_->Kill();
    if (cleaned.ok()) cleaned = cgroup_->WaitEmpty(Deadline::After(kDeath));
    if (!cleaned.ok()) {
      return absl::Status(status.code(), absl::StrCat("restore: ", status.message(),
                                                      "; and what it "
                                                      "left cannot be ended: ",
                                                      cleaned.message()));
    }
    return Annotate(status, "restore");
  }
  // What the wait for the commit leaves of the processors brings pages in that would be faults.
  if (request.lazy()) lazy()->Fill();
  // CRIU before 4.0 forgets who is a child subreaper. The root takes that up again with the first
  // thing it does when it is thawed.
  (void)::kill(host, SIGCHLD);
  const TimePoint ended = Clock::now();
  const std::lock_guard lock(mutex_);
  tree_ = true;
  root_inside_ = result->pid;
  root_pid_ = host;
  return PhasesOf(*result, begun, result->started, ended);
}

absl::Status Keeper::CancelCriu() {
  std::unique_lock lock(mutex_);
  if (busy_ == nullptr) return absl::OkStatus();
  cancelled_ = true;
  if (DumpWaits()) {
    // It has not touched the tree yet.
    const std::unique_ptr<StagedDump> staged = std::move(staged_);
    staged->criu->Cancel();
    changed_.notify_all();
    lock.unlock();
    return absl::OkStatus();  // once `staged` is gone
  }
  const auto idle = [this] { return busy_ == nullptr; };
  // Killed in the middle, CRIU may leave the tree with code of its own in it. Cut off from its
  // pages it fails, and puts everything back.
  if (page_server_ >= 0) {
    (void)::shutdown(page_server_, SHUT_RDWR);
    (void)changed_.wait_until(lock, Clock::now() + kCancelGrace, idle);
  }
  if (criu_ != nullptr) criu_->Cancel();
  if (!changed_.wait_until(lock, Clock::now() + kDeath, idle)) {
    return absl::DeadlineExceededError(absl::StrCat("the ", busy_, " did not end in time"));
  }
  return absl::OkStatus();
}

Keeper::Keeper(KeeperOptions options) : options_(std::move(options)) {}

Keeper::~Keeper() {
  if (!gone_ && cgroup_) {
    const absl::Status status = Quit();
    if (!status.ok()) spdlog::error("{}: {}", options_.spec.name(), status.ToString());
  }
}

}  // namespace starling::keeper
