#pragma once

#include <grpcpp/grpcpp.h>

#include <memory>
#include <mutex>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "runtime/proto/bench.grpc.pb.h"
#include "runtime/proto/ghost.grpc.pb.h"
#include "runtime/proto/loop.grpc.pb.h"
#include "runtime/proto/profile.grpc.pb.h"
#include "runtime/proto/starling.grpc.pb.h"
#include "tools/starling/exit_code.h"

namespace starling::cli {

// Why there is no agent to speak with, and what to exit with.
struct ConnectFailure {
  ExitCode code = ExitCode::kOk;
  std::string message;
};

// The error for connect(2) on the agent's socket having failed with `error`. Pure.
ConnectFailure ExplainConnect(int error, const std::string& socket);

// A connection to the local agent. Made once, used by one command; Interrupt may be called from
// another thread at any time.
class Agent {
 public:
  // Connects and waits, a few seconds at most, until the agent answers. `failure` says why when the
  // result is null.
  static std::unique_ptr<Agent> Connect(const std::string& socket, ConnectFailure* failure);

  v1::Starling::Stub& stub() { return *stub_; }
  std::unique_ptr<v1::Bench::Stub> bench() const { return v1::Bench::NewStub(channel_); }
  std::unique_ptr<v1::Ghosts::Stub> ghosts() const { return v1::Ghosts::NewStub(channel_); }
  std::unique_ptr<v1::Loop::Stub> loop() const { return v1::Loop::NewStub(channel_); }
  std::unique_ptr<v1::Profiles::Stub> profiles() const { return v1::Profiles::NewStub(channel_); }

  // Whether the status that ended a call is the agent's own word, or made up here because the
  // connection broke: gRPC itself does not tell. To be asked at once.
  bool Answered(const grpc::Status& status) const;

 private:
  Agent(const std::string& socket, std::shared_ptr<grpc::Channel> channel);

  const std::string socket_;
  std::shared_ptr<grpc::Channel> channel_;
  std::unique_ptr<v1::Starling::Stub> stub_;
};

// Ends the call in progress when a person interrupts. Thread-safe.
class Interrupter {
 public:
  // Marks and cancels the present call, or the next one. False when there is no call in progress.
  bool Interrupt();
  bool interrupted();

  // While it lives, `context` is the call in progress.
  class Call {
   public:
    Call(Interrupter& interrupter, grpc::ClientContext& context);
    ~Call();
    Call(const Call&) = delete;
    Call& operator=(const Call&) = delete;

   private:
    Interrupter& interrupter_;
  };

 private:
  std::mutex mutex_;
  grpc::ClientContext* context_ = nullptr;  // guarded by mutex_
  bool interrupted_ = false;                // guarded by mutex_
};

}  // namespace starling::cli
