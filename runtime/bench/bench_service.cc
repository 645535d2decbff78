#include "runtime/bench/bench_service.h"

#include <algorithm>
#include <thread>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/status.h"
#include "runtime/agent/rpc_status.h"

namespace starling::bench {
namespace {

constexpr auto kMeasureTimeout = std::chrono::seconds(100);
constexpr auto kToolTimeout = std::chrono::seconds(20);
// A tool's server is up a moment after it was started.
constexpr int kTries = 10;
constexpr auto kBetweenTries = std::chrono::milliseconds(300);

void SetDeadline(grpc::ClientContext& context, Duration timeout) {
  context.set_deadline(std::chrono::system_clock::now() +
                       std::chrono::duration_cast<std::chrono::system_clock::duration>(timeout));
}

}  // namespace

grpc::Status BenchService::Run(grpc::ServerContext*, const v1::BenchRequest* request,
                               grpc::ServerWriter<v1::BenchProgress>* writer) {
  return ToGrpc(
      Measure(*request, [writer](const v1::BenchProgress& progress) { writer->Write(progress); }));
}

absl::Status BenchService::Measure(const v1::BenchRequest& request, const Tell& tell) {
  const agent::Host& host = agent_.host();
  ASSIGN_OR_RETURN(const std::shared_ptr<agent::PeerClient> peer, agent_.Peer(request.to()));
  v1::HelloRequest hello;
  hello.set_protocol(agent::kProtocol);
  hello.set_host(host.config.host);
  ASSIGN_OR_RETURN(const v1::HelloResponse greeting,
                   peer->Hello(hello, Deadline::After(host.config.migration.peer_timeout)));
  const auto& offered = greeting.providers();
  std::vector<std::string> providers;
  if (!request.provider().empty()) {
    RETURN_IF_ERROR(host.Transport(request.provider()).status());
    providers.push_back(request.provider());
  } else {
    for (const auto& [name, fabric] : host.fabrics) providers.push_back(name);
  }
  std::erase_if(providers, [&](const std::string& name) {
    return std::find(offered.begin(), offered.end(), name) == offered.end();
  });
  if (providers.empty()) {
    return absl::FailedPreconditionError(
        absl::StrCat("host ", peer->name(), " and this host offer no transport alike",
                     request.provider().empty() ? "" : absl::StrCat(" named ", request.provider()),
                     " (it offers: ", offered.empty() ? "none" : absl::StrJoin(offered, ", "),
                     "): see data.provider and data.offer"));
  }
  const auto stub = v1::BenchPeer::NewStub(peer->channel());
  for (const std::string& provider : providers) {
    v1::BenchGrantRequest grant;
    grant.set_source_host(host.config.host);
    grant.set_provider(provider);
    grant.set_windows(true);
    grpc::ClientContext context;
    SetDeadline(context, host.config.migration.peer_timeout);
    v1::BenchGrantResponse granted;
    RETURN_IF_ERROR(Annotate(FromGrpc(stub->Grant(&context, grant, &granted)),
                             absl::StrCat("host ", peer->name())));
    ASSIGN_OR_RETURN(transport::Fabric* const fabric, host.Transport(provider));
    MeasureOptions options;
    options.connections = host.config.data.queue_pairs;
    v1::BenchProgress progress;
    ASSIGN_OR_RETURN(*progress.mutable_result(), bench::Measure(
                                                     *fabric, granted, options,
                                                     [&](const std::string& message) {
                                                       v1::BenchProgress doing;
                                                       doing.set_message(message);
                                                       tell(doing);
                                                     },
                                                     Deadline::After(kMeasureTimeout)));
    tell(progress);
  }
  if (!request.tools()) return absl::OkStatus();
  const bool verbs = std::find(providers.begin(), providers.end(), "verbs") != providers.end();
  for (const std::string& tool : Tools()) {
    if (tool != "iperf3" && !verbs) continue;
    v1::BenchProgress progress;
    *progress.mutable_tool() = RunTool(*stub, tool, tell);
    tell(progress);
  }
  return absl::OkStatus();
}

v1::BenchTool BenchService::RunTool(v1::BenchPeer::Stub& stub, const std::string& tool,
                                    const Tell& tell) {
  const agent::Host& host = agent_.host();
  v1::BenchTool result;
  result.set_tool(tool);
  v1::BenchProgress doing;
  doing.set_message(tool);
  tell(doing);
  absl::Status failed;
  for (int i = 0; i < kTries; ++i) {
    v1::BenchServeRequest serve;
    serve.set_source_host(host.config.host);
    serve.set_tool(tool);
    grpc::ClientContext context;
    SetDeadline(context, host.config.migration.peer_timeout);
    v1::BenchServeResponse served;
    failed = FromGrpc(stub.Serve(&context, serve, &served));
    if (!failed.ok()) break;
    std::this_thread::sleep_for(kBetweenTries);
    const auto device = host.fabrics.find("verbs");
    const absl::StatusOr<ToolCommands> commands = CommandsOf(
        tool, device == host.fabrics.end() ? "" : device->second->device(), served.address(),
        static_cast<uint16_t>(served.port()), host.config.data.queue_pairs);
    failed = commands.status();
    if (!failed.ok()) break;
    result.set_command(absl::StrJoin(commands->client, " "));
    absl::StatusOr<std::unique_ptr<ToolProcess>> process = ToolProcess::Start(commands->client);
    failed = process.status();
    if (!failed.ok()) break;
    const absl::StatusOr<std::string> output = (*process)->Finish(Deadline::After(kToolTimeout));
    failed = output.ok() ? ReadFigure(*output, result) : output.status();
    // A client that came before its server is sent again.
    if (failed.ok() || !absl::IsAborted(failed)) break;
  }
  if (!failed.ok()) result.set_skipped(std::string(failed.message()));
  return result;
}

grpc::Status BenchPeerService::Grant(grpc::ServerContext* context,
                                     const v1::BenchGrantRequest* request,
                                     v1::BenchGrantResponse* response) {
  const absl::StatusOr<std::string> caller = host_.security->Caller(*context, "Bench");
  if (!caller.ok()) return ToGrpc(caller.status());
  absl::StatusOr<v1::BenchGrantResponse> granted = grants_.Grant(*request);
  if (!granted.ok()) return ToGrpc(granted.status());
  *response = *std::move(granted);
  return grpc::Status::OK;
}

grpc::Status BenchPeerService::Serve(grpc::ServerContext* context,
                                     const v1::BenchServeRequest* request,
                                     v1::BenchServeResponse* response) {
  const absl::StatusOr<std::string> caller = host_.security->Caller(*context, "Bench");
  if (!caller.ok()) return ToGrpc(caller.status());
  absl::StatusOr<v1::BenchServeResponse> served = grants_.Serve(*request);
  if (!served.ok()) return ToGrpc(served.status());
  *response = *std::move(served);
  return grpc::Status::OK;
}

}  // namespace starling::bench
