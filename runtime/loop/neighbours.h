#pragma once

#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "predictor/summary.h"
#include "runtime/agent/agent.h"
#include "runtime/proto/loop.grpc.pb.h"

namespace starling::loop {

// What another host said last.
struct Neighbour {
  std::string name;
  bool heard = false;     // lately
  double distance_s = 0;  // round trip of a question, the least lately
  v1::LookResponse said;
  predictor::Summary cpu, memory;  // its joint demand; all zeros before it told
};

// Asks every peer again and again how it is, each on a thread of its own, so that one that does not
// answer holds up nobody. Thread-safe.
class Neighbours {
 public:
  Neighbours(agent::Agent& agent, Duration period);
  ~Neighbours();

  // All peers, in the order of the configuration.
  std::vector<Neighbour> All() const;

 private:
  struct Peer {
    std::shared_ptr<agent::PeerClient> client;
    Neighbour latest;      // guarded by mutex_
    TimePoint heard_at{};  // guarded by mutex_
    std::jthread thread;
  };
  void Ask(const std::stop_token& stop, Peer& peer);

  const agent::Host& host_;
  const Duration period_;
  mutable std::mutex mutex_;
  std::vector<std::unique_ptr<Peer>> peers_;
};

}  // namespace starling::loop
