#pragma once

#include <condition_variable>
#include <list>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "absl/status/statusor.h"
#include "runtime/agent/host.h"
#include "runtime/bench/measure.h"
#include "runtime/bench/tools.h"

namespace starling::bench {

// What this host lets its peers measure with: memory with a key and a token of its own for each
// measurement, and a tool's server. All of it ends by itself. Thread-safe.
class Grants {
 public:
  explicit Grants(const agent::Host& host);
  ~Grants();

  // kResourceExhausted while others measure.
  absl::StatusOr<v1::BenchGrantResponse> Grant(const v1::BenchGrantRequest& request);
  absl::StatusOr<v1::BenchServeResponse> Serve(const v1::BenchServeRequest& request);

  // For a data connection that shows no migration's token: takes it when it shows one of these.
  bool Take(const std::string& provider, std::unique_ptr<transport::Incoming>& incoming);

 private:
  struct Granted;
  struct Served {
    std::unique_ptr<ToolProcess> process;
    TimePoint until;
  };
  void Sweep(const std::stop_token& stop);
  void ForgetEnded();  // with mutex_ held

  const agent::Host& host_;
  std::mutex mutex_;
  std::condition_variable_any wake_;
  std::list<std::shared_ptr<Granted>> granted_;
  std::list<Served> served_;
  uint16_t next_port_ = 0;
  std::jthread sweeper_;
};

}  // namespace starling::bench
