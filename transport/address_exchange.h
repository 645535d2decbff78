#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "base/clock.h"
#include "base/fd.h"
#include "base/status.h"
#include "transport/fabric.h"
#include "transport/introduction_message.h"

// How two queue pairs learn of each other where no RDMA connection manager can be used: over a TCP
// connection, in three messages (docs/wire.md). It stays open for as long as the queue pairs are
// connected, so that its end tells of the peer's. Private to the room.

namespace starling::transport {

// One side of a TCP connection on which queue pairs are introduced. Move-only.
class Introduction {
 public:
  // The active side. kUnavailable when nobody listens there.
  static absl::StatusOr<Introduction> Connect(const std::string& address, uint16_t port,
                                              Deadline deadline);

  // Active: says who it is, and waits for the answer. kPermissionDenied when the peer refuses.
  absl::StatusOr<QueuePairAddress> Ask(const QueuePairAddress& own, absl::string_view private_data,
                                       Deadline deadline);
  // Active, once its queue pair is ready.
  absl::Status SayReady(Deadline deadline);

  // Passive: who asks, with `private_data()` to be had from then on.
  absl::StatusOr<QueuePairAddress> Hear(Deadline deadline);
  // Passive, once its queue pair is ready: answers, and waits until the peer's is.
  absl::Status Accept(const QueuePairAddress& own, Deadline deadline);
  void Refuse();

  const std::string& private_data() const { return private_data_; }
  // "10.77.0.1:40100 -> 10.77.0.2:7401"
  const std::string& description() const { return description_; }
  // Gives the socket away; it becomes readable when the peer has gone.
  UniqueFd Release() { return std::move(socket_); }

 private:
  friend class IntroductionListener;
  explicit Introduction(UniqueFd socket);

  UniqueFd socket_;
  std::string description_;
  std::string private_data_;
};

class IntroductionListener {
 public:
  // IPv4. Port 0 lets the kernel choose.
  static absl::StatusOr<IntroductionListener> Listen(const std::string& address, uint16_t port);
  // kDeadlineExceeded when nobody came.
  absl::StatusOr<Introduction> Next(Deadline deadline);
  // The next one that says who it is within two seconds; the others are dropped with a word in the
  // log.
  absl::StatusOr<Introduction> NextHeard(QueuePairAddress& peer, Deadline deadline);
  uint16_t port() const { return port_; }

 private:
  IntroductionListener(UniqueFd socket, uint16_t port) : socket_(std::move(socket)), port_(port) {}
  UniqueFd socket_;
  uint16_t port_ = 0;
};

// Accepts introductions; `Acceptor` has Accept(Introduction, const QueuePairAddress&, Deadline).
template <typename Acceptor>
class IntroducedIncoming final : public Incoming {
 public:
  IntroducedIncoming(Introduction introduction, const QueuePairAddress& peer, Acceptor& acceptor)
      : introduction_(std::move(introduction)), peer_(peer), acceptor_(acceptor) {}
  ~IntroducedIncoming() override { introduction_.Refuse(); }
  absl::string_view private_data() const override { return introduction_.private_data(); }
  absl::StatusOr<std::unique_ptr<Connection>> Accept(Deadline deadline) override {
    return acceptor_.Accept(std::move(introduction_), peer_, deadline);
  }

 private:
  Introduction introduction_;
  QueuePairAddress peer_;
  Acceptor& acceptor_;
};

template <typename Acceptor>
class IntroducedListener final : public Listener {
 public:
  IntroducedListener(IntroductionListener listener, Acceptor& acceptor)
      : listener_(std::move(listener)), acceptor_(acceptor) {}
  absl::StatusOr<std::unique_ptr<Incoming>> Next(Deadline deadline) override {
    QueuePairAddress peer;
    ASSIGN_OR_RETURN(Introduction introduction, listener_.NextHeard(peer, deadline));
    return std::make_unique<IntroducedIncoming<Acceptor>>(std::move(introduction), peer, acceptor_);
  }

 private:
  IntroductionListener listener_;
  Acceptor& acceptor_;
};

// `acceptor` outlives the listener.
template <typename Acceptor>
absl::StatusOr<std::unique_ptr<Listener>> ListenForIntroductions(const std::string& address,
                                                                 uint16_t port,
                                                                 Acceptor& acceptor) {
  ASSIGN_OR_RETURN(IntroductionListener listener, IntroductionListener::Listen(address, port));
  return std::make_unique<IntroducedListener<Acceptor>>(std::move(listener), acceptor);
}

}  // namespace starling::transport
