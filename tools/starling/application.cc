#include "tools/starling/application.h"

#include <algorithm>
#include <functional>
#include <map>
#include <set>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/text.h"
#include "runtime/names.h"
#include "tools/starling/ask.h"

namespace starling::cli {
namespace {

bool RunsHere(v1::ComponentState state) {
  return state == v1::RUNNING || state == v1::PARKED || state == v1::MIGRATING ||
         state == v1::HELD || state == v1::IN_DOUBT;
}

// False: there is none, or the agent did not say; `code` is set, and why is said.
bool Members(Session& session, const std::string& application, std::vector<std::string>* members,
             ExitCode* code) {
  v1::ListResponse list;
  if (!Ask(session, &v1::Starling::Stub::List, v1::ListRequest(), &list, code)) return false;
  *members = MembersInOrder(list, application);
  if (!members->empty()) return true;
  *code = Fail(session.io, ExitCode::kNotFound,
               absl::StrCat("no component of application ", application, " runs on host ",
                            Printable(list.host()), ": `starling ps` lists those it has"));
  return false;
}

}  // namespace

std::vector<std::string> MembersInOrder(const v1::ListResponse& list,
                                        const std::string& application) {
  std::map<std::string, const v1::ComponentSpec*> members;  // by name
  for (const v1::Component& component : list.components()) {
    if (component.spec().application() != application || !RunsHere(component.state())) continue;
    members[component.spec().name()] = &component.spec();
  }
  const std::string all = absl::StrCat(kOfApplication, application);
  const auto names = [&](const v1::ComponentSpec& spec, const std::string& other) {
    return std::any_of(spec.near().begin(), spec.near().end(),
                       [&](const std::string& near) { return near == other || near == all; });
  };
  std::vector<std::string> order;
  std::set<std::string> seen;
  const std::function<void(const std::string&)> visit = [&](const std::string& name) {
    if (!seen.insert(name).second) return;
    order.push_back(name);
    for (const auto& [other, spec] : members) {
      if (names(*members.at(name), other) || names(*spec, name)) visit(other);
    }
  };
  for (const auto& [name, spec] : members) visit(name);
  return order;
}

ExitCode StopApplication(Session& session, const std::string& application,
                         const v1::StopRequest& request) {
  std::vector<std::string> members;
  ExitCode code = ExitCode::kOk;
  if (!Members(session, application, &members, &code)) return code;
  for (const std::string& name : members) {
    v1::StopRequest one = request;
    one.set_name(name);
    const ExitCode stopped = Stop(session, one);
    // The others are to end all the same.
    if (code == ExitCode::kOk) code = stopped;
  }
  return code;
}

ExitCode MigrateApplication(Session& session, const std::string& application,
                            const MigrateOptions& options) {
  std::vector<std::string> members;
  ExitCode code = ExitCode::kOk;
  if (!Members(session, application, &members, &code)) return code;
  // Who cannot be moved comes first, so that then nobody is.
  std::set<std::string> free;
  for (const std::string& name : members) {
    v1::CheckRequest request;
    request.set_name(name);
    request.set_to(options.request.to());
    request.set_transport(options.request.transport());
    v1::CheckResponse check;
    if (!Ask(session, &v1::Starling::Stub::Check, request, &check, &code)) return code;
    if (check.obstacles_size() == 0) free.insert(name);
  }
  std::stable_partition(members.begin(), members.end(),
                        [&](const std::string& name) { return !free.contains(name); });
  for (size_t i = 0; i < members.size(); ++i) {
    MigrateOptions one = options;
    one.request.set_name(members[i]);
    code = Migrate(session, one);
    if (code == ExitCode::kOk) continue;
    if (members.size() > 1) {
      const std::vector<std::string> left(members.begin() + static_cast<std::ptrdiff_t>(i),
                                          members.end());
      session.io.err << "starling: of application " << application << " " << i << " of "
                     << members.size() << " components have moved; not "
                     << absl::StrJoin(left, ", ") << std::endl;
    }
    return code;
  }
  return code;
}

}  // namespace starling::cli
