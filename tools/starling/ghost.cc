#include <string>

#include "absl/strings/str_cat.h"
#include "runtime/proto/ghost.grpc.pb.h"
#include "tools/starling/ask.h"
#include "tools/starling/commands.h"
#include "tools/starling/render_ghost.h"

namespace starling::cli {

ExitCode Ghost(Session& session, const GhostOptions& options) {
  ExitCode code;
  if (options.what == "add") {
    v1::AddGhostRequest request;
    *request.mutable_wish() = options.wish;
    v1::AddGhostResponse response;
    if (!Ask(session, session.agent.ghosts(), &v1::Ghosts::Stub::Add, request, &response, &code))
      return code;
    Show(session, options.format, GhostText(response.ghost()), GhostJson(response.ghost()));
    return ExitCode::kOk;
  }
  if (options.what == "drop") {
    v1::DropGhostRequest request;
    request.set_component(options.wish.component());
    request.set_on(options.wish.on());
    v1::DropGhostResponse response;
    if (!Ask(session, session.agent.ghosts(), &v1::Ghosts::Stub::Drop, request, &response, &code))
      return code;
    return ExitCode::kOk;
  }
  v1::ListGhostsResponse response;
  if (!Ask(session, session.agent.ghosts(), &v1::Ghosts::Stub::List, v1::ListGhostsRequest(),
           &response, &code))
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
  if (!Ask(session, session.agent.ghosts(), &v1::Ghosts::Stub::Failover, request, &response, &code))
    return code;
  Show(session, format, FailoverText(response), FailoverJson(response));
  return ExitCode::kOk;
}

}  // namespace starling::cli
