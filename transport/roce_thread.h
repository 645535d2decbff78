#pragma once

#include <atomic>
#include <condition_variable>
#include <deque>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/statusor.h"
#include "base/clock.h"
#include "base/fd.h"
#include "transport/roce/arp.h"
#include "transport/roce/engine.h"
#include "transport/roce/packet_port.h"

namespace starling::transport {

// What the thread serves: a queue that it empties into an engine.
class RoceClient {
 public:
  virtual ~RoceClient() = default;
  // On the thread: hands over what was posted; whether there was anything.
  virtual bool Feed() = 0;
};

// The thread that drives a RoCEv2 engine over a port: polls while there is something to do, sleeps
// in short steps while there is not, and is woken by what is posted here. Thread-safe.
class RoceThread {
 public:
  // `port` is used by the thread alone from here on.
  static absl::StatusOr<std::unique_ptr<RoceThread>> Start(std::unique_ptr<roce::PacketPort> port,
                                                           uint32_t ip, uint64_t seed);
  ~RoceThread();

  // Runs `work` on the thread and waits for it. What it removes is not used afterwards.
  void Run(absl::FunctionRef<void(roce::Engine&)> work);

  // On the thread, that is within Run().
  void Attach(RoceClient* client) { clients_.push_back(client); }
  void Detach(RoceClient* client) { std::erase(clients_, client); }

  // Something was posted. Cheap while the thread is awake.
  void Wake();

  // The hardware address of a neighbour, asked for until `deadline`.
  absl::StatusOr<roce::MacAddress> Resolve(uint32_t ip, Deadline deadline);

  const roce::PacketPort& port() const { return *port_; }

 private:
  struct Command {
    absl::FunctionRef<void(roce::Engine&)> work;
    bool done = false;
  };

  RoceThread(std::unique_ptr<roce::PacketPort> port, uint32_t ip, uint64_t seed);
  void Loop();
  bool Turn(TimePoint now);
  void RunCommands();
  void Sleep(TimePoint now);
  void SendArp(const roce::ArpFrame& frame);

  const std::unique_ptr<roce::PacketPort> port_;
  roce::Engine engine_;
  roce::ArpTable arp_;
  std::vector<RoceClient*> clients_;
  TimePoint last_active_{};

  UniqueFd wake_;  // eventfd
  std::atomic<bool> sleeping_{false};
  std::atomic<bool> stop_{false};
  std::atomic<bool> commanded_{false};
  std::mutex mutex_;
  std::condition_variable done_;
  std::deque<Command*> commands_;
  std::thread thread_;
};

}  // namespace starling::transport
