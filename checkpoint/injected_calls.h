#pragma once

#include <sys/types.h>
#include <sys/user.h>

#include <array>
#include <cstdint>
#include <memory>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/clock.h"

namespace starling::checkpoint {

// kUnimplemented when no call can be injected into the process: other processors, and processes
// with a seccomp filter, which might be killed for the call.
absl::Status MayInject(pid_t pid);

// Has a running process make system calls for us: one of its threads is stopped, is given other
// registers, goes through a `syscall` instruction of its vdso, and gets its registers back. No byte
// of its memory changes, and an interrupted call of its own is restarted by the kernel as after any
// other interruption. All by one thread of ours, since a tracer is a thread. x86-64 alone.
//
// Should this process die in the midst of it, the other one dies too, rather than run on with
// registers that are not its own.
class InjectedCalls {
 public:
  // Stops the process's first thread. Errors: kUnimplemented as MayInject() and for 32-bit
  // programs; kUnavailable when it does not stop in time (it sleeps uninterruptibly), is stopped by
  // a signal or is being traced; kNotFound when it has ended.
  static absl::StatusOr<std::unique_ptr<InjectedCalls>> Begin(pid_t pid, Deadline deadline);
  // Lets it go on, if End() has not.
  ~InjectedCalls();
  InjectedCalls(const InjectedCalls&) = delete;
  InjectedCalls& operator=(const InjectedCalls&) = delete;

  // The call's result as the kernel gives it: -errno for an error.
  absl::StatusOr<int64_t> Call(int64_t number, const std::array<uint64_t, 3>& arguments);

  absl::Status End();

 private:
  InjectedCalls(pid_t pid, Deadline deadline) : pid_(pid), deadline_(deadline) {}
  absl::Status Stop();
  absl::Status Wait(Deadline deadline, int& status);
  absl::Status WaitForCallStop();
  absl::Status Trace(int request, void* address, void* data, const char* what);

  const pid_t pid_;
  const Deadline deadline_;
  uint64_t instruction_ = 0;
  user_regs_struct registers_{};  // its own
  uint64_t signals_ = 0;          // that it blocks
  bool attached_ = false;
  bool stopped_ = false;
  bool changed_ = false;  // its registers are not its own
};

}  // namespace starling::checkpoint
