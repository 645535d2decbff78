#include <string>

#include "absl/strings/str_cat.h"
#include "runtime/proto/ghost.grpc.pb.h"
#include "tools/starling/commands.h"
#include "tools/starling/render_ghost.h"

namespace starling::cli {
namespace {

// Makes one call; on failure says so and answers false with `code` set.
template <typename Request, typename Response>
bool Ask(Session& session,
         grpc::Status (v1::Ghosts::Stub::*method)(grpc::ClientContext*, const Request&, Response*),
         const Request& request, Response* response, ExitCode* code) {
  grpc::ClientContext context;
  Interrupter::Call call(session.interrupter, context);
  const auto stub = session.agent.ghosts();
  const grpc::Status status = (stub.get()->*method)(&context, request, response);
  if (status.ok()) return true;
  *code = FailCall(session, status);
  return false;
}

void Show(Session& session, Format format, const std::string& text, const std::string& json) {
  if (format == Format::kJson) {
    session.io.out << json << std::endl;
  } else {
    session.io.out << text << std::flush;
  }
}

}  // namespace

ExitCode Ghost(Session& session, const GhostOptions& options) {
  ExitCode code;
  if (options.what == "add") {
    v1::AddGhostRequest request;
    *request.mutable_wish() = options.wish;
    v1::AddGhostResponse response;
    if (!Ask(session, &v1::Ghosts::Stub::Add, request, &response, &code)) return code;
    Show(session, options.format, GhostText(response.ghost()), GhostJson(response.ghost()));
    return ExitCode::kOk;
  }
  if (options.what == "drop") {
    v1::DropGhostRequest request;
    request.set_component(options.wish.component());
    request.set_on(options.wish.on());
    v1::DropGhostResponse response;
    if (!Ask(session, &v1::Ghosts::Stub::Drop, request, &response, &code)) return code;
    return ExitCode::kOk;
  }
  v1::ListGhostsResponse response;
  if (!Ask(session, &v1::Ghosts::Stub::List, v1::ListGhostsRequest(), &response, &code))
    return code;
  // Of one component, where one is named.
  const std::string& name = options.wish.component();
  for (auto* list : {response.mutable_away(), response.mutable_here()}) {
    for (int i = list->size() - 1; i >= 0; --i) {
      if (!name.empty() && list->Get(i).wish().component() != name) list->DeleteSubrange(i, 1);
    }
  }
  Show(session, options.format, GhostsText(response), GhostsJson(response));
  return ExitCode::kOk;
}

ExitCode Failover(Session& session, const v1::FailoverRequest& request, Format format) {
  v1::FailoverResponse response;
  ExitCode code;
  if (!Ask(session, &v1::Ghosts::Stub::Failover, request, &response, &code)) return code;
  Show(session, format, FailoverText(response), FailoverJson(response));
  return ExitCode::kOk;
}

}  // namespace starling::cli
