#pragma once

#include <functional>

#include "runtime/agent/agent.h"
#include "runtime/bench/grants.h"
#include "runtime/proto/bench.grpc.pb.h"

namespace starling::bench {

// `starling bench`, over the local socket: measures this host against a peer. Thread-safe.
class BenchService final : public v1::Bench::Service {
 public:
  explicit BenchService(agent::Agent& agent) : agent_(agent) {}
  grpc::Status Run(grpc::ServerContext*, const v1::BenchRequest*,
                   grpc::ServerWriter<v1::BenchProgress>*) override;

 private:
  using Tell = std::function<void(const v1::BenchProgress&)>;
  absl::Status Measure(const v1::BenchRequest& request, const Tell& tell);
  v1::BenchTool RunTool(v1::BenchPeer::Stub& stub, const std::string& tool, const Tell& tell);

  agent::Agent& agent_;
};

// The same between agents. Any peer with a role here may measure. Thread-safe.
class BenchPeerService final : public v1::BenchPeer::Service {
 public:
  BenchPeerService(const agent::Host& host, Grants& grants) : host_(host), grants_(grants) {}
  grpc::Status Grant(grpc::ServerContext*, const v1::BenchGrantRequest*,
                     v1::BenchGrantResponse*) override;
  grpc::Status Serve(grpc::ServerContext*, const v1::BenchServeRequest*,
                     v1::BenchServeResponse*) override;

 private:
  const agent::Host& host_;
  Grants& grants_;
};

}  // namespace starling::bench
