#include "runtime/agent/starling_service.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <thread>

#include "absl/strings/str_cat.h"
#include "base/file.h"
#include "runtime/agent/rpc_status.h"
#include "runtime/names.h"
#include "runtime/reports/report_store.h"

namespace starling::agent {
namespace {

// How often a stream that follows something looks whether its caller is still there.
constexpr auto kFollowSlice = std::chrono::milliseconds(250);
constexpr size_t kLogPiece = 64 * 1024;
constexpr int kEventsAtOnce = 256;

// Carries a StatusOr's value into the response through `set`, or its error into the RPC's status.
template <typename T, typename Set>
grpc::Status Answer(absl::StatusOr<T> result, Set set) {
  if (!result.ok()) return ToGrpc(result.status());
  set(*std::move(result));
  return grpc::Status::OK;
}

}  // namespace

grpc::Status StarlingService::Info(grpc::ServerContext*, const v1::InfoRequest*,
                                   v1::InfoResponse* response) {
  *response = agent_.Info();
  return grpc::Status::OK;
}

grpc::Status StarlingService::Run(grpc::ServerContext*, const v1::RunRequest* request,
                                  v1::RunResponse* response) {
  return Answer(agent_.Run(request->spec()),
                [&](v1::Component c) { *response->mutable_component() = std::move(c); });
}

grpc::Status StarlingService::List(grpc::ServerContext*, const v1::ListRequest*,
                                   v1::ListResponse* response) {
  return Answer(agent_.List(), [&](v1::ListResponse list) { *response = std::move(list); });
}

grpc::Status StarlingService::Check(grpc::ServerContext*, const v1::CheckRequest* request,
                                    v1::CheckResponse* response) {
  return Answer(agent_.Check(request->name(), request->to(), request->transport()),
                [&](v1::CheckResponse c) { *response = std::move(c); });
}

grpc::Status StarlingService::Migrate(grpc::ServerContext* context,
                                      const v1::MigrateRequest* request,
                                      grpc::ServerWriter<v1::MigrationProgress>* writer) {
  const auto board = agent_.Migrate(*request);
  if (!board.ok()) return ToGrpc(board.status());
  uint64_t version = 0;
  v1::MigrationProgress progress;
  v1::Step last = v1::STEP_UNSPECIFIED;
  while (!Ended(*context)) {
    const uint64_t before = version;
    const bool more = (*board)->WaitNewer(version, progress, Deadline::After(kFollowSlice));
    if (version != before) {
      writer->Write(progress);
      last = progress.step();
    }
    if (!more || last == v1::DONE || last == v1::CALLED_OFF) break;
  }
  if (last == v1::CALLED_OFF) return ToGrpc(absl::AbortedError(progress.message()));
  if (last == v1::DONE) return grpc::Status::OK;
  if (context->IsCancelled())
    return ToGrpc(absl::CancelledError("the caller went away; the migration goes on"));
  return ToGrpc(absl::UnknownError(
      absl::StrCat("the agent is going down while migration ", progress.migration_id(),
                   " is under way; it is taken up when the agent is back")));
}

grpc::Status StarlingService::Cancel(grpc::ServerContext*, const v1::CancelRequest* request,
                                     v1::CancelResponse*) {
  return ToGrpc(agent_.Cancel(request->name()));
}

grpc::Status StarlingService::Resolve(grpc::ServerContext*, const v1::ResolveRequest* request,
                                      v1::ResolveResponse* response) {
  if (request->side() != v1::ResolveRequest::HERE && request->side() != v1::ResolveRequest::THERE) {
    return ToGrpc(absl::InvalidArgumentError("say which copy lives: --here or --there"));
  }
  return Answer(agent_.Resolve(request->name(), request->side() == v1::ResolveRequest::HERE),
                [&](v1::Component c) { *response->mutable_component() = std::move(c); });
}

grpc::Status StarlingService::Stop(grpc::ServerContext*, const v1::StopRequest* request,
                                   v1::StopResponse* response) {
  return Answer(agent_.Stop(request->name(), request->grace_s()),
                [&](v1::Component c) { *response->mutable_component() = std::move(c); });
}

grpc::Status StarlingService::Checkpoint(grpc::ServerContext*, const v1::CheckpointRequest* request,
                                         v1::CheckpointResponse* response) {
  return Answer(agent_.Checkpoint(*request),
                [&](v1::CheckpointResponse taken) { *response = std::move(taken); });
}

grpc::Status StarlingService::RestoreCheckpoint(grpc::ServerContext*,
                                                const v1::RestoreCheckpointRequest* request,
                                                v1::RestoreCheckpointResponse* response) {
  return Answer(agent_.RestoreCheckpoint(*request),
                [&](v1::RestoreCheckpointResponse restored) { *response = std::move(restored); });
}

grpc::Status StarlingService::Logs(grpc::ServerContext* context, const v1::LogsRequest* request,
                                   grpc::ServerWriter<v1::LogsChunk>* writer) {
  if (const absl::Status name = CheckComponentName(request->name()); !name.ok())
    return ToGrpc(name);
  const std::string path = migration::LogPath(agent_.host().config.log_dir, request->name());
  const absl::StatusOr<UniqueFd> fd = OpenFile(path, O_RDONLY);
  if (!fd.ok())
    return ToGrpc(absl::NotFoundError(
        absl::StrCat("component ", request->name(), " has written no log here")));
  struct stat info;
  if (::fstat(fd->get(), &info) != 0) return ToGrpc(ErrnoStatus(path));
  off_t at = 0;
  if (request->tail_bytes() > 0 && static_cast<uint64_t>(info.st_size) > request->tail_bytes()) {
    at = info.st_size - static_cast<off_t>(request->tail_bytes());
  }
  std::string piece(kLogPiece, '\0');
  while (!Ended(*context)) {
    const ssize_t n = ::pread(fd->get(), piece.data(), piece.size(), at);
    if (n < 0) return ToGrpc(ErrnoStatus(path));
    if (n > 0) {
      v1::LogsChunk chunk;
      chunk.set_data(piece.substr(0, static_cast<size_t>(n)));
      if (!writer->Write(chunk)) break;
      at += n;
      continue;
    }
    if (!request->follow()) break;
    std::this_thread::sleep_for(kFollowSlice);
  }
  return grpc::Status::OK;
}

grpc::Status StarlingService::Events(grpc::ServerContext* context, const v1::EventsRequest* request,
                                     grpc::ServerWriter<v1::Event>* writer) {
  Journal& journal = agent_.host().journal;
  uint64_t after = request->after();
  while (!Ended(*context)) {
    const absl::StatusOr<std::vector<EventRow>> rows =
        journal.ReadEvents(after, request->name(), kEventsAtOnce);
    if (!rows.ok()) return ToGrpc(rows.status());
    for (const EventRow& row : *rows) {
      v1::Event event;
      event.set_number(row.number);
      event.set_time(row.time);
      event.set_component(row.component);
      event.set_kind(row.kind);
      event.set_text(row.text);
      if (!writer->Write(event)) return grpc::Status::OK;
      after = row.number;
    }
    if (static_cast<int>(rows->size()) == kEventsAtOnce) continue;
    if (!request->follow()) break;
    journal.WaitForEvent(after, Deadline::After(kFollowSlice));
  }
  return grpc::Status::OK;
}

grpc::Status StarlingService::Report(grpc::ServerContext*, const v1::ReportRequest* request,
                                     v1::ReportResponse* response) {
  const Config& config = agent_.host().config;
  const ReportStore store(config.ReportsPath(), config.migration.keep_reports);
  return Answer(store.Find(request->name()),
                [&](v1::ReportResponse report) { *response = std::move(report); });
}

}  // namespace starling::agent
