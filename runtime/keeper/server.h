#pragma once

#include <list>
#include <string>
#include <thread>
#include <vector>

#include "absl/status/status.h"
#include "base/fd.h"
#include "base/unix_socket.h"
#include "runtime/keeper/keeper.h"

namespace starling::keeper {

// Serves runtime/proto/keeper.proto: one thread a connection, so that a slow request on one holds
// up none on another.
class Server {
 public:
  // `listener` listens at `socket_path`, which is removed when the keeper quits. SIGTERM must be
  // blocked in every thread of the process: it stops the component and ends the keeper.
  Server(Keeper* keeper, UniqueFd listener, std::string socket_path);
  ~Server();

  // Until Quit was answered, or SIGTERM. On the main thread.
  absl::Status Run();

 private:
  struct Connection {
    UniqueFd socket;
    std::atomic<bool> done{false};
    std::thread thread;
  };

  void Serve(Connection& connection);
  // An answer, and the descriptors that go with it.
  struct Answer {
    v1::Reply reply;
    std::vector<UniqueFd> fds;
  };
  Answer Handle(UnixMessage message, int connection);
  absl::Status Dispatch(const v1::Request& request, UnixMessage& message, int connection,
                        Answer& answer);
  absl::Status Quit();
  void ReapConnections();
  void CloseConnections();

  Keeper* const keeper_;
  UniqueFd listener_;
  const std::string socket_path_;
  UniqueFd quit_event_;
  std::list<Connection> connections_;  // touched by the main thread only
};

}  // namespace starling::keeper
