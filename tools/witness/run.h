#pragma once

#include <signal.h>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "tools/witness/client.h"
#include "tools/witness/heartbeat_listener.h"
#include "tools/witness/protocol.h"
#include "tools/witness/recovery.h"
#include "tools/witness/socket.h"

namespace starling::witness {

struct Options {
  std::optional<Endpoint> server;  // none: only heartbeats are observed
  uint16_t heartbeat_port = 0;     // 0: heartbeats are not observed
  double rate_per_s = 1000;        // requests; their times are fixed in advance
  double read_share = 0.5;
  double duration_s = 0;        // 0: until told to stop
  double warmup_s = 1;          // of load before anything is measured
  double ready_timeout_s = 60;  // to connect, and for the first heartbeat
  double drain_timeout_s = 30;  // for the answers still outstanding at the end
  uint64_t seed = 1;
  uint32_t keys = 1024;
  size_t value_bytes = 1024;
  bool preload = false;  // write every key once before the load starts
  std::string stop_file;
  std::string events_file;  // read at the end; see ParseEvents(). Empty: none
};

struct Result {
  Options options;
  std::string protocol;
  int64_t started_ns = 0;  // when measuring started and ended
  int64_t ended_ns = 0;

  std::optional<ClientStatistics> client;
  uint64_t writes_acknowledged = 0;  // all of them, with preload and warm-up
  uint64_t lost_writes = 0;
  uint64_t wrong_values = 0;
  uint64_t broken_connections = 0;
  std::string connection_error;
  uint64_t unanswered = 0;  // requests that never got an answer
  uint64_t verified_values = 0;
  uint64_t unverified_values = 0;  // written, acknowledged, and not to be read again at the end
  bool verified_over_new_connection = false;

  std::optional<HeartbeatListener::Seen> heartbeat;

  // What was done meanwhile, and what of it was felt (nothing where that cannot be told).
  std::vector<std::pair<Event, std::optional<Recovery>>> events;

  // Nothing lost, wrong, refused, broken or left unverified.
  bool Flawless() const;
};

// Runs the whole course: connect, preload, warm up, `on_ready`, load until the duration is over,
// the stop file exists or `*stop` is set by a signal that `wait_mask` lets through, then read
// everything back. Errors are those of the set-up and of the events' file; what else
// goes wrong later is in the result.
absl::StatusOr<Result> Run(const Options& options, const Protocol& protocol,
                           const volatile sig_atomic_t* stop, const sigset_t& wait_mask,
                           const std::function<void()>& on_ready);

// Writes the files that an HTTP server must serve for Run() with the same seed, keys and value
// size.
absl::Status WriteSite(const std::string& folder, const Options& options);

}  // namespace starling::witness
