#include "checkpoint/injected_calls.h"

#include <signal.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <thread>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "base/file.h"
#include "base/status.h"
#include "checkpoint/component_memory.h"

namespace starling::checkpoint {
namespace {

#ifdef __x86_64__

constexpr auto kPoll = std::chrono::microseconds(50);
// For a process to stop so that it can be let go of, beside what the caller allowed.
constexpr auto kGrace = std::chrono::seconds(10);
constexpr uint64_t kUserCode64 = 0x33;
constexpr int kCallStop = SIGTRAP | 0x80;  // PTRACE_O_TRACESYSGOOD

// One that is ending loses its memory piece by piece, and cannot be traced any more.
bool IsEnding(pid_t pid) {
  const auto stat = ReadFile(absl::StrCat("/proc/", pid, "/stat"));
  const size_t state = stat.ok() ? stat->rfind(") ") : std::string::npos;
  if (state == std::string::npos || absl::StrContains("ZXx", stat->substr(state + 2, 1))) {
    return true;
  }
  const auto maps = ReadFile(absl::StrCat("/proc/", pid, "/maps"));
  return !maps.ok() || maps->empty();
}

// Address of a `syscall` instruction in the process's vdso.
absl::StatusOr<uint64_t> FindSyscall(pid_t pid) {
  ASSIGN_OR_RETURN(const auto process, ProcessMemory::Open(pid));
  ASSIGN_OR_RETURN(const std::vector<Mapping> mappings, process->TrackedMappings());
  if (mappings.empty()) return absl::NotFoundError(absl::StrCat("process ", pid, " has ended"));
  for (const Mapping& mapping : mappings) {
    if (mapping.name != "[vdso]") continue;
    const PageRange range{mapping.start, (mapping.end - mapping.start) / kPageSize};
    std::vector<std::byte> code(mapping.end - mapping.start);
    std::vector<bool> there;
    RETURN_IF_ERROR(process->Read({&range, 1}, code, there));
    constexpr std::byte kSyscall[] = {std::byte{0x0f}, std::byte{0x05}};
    const auto at = std::search(code.begin(), code.end(), std::begin(kSyscall), std::end(kSyscall));
    if (at != code.end()) return mapping.start + static_cast<uint64_t>(at - code.begin());
  }
  if (IsEnding(pid)) return absl::NotFoundError(absl::StrCat("process ", pid, " has ended"));
  return absl::UnimplementedError(
      absl::StrCat("process ", pid, " has no vdso with a system call in it"));
}

#endif

}  // namespace

#ifdef __x86_64__

absl::Status MayInject(pid_t pid) {
  ASSIGN_OR_RETURN(const std::string status, ReadFile(absl::StrCat("/proc/", pid, "/status")));
  if (!absl::StrContains(status, "\nSeccomp:\t") || absl::StrContains(status, "\nSeccomp:\t0\n")) {
    return absl::OkStatus();
  }
  return absl::UnimplementedError(absl::StrCat("process ", pid, " has a seccomp filter"));
}

absl::Status InjectedCalls::Trace(int request, void* address, void* data, const char* what) {
  if (::ptrace(static_cast<__ptrace_request>(request), pid_, address, data) == 0) {
    if (request == PTRACE_CONT || request == PTRACE_SYSCALL) stopped_ = false;
    return absl::OkStatus();
  }
  if (errno == ESRCH) return absl::NotFoundError(absl::StrCat("process ", pid_, " has ended"));
  return ErrnoStatus(absl::StrCat(what, " process ", pid_));
}

absl::Status InjectedCalls::Wait(Deadline deadline, int& status) {
  while (true) {
    const pid_t got = ::waitpid(pid_, &status, WNOHANG | __WALL);
    if (got < 0 && errno != EINTR) {
      return ErrnoStatus(absl::StrCat("wait for process ", pid_, " to stop"));
    }
    if (got == pid_) {
      if (WIFSTOPPED(status)) {
        stopped_ = true;
        return absl::OkStatus();
      }
      attached_ = false;
      return absl::NotFoundError(absl::StrCat("process ", pid_, " has ended"));
    }
    if (deadline.Passed()) {
      return absl::UnavailableError(absl::StrCat("process ", pid_, " does not stop"));
    }
    std::this_thread::sleep_for(kPoll);
  }
}

absl::Status InjectedCalls::Stop() {
  RETURN_IF_ERROR(Trace(PTRACE_INTERRUPT, nullptr, nullptr, "interrupt"));
  while (true) {
    int status;
    RETURN_IF_ERROR(Wait(deadline_, status));
    if (status >> 16 == PTRACE_EVENT_STOP) {
      if (WSTOPSIG(status) == SIGTRAP) return absl::OkStatus();
      return absl::UnavailableError(
          absl::StrCat("process ", pid_, " is stopped by signal ", WSTOPSIG(status)));
    }
    // A signal on its way comes first.
    const auto signal = static_cast<uintptr_t>(WSTOPSIG(status));
    RETURN_IF_ERROR(Trace(PTRACE_CONT, nullptr,
                          reinterpret_cast<void*>(signal == kCallStop ? 0 : signal), "continue"));
  }
}

absl::StatusOr<std::unique_ptr<InjectedCalls>> InjectedCalls::Begin(pid_t pid, Deadline deadline) {
  std::unique_ptr<InjectedCalls> calls(new InjectedCalls(pid, deadline));
  RETURN_IF_ERROR(MayInject(pid));
  ASSIGN_OR_RETURN(calls->instruction_, FindSyscall(pid));
  const uintptr_t options = PTRACE_O_TRACESYSGOOD;
  const absl::Status seized =
      calls->Trace(PTRACE_SEIZE, nullptr, reinterpret_cast<void*>(options), "trace");
  if (!seized.ok()) {
    if (IsEnding(pid)) return absl::NotFoundError(absl::StrCat("process ", pid, " has ended"));
    return absl::IsPermissionDenied(seized) ? absl::UnavailableError(seized.message()) : seized;
  }
  calls->attached_ = true;
  RETURN_IF_ERROR(calls->Stop());
  RETURN_IF_ERROR(
      calls->Trace(PTRACE_GETREGS, nullptr, &calls->registers_, "read the registers of"));
  if (calls->registers_.cs != kUserCode64) {
    return absl::UnimplementedError(absl::StrCat("process ", pid, " runs 32-bit code"));
  }
  // Its signals wait: a handler would begin in the midst of our call.
  void* const size = reinterpret_cast<void*>(sizeof(calls->signals_));
  RETURN_IF_ERROR(calls->Trace(PTRACE_GETSIGMASK, size, &calls->signals_, "read the signals of"));
  uint64_t all = ~uint64_t{0};
  calls->changed_ = true;
  RETURN_IF_ERROR(calls->Trace(PTRACE_SETSIGMASK, size, &all, "hold the signals of"));
  RETURN_IF_ERROR(calls->Trace(PTRACE_SETOPTIONS, nullptr,
                               reinterpret_cast<void*>(options | PTRACE_O_EXITKILL), "trace"));
  return calls;
}

absl::Status InjectedCalls::WaitForCallStop() {
  int status;
  do {
    RETURN_IF_ERROR(Trace(PTRACE_SYSCALL, nullptr, nullptr, "continue"));
    RETURN_IF_ERROR(Wait(deadline_, status));
    // The kernel also says so when a stop of the whole group came to its end.
  } while (status >> 16 == PTRACE_EVENT_STOP && WSTOPSIG(status) == SIGTRAP);
  if (WSTOPSIG(status) == kCallStop) return absl::OkStatus();
  return absl::UnavailableError(absl::StrCat("process ", pid_, " stopped with signal ",
                                             WSTOPSIG(status), " instead of at a system call"));
}

absl::StatusOr<int64_t> InjectedCalls::Call(int64_t number,
                                            const std::array<uint64_t, 3>& arguments) {
  user_regs_struct registers = registers_;
  registers.rip = instruction_;
  registers.rax = static_cast<uint64_t>(number);
  // In no system call, so that none is restarted.
  registers.orig_rax = ~uint64_t{0};
  registers.rdi = arguments[0];
  registers.rsi = arguments[1];
  registers.rdx = arguments[2];
  RETURN_IF_ERROR(Trace(PTRACE_SETREGS, nullptr, &registers, "set the registers of"));
  RETURN_IF_ERROR(WaitForCallStop());
  RETURN_IF_ERROR(WaitForCallStop());
  RETURN_IF_ERROR(Trace(PTRACE_GETREGS, nullptr, &registers, "read the registers of"));
  return static_cast<int64_t>(registers.rax);
}

absl::Status InjectedCalls::End() {
  if (!attached_) return absl::OkStatus();
  // Only what is stopped can be given its registers back and be let go of, also after a call that
  // did not come to its end in time.
  const Deadline grace = Deadline::After(kGrace);
  int stopped = 0;
  if (!stopped_) {
    RETURN_IF_ERROR(Trace(PTRACE_INTERRUPT, nullptr, nullptr, "interrupt"));
    RETURN_IF_ERROR(Wait(grace, stopped));
  }
  absl::Status status;
  if (changed_) {
    stopped = 0;
    status = Trace(PTRACE_SETREGS, nullptr, &registers_, "set the registers of");
    status.Update(Trace(PTRACE_SETSIGMASK, reinterpret_cast<void*>(sizeof(signals_)), &signals_,
                        "release the signals of"));
    status.Update(Trace(PTRACE_SETOPTIONS, nullptr, nullptr, "trace"));
    // Stopped once more where the kernel looks for calls to restart.
    status.Update(Trace(PTRACE_INTERRUPT, nullptr, nullptr, "interrupt"));
    status.Update(Trace(PTRACE_CONT, nullptr, nullptr, "continue"));
    if (status.ok()) status = Wait(grace, stopped);
    changed_ = false;
  }
  if (!attached_) return status;
  attached_ = false;
  // A signal that has waited is delivered as the process is let go.
  const bool signalled = stopped != 0 && stopped >> 16 != PTRACE_EVENT_STOP;
  const uintptr_t signal = signalled && WSTOPSIG(stopped) != kCallStop ? WSTOPSIG(stopped) : 0;
  status.Update(Trace(PTRACE_DETACH, nullptr, reinterpret_cast<void*>(signal), "let go of"));
  return status;
}

#else

absl::Status MayInject(pid_t) {
  return absl::UnimplementedError("system calls can be injected on x86-64 alone");
}
absl::StatusOr<std::unique_ptr<InjectedCalls>> InjectedCalls::Begin(pid_t, Deadline) {
  return absl::UnimplementedError("system calls can be injected on x86-64 alone");
}
absl::StatusOr<int64_t> InjectedCalls::Call(int64_t, const std::array<uint64_t, 3>&) {
  return absl::UnimplementedError("system calls can be injected on x86-64 alone");
}
absl::Status InjectedCalls::End() { return absl::OkStatus(); }

#endif

InjectedCalls::~InjectedCalls() { (void)End(); }

}  // namespace starling::checkpoint
