#include <signal.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <iostream>
#include <string>
#include <thread>
#include <vector>

#include "tools/starling/cli.h"

namespace {

int TerminalWidth() {
  winsize size = {};
  return ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0 ? size.ws_col : 80;
}

// Signals are taken by a thread of their own, so that a call can be cancelled outside a handler.
// Blocked before any other thread is made, as they inherit it.
void WatchSignals(starling::cli::Interrupter& interrupter) {
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGINT);
  sigaddset(&signals, SIGTERM);
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);
  std::thread([signals, &interrupter] {
    for (bool again = false;; again = true) {
      int signal = 0;
      if (sigwait(&signals, &signal) != 0) return;
      // The second one, or one outside a call, does not wait for anything.
      if (!interrupter.Interrupt() || again) {
        _exit(static_cast<int>(starling::cli::ExitCode::kInterrupted));
      }
    }
  }).detach();
}

}  // namespace

int main(int argc, char** argv) {
  // gRPC's own log is for its developers; our errors say what matters.
  setenv("GRPC_VERBOSITY", "NONE", 0);
  // Lives as long as the process: the watching thread is never joined.
  static auto& interrupter = *new starling::cli::Interrupter;
  WatchSignals(interrupter);
  starling::cli::Io io{std::cout, std::cerr, std::cin};
  io.err_is_terminal = isatty(STDERR_FILENO) != 0;
  io.in_is_terminal = isatty(STDIN_FILENO) != 0;
  io.width = TerminalWidth();
  const int code =
      starling::cli::RunCli(std::vector<std::string>(argv + 1, argv + argc), io, interrupter);
  std::cout.flush();
  if (!std::cout && code == 0) {
    std::cerr << "starling: cannot write its output\n";
    return static_cast<int>(starling::cli::ExitCode::kFailed);
  }
  return code;
}
