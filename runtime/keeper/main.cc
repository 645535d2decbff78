// starling-keeper: owns one component on this host. Started by the agent, or by hand; goes into the
// background once the component's namespaces, cgroup and network exist and its socket answers.

#include <fcntl.h>
#include <signal.h>
#include <spdlog/sinks/basic_file_sink.h>
#include <sys/stat.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <filesystem>
#include <regex>

#include "absl/strings/str_cat.h"
#include "base/file.h"
#include "base/log.h"
#include "base/status.h"
#include "base/unix_socket.h"
#include "runtime/keeper/cgroup.h"
#include "runtime/keeper/keeper.h"
#include "runtime/keeper/server.h"

namespace starling::keeper {
namespace {

struct Arguments {
  KeeperOptions keeper;
  std::string run_dir;
  std::string spec_file;
  int verdict_fd = -1;
  bool foreground = false;
};

std::string FolderOfThisProgram() {
  std::error_code error;
  return std::filesystem::read_symlink("/proc/self/exe", error).parent_path().string();
}

absl::Status ReadSpec(Arguments& arguments) {
  ASSIGN_OR_RETURN(const std::string bytes, ReadFile(arguments.spec_file));
  auto& spec = arguments.keeper.spec;
  if (!spec.ParseFromString(bytes)) {
    return absl::InvalidArgumentError(
        absl::StrCat(arguments.spec_file, " is not a serialized starling.v1.ComponentSpec"));
  }
  // Names become paths below.
  static const std::regex name("[a-z0-9][a-z0-9-]{0,47}");
  static const std::regex migration("[A-Za-z0-9_-]{0,64}");
  if (!std::regex_match(spec.name(), name)) {
    return absl::InvalidArgumentError(
        absl::StrCat("'", spec.name(),
                     "' cannot name a component: lower-case letters, digits and "
                     "'-', at most 48, and no '-' first"));
  }
  if (!std::regex_match(arguments.keeper.migration_id, migration)) {
    return absl::InvalidArgumentError(
        absl::StrCat("'", arguments.keeper.migration_id, "' cannot name a migration"));
  }
  return absl::OkStatus();
}

// Out of the starter's session, folder and cgroup.
absl::Status LeaveStarter(const std::string& cgroup_root) {
  (void)::setsid();
  if (::chdir("/") != 0) return ErrnoStatus("go to /");
  ::umask(022);
  ASSIGN_OR_RETURN(const Cgroup keepers,
                   Cgroup::Open(absl::StrCat(cgroup_root, "/", kKeepersGroup)));
  RETURN_IF_ERROR(keepers.Add(::getpid()));
  return absl::OkStatus();
}

absl::Status OpenLog(const std::string& log_dir, const std::string& name) {
  RETURN_IF_ERROR(MakeDirectories(log_dir));
  try {
    auto logger = std::make_shared<spdlog::logger>(
        "keeper", std::make_shared<spdlog::sinks::basic_file_sink_mt>(
                      absl::StrCat(log_dir, "/", name, ".keeper.log")));
    logger->flush_on(spdlog::level::info);
    spdlog::set_default_logger(std::move(logger));
  } catch (const spdlog::spdlog_ex& error) {
    return absl::InternalError(absl::StrCat("open the keeper's log: ", error.what()));
  }
  return absl::OkStatus();
}

struct Running {
  std::unique_ptr<Keeper> keeper;
  UniqueFd listener;
  std::string socket_path;
};

absl::StatusOr<Running> Start(Arguments& arguments) {
  if (arguments.keeper.cgroup_root.empty()) {
    ASSIGN_OR_RETURN(arguments.keeper.cgroup_root, FindCgroupRoot());
  }
  const std::string& name = arguments.keeper.spec.name();
  RETURN_IF_ERROR(LeaveStarter(arguments.keeper.cgroup_root));
  RETURN_IF_ERROR(OpenLog(arguments.keeper.log_dir, name));
  const std::string folder = absl::StrCat(arguments.run_dir, "/keepers");
  RETURN_IF_ERROR(MakeDirectories(folder, 0700));
  Running running;
  // Its end is the component's end, so it is not the one to go when memory is short. Containers may
  // forbid that; it is a precaution, not a need.
  const absl::Status shielded = WriteKnob("/proc/self/oom_score_adj", "-900");
  if (!shielded.ok()) spdlog::warn("{}: {}", name, shielded.ToString());
  running.socket_path =
      absl::StrCat(folder, "/", KeeperName(name, arguments.keeper.migration_id), ".sock");
  if (ConnectUnix(running.socket_path).ok()) {
    return absl::AlreadyExistsError(absl::StrCat("a keeper answers at ", running.socket_path));
  }
  KeeperOptions options = arguments.keeper;
  options.run_dir = arguments.run_dir;
  ASSIGN_OR_RETURN(running.keeper, Keeper::Create(options));
  ASSIGN_OR_RETURN(running.listener, ListenUnix(running.socket_path));
  return running;
}

// "<code> <message>" to the starter, which waits for it, or to the terminal. False when the starter
// waits no longer: it died or gave up, and nobody will ever ask for this keeper.
bool TellVerdict(const Arguments& arguments, const absl::Status& status) {
  if (arguments.verdict_fd < 0) {
    if (!status.ok()) std::fprintf(stderr, "starling-keeper: %s\n", status.ToString().c_str());
    return true;
  }
  const std::string text = absl::StrCat(static_cast<int>(status.code()), " ",
                                        status.ok() ? "ready" : std::string(status.message()));
  const bool told = WriteAll(arguments.verdict_fd, text.data(), text.size()).ok();
  ::close(arguments.verdict_fd);
  return told;
}

absl::Status CloseTerminal() {
  ASSIGN_OR_RETURN(const UniqueFd null, OpenFile("/dev/null", O_RDWR));
  for (int fd = 0; fd < 3; ++fd) ::dup2(null.get(), fd);
  return absl::OkStatus();
}

// Returns in the child. The parent ends: at once when its starter waits for the verdict, else once
// the verdict is known.
absl::Status GoToBackground(Arguments& arguments) {
  int pipe_fds[2] = {-1, -1};
  const bool by_hand = arguments.verdict_fd < 0;
  if (by_hand && ::pipe(pipe_fds) != 0) return ErrnoStatus("pipe");
  const pid_t pid = ::fork();
  if (pid < 0) return ErrnoStatus("fork");
  if (pid == 0) {
    if (by_hand) {
      ::close(pipe_fds[0]);
      arguments.verdict_fd = pipe_fds[1];
    }
    return absl::OkStatus();
  }
  if (!by_hand) ::_exit(0);
  ::close(pipe_fds[1]);
  std::string verdict;
  char buffer[1024];
  for (ssize_t n; (n = ::read(pipe_fds[0], buffer, sizeof(buffer))) > 0;) {
    verdict.append(buffer, static_cast<size_t>(n));
  }
  const bool ready = verdict.rfind("0 ", 0) == 0;
  if (!ready) std::fprintf(stderr, "starling-keeper: %s\n", verdict.c_str());
  ::_exit(ready ? 0 : 1);
}

int Main(int argc, char** argv) {
  Arguments arguments;
  arguments.keeper.init_path = FolderOfThisProgram() + "/starling-init";
  arguments.keeper.criu_root = FolderOfThisProgram() + "/starling-criu-root.so";
  arguments.keeper.criu_fenced = FolderOfThisProgram() + "/starling-criu-fenced.so";
  CLI::App app{
      "Owns one component of Starling on this host: its namespaces, cgroup, network fence,\n"
      "output and exit status. The agent starts it and speaks to it over a local socket.\n"
      "When it ends, the component ends."};
  app.set_version_flag("--version", STARLING_VERSION);
  app.add_option("--run-dir", arguments.run_dir, "folder of sockets")->required();
  app.add_option("--log-dir", arguments.keeper.log_dir, "folder of the component's output")
      ->required();
  app.add_option("--spec-file", arguments.spec_file, "serialized starling.v1.ComponentSpec")
      ->required();
  app.add_option("--parent-device", arguments.keeper.parent_device,
                 "network device of this host that carries components' addresses");
  app.add_option("--epoch", arguments.keeper.epoch, "epoch of this copy");
  app.add_option("--migration", arguments.keeper.migration_id, "migration that makes this copy");
  app.add_flag("--fenced", arguments.keeper.fenced, "raise the fence before the network is up");
  app.add_option("--cgroup-root", arguments.keeper.cgroup_root,
                 "where cgroup v2 is mounted (default: looked up)");
  app.add_option("--init", arguments.keeper.init_path, "path of starling-init");
  app.add_option("--criu", arguments.keeper.criu, "path of criu");
  app.add_option("--criu-root", arguments.keeper.criu_root, "path of starling-criu-root.so");
  app.add_option("--criu-fenced", arguments.keeper.criu_fenced, "path of starling-criu-fenced.so");
  app.add_flag("--foreground", arguments.foreground, "do not go into the background");
  app.add_option("--verdict-fd", arguments.verdict_fd,
                 "descriptor to tell '<status code> <message>' once started, instead of stderr");
  CLI11_PARSE(app, argc, argv);

  if (const absl::Status status = ReadSpec(arguments); !status.ok()) {
    TellVerdict(arguments, status);
    return 1;
  }
  // Before any thread: the component ends with the thread that made its namespaces.
  if (!arguments.foreground) {
    const absl::Status status = GoToBackground(arguments);
    if (!status.ok()) {
      TellVerdict(arguments, status);
      return 1;
    }
  }
  ::signal(SIGPIPE, SIG_IGN);
  ::signal(SIGHUP, SIG_IGN);
  sigset_t mask;
  sigemptyset(&mask);
  sigaddset(&mask, SIGTERM);
  (void)::sigprocmask(SIG_BLOCK, &mask, nullptr);

  absl::StatusOr<Running> running = Start(arguments);
  const bool awaited = TellVerdict(arguments, running.status());
  if (!running.ok()) {
    spdlog::error("{}", running.status().ToString());
    return 1;
  }
  if (!awaited) {
    spdlog::error("{}: its starter is gone: ending", arguments.keeper.spec.name());
    (void)::unlink(running->socket_path.c_str());
    return 1;  // what was made goes with the keeper
  }
  if (!arguments.foreground && !CloseTerminal().ok()) return 1;
  spdlog::info("{}: keeper {} listens at {}", arguments.keeper.spec.name(), ::getpid(),
               running->socket_path);
  const absl::Status status =
      Server(running->keeper.get(), std::move(running->listener), running->socket_path).Run();
  if (!status.ok()) spdlog::error("{}", status.ToString());
  return status.ok() ? 0 : 1;
}

}  // namespace
}  // namespace starling::keeper

int main(int argc, char** argv) { return starling::keeper::Main(argc, argv); }
