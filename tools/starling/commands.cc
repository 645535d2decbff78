#include "tools/starling/commands.h"

#include <algorithm>
#include <chrono>
#include <string>
#include <thread>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "base/text.h"
#include "tools/starling/ask.h"
#include "tools/starling/render.h"

namespace starling::cli {
namespace {

void SayObstacles(std::ostream& out, const v1::CheckResponse& check) {
  for (const v1::Obstacle& obstacle : check.obstacles()) out << ObstacleText(obstacle) << "\n";
}

constexpr char kInsecure[] =
    "starling: INSECURE: this agent knows others by no certificates; see docs/security.md";

// What a person gives up by resolving by hand.
std::string ResolveRisk(const v1::ResolveRequest& request) {
  const bool here = request.side() == v1::ResolveRequest::HERE;
  return absl::StrCat(
      "The agent of this host asked the other one to commit and does not know the answer. ",
      here ? absl::StrCat("--here lets the copy of '", request.name(),
                          "' on this host run on. If the other host did commit, it runs there "
                          "too: two copies then answer at one address and write the same files.")
           : absl::StrCat("--there kills the copy of '", request.name(),
                          "' on this host. If the other host did not commit, that was the last "
                          "one, and what it held in memory is lost."),
      " Look at the other host (`starling ps` there) first.");
}

}  // namespace

ExitCode Fail(Io& io, ExitCode code, absl::string_view message) {
  // A refused migration has lines of its own for each obstacle.
  const char* begin = "starling: ";
  for (absl::string_view line : absl::StrSplit(message, '\n')) {
    io.err << begin << Printable(line) << "\n";
    begin = "";
  }
  io.err << std::flush;
  return code;
}

ExitCode FailCall(Session& session, const grpc::Status& status) {
  if (session.interrupter.interrupted()) {
    return Fail(session.io, ExitCode::kInterrupted,
                "interrupted; what the agent had begun goes on");
  }
  const bool answered = session.agent.Answered(status);
  const ExitCode code = ExitCodeOf(static_cast<absl::StatusCode>(status.error_code()), answered);
  if (code == ExitCode::kAgentUnreachable) {
    return Fail(session.io, code,
                absl::StrCat("starlingd went away while it was asked (", status.error_message(),
                             "); components keep running without it. It carries on by its journal "
                             "when it is started again: see `starling ps` then"));
  }
  return Fail(session.io, code,
              status.error_message().empty()
                  ? absl::StrCat("the agent failed with status ", status.error_code(),
                                 " and no message; its log may say more")
                  : absl::StrCat(status.error_message()));
}

ExitCode Run(Session& session, const v1::ComponentSpec& spec) {
  v1::RunRequest request;
  *request.mutable_spec() = spec;
  v1::RunResponse response;
  ExitCode code;
  if (!Ask(session, &v1::Starling::Stub::Run, request, &response, &code)) return code;
  session.io.out << Printable(spec.name()) << " is " << StateName(response.component().state())
                 << " (epoch " << response.component().epoch() << ")" << std::endl;
  return ExitCode::kOk;
}

ExitCode Ps(Session& session, PsForm form, const std::string& application) {
  v1::ListResponse list;
  ExitCode code;
  if (!Ask(session, &v1::Starling::Stub::List, v1::ListRequest(), &list, &code)) return code;
  if (!application.empty()) {
    auto& all = *list.mutable_components();
    all.erase(std::remove_if(all.begin(), all.end(),
                             [&](const v1::Component& component) {
                               return component.spec().application() != application;
                             }),
              all.end());
  }
  switch (form) {
    case PsForm::kTable:
      session.io.out << ComponentTable(list) << std::flush;
      if (list.insecure()) session.io.err << kInsecure << std::endl;
      break;
    case PsForm::kJson:
      session.io.out << ComponentsJson(list) << std::endl;
      break;
    case PsForm::kNames:
      for (const v1::Component& component : list.components()) {
        session.io.out << Printable(component.spec().name()) << "\n";
      }
      session.io.out << std::flush;
      break;
  }
  return ExitCode::kOk;
}

ExitCode Check(Session& session, const v1::CheckRequest& request, Format format) {
  const std::string& name = request.name();
  const std::string& to = request.to();
  v1::CheckResponse check;
  ExitCode code;
  if (!Ask(session, &v1::Starling::Stub::Check, request, &check, &code)) return code;
  const bool free = check.obstacles_size() == 0;
  std::ostream& out = session.io.out;
  if (format == Format::kJson) {
    out << CheckJson(name, to, check) << std::endl;
  } else if (free) {
    out << name << " can be moved to " << to << ": memory tracked by " << Printable(check.tracker())
        << ", carried by " << Printable(check.provider())
        << (check.insecure() ? ", INSECURE (agents without certificates); " : "; ") << to
        << " has kernel " << Printable(check.peer_kernel()) << " and CRIU "
        << Printable(check.peer_criu()) << std::endl;
  } else {
    out << name << " cannot be moved to " << to << " as it is:\n";
    SayObstacles(out, check);
    out << std::flush;
  }
  return free ? ExitCode::kOk : ExitCode::kRefused;
}

ExitCode Checkpoint(Session& session, const CheckpointOptions& options) {
  while (true) {
    const auto begun = std::chrono::steady_clock::now();
    v1::CheckpointResponse response;
    ExitCode code;
    if (!Ask(session, &v1::Starling::Stub::Checkpoint, options.request, &response, &code)) {
      return code;
    }
    for (const std::string& warning : response.warnings()) {
      session.io.err << "starling: " << Printable(warning) << std::endl;
    }
    session.io.out << (options.format == Format::kJson
                           ? CheckpointJson(options.request.name(), response)
                           : CheckpointText(options.request.name(), response))
                   << std::endl;
    if (options.every_s <= 0) return ExitCode::kOk;
    // One that took longer than that is followed by the next at once.
    std::this_thread::sleep_until(begun + std::chrono::duration<double>(options.every_s));
  }
}

ExitCode Restore(Session& session, const v1::RestoreCheckpointRequest& request, Format format) {
  v1::RestoreCheckpointResponse response;
  ExitCode code;
  if (!Ask(session, &v1::Starling::Stub::RestoreCheckpoint, request, &response, &code)) return code;
  session.io.out << (format == Format::kJson ? RestoreJson(response) : RestoreText(response))
                 << std::endl;
  return ExitCode::kOk;
}

ExitCode Cancel(Session& session, const std::string& name) {
  v1::CancelRequest request;
  request.set_name(name);
  v1::CancelResponse response;
  ExitCode code;
  if (!Ask(session, &v1::Starling::Stub::Cancel, request, &response, &code)) return code;
  session.io.out << "the migration of " << name << " is called off" << std::endl;
  return ExitCode::kOk;
}

ExitCode Resolve(Session& session, const ResolveOptions& options) {
  Io& io = session.io;
  io.err << ResolveRisk(options.request) << std::endl;
  if (io.in_is_terminal && !options.yes) {
    io.err << "Type the component's name to go on: " << std::flush;
    std::string answer;
    std::getline(io.in, answer);
    if (absl::StripAsciiWhitespace(answer) != options.request.name()) {
      return Fail(io, ExitCode::kRefused, "nothing was changed");
    }
  }
  v1::ResolveResponse response;
  ExitCode code;
  if (!Ask(session, &v1::Starling::Stub::Resolve, options.request, &response, &code)) return code;
  io.out << options.request.name() << " is " << StateName(response.component().state())
         << " (epoch " << response.component().epoch() << ")" << std::endl;
  return ExitCode::kOk;
}

ExitCode Stop(Session& session, const v1::StopRequest& request) {
  v1::StopResponse response;
  ExitCode code;
  if (!Ask(session, &v1::Starling::Stub::Stop, request, &response, &code)) return code;
  session.io.out << request.name() << " is " << StateName(response.component().state());
  if (response.component().state() == v1::EXITED) {
    session.io.out << ", exit status " << response.component().exit_status();
  }
  session.io.out << std::endl;
  return ExitCode::kOk;
}

ExitCode Logs(Session& session, const v1::LogsRequest& request) {
  grpc::ClientContext context;
  Interrupter::Call call(session.interrupter, context);
  auto reader = session.agent.stub().Logs(&context, request);
  v1::LogsChunk chunk;
  while (reader->Read(&chunk)) {
    // As the component wrote it: this is a copy of its output, not words of ours.
    session.io.out.write(chunk.data().data(), static_cast<std::streamsize>(chunk.data().size()));
    session.io.out.flush();
  }
  const grpc::Status status = reader->Finish();
  return status.ok() ? ExitCode::kOk : FailCall(session, status);
}

ExitCode Events(Session& session, const v1::EventsRequest& request, Format format) {
  grpc::ClientContext context;
  Interrupter::Call call(session.interrupter, context);
  auto reader = session.agent.stub().Events(&context, request);
  v1::Event event;
  while (reader->Read(&event)) {
    session.io.out << (format == Format::kJson ? EventJson(event) : EventLine(event)) << std::endl;
  }
  const grpc::Status status = reader->Finish();
  return status.ok() ? ExitCode::kOk : FailCall(session, status);
}

ExitCode Report(Session& session, const std::string& name, Format format) {
  v1::ReportRequest request;
  request.set_name(name);
  v1::ReportResponse report;
  ExitCode code;
  if (!Ask(session, &v1::Starling::Stub::Report, request, &report, &code)) return code;
  const std::string& shown = format == Format::kJson ? report.json() : report.text();
  for (absl::string_view line : absl::StrSplit(absl::StripTrailingAsciiWhitespace(shown), '\n')) {
    session.io.out << Printable(line) << "\n";
  }
  session.io.out << std::flush;
  return ExitCode::kOk;
}

ExitCode Info(Session& session, InfoForm form) {
  v1::InfoResponse info;
  ExitCode code;
  if (!Ask(session, &v1::Starling::Stub::Info, v1::InfoRequest(), &info, &code)) return code;
  switch (form) {
    case InfoForm::kText:
      session.io.out << InfoText(info) << std::flush;
      break;
    case InfoForm::kJson:
      session.io.out << InfoJson(info) << std::endl;
      break;
    case InfoForm::kPeers:
      for (const std::string& peer : info.peers()) session.io.out << Printable(peer) << "\n";
      session.io.out << std::flush;
      break;
  }
  return ExitCode::kOk;
}

}  // namespace starling::cli
