#include "runtime/keeper_client.h"

#include <fcntl.h>
#include <poll.h>
#include <spawn.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <filesystem>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "base/file.h"
#include "base/status.h"
#include "base/unix_socket.h"
#include "runtime/keeper/protocol.h"

namespace starling::keeper {
namespace {

using std::chrono::seconds;

// The keeper keeps its own, shorter deadlines; these catch a keeper that hangs.
constexpr seconds kQuickCall{60};
constexpr seconds kSlack{60};

constexpr char kSuffix[] = ".sock";

std::string ProgramBesideUs() {
  std::error_code error;
  const auto self = std::filesystem::read_symlink("/proc/self/exe", error);
  return (self.parent_path() / "starling-keeper").string();
}

absl::StatusOr<UniqueFd> SpecFile(const starling::v1::ComponentSpec& spec) {
  const std::string bytes = spec.SerializeAsString();
  if (bytes.size() > kMaxUnixMessage / 2) {
    return absl::InvalidArgumentError(absl::StrCat("the component's command and environment have ",
                                                   bytes.size(), " bytes; at most ",
                                                   kMaxUnixMessage / 2, " are possible"));
  }
  UniqueFd fd(::memfd_create("starling-spec", MFD_CLOEXEC));
  if (!fd) return ErrnoStatus("make a memory file");
  RETURN_IF_ERROR(WriteAll(fd.get(), bytes.data(), bytes.size()));
  if (::lseek(fd.get(), 0, SEEK_SET) != 0) return ErrnoStatus("rewind a memory file");
  return fd;
}

// The starter's last words are "<code> <message>" or nothing, see keeper/main.cc.
absl::Status ReadVerdict(int fd, Deadline deadline) {
  std::string text;
  while (true) {
    pollfd poller = {fd, POLLIN, 0};
    const int ready = ::poll(&poller, 1, static_cast<int>(deadline.Left().count()));
    if (ready == 0 && deadline.Passed()) {
      return absl::DeadlineExceededError("the keeper did not start in time");
    }
    if (ready <= 0) continue;
    char buffer[1024];
    const ssize_t n = ::read(fd, buffer, sizeof(buffer));
    if (n < 0 && errno != EINTR) return ErrnoStatus("read the keeper's first words");
    if (n == 0) break;
    if (n > 0) text.append(buffer, static_cast<size_t>(n));
  }
  const std::vector<std::string> parts = absl::StrSplit(text, absl::MaxSplits(' ', 1));
  int code = 0;
  if (parts.size() != 2 || !absl::SimpleAtoi(parts[0], &code)) {
    return absl::InternalError(absl::StrCat("the keeper ended while it started: ", text));
  }
  return absl::Status(static_cast<absl::StatusCode>(code), parts[1]);
}

}  // namespace

absl::StatusOr<KeeperClient> KeeperClient::Connect(const std::string& socket_path) {
  absl::StatusOr<UniqueFd> socket = ConnectUnix(socket_path);
  if (!socket.ok()) {
    return absl::UnavailableError(absl::StrCat("no keeper answers: ", socket.status().message()));
  }
  return KeeperClient(*std::move(socket));
}

absl::StatusOr<v1::Reply> KeeperClient::Call(v1::Request request, const std::vector<int>& fds,
                                             Deadline deadline, std::vector<UniqueFd>* received) {
  if (!socket_) return absl::UnavailableError("the connection to the keeper is closed");
  request.set_protocol(kProtocol);
  absl::Status sent = SendUnix(socket_.get(), request.SerializeAsString(), fds);
  absl::StatusOr<UnixMessage> answer =
      sent.ok() ? ReceiveUnix(socket_.get(), deadline) : absl::StatusOr<UnixMessage>(sent);
  if (!answer.ok()) {
    // The answer may still come, and must not be taken for that of the next call.
    socket_.Reset();
    if (answer.status().code() == absl::StatusCode::kDeadlineExceeded) return answer.status();
    return absl::UnavailableError(absl::StrCat("the keeper: ", answer.status().message()));
  }
  if (answer->bytes.empty()) {
    socket_.Reset();
    return absl::UnavailableError("the keeper has ended");
  }
  v1::Reply reply;
  if (!reply.ParseFromString(answer->bytes)) {
    socket_.Reset();
    return absl::DataLossError("the keeper's answer cannot be read");
  }
  if (reply.code() != 0) {
    return absl::Status(static_cast<absl::StatusCode>(reply.code()), reply.message());
  }
  if (received != nullptr) *received = std::move(answer->fds);
  return reply;
}

absl::Status KeeperClient::Simple(v1::Request request, Duration timeout) {
  return Call(std::move(request), {}, Deadline::After(timeout)).status();
}

absl::StatusOr<v1::Status> KeeperClient::GetStatus() {
  v1::Request request;
  request.mutable_status();
  ASSIGN_OR_RETURN(v1::Reply reply, Call(std::move(request), {}, Deadline::After(kQuickCall)));
  return std::move(*reply.mutable_status());
}

absl::Status KeeperClient::Launch() {
  v1::Request request;
  request.mutable_launch();
  return Simple(std::move(request), kQuickCall);
}

absl::Status KeeperClient::Freeze(double term_s) {
  v1::Request request;
  request.mutable_freeze()->set_term_s(term_s);
  return Simple(std::move(request), kQuickCall);
}

absl::Status KeeperClient::Thaw(bool in_term) {
  v1::Request request;
  request.mutable_thaw()->set_in_term(in_term);
  return Simple(std::move(request), kQuickCall);
}

absl::Status KeeperClient::FenceUp() {
  v1::Request request;
  request.mutable_fence_up();
  return Simple(std::move(request), kQuickCall);
}

absl::Status KeeperClient::FenceDown() {
  v1::Request request;
  request.mutable_fence_down();
  return Simple(std::move(request), kQuickCall);
}

absl::Status KeeperClient::Announce() {
  v1::Request request;
  request.mutable_announce();
  return Simple(std::move(request), kQuickCall);
}

absl::StatusOr<v1::PhaseTimes> KeeperClient::PreDump(const std::string& images_dir,
                                                     const std::string& parent_dir, int page_server,
                                                     Duration timeout) {
  v1::Request request;
  request.mutable_pre_dump()->set_images_dir(images_dir);
  request.mutable_pre_dump()->set_parent_dir(parent_dir);
  request.mutable_pre_dump()->set_timeout_s(Seconds(timeout));
  ASSIGN_OR_RETURN(v1::Reply reply,
                   Call(std::move(request), {page_server}, Deadline::After(timeout + kSlack)));
  return std::move(*reply.mutable_phases());
}

absl::Status KeeperClient::StageDump(const std::string& images_dir, const std::string& parent_dir,
                                     int page_server, Duration timeout) {
  v1::Request request;
  request.mutable_stage_dump()->set_images_dir(images_dir);
  request.mutable_stage_dump()->set_parent_dir(parent_dir);
  request.mutable_stage_dump()->set_timeout_s(Seconds(timeout));
  return Call(std::move(request), {page_server}, Deadline::After(timeout + kSlack)).status();
}

absl::StatusOr<v1::PhaseTimes> KeeperClient::Dump(Duration timeout) {
  v1::Request request;
  request.mutable_dump();
  ASSIGN_OR_RETURN(v1::Reply reply,
                   Call(std::move(request), {}, Deadline::After(timeout + kSlack)));
  return std::move(*reply.mutable_phases());
}

absl::StatusOr<v1::PhaseTimes> KeeperClient::Restore(const std::string& images_dir,
                                                     Duration timeout) {
  v1::Request request;
  request.mutable_restore()->set_images_dir(images_dir);
  request.mutable_restore()->set_timeout_s(Seconds(timeout));
  ASSIGN_OR_RETURN(v1::Reply reply,
                   Call(std::move(request), {}, Deadline::After(timeout + kSlack)));
  return std::move(*reply.mutable_phases());
}

absl::Status KeeperClient::CancelCriu() {
  v1::Request request;
  request.mutable_cancel_criu();
  return Simple(std::move(request), kQuickCall);
}

absl::StatusOr<v1::ProbeResult> KeeperClient::Probe(const std::string& command, Duration timeout) {
  v1::Request request;
  request.mutable_probe()->set_command(command);
  request.mutable_probe()->set_timeout_s(Seconds(timeout));
  ASSIGN_OR_RETURN(v1::Reply reply,
                   Call(std::move(request), {}, Deadline::After(timeout + kSlack)));
  return std::move(*reply.mutable_probe());
}

absl::Status KeeperClient::Stop(Duration grace) {
  v1::Request request;
  request.mutable_stop()->set_grace_s(Seconds(grace));
  return Simple(std::move(request), grace + kSlack);
}

absl::Status KeeperClient::Kill() {
  v1::Request request;
  request.mutable_kill();
  return Simple(std::move(request), kQuickCall + kSlack);
}

absl::Status KeeperClient::Quit() {
  v1::Request request;
  request.mutable_quit();
  return Simple(std::move(request), kQuickCall + kSlack);
}

absl::StatusOr<int> KeeperClient::Watch(Deadline deadline) {
  v1::Request request;
  request.mutable_watch();
  ASSIGN_OR_RETURN(const v1::Reply reply, Call(std::move(request), {}, deadline));
  return reply.status().exit_status();
}

std::string KeeperSocket(const std::string& run_dir, const std::string& component,
                         const std::string& migration_id) {
  return absl::StrCat(run_dir, "/keepers/", component, migration_id.empty() ? "" : "@",
                      migration_id, kSuffix);
}

absl::StatusOr<std::string> StartKeeper(const StartKeeperOptions& options, Deadline deadline) {
  ASSIGN_OR_RETURN(const UniqueFd spec, SpecFile(options.spec));
  int pipe_fds[2];
  if (::pipe2(pipe_fds, O_CLOEXEC) != 0) return ErrnoStatus("pipe");
  UniqueFd reader(pipe_fds[0]), writer(pipe_fds[1]);

  const std::string program = options.program.empty() ? ProgramBesideUs() : options.program;
  std::vector<std::string> arguments = {program,
                                        "--run-dir",
                                        options.run_dir,
                                        "--log-dir",
                                        options.log_dir,
                                        "--spec-file",
                                        "/proc/self/fd/3",
                                        "--epoch",
                                        absl::StrCat(options.epoch),
                                        "--verdict-fd",
                                        "4"};
  const auto add = [&](const char* name, const std::string& value) {
    if (value.empty()) return;
    arguments.push_back(name);
    arguments.push_back(value);
  };
  add("--parent-device", options.parent_device);
  add("--migration", options.migration_id);
  add("--cgroup-root", options.cgroup_root);
  if (options.fenced) arguments.push_back("--fenced");
  std::vector<char*> argv;
  for (std::string& argument : arguments) argv.push_back(argument.data());
  argv.push_back(nullptr);

  // Ours are above 4, so that neither dup2 can overwrite the other's source.
  const UniqueFd spec_copy(::fcntl(spec.get(), F_DUPFD_CLOEXEC, 10));
  UniqueFd verdict_copy(::fcntl(writer.get(), F_DUPFD_CLOEXEC, 10));
  writer.Reset();
  posix_spawn_file_actions_t actions;
  posix_spawnattr_t attributes;
  ::posix_spawn_file_actions_init(&actions);
  ::posix_spawnattr_init(&attributes);
  ::posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDONLY, 0);
  ::posix_spawn_file_actions_adddup2(&actions, spec_copy.get(), 3);
  ::posix_spawn_file_actions_adddup2(&actions, verdict_copy.get(), 4);
  ::posix_spawn_file_actions_addclosefrom_np(&actions, 5);
  sigset_t none;
  sigemptyset(&none);
  ::posix_spawnattr_setsigmask(&attributes, &none);
  ::posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGMASK);
  pid_t pid = 0;
  const int error =
      ::posix_spawn(&pid, program.c_str(), &actions, &attributes, argv.data(), environ);
  ::posix_spawn_file_actions_destroy(&actions);
  ::posix_spawnattr_destroy(&attributes);
  if (error != 0) return ErrnoStatus(error, absl::StrCat("start ", program));
  verdict_copy.Reset();  // so that the pipe ends with the keeper's

  const absl::Status verdict = ReadVerdict(reader.get(), deadline);
  // The process that was started forks the keeper and ends.
  int status;
  while (::waitpid(pid, &status, 0) < 0 && errno == EINTR) {
  }
  RETURN_IF_ERROR(Annotate(verdict, absl::StrCat("keeper of ", options.spec.name())));
  return KeeperSocket(options.run_dir, options.spec.name(), options.migration_id);
}

absl::StatusOr<std::vector<KeeperEntry>> ListKeepers(const std::string& run_dir) {
  std::vector<KeeperEntry> entries;
  std::error_code error;
  const std::string folder = absl::StrCat(run_dir, "/keepers");
  for (std::filesystem::directory_iterator it(folder, error), end; !error && it != end;
       it.increment(error)) {
    const std::string file = it->path().filename().string();
    absl::string_view name = file;
    if (!absl::ConsumeSuffix(&name, kSuffix)) continue;
    const std::pair<std::string, std::string> parts = absl::StrSplit(name, absl::MaxSplits('@', 1));
    KeeperEntry entry;
    entry.socket_path = it->path().string();
    entry.component = parts.first;
    entry.migration_id = parts.second;
    entry.alive = ConnectUnix(entry.socket_path).ok();
    entries.push_back(std::move(entry));
  }
  if (error && error.value() != ENOENT) {
    return ErrnoStatus(error.value(), absl::StrCat("list ", folder));
  }
  std::sort(entries.begin(), entries.end(),
            [](const auto& a, const auto& b) { return a.socket_path < b.socket_path; });
  return entries;
}

}  // namespace starling::keeper
