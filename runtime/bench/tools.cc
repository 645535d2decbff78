#include "runtime/bench/tools.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <nlohmann/json.hpp>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "base/status.h"

extern char** environ;

namespace starling::bench {
namespace {

constexpr char kSeconds[] = "3";
constexpr char kLatencyRounds[] = "1000";

}  // namespace

absl::StatusOr<ToolCommands> CommandsOf(absl::string_view tool, const std::string& device,
                                        const std::string& address, uint16_t port,
                                        int connections) {
  ToolCommands commands;
  const std::string at = absl::StrCat(port);
  if (tool == "iperf3") {
    commands.server = {"iperf3", "-s", "-1", "-B", address, "-p", at};
    commands.client = {"iperf3", "-c",     address, "-p", at, "-P", absl::StrCat(connections),
                       "-t",     kSeconds, "-J"};
    return commands;
  }
  if (tool == "ib_write_bw") {
    commands.server = {"ib_write_bw",
                       "-d",
                       device,
                       "-p",
                       at,
                       "-F",
                       "-q",
                       absl::StrCat(connections),
                       "-s",
                       "1048576",
                       "-D",
                       kSeconds,
                       "--report_gbits"};
  } else if (tool == "ib_send_lat") {
    commands.server = {"ib_send_lat", "-d", device, "-p", at,
                       "-F",          "-s", "16",   "-n", kLatencyRounds};
  } else {
    return absl::InvalidArgumentError(absl::StrCat("'", tool, "' is none of the tools"));
  }
  commands.client = commands.server;
  commands.client.push_back(address);
  return commands;
}

absl::Status ReadFigure(absl::string_view output, v1::BenchTool& result) {
  const absl::Status none = absl::DataLossError(absl::StrCat(
      result.tool(), " printed no figure: ", absl::StripAsciiWhitespace(output.substr(0, 256))));
  if (result.tool() == "iperf3") {
    const auto parsed = nlohmann::json::parse(output.begin(), output.end(), nullptr, false);
    const nlohmann::json::json_pointer figure("/end/sum_received/bits_per_second");
    if (parsed.is_discarded() || !parsed.is_object() || !parsed.contains(figure) ||
        !parsed[figure].is_number()) {
      return none;
    }
    result.set_bytes_per_s(parsed[figure].get<double>() / 8);
    return absl::OkStatus();
  }
  // The row of figures is the last one that begins with the size.
  const absl::string_view size = result.tool() == "ib_write_bw" ? "1048576" : "16";
  const size_t column = result.tool() == "ib_write_bw" ? 3 : 4;  // average; median
  double figure = -1;
  for (const absl::string_view line : absl::StrSplit(output, '\n')) {
    const std::vector<absl::string_view> words =
        absl::StrSplit(line, absl::ByAnyChar(" \t"), absl::SkipEmpty());
    double number;
    if (words.size() > column && words[0] == size && absl::SimpleAtod(words[column], &number)) {
      figure = number;
    }
  }
  if (figure < 0) return none;
  if (result.tool() == "ib_write_bw") {
    result.set_bytes_per_s(figure * 1e9 / 8);
  } else {
    result.set_one_way_s(figure * 1e-6);
  }
  return absl::OkStatus();
}

absl::StatusOr<std::unique_ptr<ToolProcess>> ToolProcess::Start(
    const std::vector<std::string>& argv) {
  int ends[2];
  if (::pipe2(ends, O_CLOEXEC) != 0) return ErrnoStatus("make a pipe");
  posix_spawn_file_actions_t files;
  posix_spawn_file_actions_init(&files);
  posix_spawn_file_actions_addopen(&files, 0, "/dev/null", O_RDONLY, 0);
  posix_spawn_file_actions_adddup2(&files, ends[1], 1);
  posix_spawn_file_actions_adddup2(&files, ends[1], 2);
  posix_spawnattr_t attributes;
  posix_spawnattr_init(&attributes);
  // The agent blocks signals that the program should take.
  sigset_t none;
  sigemptyset(&none);
  posix_spawnattr_setsigmask(&attributes, &none);
  posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGMASK);
  std::vector<char*> arguments;
  for (const std::string& argument : argv) arguments.push_back(const_cast<char*>(argument.c_str()));
  arguments.push_back(nullptr);
  pid_t pid = -1;
  const int error =
      ::posix_spawnp(&pid, argv[0].c_str(), &files, &attributes, arguments.data(), environ);
  posix_spawnattr_destroy(&attributes);
  posix_spawn_file_actions_destroy(&files);
  ::close(ends[1]);
  if (error != 0) {
    ::close(ends[0]);
    return ErrnoStatus(error, argv[0]);
  }
  return std::unique_ptr<ToolProcess>(new ToolProcess(pid, ends[0], argv[0]));
}

ToolProcess::~ToolProcess() {
  if (output_ >= 0) ::close(output_);
  if (pid_ <= 0) return;
  ::kill(pid_, SIGKILL);
  while (::waitpid(pid_, nullptr, 0) < 0 && errno == EINTR) {
  }
}

bool ToolProcess::Ended() {
  if (pid_ > 0 && ::waitpid(pid_, nullptr, WNOHANG) == pid_) pid_ = -1;
  return pid_ < 0;
}

absl::StatusOr<std::string> ToolProcess::Finish(Deadline deadline) {
  if (pid_ < 0) return absl::FailedPreconditionError(absl::StrCat(name_, " has ended already"));
  std::string text;
  char piece[4096];
  while (true) {
    pollfd poller = {output_, POLLIN, 0};
    const int ready = ::poll(&poller, 1, static_cast<int>(deadline.Left().count()));
    if (ready < 0 && errno != EINTR) return ErrnoStatus(name_);
    if (ready <= 0) {
      if (deadline.Passed()) return absl::DeadlineExceededError(absl::StrCat(name_, " hangs"));
      continue;
    }
    const ssize_t n = ::read(output_, piece, sizeof(piece));
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) break;
    text.append(piece, static_cast<size_t>(n));
  }
  int status = 0;
  while (::waitpid(pid_, &status, 0) < 0 && errno == EINTR) {
  }
  pid_ = -1;
  if (WIFEXITED(status) && WEXITSTATUS(status) == 0) return text;
  return absl::AbortedError(absl::StrCat(
      name_, " failed: ", absl::StripAsciiWhitespace(absl::string_view(text).substr(0, 256))));
}

}  // namespace starling::bench
