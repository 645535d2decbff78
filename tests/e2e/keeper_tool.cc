// Drives one keeper, for the end-to-end test in the bed: what an agent would do, with the memory
// going through an arena of this process into a folder of images instead of over the wire.

#include <signal.h>
#include <sys/socket.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <filesystem>
#include <iostream>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/file.h"
#include "base/status.h"
#include "checkpoint/arena.h"
#include "checkpoint/criu_session.h"
#include "checkpoint/criu_source.h"
#include "checkpoint/local_sink.h"
#include "runtime/keeper_client.h"

namespace starling::keeper {
namespace {

using std::chrono::seconds;

constexpr char kRunDir[] = "/run/starling-keeper-test";
constexpr char kLogDir[] = "/tmp/starling-keeper-test";
constexpr char kWork[] = "/dev/shm/starling-keeper-test";

struct Arguments {
  std::string name = "t";
  std::string migration;
  std::string ip;
  std::string mac;
  std::string user;
  std::vector<std::string> command;
  std::string images;
  int rounds = 2;
  uint64_t epoch = 1;
  double timeout_s = 60;
};

void Say(const v1::PhaseTimes& phases, const char* what) {
  for (const auto& phase : phases.phases()) {
    std::cout << absl::StrFormat("%s %-26s %8.1f ms\n", what, phase.name(), phase.seconds() * 1000);
  }
}

// Prints how long a step took, with its name.
class Step {
 public:
  explicit Step(const char* name) : name_(name), begun_(Clock::now()) {}
  ~Step() {
    std::cout << absl::StrFormat("step %-26s %8.1f ms\n", name_,
                                 Milliseconds(Clock::now() - begun_));
  }

 private:
  const char* name_;
  TimePoint begun_;
};

absl::StatusOr<KeeperClient> Connect(const Arguments& arguments) {
  return KeeperClient::Connect(KeeperSocket(kRunDir, arguments.name, arguments.migration));
}

absl::StatusOr<std::string> StartOne(const Arguments& arguments, bool fenced) {
  const Step step("start keeper");
  StartKeeperOptions options;
  options.program = KEEPER_PROGRAM;
  options.run_dir = kRunDir;
  options.log_dir = kLogDir;
  options.parent_device = "eth0";
  options.epoch = arguments.epoch;
  options.migration_id = arguments.migration;
  options.fenced = fenced;
  options.spec.set_name(arguments.name);
  options.spec.set_user(arguments.user);
  options.spec.set_ip(arguments.ip);
  options.spec.set_mac(arguments.mac);
  for (const std::string& word : arguments.command) options.spec.add_command(word);
  return StartKeeper(options, Deadline::After(seconds(60)));
}

absl::Status Run(const Arguments& arguments) {
  RETURN_IF_ERROR(StartOne(arguments, false).status());
  ASSIGN_OR_RETURN(KeeperClient client, Connect(arguments));
  return client.Launch();
}

Duration TimeoutOf(const Arguments& arguments) {
  return std::chrono::duration_cast<Duration>(std::chrono::duration<double>(arguments.timeout_s));
}

checkpoint::CriuWorker PreDumper(const Arguments& arguments) {
  return [&arguments](checkpoint::CriuWork work) -> absl::Status {
    ASSIGN_OR_RETURN(KeeperClient client, Connect(arguments));
    ASSIGN_OR_RETURN(const auto phases,
                     client.PreDump(work.images_dir, work.parent_images, work.page_server.get(),
                                    TimeoutOf(arguments)));
    Say(phases, "pre-dump");
    return absl::OkStatus();
  };
}

checkpoint::CriuDumper Dumper(const Arguments& arguments) {
  return {[&arguments](checkpoint::CriuWork work) -> absl::Status {
            ASSIGN_OR_RETURN(KeeperClient client, Connect(arguments));
            return client.StageDump(work.images_dir, work.parent_images, work.page_server.get(),
                                    TimeoutOf(arguments));
          },
          [&arguments]() -> absl::Status {
            ASSIGN_OR_RETURN(KeeperClient client, Connect(arguments));
            ASSIGN_OR_RETURN(const auto phases, client.Dump(TimeoutOf(arguments)));
            Say(phases, "dump");
            return absl::OkStatus();
          }};
}

// Rounds, fence, freeze, dump, and the whole as images in `images`. The tree stays frozen.
absl::Status Dump(const Arguments& arguments) {
  RETURN_IF_ERROR(RemoveTree(kWork));
  RETURN_IF_ERROR(MakeDirectories(kWork));
  ASSIGN_OR_RETURN(const checkpoint::CriuFacts facts,
                   checkpoint::QueryCriu("/usr/sbin/criu", Deadline::After(seconds(30))));
  ASSIGN_OR_RETURN(const auto arena, checkpoint::Arena::Create({}));
  checkpoint::LocalSink sink(*arena);
  const auto memory = [&arguments]() -> absl::StatusOr<std::unique_ptr<checkpoint::FrozenMemory>> {
    ASSIGN_OR_RETURN(KeeperClient keeper, Connect(arguments));
    ASSIGN_OR_RETURN(const auto status, keeper.GetStatus());
    return checkpoint::OpenCgroupMemory(status.cgroup());
  };
  checkpoint::CriuSource source(facts.version, kWork, PreDumper(arguments), Dumper(arguments),
                                memory);
  for (int i = 0; i < arguments.rounds; ++i) {
    ASSIGN_OR_RETURN(const checkpoint::RoundReport round, source.Round(sink));
    std::cout << "round " << i << " pages " << round.pages_sent << "\n";
  }
  RETURN_IF_ERROR(source.Stage());
  ASSIGN_OR_RETURN(KeeperClient client, Connect(arguments));
  {
    const Step step("fence up");
    RETURN_IF_ERROR(client.FenceUp());
  }
  {
    const Step step("freeze");
    RETURN_IF_ERROR(client.Freeze());
  }
  checkpoint::RoundReport report;
  const auto list = source.Final(sink, report);
  if (!list.ok()) return list.status();
  ASSIGN_OR_RETURN(const v1::Status status, client.GetStatus());
  if (!status.frozen() || !status.fenced()) {
    return absl::InternalError("the tree is not held after its dump");
  }
  ASSIGN_OR_RETURN(const auto totals, arena->WriteImages(*list, source.final_images(), 1));
  std::cout << "final pages " << report.pages_sent << " of " << totals.pages_written << "\n";
  RETURN_IF_ERROR(MakeDirectories(arguments.images));
  std::error_code error;
  std::filesystem::copy(source.final_images(), arguments.images,
                        std::filesystem::copy_options::recursive, error);
  if (error) return ErrnoStatus(error.value(), "copy the images");
  return absl::OkStatus();
}

// Restores from `images` in a new keeper and holds it.
absl::Status Restore(const Arguments& arguments) {
  RETURN_IF_ERROR(RemoveTree(kWork));
  RETURN_IF_ERROR(MakeDirectories(kWork));
  std::error_code error;
  std::filesystem::copy(arguments.images, kWork, std::filesystem::copy_options::recursive, error);
  if (error) return ErrnoStatus(error.value(), "copy the images");
  RETURN_IF_ERROR(StartOne(arguments, true).status());
  ASSIGN_OR_RETURN(KeeperClient client, Connect(arguments));
  ASSIGN_OR_RETURN(const v1::PhaseTimes phases, client.Restore(kWork, seconds(60)));
  Say(phases, "restore");
  ASSIGN_OR_RETURN(const v1::Status status, client.GetStatus());
  if (!status.frozen() || !status.fenced() || status.phase() != v1::Status::LIVE) {
    return absl::InternalError(absl::StrCat("not held after the restore: ", status.DebugString()));
  }
  return absl::OkStatus();
}

absl::Status Release(const Arguments& arguments) {
  ASSIGN_OR_RETURN(KeeperClient client, Connect(arguments));
  {
    const Step step("thaw");
    RETURN_IF_ERROR(client.Thaw());
  }
  {
    const Step step("fence down");
    RETURN_IF_ERROR(client.FenceDown());
  }
  const Step step("announce");
  return client.Announce();
}

// A final dump whose pages nobody takes, so that CRIU stands still in the middle of it until
// somebody ends it. Prints how it ended.
absl::Status Stall(const Arguments& arguments) {
  RETURN_IF_ERROR(RemoveTree(kWork));
  RETURN_IF_ERROR(MakeDirectories(kWork));
  int ends[2];
  if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) != 0)
    return ErrnoStatus("socketpair");
  const UniqueFd ours(ends[0]), theirs(ends[1]);
  ASSIGN_OR_RETURN(KeeperClient client, Connect(arguments));
  RETURN_IF_ERROR(client.StageDump(kWork, "", theirs.get(), seconds(100)));
  RETURN_IF_ERROR(client.FenceUp());
  RETURN_IF_ERROR(client.Freeze());
  const absl::Status status = client.Dump(seconds(100)).status();
  std::cout << "dump: " << status << "\n";
  ASSIGN_OR_RETURN(const v1::Status now, client.GetStatus());
  std::cout << now.DebugString();
  return absl::OkStatus();
}

// What the quick requests cost, one after another.
absl::Status Bench(const Arguments& arguments) {
  ASSIGN_OR_RETURN(KeeperClient client, Connect(arguments));
  for (int i = 0; i < arguments.rounds; ++i) {
    {
      const Step step("fence up");
      RETURN_IF_ERROR(client.FenceUp());
    }
    {
      const Step step("freeze");
      RETURN_IF_ERROR(client.Freeze());
    }
    {
      const Step step("thaw");
      RETURN_IF_ERROR(client.Thaw());
    }
    const Step step("fence down");
    RETURN_IF_ERROR(client.FenceDown());
  }
  return absl::OkStatus();
}

// One quick request by its name; prints the status afterwards.
absl::Status Ask(const Arguments& arguments, const std::string& what) {
  ASSIGN_OR_RETURN(KeeperClient client, Connect(arguments));
  absl::Status status;
  if (what == "freeze") status = client.Freeze();
  if (what == "thaw") status = client.Thaw();
  if (what == "fence-up") status = client.FenceUp();
  if (what == "fence-down") status = client.FenceDown();
  if (what == "announce") status = client.Announce();
  if (what == "cancel") status = client.CancelCriu();
  if (what == "kill") status = client.Kill();
  if (what == "stop") status = client.Stop(seconds(10));
  if (what == "quit") return client.Quit();
  RETURN_IF_ERROR(status);
  ASSIGN_OR_RETURN(const v1::Status now, client.GetStatus());
  std::cout << now.DebugString();
  return absl::OkStatus();
}

int Main(int argc, char** argv) {
  ::signal(SIGPIPE, SIG_IGN);
  Arguments arguments;
  std::string what;
  CLI::App app{"drives one keeper for the end-to-end test"};
  app.add_option("what", what)->required();
  app.add_option("--name", arguments.name);
  app.add_option("--migration", arguments.migration);
  app.add_option("--ip", arguments.ip);
  app.add_option("--mac", arguments.mac);
  app.add_option("--user", arguments.user);
  app.add_option("--images", arguments.images);
  app.add_option("--rounds", arguments.rounds);
  app.add_option("--epoch", arguments.epoch);
  app.add_option("--timeout", arguments.timeout_s);
  app.add_option("command", arguments.command);
  CLI11_PARSE(app, argc, argv);
  const absl::Status status = what == "run"       ? Run(arguments)
                              : what == "dump"    ? Dump(arguments)
                              : what == "restore" ? Restore(arguments)
                              : what == "release" ? Release(arguments)
                              : what == "stall"   ? Stall(arguments)
                              : what == "bench"   ? Bench(arguments)
                                                  : Ask(arguments, what);
  if (!status.ok()) std::cerr << "keeper_tool: " << what << ": " << status << "\n";
  return status.ok() ? 0 : 1;
}

}  // namespace
}  // namespace starling::keeper

int main(int argc, char** argv) { return starling::keeper::Main(argc, argv); }
