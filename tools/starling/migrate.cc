#include <string>

#include "absl/strings/str_cat.h"
#include "tools/starling/commands.h"
#include "tools/starling/render.h"

namespace starling::cli {
namespace {

// Writes a migration's progress in one of the three ways, and wipes the bar when it is done.
class ProgressWriter {
 public:
  ProgressWriter(Io& io, const MigrateOptions& options) : io_(io), options_(options) {}

  void Show(const v1::MigrationProgress& progress) {
    view_.Update(progress);
    const bool final = progress.step() == v1::DONE || progress.step() == v1::CALLED_OFF;
    if (options_.format == Format::kJson) {
      // The last message is told by the report line.
      if (!final && !options_.quiet) io_.out << ProgressJson(progress) << std::endl;
      return;
    }
    if (final || options_.quiet) return;
    if (io_.err_is_terminal) {
      // One column is left free: a full line makes some terminals wrap.
      io_.err << "\r" << view_.Bar(io_.width - 1) << "\x1b[K" << std::flush;
      bar_ = true;
    } else if (view_.TakeLine()) {
      io_.err << view_.Line() << std::endl;
    }
  }

  void EndBar() {
    if (bar_) io_.err << "\r\x1b[K" << std::flush;
    bar_ = false;
  }

  const v1::MigrationProgress& last() const { return view_.last(); }

 private:
  Io& io_;
  const MigrateOptions& options_;
  ProgressView view_;
  bool bar_ = false;
};

// The words for the end that is not DONE; empty when the report says it all.
std::string EndWords(const MigrateOptions& options, const v1::MigrationProgress& last,
                     ExitCode code, const std::string& message) {
  const std::string& name = options.request.name();
  switch (code) {
    case ExitCode::kInterrupted:
      return absl::StrCat("interrupted: the migration of ", name,
                          " goes on without this command. `starling ps` shows it, `starling events "
                          "--follow ",
                          name, "` follows it, `starling cancel ", name, "` ends it");
    case ExitCode::kInDoubt:
      return absl::StrCat(name, " is in doubt: ", message, "; it stays frozen here until ",
                          options.request.to(),
                          " answers. If it never will, see `starling resolve "
                          "--help`");
    case ExitCode::kAgentUnreachable:
      return absl::StrCat("starlingd went away (", message,
                          "): started again, it finishes the migration of ", name,
                          " or calls it off by its journal; `starling ps` shows which");
    case ExitCode::kCalledOff:
      return last.has_report()
                 ? ""
                 : absl::StrCat("called off, ", name, " runs where it ran: ", message);
    case ExitCode::kFailed:
      if (message.empty()) return "the agent ended the progress without a result";
      return message;
    default:
      return message;
  }
}

}  // namespace

ExitCode Migrate(Session& session, const MigrateOptions& options) {
  Io& io = session.io;
  grpc::ClientContext context;
  ProgressWriter writer(io, options);
  grpc::Status status;
  {
    Interrupter::Call call(session.interrupter, context);
    auto reader = session.agent.stub().Migrate(&context, options.request);
    v1::MigrationProgress progress;
    while (reader->Read(&progress)) writer.Show(progress);
    status = reader->Finish();
  }
  writer.EndBar();

  const v1::MigrationProgress& last = writer.last();
  const bool final = last.step() == v1::DONE || last.step() == v1::CALLED_OFF;
  ExitCode code = MigrationExitCode(last.step(), static_cast<absl::StatusCode>(status.error_code()),
                                    session.agent.Answered(status));
  if (!final && session.interrupter.interrupted()) code = ExitCode::kInterrupted;
  std::string said = status.error_message();
  if (code == ExitCode::kOk && !last.report().error().empty()) {
    // It moved, and did not live to have all of its memory.
    code = ExitCode::kFailed;
    said = last.report().error();
  }
  const std::string words = code == ExitCode::kOk ? "" : EndWords(options, last, code, said);

  if (options.format == Format::kJson) {
    std::string error = words;
    if (error.empty() && code == ExitCode::kCalledOff) error = last.report().error();
    io.out << ReportJson(last, code, error) << std::endl;
  } else if (final) {
    io.out << ReportText(last) << std::endl;
  }
  if (!words.empty()) Fail(io, code, words);
  return code;
}

}  // namespace starling::cli
