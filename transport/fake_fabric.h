#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "transport/fabric.h"
#include "transport/queue_pair_connection.h"

namespace starling::transport {

// What goes wrong on a fake network. Decided per operation by a generator that is seeded with
// `seed` and the number of the queue pair, so that the same program meets the same faults whatever
// its threads' timing.
struct FakeFaults {
  uint64_t seed = 1;
  Duration delay_min{};  // of an operation on its way
  Duration delay_max{};
  double loss = 0;  // probability that an operation is lost and, after retry_after, tried again
  Duration retry_after = std::chrono::milliseconds(1);
  int retries = 7;  // until the queue pair fails; negative: for ever
};

// A network inside one process. Data moves by memcpy on a thread of the network's, under the rules
// of a reliable connection: in order, into granted memory only, a message only into a posted
// receive. Thread-safe; outlives the fabrics it opens.
class FakeNetwork {
 public:
  struct Counts {
    uint64_t regions = 0;             // alive
    uint64_t queue_pairs = 0;         // alive
    uint64_t doorbells = 0;           // lists handed over
    uint64_t writes = 0;              // carried out
    uint64_t messages = 0;            // carried out
    uint64_t lost = 0;                // and tried again
    uint64_t receiver_not_ready = 0;  // messages that found no receive posted
    uint64_t refused_accesses = 0;  // to memory that was not granted, or is not registered any more
  };

  explicit FakeNetwork(const FakeFaults& faults = {});
  ~FakeNetwork();

  // The provider on a host of its own with this address.
  std::unique_ptr<Fabric> Open(const std::string& address, const ConnectionTuning& tuning = {});

  // From here on nothing gets through until Heal().
  void Cut();
  void Heal();
  // As if the host with this address had lost its power: nothing of it gets through, and nobody is
  // told.
  void PowerOff(const std::string& address);

  Counts counts() const;

  class Impl;

 private:
  std::shared_ptr<Impl> impl_;
};

}  // namespace starling::transport
