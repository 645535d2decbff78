// Proves in one run, on a kernel that CRIU works on, that the parts of this room fit together: a
// component in namespaces of its own is pre-dumped twice and dumped by CRIU through our page server
// into an arena, killed, and restored from the arena's images in new namespaces. Every mapping of
// every process must then hold what it held when it was frozen, and the component must go on.
//
// Needs root, cgroup v2 and a kernel on which `criu check` is content.

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <iostream>
#include <set>
#include <thread>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"
#include "base/file.h"
#include "base/status.h"
#include "checkpoint/arena.h"
#include "checkpoint/criu_images.h"
#include "checkpoint/criu_session.h"
#include "checkpoint/criu_source.h"
#include "checkpoint/local_sink.h"
#include "checkpoint/memory_source.h"
#include "checkpoint/tracker.h"
#include "tests/checkpoint/check_sandbox.h"
#include "tests/checkpoint/check_workload.h"

namespace starling::checkpoint {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

struct Arguments {
  std::string workload = "shared-memory";
  std::string tracker = "criu-predump";
  int rounds = 2;
  int megabytes = 48;
  std::string lock = "nftables";
  std::string work_dir = "/dev/shm/starling-criu-check";
  int log_level = 1;
  int threads = 2;
  bool keep = false;
};

template <typename... Args>
void Say(const absl::FormatSpec<Args...>& format, const Args&... args) {
  std::cout << absl::StrFormat(format, args...) << std::endl;
}

void SayStages(const char* what, const CriuResult& result) {
  Say("%-8s %.1f ms", what, Milliseconds(result.finished - result.started));
  TimePoint last = result.started;
  for (const CriuStage& stage : result.stages) {
    Say("  to %-22s %8.1f ms, answered in %.1f ms", stage.stage, Milliseconds(stage.told - last),
        Milliseconds(stage.answered - stage.told));
    last = stage.answered;
  }
  Say("  to the end               %8.1f ms", Milliseconds(result.finished - last));
}

class Check {
 public:
  explicit Check(const Arguments& arguments) : arguments_(arguments) {}
  absl::Status Run();

 private:
  absl::Status StartWorkload();
  absl::Status Change(int round);
  absl::StatusOr<std::vector<std::string>> Digest(const CheckSandbox& sandbox);
  std::unique_ptr<PageSource> MakeSource(const CriuVersion& version, const std::string& folder);
  absl::Status PreDump(CriuWork work);
  absl::Status Dump(CriuWork work);
  absl::Status Restore(const std::string& images);
  absl::Status ComponentGoesOn();
  struct Subreaper {
    int yes = 0, no = 0;  // lines of the component's log
  };
  absl::StatusOr<Subreaper> ReadSubreaper() const;
  absl::Status NoLockLeft(const CheckSandbox& sandbox) const;
  absl::StatusOr<std::string> Redis(const std::string& arguments);
  CriuOptions Options(const CheckSandbox& sandbox, int images) const;

  const Arguments arguments_;
  std::unique_ptr<CheckSandbox> sandbox_;
  std::unique_ptr<CheckSandbox> target_;
  pid_t root_ = 0;
  std::vector<std::string> before_;
  std::string redis_digest_;
  std::vector<uint64_t> progress_;
};

absl::StatusOr<std::string> Check::Redis(const std::string& arguments) {
  absl::StatusOr<std::string> answer = absl::InternalError("no network namespace");
  const CheckSandbox& sandbox = target_ ? *target_ : *sandbox_;
  sandbox.InNetwork([&] { answer = AskRedis(arguments); });
  return answer;
}

absl::Status Check::StartWorkload() {
  const std::string log = absl::StrCat(arguments_.work_dir, "/component.log");
  const Arguments& arguments = arguments_;
  ASSIGN_OR_RETURN(root_, sandbox_->Run(log, [&arguments] {
    if (arguments.workload == "redis") return RunRedisWorkload();
    if (arguments.workload == "mappings") return RunMappingsWorkload(arguments.megabytes);
    return RunSharedMemoryWorkload(arguments.megabytes);
  }));
  if (arguments_.workload != "redis") {
    std::this_thread::sleep_for(seconds(1));
    return absl::OkStatus();
  }
  const Deadline deadline = Deadline::After(seconds(120));
  while (!Redis("ping").ok()) {
    if (deadline.Passed()) return absl::DeadlineExceededError("Redis does not answer");
    std::this_thread::sleep_for(milliseconds(100));
  }
  // The waiting client too, before the first round.
  while (true) {
    ASSIGN_OR_RETURN(const std::string blocked, Redis("info clients"));
    if (absl::StrContains(blocked, "blocked_clients:1")) break;
    if (deadline.Passed()) return absl::DeadlineExceededError("Redis's client does not wait");
    std::this_thread::sleep_for(milliseconds(100));
  }
  return Redis(absl::StrCat("debug populate ", arguments_.megabytes * 1000, " key 1000")).status();
}

absl::Status Check::Change(int round) {
  if (arguments_.workload != "redis") {
    std::this_thread::sleep_for(milliseconds(300));
    return absl::OkStatus();
  }
  return Redis(absl::StrCat("debug populate 2000 round", round, " 500")).status();
}

absl::StatusOr<std::vector<std::string>> Check::Digest(const CheckSandbox& sandbox) {
  std::vector<std::string> all;
  ASSIGN_OR_RETURN(const std::vector<pid_t> pids, sandbox.Pids());
  for (const pid_t pid : pids) {
    ASSIGN_OR_RETURN(const std::vector<std::string> lines, MemoryDigest(pid));
    all.insert(all.end(), lines.begin(), lines.end());
  }
  return all;
}

CriuOptions Check::Options(const CheckSandbox& sandbox, int images) const {
  CriuOptions options;
  options.pid_namespace = sandbox.pid_namespace();
  options.mount_namespace = sandbox.mount_namespace();
  options.network_namespace = sandbox.network_namespace();
  options.images_dir = images;
  options.log_level = arguments_.log_level;
  return options;
}

std::unique_ptr<PageSource> Check::MakeSource(const CriuVersion& version,
                                              const std::string& folder) {
  CriuDumper dumper = Unstaged([this](CriuWork work) { return Dump(std::move(work)); });
  FrozenMemoryOpener memory = [this] { return OpenCgroupMemory(sandbox_->cgroup()); };
  if (arguments_.tracker == "criu-predump") {
    return std::make_unique<CriuSource>(
        version, folder, [this](CriuWork work) { return PreDump(std::move(work)); },
        std::move(dumper), std::move(memory));
  }
  std::unique_ptr<Tracker> tracker;
  if (arguments_.tracker == "soft-dirty") {
    tracker = MakeSoftDirtyTracker(sandbox_->cgroup(), [this](bool frozen) {
      return frozen ? sandbox_->Freeze() : sandbox_->Thaw();
    });
  } else if (arguments_.tracker == "pagemap-scan") {
    tracker = MakePagemapScanTracker(sandbox_->cgroup());
  } else {
    tracker = MakeHashTracker(sandbox_->cgroup());
  }
  MemorySource::Options options;
  options.version = version;
  options.folder = folder;
  return std::make_unique<MemorySource>(std::move(options), std::move(tracker), std::move(dumper),
                                        std::move(memory));
}

absl::Status Check::PreDump(CriuWork work) {
  ASSIGN_OR_RETURN(const UniqueFd images, OpenFile(work.images_dir, O_RDONLY | O_DIRECTORY));
  CriuOptions options = Options(*sandbox_, images.get());
  options.page_server = work.page_server.get();
  const Deadline deadline = Deadline::After(seconds(120));
  ASSIGN_OR_RETURN(const auto session, CriuSession::Start(options, deadline));
  work.page_server.Reset();
  PreDumpRequest request;
  request.pid = root_;
  request.parent_images = work.parent_images;
  request.freeze_cgroup = sandbox_->cgroup();
  ASSIGN_OR_RETURN(const CriuResult result, session->PreDump(request, {}, deadline));
  SayStages("pre-dump", result);
  return absl::OkStatus();
}

absl::Status Check::Dump(CriuWork work) {
  ASSIGN_OR_RETURN(const UniqueFd images, OpenFile(work.images_dir, O_RDONLY | O_DIRECTORY));
  CriuOptions options = Options(*sandbox_, images.get());
  options.page_server = work.page_server.get();
  const Deadline deadline = Deadline::After(seconds(120));
  // CRIU is started, and has had time to load, before the component is frozen.
  ASSIGN_OR_RETURN(const auto session, CriuSession::Start(options, deadline));
  work.page_server.Reset();
  std::this_thread::sleep_for(milliseconds(200));
  const TimePoint freeze = Clock::now();
  const bool frozen_before = arguments_.tracker != "criu-predump";
  if (!frozen_before) {
    RETURN_IF_ERROR(sandbox_->Freeze());
    Say("freeze   %.1f ms", Milliseconds(Clock::now() - freeze));
    ASSIGN_OR_RETURN(before_, Digest(*sandbox_));
  }
  DumpRequest request;
  request.pid = root_;
  request.parent_images = work.parent_images;
  request.freeze_cgroup = sandbox_->cgroup();
  if (arguments_.lock == "iptables") request.network_lock = NetworkLock::kIptables;
  // CRIU has thawed our cgroup when it had seized the tasks: frozen again before it lets them go.
  auto callback = [this](const CriuNotification& notification) {
    return notification.stage == "post-dump" ? sandbox_->Freeze() : absl::OkStatus();
  };
  ASSIGN_OR_RETURN(const CriuResult result, session->Dump(request, callback, deadline));
  SayStages("dump", result);
  RETURN_IF_ERROR(NoLockLeft(*sandbox_));
  ASSIGN_OR_RETURN(const std::vector<std::string> after, Digest(*sandbox_));
  // A digest brings pages into being, so that a tracker must not have one before its last list.
  if (frozen_before) {
    before_ = after;
  } else if (after != before_)
    return absl::DataLossError("the component ran between freeze and post-dump");
  return absl::OkStatus();
}

absl::Status Check::Restore(const std::string& images_path) {
  ASSIGN_OR_RETURN(target_, CheckSandbox::Create("target", 0));
  ASSIGN_OR_RETURN(const UniqueFd images, OpenFile(images_path, O_RDONLY | O_DIRECTORY));
  ASSIGN_OR_RETURN(const UniqueFd procs, target_->CgroupProcs());
  CriuOptions options = Options(*target_, images.get());
  options.cgroup_procs = procs.get();
  options.log_file = "restore.log";
  const Deadline deadline = Deadline::After(seconds(120));
  ASSIGN_OR_RETURN(const auto session, CriuSession::Start(options, deadline));
  std::this_thread::sleep_for(milliseconds(200));
  auto callback = [&](const CriuNotification& notification) -> absl::Status {
    if (notification.stage != "pre-resume") return absl::OkStatus();
    RETURN_IF_ERROR(target_->MoveOut(session->pid()));
    return WriteKnob(absl::StrCat(target_->cgroup(), "/cgroup.freeze"), "1");
  };
  ASSIGN_OR_RETURN(const CriuResult result, session->Restore({}, callback, deadline));
  SayStages("restore", result);
  RETURN_IF_ERROR(NoLockLeft(*target_));
  RETURN_IF_ERROR(target_->Freeze());
  if (result.pid != root_) {
    return absl::InternalError(absl::StrCat("CRIU restored pid ", result.pid, ", not ", root_));
  }
  ASSIGN_OR_RETURN(const std::vector<std::string> after, Digest(*target_));
  const std::set<std::string> left(before_.begin(), before_.end());
  const std::set<std::string> right(after.begin(), after.end());
  size_t differences = 0;
  for (const std::string& line : left) {
    if (!right.contains(line) && ++differences < 20) Say("before: %s", line);
  }
  for (const std::string& line : right) {
    if (!left.contains(line) && ++differences < 40) Say("after:  %s", line);
  }
  if (differences > 0) {
    return absl::DataLossError(absl::StrCat(differences, " mappings are not what they were"));
  }
  Say("the same %u mappings before and after", static_cast<unsigned>(left.size()));
  return absl::OkStatus();
}

absl::StatusOr<Check::Subreaper> Check::ReadSubreaper() const {
  ASSIGN_OR_RETURN(const std::string log,
                   ReadFile(absl::StrCat(arguments_.work_dir, "/component.log")));
  Subreaper count;
  for (absl::string_view line : absl::StrSplit(log, '\n')) {
    count.yes += line == "subreaper 1";
    count.no += line == "subreaper 0";
  }
  return count;
}

// CRIU's lock of the network must not outlive CRIU.
absl::Status Check::NoLockLeft(const CheckSandbox& sandbox) const {
  absl::StatusOr<std::string> rules = absl::InternalError("no network namespace");
  sandbox.InNetwork([&] {
    rules = RunShell("{ nft list ruleset; iptables -S; } | grep -iE 'criu|drop' || true");
  });
  RETURN_IF_ERROR(rules.status());
  if (rules->empty()) return absl::OkStatus();
  return absl::InternalError(absl::StrCat("CRIU left rules in the network namespace: ", *rules));
}

absl::Status Check::ComponentGoesOn() {
  ASSIGN_OR_RETURN(const std::vector<pid_t> pids, target_->Pids());
  if (arguments_.workload != "redis") {
    ASSIGN_OR_RETURN(const auto frozen, SharedMemoryProgress(pids[0]));
    RETURN_IF_ERROR(target_->Thaw());
    std::this_thread::sleep_for(seconds(2));
    ASSIGN_OR_RETURN(const auto later, SharedMemoryProgress(pids[0]));
    for (size_t i = 0; i < later.size(); ++i) {
      Say("process %u: step %u when restored, %u two seconds later", static_cast<unsigned>(i),
          frozen[i], later[i]);
      if (i == 1 && arguments_.workload == "mappings") continue;  // those come and go
      if (later[i] <= frozen[i]) return absl::DataLossError("a process stands still");
    }
    ASSIGN_OR_RETURN(const std::vector<pid_t> now, target_->Pids());
    const size_t processes = arguments_.workload == "mappings" ? 2 : 3;
    if (now.size() < processes) return absl::DataLossError("a process has ended");
    return absl::OkStatus();
  }
  RETURN_IF_ERROR(target_->Thaw());
  ASSIGN_OR_RETURN(const std::string digest, Redis("debug digest"));
  if (digest != redis_digest_) {
    return absl::DataLossError(absl::StrCat("Redis's digest is ", digest, ", was ", redis_digest_));
  }
  // The client that has waited all along on its connection is served.
  RETURN_IF_ERROR(Redis("lpush the-queue the-word").status());
  const Deadline deadline = Deadline::After(seconds(20));
  const std::string log = absl::StrCat(arguments_.work_dir, "/component.log");
  while (true) {
    ASSIGN_OR_RETURN(const std::string output, ReadFile(log));
    if (absl::StrContains(output, "the-word")) break;
    if (deadline.Passed()) return absl::DataLossError("the connection inside Redis is broken");
    std::this_thread::sleep_for(milliseconds(50));
  }
  Say("Redis has the same digest and served the client that waited");
  ASSIGN_OR_RETURN(const Subreaper now, ReadSubreaper());
  for (Subreaper later = now; later.yes == now.yes && later.no == 0;) {
    if (deadline.Passed()) return absl::DataLossError("the first process stands still");
    std::this_thread::sleep_for(milliseconds(100));
    ASSIGN_OR_RETURN(later, ReadSubreaper());
    if (later.no > 0)
      return absl::DataLossError("the first process is no child subreaper any more");
  }
  Say("the first process is still a child subreaper");
  return absl::OkStatus();
}

absl::Status Check::Run() {
  RETURN_IF_ERROR(RemoveTree(arguments_.work_dir));
  RETURN_IF_ERROR(MakeDirectories(arguments_.work_dir, 0755));
  ASSIGN_OR_RETURN(const CriuFacts facts,
                   QueryCriu("/usr/sbin/criu", Deadline::After(seconds(60))));
  Say("CRIU %s, memory tracking %s, lazy pages %s, pidfd store %s",
      FormatCriuVersion(facts.version), facts.memory_tracking ? "yes" : "no",
      facts.lazy_pages ? "yes" : "no", facts.pidfd_store ? "yes" : "no");
  RETURN_IF_ERROR(
      Annotate(CheckCriu("/usr/sbin/criu", arguments_.work_dir, Deadline::After(seconds(60))),
               "criu check"));

  ASSIGN_OR_RETURN(sandbox_, CheckSandbox::Create("source", 1000));
  RETURN_IF_ERROR(StartWorkload());
  const std::string folder = absl::StrCat(arguments_.work_dir, "/images");
  RETURN_IF_ERROR(MakeDirectories(folder, 0700));
  ASSIGN_OR_RETURN(const auto arena, Arena::Create({}));
  LocalSink sink(*arena, 256);
  const std::unique_ptr<PageSource> made = MakeSource(facts.version, folder);
  PageSource& source = *made;
  Say("tracker %s", source.tracker_name());
  for (int round = 1; round <= arguments_.rounds; ++round) {
    ASSIGN_OR_RETURN(const RoundReport report, source.Round(sink));
    RETURN_IF_ERROR(sink.Flush(Deadline::Never()).status());
    Say("round %d: %u pages sent, %u zero, %u unchanged, %.1f ms (listing %.1f), paused %.1f ms",
        round, report.pages_sent, report.pages_zero, report.pages_unchanged,
        Milliseconds(report.elapsed), Milliseconds(report.listing), Milliseconds(report.paused));
    if (round > 1 && report.pages_unchanged == 0) {
      return absl::InternalError("a later round found no page unchanged");
    }
    RETURN_IF_ERROR(Change(round));
  }
  if (arguments_.workload == "redis") {
    ASSIGN_OR_RETURN(redis_digest_, Redis("debug digest"));
  }
  RoundReport report;
  RETURN_IF_ERROR(source.Stage());
  if (arguments_.tracker != "criu-predump") RETURN_IF_ERROR(sandbox_->Freeze());
  ASSIGN_OR_RETURN(const FinalList list, source.Final(sink, report));
  RETURN_IF_ERROR(sink.Flush(Deadline::Never()).status());
  Say("final: %u pages sent (%u by CRIU, %u of them shared), %u zero, %u unchanged, %.1f ms "
      "(listing %.1f, sending %.1f)",
      report.pages_sent, report.pages_from_criu, report.pages_shared, report.pages_zero,
      report.pages_unchanged, Milliseconds(report.elapsed), Milliseconds(report.listing),
      Milliseconds(report.sending));
  if (arguments_.workload == "shared-memory" && arguments_.tracker != "criu-predump" &&
      report.pages_shared == 0) {
    return absl::InternalError("shared memory was not left to CRIU");
  }
  if (const auto bytes = ReadFile(absl::StrCat(source.final_images(), "/stats-dump")); bytes.ok()) {
    ASSIGN_OR_RETURN(const DumpStats stats, DecodeDumpStats(*bytes));
    Say("CRIU's own count: freezing %.1f, frozen %.1f, memory dump %.1f, memory write %.1f ms",
        Milliseconds(stats.freezing), Milliseconds(stats.frozen), Milliseconds(stats.memory_dump),
        Milliseconds(stats.memory_write));
  }
  RETURN_IF_ERROR(sandbox_->KillAll());
  sandbox_.reset();

  const TimePoint start = Clock::now();
  ASSIGN_OR_RETURN(const Arena::ImageTotals images,
                   arena->WriteImages(list, source.final_images(), arguments_.threads));
  Say("images: %u pages, %u zero, %u left out, %u files, %.1f ms", images.pages_written,
      images.zero_pages, images.pages_left_out, images.files, Milliseconds(Clock::now() - start));
  if (arguments_.rounds > 0 && report.pages_unchanged == 0) {
    return absl::InternalError("the final dump found no page unchanged");
  }
  RETURN_IF_ERROR(Restore(source.final_images()));
  RETURN_IF_ERROR(ComponentGoesOn());
  target_.reset();
  if (!arguments_.keep) RETURN_IF_ERROR(RemoveTree(arguments_.work_dir));
  return absl::OkStatus();
}

}  // namespace
}  // namespace starling::checkpoint

int main(int argc, char** argv) {
  starling::checkpoint::Arguments arguments;
  CLI::App app(
      "Moves a component through CRIU, page server and arena within one machine, and "
      "compares all its memory.");
  app.add_option("--workload", arguments.workload)
      ->check(CLI::IsMember({"shared-memory", "mappings", "redis"}))
      ->capture_default_str();
  app.add_option("--tracker", arguments.tracker)
      ->check(CLI::IsMember({"criu-predump", "soft-dirty", "pagemap-scan", "hash"}))
      ->capture_default_str();
  app.add_option("--rounds", arguments.rounds)->capture_default_str();
  app.add_option("--megabytes", arguments.megabytes)->capture_default_str();
  app.add_option("--lock", arguments.lock)
      ->check(CLI::IsMember({"iptables", "nftables"}))
      ->capture_default_str();
  app.add_option("--work-dir", arguments.work_dir)->capture_default_str();
  app.add_option("--log-level", arguments.log_level)->capture_default_str();
  app.add_option("--threads", arguments.threads)->capture_default_str();
  app.add_flag("--keep", arguments.keep, "leave the images and logs");
  CLI11_PARSE(app, argc, argv);
  const absl::Status status = starling::checkpoint::Check(arguments).Run();
  std::cout << (status.ok() ? "PASS" : absl::StrCat("FAIL: ", status.ToString())) << std::endl;
  return status.ok() ? 0 : 1;
}
