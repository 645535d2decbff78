#include "runtime/keeper/keeper.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include <cerrno>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/file.h"
#include "base/log.h"
#include "base/status.h"
#include "runtime/keeper/probe.h"
#include "runtime/keeper/protocol.h"
#include "runtime/keeper/tcp_repair.h"

namespace starling::keeper {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

// For what takes milliseconds unless the host is in trouble.
constexpr seconds kQuick{10};
constexpr seconds kLaunch{30};
// For killed processes to be gone: longer only in the kernel's uninterruptible sleep.
constexpr seconds kDeath{30};
// For a CRIU that is called off in a dump to put the tree in order by itself.
constexpr seconds kCancelGrace{10};
// Of a dump or restore whose request names none.
constexpr seconds kCriu{120};

// Announcements after the first: switches may drop one, and more than a second is no use.
constexpr int kAnnouncements = 5;
constexpr long kAnnounceGapNs = 200'000'000;

Deadline DeadlineOf(double timeout_s) {
  if (!(timeout_s > 0) || timeout_s > 86400) return Deadline::After(kCriu);
  return Deadline::After(
      std::chrono::duration_cast<Duration>(std::chrono::duration<double>(timeout_s)));
}

void AddPhase(v1::PhaseTimes& phases, const std::string& name, Duration d) {
  auto* phase = phases.add_phases();
  phase->set_name(name);
  phase->set_seconds(Seconds(d));
}

// Where CRIU's time went, between the stages it tells us of; "hold" is our own work at a stage.
v1::PhaseTimes PhasesOf(const checkpoint::CriuResult& result, TimePoint begun, TimePoint ended) {
  v1::PhaseTimes phases;
  AddPhase(phases, "criu-start", result.started - begun);
  TimePoint last = result.started;
  for (const checkpoint::CriuStage& stage : result.stages) {
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

std::string KeeperName(const std::string& component, const std::string& migration_id) {
  return migration_id.empty() ? component : absl::StrCat(component, "@", migration_id);
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

absl::StatusOr<std::unique_ptr<Keeper>> Keeper::Create(const KeeperOptions& options) {
  std::unique_ptr<Keeper> keeper(new Keeper(options));
  RETURN_IF_ERROR(keeper->SetUp());
  return keeper;
}

absl::Status Keeper::SetUp() {
  const auto& spec = options_.spec;
  announce_timer_.Reset(::timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK));
  exited_event_.Reset(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!announce_timer_ || !exited_event_) return ErrnoStatus("make a timer and an event");

  SandboxOptions sandbox;
  ASSIGN_OR_RETURN(sandbox.identity, ResolveUser(spec.user()));
  sandbox.init_path = options_.init_path;
  sandbox.own_network = networked();
  sandbox.output = absl::StrCat(options_.log_dir, "/", spec.name(), ".log");
  sandbox.directory = spec.directory();
  sandbox.environment.assign(spec.environment().begin(), spec.environment().end());
  sandbox.command.assign(spec.command().begin(), spec.command().end());

  RETURN_IF_ERROR(MakeDirectories(options_.log_dir));
  {
    ASSIGN_OR_RETURN(const UniqueFd output,
                     OpenFile(sandbox.output, O_WRONLY | O_APPEND | O_CREAT, 0640));
    // A program may open its own /dev/stderr again.
    if (::fchown(output.get(), sandbox.identity.uid, static_cast<gid_t>(-1)) != 0) {
      return ErrnoStatus(absl::StrCat("hand ", sandbox.output, " to the component's user"));
    }
  }

  RETURN_IF_ERROR(PrepareCgroupParent(options_.cgroup_root, kComponentsGroup));
  ASSIGN_OR_RETURN(cgroup_,
                   Cgroup::Create(absl::StrCat(options_.cgroup_root, "/", kComponentsGroup, "/",
                                               KeeperName(spec.name(), options_.migration_id)),
                                  spec.memory_bytes()));
  ASSIGN_OR_RETURN(keepers_cgroup_,
                   Cgroup::Open(absl::StrCat(options_.cgroup_root, "/", kKeepersGroup)));
  absl::StatusOr<Sandbox> made = Sandbox::Start(sandbox, Deadline::After(kLaunch));
  if (!made.ok()) return made.status();
  sandbox_.emplace(*std::move(made));
  return SetUpNetwork();
}

absl::Status Keeper::SetUpNetwork() {
  if (!networked()) return absl::OkStatus();
  ASSIGN_OR_RETURN(const Ipv4Prefix address, ParseIpv4Prefix(options_.spec.ip()));
  ASSIGN_OR_RETURN(const MacAddress mac, ParseMac(options_.spec.mac()));
  ASSIGN_OR_RETURN(UniqueFd fd,
                   OpenFile(absl::StrCat("/proc/", sandbox_->init_pid(), "/ns/net"), O_RDONLY));
  network_.emplace(std::move(fd));
  RETURN_IF_ERROR(network_->AddMacvlan(options_.parent_device, mac));
  // The fence is made, and up if asked for, before the device can say its first word.
  ASSIGN_OR_RETURN(fence_, Fence::Create(*network_, options_.fenced));
  fenced_ = fence_->raised();
  RETURN_IF_ERROR(network_->Configure(address));
  ASSIGN_OR_RETURN(announcer_, Announcer::Create(*network_, mac, address));
  return absl::OkStatus();
}

Keeper::~Keeper() {
  if (!gone_ && cgroup_) {
    const absl::Status status = Quit();
    if (!status.ok()) spdlog::error("{}: {}", options_.spec.name(), status.ToString());
  }
}

absl::Status Keeper::RefuseWhileBusy(const char* what) {
  const std::lock_guard lock(mutex_);
  if (gone_) return absl::UnavailableError("the keeper is ending");
  if (busy_ == nullptr) return absl::OkStatus();
  return absl::FailedPreconditionError(
      absl::StrCat("cannot ", what, " while a ", busy_, " is under way: cancel it first"));
}

absl::Status Keeper::NeedTree() {
  const std::lock_guard lock(mutex_);
  if (exited_) return absl::FailedPreconditionError("the component has ended");
  if (!tree_) return absl::FailedPreconditionError("nothing runs in this keeper yet");
  return absl::OkStatus();
}

absl::Status Keeper::Launch() {
  const std::lock_guard control(control_mutex_);
  RETURN_IF_ERROR(RefuseWhileBusy("launch"));
  {
    const std::lock_guard lock(mutex_);
    if (tree_ || exited_)
      return absl::FailedPreconditionError("the component was launched already");
  }
  ASSIGN_OR_RETURN(const UniqueFd procs, cgroup_->OpenProcs());
  const absl::StatusOr<pid_t> inside = sandbox_->Launch(procs.get(), Deadline::After(kLaunch));
  if (!inside.ok()) {
    // Whatever got started ends with its namespace.
    sandbox_->Kill();
    return Annotate(inside.status(), "launch");
  }
  const absl::StatusOr<pid_t> host = HostPid(*cgroup_, *inside);
  const std::lock_guard lock(mutex_);
  tree_ = true;
  root_inside_ = *inside;
  // A command that has ended by now leaves no number to be found, and that is no error.
  root_pid_ = host.ok() ? *host : 0;
  spdlog::info("{}: launched, root {} ({} inside)", options_.spec.name(), root_pid_, root_inside_);
  return absl::OkStatus();
}

absl::Status Keeper::Freeze() {
  const std::lock_guard control(control_mutex_);
  RETURN_IF_ERROR(RefuseWhileBusy("freeze"));
  RETURN_IF_ERROR(cgroup_->RequestFrozen(true));
  const absl::Status frozen = cgroup_->WaitFrozen(true, Deadline::After(kQuick));
  // Half frozen is worse than not at all.
  if (!frozen.ok()) (void)cgroup_->RequestFrozen(false);
  return frozen;
}

absl::Status Keeper::Thaw() {
  const std::lock_guard control(control_mutex_);
  RETURN_IF_ERROR(RefuseWhileBusy("thaw"));
  RETURN_IF_ERROR(cgroup_->RequestFrozen(false));
  return cgroup_->WaitFrozen(false, Deadline::After(kQuick));
}

absl::Status Keeper::FenceUp() {
  const std::lock_guard control(control_mutex_);
  if (!fence_) return absl::OkStatus();
  RETURN_IF_ERROR(fence_->Raise());
  const std::lock_guard lock(mutex_);
  fenced_ = true;
  return absl::OkStatus();
}

absl::Status Keeper::FenceDown() {
  const std::lock_guard control(control_mutex_);
  RETURN_IF_ERROR(RefuseWhileBusy("lower the fence"));
  if (!fence_) return absl::OkStatus();
  const bool was_raised = fence_->raised();
  RETURN_IF_ERROR(fence_->Lower());
  {
    const std::lock_guard lock(mutex_);
    fenced_ = false;
  }
  if (!was_raised) return absl::OkStatus();
  // The fence is down; this only makes its end felt sooner.
  const absl::Status forgotten = network_->ForgetNeighbours();
  if (!forgotten.ok()) spdlog::warn("{}: {}", options_.spec.name(), forgotten.ToString());
  return absl::OkStatus();
}

absl::Status Keeper::Announce() {
  const std::lock_guard control(control_mutex_);
  if (!announcer_) return absl::OkStatus();
  if (fence_->raised()) {
    return absl::FailedPreconditionError("an announcement would not leave: lower the fence first");
  }
  announcements_left_ = kAnnouncements;
  const itimerspec every = {{0, kAnnounceGapNs}, {0, kAnnounceGapNs}};
  if (::timerfd_settime(announce_timer_.get(), 0, &every, nullptr) != 0) {
    return ErrnoStatus("set the announcement timer");
  }
  return announcer_->SendOnce();
}

void Keeper::OnAnnounceTimer() {
  uint64_t times;
  if (::read(announce_timer_.get(), &times, sizeof(times)) != sizeof(times)) return;
  if (announcements_left_.fetch_sub(1) <= 1) {
    const itimerspec off = {};
    (void)::timerfd_settime(announce_timer_.get(), 0, &off, nullptr);
  }
  const absl::Status status = announcer_->SendOnce();
  if (!status.ok()) spdlog::warn("{}: {}", options_.spec.name(), status.ToString());
}

absl::StatusOr<std::unique_ptr<checkpoint::CriuSession>> Keeper::StartCriu(
    const std::string& images_dir, int page_server, int cgroup_procs, Deadline deadline) {
  ASSIGN_OR_RETURN(const UniqueFd images, OpenFile(images_dir, O_RDONLY | O_DIRECTORY));
  checkpoint::CriuOptions criu;
  criu.binary = options_.criu;
  criu.pid_namespace = sandbox_->pid_namespace();
  criu.mount_namespace = sandbox_->mount_namespace();
  criu.network_namespace = sandbox_->network_namespace();
  criu.cgroup_procs = cgroup_procs;
  criu.images_dir = images.get();
  criu.page_server = page_server;
  return checkpoint::CriuSession::Start(criu, deadline);
}

absl::StatusOr<v1::PhaseTimes> Keeper::PreDump(const v1::PreDump& request, UniqueFd page_server) {
  const TimePoint begun = Clock::now();
  const Deadline deadline = DeadlineOf(request.timeout_s());
  ASSIGN_OR_RETURN(SlowOperation operation, SlowOperation::Begin(*this, "pre-dump"));
  RETURN_IF_ERROR(NeedTree());
  ASSIGN_OR_RETURN(const UniqueFd procs, keepers_cgroup_->OpenProcs());
  ASSIGN_OR_RETURN(auto criu,
                   StartCriu(request.images_dir(), page_server.get(), procs.get(), deadline));
  RETURN_IF_ERROR(operation.SetCriu(criu.get(), page_server.get()));
  checkpoint::PreDumpRequest dump;
  dump.pid = root_inside_;
  dump.parent_images = request.parent_dir();
  auto result = criu->PreDump(
      dump, [](const checkpoint::CriuNotification&) { return absl::OkStatus(); }, deadline);
  (void)operation.SetCriu(nullptr);
  RETURN_IF_ERROR(Annotate(operation.Outcome(result.status()), "pre-dump"));
  return PhasesOf(*result, begun, Clock::now());
}

absl::StatusOr<v1::PhaseTimes> Keeper::Dump(const v1::Dump& request, UniqueFd page_server) {
  const TimePoint begun = Clock::now();
  const Deadline deadline = DeadlineOf(request.timeout_s());
  ASSIGN_OR_RETURN(SlowOperation operation, SlowOperation::Begin(*this, "dump"));
  RETURN_IF_ERROR(NeedTree());
  ASSIGN_OR_RETURN(const bool frozen, cgroup_->Frozen());
  if (!frozen) return absl::FailedPreconditionError("a dump needs a frozen tree: freeze it first");
  ASSIGN_OR_RETURN(const UniqueFd procs, keepers_cgroup_->OpenProcs());
  ASSIGN_OR_RETURN(auto criu,
                   StartCriu(request.images_dir(), page_server.get(), procs.get(), deadline));
  RETURN_IF_ERROR(operation.SetCriu(criu.get(), page_server.get()));
  checkpoint::DumpRequest dump;
  dump.pid = root_inside_;
  dump.parent_images = request.parent_dir();
  dump.freeze_cgroup = cgroup_->path();
  dump.network_lock = checkpoint::NetworkLock::kNftables;
  // CRIU thaws the group once it has seized the tasks, and lets them go after post-dump. They stop
  // in the frozen group again before they run one instruction.
  auto result = criu->Dump(
      dump,
      [&](const checkpoint::CriuNotification& told) -> absl::Status {
        if (told.stage != "post-dump") return operation.Outcome(absl::OkStatus());
        RETURN_IF_ERROR(cgroup_->RequestFrozen(true));
        return cgroup_->WaitFrozen(true, Deadline::After(kQuick));
      },
      deadline);
  // After a CRIU that failed or died the tree may run behind the fence: it is held at once, and
  // what was dumped of it is not used.
  absl::Status held = cgroup_->RequestFrozen(true);
  (void)operation.SetCriu(nullptr);
  held.Update(cgroup_->WaitFrozen(true, Deadline::After(kQuick)));
  if (!result.ok()) held.Update(MendAfterDump());
  const absl::Status status = operation.Outcome(result.status());
  if (!held.ok()) {
    return absl::InternalError(absl::StrCat(
        "the dumped tree cannot be held as it was: ", held.message(), "; ", status.message()));
  }
  RETURN_IF_ERROR(Annotate(status, "dump"));
  return PhasesOf(*result, begun, Clock::now());
}

absl::Status Keeper::MendAfterDump() {
  ASSIGN_OR_RETURN(const int sockets, EndTcpRepair(*cgroup_));
  if (sockets > 0) {
    spdlog::warn("{}: CRIU left {} sockets in repair mode", options_.spec.name(), sockets);
  }
  const std::lock_guard control(control_mutex_);
  return fence_ ? fence_->RemoveTables("CRIU-") : absl::OkStatus();
}

absl::StatusOr<v1::PhaseTimes> Keeper::Restore(const v1::Restore& request) {
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
  // CRIU has to run, and it runs in the component's group.
  RETURN_IF_ERROR(cgroup_->RequestFrozen(false));
  ASSIGN_OR_RETURN(const UniqueFd procs, cgroup_->OpenProcs());
  ASSIGN_OR_RETURN(auto criu, StartCriu(request.images_dir(), -1, procs.get(), deadline));
  absl::StatusOr<checkpoint::CriuResult> result = absl::AbortedError("called off");
  if (operation.SetCriu(criu.get()).ok()) {
    // The last moment before the restored tree runs: every task is stopped by CRIU. CRIU itself is
    // taken out of the group, so that it can let go of them and end while they stay.
    result = criu->Restore(
        {},
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
  if (status.ok()) status = sandbox_->Adopt(result->pid, Deadline::After(kQuick));
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
  // CRIU before 4.0 forgets who is a child subreaper. The root takes that up again with the first
  // thing it does when it is thawed.
  (void)::kill(host, SIGCHLD);
  const TimePoint ended = Clock::now();
  const std::lock_guard lock(mutex_);
  tree_ = true;
  root_inside_ = result->pid;
  root_pid_ = host;
  return PhasesOf(*result, begun, ended);
}

absl::Status Keeper::CancelCriu() {
  std::unique_lock lock(mutex_);
  if (busy_ == nullptr) return absl::OkStatus();
  cancelled_ = true;
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

absl::StatusOr<v1::ProbeResult> Keeper::Probe(const v1::Probe& request) {
  RETURN_IF_ERROR(NeedTree());
  ProbeOptions probe;
  probe.command = request.command();
  probe.network_namespace = sandbox_->network_namespace();
  const double timeout_s = request.timeout_s() > 0 ? request.timeout_s() : 10;
  ASSIGN_OR_RETURN(const ProbeOutcome outcome, RunProbe(probe, DeadlineOf(timeout_s)));
  v1::ProbeResult result;
  result.set_exit_status(outcome.exit_status);
  result.set_output(outcome.output);
  return result;
}

absl::Status Keeper::WaitExited(Deadline deadline) {
  std::unique_lock lock(mutex_);
  const auto until = std::min(deadline.at(), Clock::now() + std::chrono::hours(24));
  if (!changed_.wait_until(lock, until, [this] { return exited_; })) {
    return absl::DeadlineExceededError("the component did not end in time");
  }
  return absl::OkStatus();
}

absl::Status Keeper::Stop(Duration grace) {
  ASSIGN_OR_RETURN(SlowOperation operation, SlowOperation::Begin(*this, "stop"));
  {
    const std::lock_guard lock(mutex_);
    if (exited_) return absl::OkStatus();
    if (!tree_) return absl::FailedPreconditionError("nothing runs in this keeper yet");
  }
  ASSIGN_OR_RETURN(const bool frozen, cgroup_->Frozen());
  if (frozen) {
    return absl::FailedPreconditionError(
        "a frozen component cannot end by itself: thaw it first, or kill it");
  }
  ASSIGN_OR_RETURN(const std::vector<pid_t> pids, cgroup_->Pids());
  pid_t root;
  {
    const std::lock_guard lock(mutex_);
    root = root_pid_;
  }
  // The root would only hand the signal on, and the command would get it twice.
  for (pid_t pid : pids) {
    if (pid != root) (void)::kill(pid, SIGTERM);
  }
  if (WaitExited(Deadline::After(grace)).ok()) return absl::OkStatus();
  RETURN_IF_ERROR(cgroup_->Kill());
  return WaitExited(Deadline::After(kDeath));
}

absl::Status Keeper::Kill() {
  RETURN_IF_ERROR(cgroup_->Kill());
  RETURN_IF_ERROR(cgroup_->WaitEmpty(Deadline::After(kDeath)));
  {
    const std::lock_guard lock(mutex_);
    if (!tree_) return absl::OkStatus();
  }
  return WaitExited(Deadline::After(kDeath));
}

absl::Status Keeper::Quit() {
  (void)CancelCriu();
  ASSIGN_OR_RETURN(SlowOperation operation, SlowOperation::Begin(*this, "quit"));
  const std::lock_guard control(control_mutex_);
  absl::Status status = cgroup_->Kill();
  if (sandbox_) sandbox_->Kill();
  status.Update(cgroup_->WaitEmpty(Deadline::After(kDeath)));
  // The device goes while the fence stands: the kernel takes both down with the namespace, and in
  // which order is not ours to say.
  if (network_) status.Update(network_->RemoveDevices());
  status.Update(cgroup_->Remove(Deadline::After(kDeath)));
  const std::lock_guard lock(mutex_);
  gone_ = true;
  spdlog::info("{}: gone: {}", options_.spec.name(), status.ToString());
  return status;
}

absl::Status Keeper::Watch(int hangup) {
  while (true) {
    pollfd polls[2] = {{exited_event_.get(), POLLIN, 0}, {hangup, POLLRDHUP, 0}};
    if (::poll(polls, 2, -1) < 0 && errno != EINTR) return ErrnoStatus("wait for the component");
    if (polls[0].revents != 0) return absl::OkStatus();
    if (polls[1].revents != 0) return absl::CancelledError("the caller hung up");
  }
}

v1::Status Keeper::GetStatus() {
  v1::Status status;
  status.set_protocol(kProtocol);
  status.set_version(STARLING_VERSION);
  status.set_keeper_pid(::getpid());
  *status.mutable_spec() = options_.spec;
  status.set_epoch(options_.epoch);
  status.set_migration_id(options_.migration_id);
  status.set_cgroup(cgroup_->path());
  status.set_init_pid(sandbox_->init_pid());
  const absl::StatusOr<bool> frozen = cgroup_->Frozen();
  const std::lock_guard lock(mutex_);
  status.set_frozen(frozen.ok() && *frozen);
  status.set_fenced(fenced_);
  status.set_root_pid(root_pid_);
  status.set_root_pid_inside(root_inside_);
  status.set_exit_status(exit_status_);
  if (exited_) {
    status.set_phase(v1::Status::EXITED);
  } else if (busy_ != nullptr) {
    status.set_phase(v1::Status::BUSY);
  } else {
    status.set_phase(tree_ ? v1::Status::LIVE : v1::Status::EMPTY);
  }
  return status;
}

void Keeper::OnInitExit() {
  const absl::StatusOr<int> result = sandbox_->Reap();
  {
    const std::lock_guard lock(mutex_);
    exited_ = true;
    exit_status_ = result.ok() ? *result : -1;
    spdlog::info("{}: ended with status {}", options_.spec.name(), exit_status_);
    changed_.notify_all();
  }
  const uint64_t one = 1;
  (void)!::write(exited_event_.get(), &one, sizeof(one));
}

}  // namespace starling::keeper
