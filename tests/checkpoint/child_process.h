#pragma once

#include <gtest/gtest.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <functional>

namespace starling::checkpoint {

// A child that does something to its memory whenever it is told to, and rests between.
class ChildProcess {
 public:
  ~ChildProcess() { End(); }

  // `body` is called in the child with 0, 1, ...
  void Start(const std::function<void(int)>& body) {
    int ends[2];
    ASSERT_EQ(::socketpair(AF_UNIX, SOCK_STREAM, 0, ends), 0);
    pid_ = ::fork();
    ASSERT_GE(pid_, 0);
    if (pid_ == 0) {
      ::close(ends[0]);
      char byte;
      for (int step = 0; ::read(ends[1], &byte, 1) == 1; ++step) {
        body(step);
        if (::write(ends[1], &byte, 1) != 1) break;
      }
      ::_exit(0);
    }
    ::close(ends[1]);
    socket_ = ends[0];
  }

  // Returns when the child is done with its next step.
  void Step() {
    char byte = 'x';
    ASSERT_EQ(::write(socket_, &byte, 1), 1);
    ASSERT_EQ(::read(socket_, &byte, 1), 1) << "the child has died";
  }

  // For a step that does not come back.
  void StepWithoutAnswer() {
    char byte = 'x';
    ASSERT_EQ(::write(socket_, &byte, 1), 1);
  }

  void End() {
    if (pid_ <= 0) return;
    ::kill(pid_, SIGKILL);
    ::waitpid(pid_, nullptr, 0);
    ::close(socket_);
    pid_ = 0;
  }

  pid_t pid() const { return pid_; }

 private:
  pid_t pid_ = 0;
  int socket_ = -1;
};

}  // namespace starling::checkpoint
