#include "runtime/keeper/server.h"

#include <poll.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/log.h"
#include "base/status.h"
#include "runtime/keeper/protocol.h"

namespace starling::keeper {
namespace {

// What a component is given to end by itself when the host goes down.
constexpr std::chrono::seconds kShutdownGrace{10};

absl::StatusOr<UniqueFd> TakePageServer(UnixMessage& message) {
  if (message.fds.size() != 1) {
    return absl::InvalidArgumentError(
        absl::StrCat("a dump needs the page server's end as its only descriptor, not ",
                     message.fds.size(), " descriptors"));
  }
  return std::move(message.fds[0]);
}

Duration FromSeconds(double s) {
  if (!(s > 0)) return Duration::zero();
  return std::chrono::duration_cast<Duration>(std::chrono::duration<double>(std::min(s, 86400.0)));
}

}  // namespace

Server::Server(Keeper* keeper, UniqueFd listener, std::string socket_path)
    : keeper_(keeper),
      listener_(std::move(listener)),
      socket_path_(std::move(socket_path)),
      quit_event_(::eventfd(0, EFD_CLOEXEC)) {}

Server::~Server() { CloseConnections(); }

absl::Status Server::Run() {
  sigset_t mask;
  sigemptyset(&mask);
  sigaddset(&mask, SIGTERM);
  const UniqueFd signals(::signalfd(-1, &mask, SFD_CLOEXEC));
  if (!signals || !quit_event_) return ErrnoStatus("make the keeper's events");
  bool init_running = true;
  std::jthread shutdown;  // joined on the way out, before what it uses goes
  while (true) {
    pollfd polls[6] = {{listener_.get(), POLLIN, 0},
                       {quit_event_.get(), POLLIN, 0},
                       {signals.get(), POLLIN, 0},
                       {keeper_->announce_timer(), POLLIN, 0},
                       {init_running ? keeper_->init_pidfd() : -1, POLLIN, 0},
                       {keeper_->freeze_timer(), POLLIN, 0}};
    if (::poll(polls, 6, -1) < 0) {
      if (errno == EINTR) continue;
      return ErrnoStatus("wait for requests");
    }
    if (polls[4].revents != 0) {
      keeper_->OnInitExit();
      init_running = false;
    }
    if (polls[3].revents != 0) keeper_->OnAnnounceTimer();
    if (polls[5].revents != 0) keeper_->OnFreezeTimer();
    if (polls[2].revents != 0) {
      signalfd_siginfo info;
      (void)!::read(signals.get(), &info, sizeof(info));
      if (shutdown.joinable()) continue;
      // The stop needs this loop to see the end, so it has a thread of its own.
      shutdown = std::jthread([this] {
        (void)keeper_->Stop(kShutdownGrace);
        (void)Quit();
      });
    }
    if (polls[0].revents != 0) {
      ReapConnections();
      absl::StatusOr<UniqueFd> socket = AcceptUnix(listener_.get());
      if (!socket.ok()) {
        spdlog::warn("{}", socket.status().ToString());
        continue;
      }
      Connection& connection = connections_.emplace_back();
      connection.socket = *std::move(socket);
      connection.thread = std::thread([this, &connection] { Serve(connection); });
    }
    if (polls[1].revents != 0) {
      CloseConnections();
      return absl::OkStatus();
    }
  }
}

void Server::Serve(Connection& connection) {
  const int socket = connection.socket.get();
  while (true) {
    absl::StatusOr<UnixMessage> message = ReceiveUnix(socket);
    if (!message.ok() && message.status().code() == absl::StatusCode::kDeadlineExceeded) continue;
    if (!message.ok() || message->bytes.empty()) break;
    const Answer answer = Handle(*std::move(message), socket);
    std::vector<int> fds;
    for (const UniqueFd& fd : answer.fds) fds.push_back(fd.get());
    if (!SendUnix(socket, answer.reply.SerializeAsString(), fds).ok()) break;
  }
  // After the answer: the caller of Quit learns of its end before the process goes.
  connection.done = true;
}

Server::Answer Server::Handle(UnixMessage message, int connection) {
  Answer answer;
  v1::Reply& reply = answer.reply;
  v1::Request request;
  absl::Status status;
  if (!request.ParseFromString(message.bytes)) {
    status = absl::InvalidArgumentError("this is not a request to a keeper");
  } else if (request.protocol() != kProtocol) {
    status = absl::FailedPreconditionError(
        absl::StrCat("this keeper speaks protocol ", kProtocol, ", not ", request.protocol()));
  } else {
    status = Dispatch(request, message, connection, answer);
  }
  reply.set_code(static_cast<uint32_t>(status.code()));
  reply.set_message(std::string(status.message()));
  *reply.mutable_status() = keeper_->GetStatus();
  return answer;
}

absl::Status Server::Dispatch(const v1::Request& request, UnixMessage& message, int connection,
                              Answer& answer) {
  v1::Reply& reply = answer.reply;
  switch (request.what_case()) {
    case v1::Request::kStatus:
      return absl::OkStatus();
    case v1::Request::kLaunch:
      return keeper_->Launch();
    case v1::Request::kFreeze:
      return keeper_->Freeze(request.freeze().term_s());
    case v1::Request::kThaw:
      return keeper_->Thaw(request.thaw().in_term());
    case v1::Request::kFenceUp:
      return keeper_->FenceUp();
    case v1::Request::kFenceDown:
      return keeper_->FenceDown();
    case v1::Request::kAnnounce:
      return keeper_->Announce();
    case v1::Request::kLetRun:
      return keeper_->LetRun();
    case v1::Request::kPreDump: {
      ASSIGN_OR_RETURN(UniqueFd page_server, TakePageServer(message));
      ASSIGN_OR_RETURN(*reply.mutable_phases(),
                       keeper_->PreDump(request.pre_dump(), std::move(page_server)));
      return absl::OkStatus();
    }
    case v1::Request::kStageDump: {
      ASSIGN_OR_RETURN(UniqueFd page_server, TakePageServer(message));
      return keeper_->StageDump(request.stage_dump(), std::move(page_server));
    }
    case v1::Request::kDump: {
      ASSIGN_OR_RETURN(*reply.mutable_phases(), keeper_->Dump());
      return absl::OkStatus();
    }
    case v1::Request::kRestore: {
      UniqueFd arena;
      if (request.restore().lazy()) {
        if (message.fds.size() != 1) {
          return absl::InvalidArgumentError("a restore on demand needs the arena's descriptor");
        }
        arena = std::move(message.fds[0]);
      }
      ASSIGN_OR_RETURN(*reply.mutable_phases(),
                       keeper_->Restore(request.restore(), std::move(arena)));
      return absl::OkStatus();
    }
    case v1::Request::kFindMissing: {
      ASSIGN_OR_RETURN(answer.fds, keeper_->FindMissing());
      return absl::OkStatus();
    }
    case v1::Request::kTakeWanted: {
      ASSIGN_OR_RETURN(*reply.mutable_wanted(),
                       keeper_->TakeWanted(FromSeconds(request.take_wanted().wait_s())));
      return absl::OkStatus();
    }
    case v1::Request::kArrived:
      return keeper_->Arrived(request.arrived());
    case v1::Request::kLose:
      return keeper_->Lose(request.lose());
    case v1::Request::kCancelCriu:
      return keeper_->CancelCriu();
    case v1::Request::kProbe: {
      ASSIGN_OR_RETURN(*reply.mutable_probe(), keeper_->Probe(request.probe()));
      return absl::OkStatus();
    }
    case v1::Request::kStop:
      return keeper_->Stop(FromSeconds(request.stop().grace_s()));
    case v1::Request::kKill:
      return keeper_->Kill();
    case v1::Request::kQuit:
      return Quit();
    case v1::Request::kWatch:
      return keeper_->Watch(connection);
    case v1::Request::WHAT_NOT_SET:
      break;
  }
  return absl::UnimplementedError(
      "this keeper does not know that request: it is of an older build");
}

absl::Status Server::Quit() {
  const absl::Status status = keeper_->Quit();
  // The name is free for a new keeper of the component from here on. An error leaves the keeper
  // reachable, so that it can be asked again.
  if (!status.ok()) return status;
  (void)::unlink(socket_path_.c_str());
  const uint64_t one = 1;
  (void)!::write(quit_event_.get(), &one, sizeof(one));
  return absl::OkStatus();
}

void Server::ReapConnections() {
  for (auto it = connections_.begin(); it != connections_.end();) {
    if (it->done) {
      it->thread.join();
      it = connections_.erase(it);
    } else {
      ++it;
    }
  }
}

void Server::CloseConnections() {
  // Reading only: an answer on its way still leaves.
  for (Connection& connection : connections_) (void)::shutdown(connection.socket.get(), SHUT_RD);
  for (Connection& connection : connections_) connection.thread.join();
  connections_.clear();
}

}  // namespace starling::keeper
