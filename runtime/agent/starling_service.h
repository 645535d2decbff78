#pragma once

#include <atomic>

#include "runtime/agent/agent.h"
#include "runtime/proto/starling.grpc.pb.h"

namespace starling::agent {

// The calls of the command line, over the local socket: checks and translates, the meaning is
// Agent's. Thread-safe.
class StarlingService final : public v1::Starling::Service {
 public:
  explicit StarlingService(Agent& agent) : agent_(agent) {}

  // Ends streams that follow something, so that the server can shut down.
  void Stop() { stopping_ = true; }

  grpc::Status Info(grpc::ServerContext*, const v1::InfoRequest*, v1::InfoResponse*) override;
  grpc::Status Run(grpc::ServerContext*, const v1::RunRequest*, v1::RunResponse*) override;
  grpc::Status List(grpc::ServerContext*, const v1::ListRequest*, v1::ListResponse*) override;
  grpc::Status Check(grpc::ServerContext*, const v1::CheckRequest*, v1::CheckResponse*) override;
  grpc::Status Migrate(grpc::ServerContext*, const v1::MigrateRequest*,
                       grpc::ServerWriter<v1::MigrationProgress>*) override;
  grpc::Status Cancel(grpc::ServerContext*, const v1::CancelRequest*, v1::CancelResponse*) override;
  grpc::Status Resolve(grpc::ServerContext*, const v1::ResolveRequest*,
                       v1::ResolveResponse*) override;
  grpc::Status Stop(grpc::ServerContext*, const v1::StopRequest*, v1::StopResponse*) override;
  grpc::Status Checkpoint(grpc::ServerContext*, const v1::CheckpointRequest*,
                          v1::CheckpointResponse*) override;
  grpc::Status RestoreCheckpoint(grpc::ServerContext*, const v1::RestoreCheckpointRequest*,
                                 v1::RestoreCheckpointResponse*) override;
  grpc::Status Logs(grpc::ServerContext*, const v1::LogsRequest*,
                    grpc::ServerWriter<v1::LogsChunk>*) override;
  grpc::Status Events(grpc::ServerContext*, const v1::EventsRequest*,
                      grpc::ServerWriter<v1::Event>*) override;
  grpc::Status Report(grpc::ServerContext*, const v1::ReportRequest*, v1::ReportResponse*) override;

 private:
  bool Ended(const grpc::ServerContext& context) const {
    return stopping_ || context.IsCancelled();
  }

  Agent& agent_;
  std::atomic<bool> stopping_{false};
};

}  // namespace starling::agent
