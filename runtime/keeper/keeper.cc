#include "runtime/keeper/keeper.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/file.h"
#include "base/log.h"
#include "base/status.h"
#include "runtime/keeper/probe.h"
#include "runtime/keeper/protocol.h"
#include "runtime/keeper/slow_operation.h"

namespace starling::keeper {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

// The longest term of a freeze, in seconds.
constexpr double kMostFreezeTerm = 3600;
constexpr seconds kLaunch{30};

// Announcements after the first: switches may drop one, and more than a second is no use.
constexpr int kAnnouncements = 5;
constexpr long kAnnounceGapNs = 200'000'000;

}  // namespace

std::string KeeperName(const std::string& component, const std::string& migration_id) {
  return migration_id.empty() ? component : absl::StrCat(component, "@", migration_id);
}

absl::StatusOr<std::unique_ptr<Keeper>> Keeper::Create(const KeeperOptions& options) {
  std::unique_ptr<Keeper> keeper(new Keeper(options));
  RETURN_IF_ERROR(keeper->SetUp());
  return keeper;
}

absl::Status Keeper::SetUp() {
  const auto& spec = options_.spec;
  announce_timer_.Reset(::timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK));
  freeze_timer_.Reset(::timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK));
  exited_event_.Reset(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!announce_timer_ || !freeze_timer_ || !exited_event_)
    return ErrnoStatus("make a timer and an event");

  SandboxOptions sandbox;
  ASSIGN_OR_RETURN(sandbox.identity, ResolveUser(spec.user()));
  sandbox.init_path = options_.init_path;
  // The dynamic linker would only warn, and CRIU go on without.
  for (const std::string& aid : {options_.criu_root, options_.criu_fenced}) {
    if (::access(aid.c_str(), R_OK) != 0) return ErrnoStatus(aid);
  }
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

absl::Status Keeper::RefuseWhileBusy(const char* what) {
  const std::lock_guard lock(mutex_);
  if (gone_) return absl::UnavailableError("the keeper is ending");
  if (busy_ == nullptr || DumpWaits()) return absl::OkStatus();
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

absl::Status Keeper::SetFreezeTerm(double seconds) {
  term_over_ = false;
  itimerspec term = {};
  term.it_value.tv_sec = static_cast<time_t>(seconds);
  term.it_value.tv_nsec =
      static_cast<long>((seconds - static_cast<double>(term.it_value.tv_sec)) * 1e9);
  if (::timerfd_settime(freeze_timer_.get(), 0, &term, nullptr) != 0) {
    return ErrnoStatus("set the term of a freeze");
  }
  return absl::OkStatus();
}

void Keeper::OnFreezeTimer() {
  const std::lock_guard control(control_mutex_);
  // Nothing to read any more: it was thawed, or frozen anew, in the meantime.
  uint64_t times;
  if (::read(freeze_timer_.get(), &times, sizeof(times)) != sizeof(times)) return;
  term_over_ = true;
  const absl::Status status = cgroup_->RequestFrozen(false);
  spdlog::warn("{}: frozen for longer than was asked for, and runs on{}{}", options_.spec.name(),
               status.ok() ? "" : ": ", status.ok() ? "" : status.ToString());
}

absl::Status Keeper::Freeze(double term_s) {
  if (!(term_s >= 0 && term_s <= kMostFreezeTerm)) {
    return absl::InvalidArgumentError(
        absl::StrCat("a freeze of ", term_s, " s; 0 to ", kMostFreezeTerm, " are allowed"));
  }
  const std::lock_guard control(control_mutex_);
  RETURN_IF_ERROR(RefuseWhileBusy("freeze"));
  RETURN_IF_ERROR(SetFreezeTerm(term_s));
  RETURN_IF_ERROR(cgroup_->RequestFrozen(true));
  const absl::Status frozen = cgroup_->WaitFrozen(true, Deadline::After(kQuick));
  // Half frozen is worse than not at all.
  if (!frozen.ok()) (void)cgroup_->RequestFrozen(false);
  return frozen;
}

absl::Status Keeper::Thaw(bool in_term) {
  const std::lock_guard control(control_mutex_);
  RETURN_IF_ERROR(RefuseWhileBusy("thaw"));
  const bool late = in_term && term_over_;
  RETURN_IF_ERROR(SetFreezeTerm(0));
  RETURN_IF_ERROR(cgroup_->RequestFrozen(false));
  if (checkpoint::LazyPages* waiting = lazy()) waiting->Fill();
  RETURN_IF_ERROR(cgroup_->WaitFrozen(false, Deadline::After(kQuick)));
  if (!late) return absl::OkStatus();
  return absl::FailedPreconditionError(
      "the component ran on before it was thawed: its freeze took longer than was asked for");
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

absl::Status Keeper::LetRun() {
  RETURN_IF_ERROR(FenceDown());
  RETURN_IF_ERROR(Thaw());
  return Announce();
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
  if (checkpoint::LazyPages* waiting = lazy()) {
    if (!waiting->filled()) {
      const checkpoint::LazyPages::Stats stats = waiting->stats();
      status.set_pages_waiting(std::max<uint64_t>(1, stats.pages_left));
      status.set_pages_away(stats.pages_missing);
    }
  }
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
