#include "tools/starling/agent.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <chrono>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/fd.h"
#include "base/status.h"

namespace starling::cli {
namespace {

constexpr std::chrono::seconds kAnswerWithin(5);

// errno of one connect(2), 0 when it was accepted: gRPC's own errors do not tell a missing socket
// from one that we may not open.
int TryConnect(const std::string& socket) {
  sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  if (socket.size() >= sizeof address.sun_path) return ENAMETOOLONG;
  memcpy(address.sun_path, socket.data(), socket.size());
  UniqueFd fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (!fd) return errno;
  if (connect(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0) {
    return errno;
  }
  return 0;
}

}  // namespace

ConnectFailure ExplainConnect(int error, const std::string& socket) {
  switch (error) {
    case EACCES:
    case EPERM:
      return {ExitCode::kNotPermitted,
              absl::StrCat("may not open ", socket,
                           ": only root or group starling (`socket_group` in the agent's "
                           "configuration) may; run this as root, or have your user added to that "
                           "group and log in again")};
    case ENOENT:
    case ECONNREFUSED:
    case ENOTSOCK:
      return {ExitCode::kAgentUnreachable,
              absl::StrCat("starlingd does not run: ",
                           error == ENOENT ? "there is no socket " : "nobody listens on ", socket,
                           "; start it (`systemctl start starlingd`), or name its socket with "
                           "--socket")};
    case ENAMETOOLONG:
      return {ExitCode::kUsage,
              absl::StrCat("--socket: ", socket, " is longer than a socket's path may be (107)")};
    default:
      return {ExitCode::kAgentUnreachable,
              absl::StrCat("cannot reach starlingd at ", socket, ": ", strerror(error))};
  }
}

std::unique_ptr<Agent> Agent::Connect(const std::string& socket, ConnectFailure* failure) {
  if (const int error = TryConnect(socket); error != 0) {
    *failure = ExplainConnect(error, socket);
    return nullptr;
  }
  grpc::ChannelArguments arguments;
  arguments.SetInt(GRPC_ARG_ENABLE_HTTP_PROXY, 0);
  // A channel of its own even when a test makes several in one process.
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  auto channel = grpc::CreateCustomChannel(absl::StrCat("unix:", socket),
                                           grpc::InsecureChannelCredentials(), arguments);
  if (!channel->WaitForConnected(std::chrono::system_clock::now() + kAnswerWithin)) {
    *failure = {ExitCode::kAgentUnreachable,
                absl::StrCat("whoever listens on ", socket,
                             " does not answer as starlingd does: is it stopped, or another "
                             "program?")};
    return nullptr;
  }
  return std::unique_ptr<Agent>(new Agent(socket, std::move(channel)));
}

Agent::Agent(const std::string& socket, std::shared_ptr<grpc::Channel> channel)
    : socket_(socket), channel_(std::move(channel)), stub_(v1::Starling::NewStub(channel_)) {}

bool Agent::Answered(const grpc::Status& status) const {
  if (status.ok()) return true;
  // What gRPC says, alone and word for word, when a connection ends under a call. An agent that
  // passes such words on from a peer puts the peer's name before them.
  for (const char* words :
       {"Socket closed", "Cancelling all calls", "Stream removed", "Connection reset by peer",
        "Broken pipe", "Transport closed", "Server shutting down", "GOAWAY received",
        "recvmsg:Connection reset by peer", "sendmsg:Broken pipe"}) {
    if (status.error_message() == words) return false;
  }
  return TryConnect(socket_) == 0;
}

bool Interrupter::Interrupt() {
  std::lock_guard<std::mutex> lock(mutex_);
  interrupted_ = true;
  if (context_ == nullptr) return false;
  context_->TryCancel();
  return true;
}

bool Interrupter::interrupted() {
  std::lock_guard<std::mutex> lock(mutex_);
  return interrupted_;
}

Interrupter::Call::Call(Interrupter& interrupter, grpc::ClientContext& context)
    : interrupter_(interrupter) {
  std::lock_guard<std::mutex> lock(interrupter_.mutex_);
  interrupter_.context_ = &context;
  if (interrupter_.interrupted_) context.TryCancel();
}

Interrupter::Call::~Call() {
  std::lock_guard<std::mutex> lock(interrupter_.mutex_);
  interrupter_.context_ = nullptr;
}

}  // namespace starling::cli
