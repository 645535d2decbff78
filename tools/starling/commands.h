#pragma once

#include <cstdint>
#include <istream>
#include <ostream>
#include <string>
#include <vector>

#include "runtime/proto/ghost.pb.h"
#include "runtime/proto/loop.pb.h"
#include "runtime/proto/starling.pb.h"
#include "tools/starling/agent.h"
#include "tools/starling/exit_code.h"

// One function a command: arguments that were checked in, text out, exit code back. Every error is
// one "starling: ..." on Io::err.

namespace starling::cli {

// Where a command reads and writes. Streams are borrowed.
struct Io {
  std::ostream& out;
  std::ostream& err;
  std::istream& in;
  bool err_is_terminal = false;  // a bar instead of lines
  bool in_is_terminal = false;   // a person can be asked
  int width = 80;                // of that terminal
};

// What every command works with.
struct Session {
  Agent& agent;
  Io& io;
  Interrupter& interrupter;
};

enum class Format { kText, kJson };

ExitCode Run(Session& session, const v1::ComponentSpec& spec);

enum class PsForm { kTable, kJson, kNames };
// `application`: only its components; empty: all.
ExitCode Ps(Session& session, PsForm form, const std::string& application = "");

ExitCode Check(Session& session, const v1::CheckRequest& request, Format format);

struct MigrateOptions {
  v1::MigrateRequest request;
  Format format = Format::kText;
  bool quiet = false;  // no progress, only the report
};
ExitCode Migrate(Session& session, const MigrateOptions& options);
// All components of an application that run on this host, one after the other, until one fails:
// none when one of them cannot be moved. `options` without a name.
ExitCode MigrateApplication(Session& session, const std::string& application,
                            const MigrateOptions& options);

struct CheckpointOptions {
  v1::CheckpointRequest request;
  double every_s = 0;  // again and again, from one beginning to the next; 0: once
  Format format = Format::kText;
};
ExitCode Checkpoint(Session& session, const CheckpointOptions& options);
ExitCode Restore(Session& session, const v1::RestoreCheckpointRequest& request, Format format);

ExitCode Cancel(Session& session, const std::string& name);

struct ResolveOptions {
  v1::ResolveRequest request;
  bool yes = false;  // do not ask
};
ExitCode Resolve(Session& session, const ResolveOptions& options);

ExitCode Stop(Session& session, const v1::StopRequest& request);
// All components of an application that run on this host. `request` without a name.
ExitCode StopApplication(Session& session, const std::string& application,
                         const v1::StopRequest& request);
ExitCode Logs(Session& session, const v1::LogsRequest& request);
ExitCode Events(Session& session, const v1::EventsRequest& request, Format format);

ExitCode Report(Session& session, const std::string& name, Format format);

ExitCode Forecast(Session& session, const v1::ForecastRequest& request, Format format);
ExitCode Leases(Session& session, Format format);
ExitCode Why(Session& session, const v1::WhyRequest& request, Format format);
ExitCode Park(Session& session, const std::string& name);
ExitCode Unpark(Session& session, const std::string& name);

struct ProfileOptions {
  std::string what;  // list, show, export, delete, consent or calendar
  std::string name;  // a user, or component:NAME
  bool consent = false;
  std::string file;  // calendar: to read
  std::string out;   // export: to write; empty: to Io::out
  Format format = Format::kText;
};
ExitCode Profile(Session& session, const ProfileOptions& options);

struct GhostOptions {
  std::string what;  // add, list or drop
  v1::GhostWish wish;
  Format format = Format::kText;
};
ExitCode Ghost(Session& session, const GhostOptions& options);
ExitCode Failover(Session& session, const v1::FailoverRequest& request, Format format);

enum class InfoForm { kText, kJson, kPeers };
ExitCode Info(Session& session, InfoForm form);

struct BenchOptions {
  std::string to;
  std::string provider;  // empty: all
  bool tools = true;     // those of others too
  Format format = Format::kText;
  std::string svg;  // a plot to write; empty: none
};
ExitCode Bench(Session& session, const BenchOptions& options);

// Needs no agent.
struct CertOptions {
  std::string host;  // empty: the authority
  std::vector<std::string> addresses;
  std::string authority;  // folder of the authority; empty: `out`
  std::string out;
  int days = 0;  // 0: as usual
};
ExitCode Cert(Io& io, const CertOptions& options);

// "starling: message" on `err`, once, and `code` back.
ExitCode Fail(Io& io, ExitCode code, absl::string_view message);

// The status of a call that failed, with what a person can do about it.
ExitCode FailCall(Session& session, const grpc::Status& status);

}  // namespace starling::cli
