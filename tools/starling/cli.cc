#include "tools/starling/cli.h"

#include <stdlib.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cmath>
#include <filesystem>
#include <memory>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "base/units.h"
#include "runtime/names.h"
#include "runtime/security/certificates.h"
#include "runtime/spec.h"
#include "tools/replay/cluster_replay.h"
#include "tools/replay/decision_replay.h"
#include "tools/replay/replay.h"
#include "tools/starling/help_texts.h"

namespace starling::cli {
namespace {

constexpr char kSocket[] = "/run/starling/starlingd.sock";

// Options of all commands, filled by the parser.
struct Options {
  std::string socket;
  std::string name;
  std::string application;
  std::string to;
  bool json = false;

  v1::ComponentSpec spec;
  std::string memory;
  std::string io_max;
  std::vector<std::string> shared;
  std::vector<std::string> ship;
  std::vector<std::string> environment;

  std::string folder;
  double every_s = 0;
  int keep = 0;
  std::string key_file;
  uint64_t number = 0;
  bool original_gone = false;
  std::string ghost_what;
  std::string on;
  bool cold = false;
  bool warm = false;
  std::string rate;
  double ghost_every_s = 0;
  double checkpoint_every_s = 0;
  bool fenced = false;

  int priority = 0;
  double bears_blackout_ms = 0;
  std::vector<std::string> near, apart, prefers;

  ProfileOptions profile;
  bool consent_on = false;
  bool consent_off = false;

  bool pool = false;
  bool experts = false;
  int last = 10;

  bool names = false;
  bool peers = false;

  std::string probe;
  double probe_timeout_s = 0;
  double max_blackout_ms = 0;
  bool eager = false;
  bool auto_converge = false;
  bool only_if_fits = false;
  bool post_copy = false;
  bool verify = false;
  bool park = false;
  int max_rounds = 0;
  std::string max_rate;
  bool quiet = false;

  bool here = false;
  bool there = false;
  bool yes = false;

  double grace_s = 0;
  bool follow = false;
  std::string tail;
  uint64_t after = 0;

  std::string transport;

  BenchOptions bench;
  bool no_tools = false;

  std::string cert_what;
  CertOptions cert;

  replay::ReplayOptions replay;
  bool cluster = false;
  std::string decisions;  // a log of them
  bool again = false;
  replay::ClusterOptions cluster_replay;
};

// A check of CLI11's from one of ours.
std::function<std::string(const std::string&)> Checked(absl::Status (*check)(absl::string_view)) {
  return [check](const std::string& text) { return std::string(check(text).message()); };
}

std::string CheckBytes(const std::string& text) {
  return std::string(ParseBytes(text).status().message());
}

std::string CheckRate(const std::string& text) {
  const auto rate = ParseBytes(text);
  if (rate.ok() && *rate == 0) return absl::StrCat("'", text, "' lets nothing through");
  return std::string(rate.status().message());
}

CLI::Option* AddApplication(CLI::App* app, Options& options, const std::string& about) {
  return app->add_option("--application", options.application, about)
      ->type_name("APP")
      ->check(Checked(CheckApplicationName));
}

CLI::Option* AddName(CLI::App* app, Options& options) {
  return app->add_option("NAME", options.name, "The component")
      ->required()
      ->check(Checked(CheckComponentName));
}

void AddTo(CLI::App* app, Options& options) {
  app->add_option("--to", options.to, "The host to move to, as named in the configuration")
      ->required()
      ->type_name("HOST")
      ->check(Checked(CheckHostName));
}

void AddTransport(CLI::App* app, Options& options) {
  app->add_option(
         "--transport", options.transport,
         "Carry the memory by this one (verbs, roce, tcp), which both agents have to offer "
         "(default: the agent's)")
      ->type_name("NAME")
      ->check(CLI::IsMember({"verbs", "roce", "tcp"}));
}

void AddProbe(CLI::App* app, Options& options, const std::string& about) {
  app->add_option("--probe", options.probe, about)->type_name("COMMAND");
  app->add_option("--probe-timeout", options.probe_timeout_s,
                  "How long the probe may run, in seconds")
      ->type_name("SECONDS")
      ->check(CLI::Range(0.1, 3600.0));
}

void AddJson(CLI::App* app, Options& options) {
  app->add_flag("--json", options.json, "Write JSON, for scripts");
}

void AddKey(CLI::App* app, Options& options) {
  app->add_option("--encrypt-key", options.key_file,
                  "File with the key: 32 bytes, or 64 hexadecimal digits")
      ->type_name("FILE");
}

// As the agent has to read it, whose working folder is another.
std::string Absolute(const std::string& path) {
  if (path.empty()) return path;
  std::string absolute = std::filesystem::absolute(path).lexically_normal().string();
  while (absolute.size() > 1 && absolute.back() == '/') absolute.pop_back();
  return absolute;
}

// The program: as it is when it is a path, otherwise the first of PATH.
std::string FindProgram(const std::string& program) {
  if (absl::StrContains(program, "/") || program.empty()) return program;
  const char* path = getenv("PATH");
  for (const absl::string_view folder :
       absl::StrSplit(path ? path : "/usr/local/bin:/usr/bin:/bin", ':')) {
    const std::string candidate = absl::StrCat(folder, "/", program);
    if (absl::StartsWith(folder, "/") && access(candidate.c_str(), X_OK) == 0) return candidate;
  }
  return program;
}

// The parser with all commands; what it parses goes into `options`.
class Parser {
 public:
  explicit Parser(Options& options) : app_(kAbout, "starling") {
    const char* socket = getenv("STARLING_SOCKET");
    options.socket = socket != nullptr && *socket != '\0' ? socket : kSocket;
    app_.require_subcommand(1);
    app_.set_version_flag("--version", "starling " STARLING_VERSION);
    app_.footer(kFooter);
    app_.add_option("--socket", options.socket, "The agent's socket (also: STARLING_SOCKET)")
        ->type_name("PATH")
        ->capture_default_str();
    app_.fallthrough();

    run_ = Add("run", "Start a component: starling run NAME [OPTIONS] -- COMMAND [ARGUMENT...]",
               kRunFooter);
    AddName(run_, options);
    run_->add_option("--user", *options.spec.mutable_user(), "Run as this user (default: root)")
        ->type_name("USER");
    run_->add_option("--ip", *options.spec.mutable_ip(),
                     "Its own address, which moves with it (default: the host's network)")
        ->type_name("ADDR/LEN")
        ->check([](const std::string& text) {
          return std::string(ParseIpPrefix(text).status().message());
        });
    run_->add_option("--memory", options.memory, "Most memory it may use, such as 512M or 8G")
        ->type_name("SIZE")
        ->check(CheckBytes);
    run_->add_option("--io-max", options.io_max,
                     "Most bytes a second it may read from storage, and write to it, such as 50M")
        ->type_name("BYTES")
        ->check(CheckRate);
    run_->add_option("--shared", options.shared,
                     "A writable path on storage that all hosts share (may be repeated)")
        ->type_name("PATH")
        ->take_all()
        ->expected(1)
        ->allow_extra_args(false)
        ->check(Checked(CheckAbsolutePath));
    run_->add_option("--ship", options.ship,
                     "A file or folder that moves with it (may be repeated)")
        ->type_name("PATH")
        ->take_all()
        ->expected(1)
        ->allow_extra_args(false)
        ->check(Checked(CheckAbsolutePath));
    run_->add_option("--directory", *options.spec.mutable_directory(),
                     "Working directory (default: /)")
        ->type_name("PATH")
        ->check(Checked(CheckAbsolutePath));
    run_->add_option("--env", options.environment, "Environment variable (may be repeated)")
        ->type_name("KEY=VALUE")
        ->take_all()
        ->expected(1)
        ->allow_extra_args(false);

    run_->add_option("--priority", options.priority,
                     "Who yields when room is short: the lower (default: 0)")
        ->type_name("N")
        ->check(CLI::Range(-1000, 1000));
    run_->add_option("--bears-blackout", options.bears_blackout_ms,
                     "The longest blackout that the agent may cause by a move of its own, in "
                     "milliseconds (default: the agent's)")
        ->type_name("MS")
        ->check(CLI::Range(1.0, 600000.0));
    const auto names = [this](const char* option, std::vector<std::string>& to, const char* about,
                              const char* kind, absl::Status (*check)(absl::string_view)) {
      run_->add_option(option, to, about)
          ->type_name(kind)
          ->take_all()
          ->expected(1)
          ->allow_extra_args(false)
          ->check(Checked(check));
    };
    AddApplication(run_, options, "The group of components that it belongs to");
    names("--near", options.near,
          "Keep it on the host of this component, or of application:APP's (may be repeated)",
          "NAME", CheckRelation);
    names("--apart", options.apart,
          "Never on the host of this component, or of application:APP's (may be repeated)", "NAME",
          CheckRelation);
    names("--prefers", options.prefers, "Rather move it to this host (may be repeated)", "HOST",
          CheckHostName);
    AddProbe(run_, options,
             "Shell command run where it arrives, before it may run there; if it fails, the move "
             "is called off");

    ps_ = Add("ps", "List the components of this host", kPsFooter);
    AddJson(ps_, options);
    AddApplication(ps_, options, "Only the components of this application");
    ps_->add_flag("--names", options.names, "Only the names, one a line");

    check_ = Add("check", "Say what stands in the way of a move", kCheckFooter);
    AddName(check_, options);
    AddTo(check_, options);
    AddTransport(check_, options);
    AddJson(check_, options);

    migrate_ = Add("migrate", "Move a running component to another host", kMigrateFooter);
    AddName(migrate_, options)
        ->required(false)
        ->excludes(AddApplication(migrate_, options,
                                  "Instead of one component all of this application, one after the "
                                  "other"));
    AddTo(migrate_, options);
    AddTransport(migrate_, options);
    AddProbe(migrate_, options,
             "Shell command run at the target before it commits; if it fails, the move is called "
             "off (default: the one that `starling run` named)");
    migrate_
        ->add_option("--max-blackout", options.max_blackout_ms,
                     "Copy rounds until the expected blackout is below this, in milliseconds")
        ->type_name("MS")
        ->check(CLI::Range(1.0, 60000.0));
    migrate_->add_option("--max-rounds", options.max_rounds, "Copy at most so many rounds")
        ->type_name("N")
        ->check(CLI::Range(1, 64));
    migrate_->add_flag("--eager", options.eager,
                       "Have all memory in place before the component runs at the target");
    migrate_
        ->add_option("--max-rate", options.max_rate,
                     "Copy at most so many bytes a second while the component runs, such as 50M")
        ->type_name("BYTES")
        ->check(CheckRate);
    CLI::Option* const converge =
        migrate_->add_flag("--auto-converge", options.auto_converge,
                           "Slow the component down where it writes faster than the link carries");
    migrate_
        ->add_flag("--only-if-fits", options.only_if_fits,
                   "Call the move off where memory keeps it from fitting --max-blackout")
        ->excludes(converge);
    migrate_
        ->add_flag("--post-copy", options.post_copy,
                   "Fetch what is left at the freeze once the component runs there; until then the "
                   "loss of either host is the loss of the component")
        ->excludes("--eager");
    migrate_->add_flag("--verify", options.verify,
                       "Check all memory once more at the target before it commits");
    migrate_->add_flag("--park", options.park,
                       "Park it where it arrives, until its user is there or a packet comes");
    AddJson(migrate_, options);
    migrate_->add_flag("--quiet", options.quiet, "No progress, only how it ended");

    checkpoint_ = Add("checkpoint", "Write a running component to storage", kCheckpointFooter);
    AddName(checkpoint_, options);
    checkpoint_->add_option("--to", options.folder, "Folder of this component's checkpoints")
        ->required()
        ->type_name("DIR");
    checkpoint_->add_option("--every", options.every_s, "Again and again, every so many seconds")
        ->type_name("SECONDS")
        ->check(CLI::Range(0.1, 1e7));
    checkpoint_->add_option("--keep", options.keep, "Keep the newest N (default: all)")
        ->type_name("N")
        ->check(CLI::Range(1, 1000000));
    AddKey(checkpoint_, options);
    AddJson(checkpoint_, options);

    restore_ = Add("restore", "Start a component from a checkpoint", kRestoreFooter);
    restore_->add_option("DIR", options.folder, "The folder that `checkpoint --to` wrote")
        ->required();
    restore_->add_option("--name", options.name, "Call it so (default: as it was called)")
        ->type_name("NAME")
        ->check(Checked(CheckComponentName));
    restore_->add_option("--number", options.number, "This checkpoint (default: the newest)")
        ->type_name("N")
        ->check(CLI::Range(uint64_t{1}, uint64_t{1} << 62));
    restore_->add_flag("--original-gone", options.original_gone,
                       "The component left for another host, and will never run there again");
    AddKey(restore_, options);
    AddJson(restore_, options);

    cancel_ = Add("cancel", "Call a migration off", kCancelFooter);
    AddName(cancel_, options);

    resolve_ = Add("resolve", "Decide by hand for a component that is in doubt", kResolveFooter);
    AddName(resolve_, options);
    auto* here = resolve_->add_flag("--here", options.here, "The copy on this host lives");
    auto* there = resolve_->add_flag("--there", options.there, "The copy on the other host lives");
    here->excludes(there);
    resolve_->add_flag("--yes", options.yes, "Do not ask");

    stop_ = Add("stop", "End a component", "SIGTERM first, SIGKILL when it has not ended by then.");
    AddName(stop_, options)
        ->required(false)
        ->excludes(
            AddApplication(stop_, options, "Instead of one component all of this application"));
    stop_->add_option("--grace", options.grace_s, "Seconds between the two (default: 10)")
        ->type_name("SECONDS")
        ->check(CLI::Range(0.001, 3600.0));

    logs_ = Add("logs", "Show what a component wrote", "");
    AddName(logs_, options);
    logs_->add_flag("-f,--follow", options.follow, "Go on with what it writes from now on");
    logs_->add_option("--tail", options.tail, "Only the end, such as 4K (default: all)")
        ->type_name("SIZE")
        ->check(CheckBytes);

    events_ = Add("events", "Show what happened on this host", kEventsFooter);
    events_->add_option("NAME", options.name, "Only of this component")
        ->check(Checked(CheckComponentName));
    events_->add_flag("-f,--follow", options.follow, "Go on with what happens from now on");
    events_->add_option("--after", options.after, "Only events with a larger number")
        ->type_name("NUMBER");
    AddJson(events_, options);

    ghost_ = Add("ghost", "Keep copies of a component at other hosts", kGhostFooter);
    ghost_->add_option("WHAT", options.ghost_what, "add, list or drop")
        ->required()
        ->check(CLI::IsMember({"add", "list", "drop"}));
    ghost_->add_option("NAME", options.name, "The component")->check(Checked(CheckComponentName));
    ghost_->add_option("--on", options.on, "The host that keeps it")
        ->type_name("HOST")
        ->check(Checked(CheckHostName));
    CLI::Option* const cold = ghost_->add_flag("--cold", options.cold, "Room and connections only");
    ghost_->add_flag("--warm", options.warm, "Its memory as well, kept fresh (default)")
        ->excludes(cold);
    ghost_
        ->add_option("--rate", options.rate,
                     "Of the rounds: at most so many bytes a second, such as 50M (default: 16M)")
        ->type_name("BYTES")
        ->check(CheckRate)
        ->excludes(cold);
    ghost_
        ->add_option("--every", options.ghost_every_s,
                     "Seconds from one round to the next (default: 5)")
        ->type_name("SECONDS")
        ->check(CLI::Range(0.2, 1e7))
        ->excludes(cold);
    ghost_
        ->add_option("--checkpoint-every", options.checkpoint_every_s,
                     "Take an instant so often, which `starling failover` can start from")
        ->type_name("SECONDS")
        ->check(CLI::Range(0.2, 1e7))
        ->excludes(cold);
    AddJson(ghost_, options);

    failover_ =
        Add("failover", "Start a component of a dead host from its ghost here", kFailoverFooter);
    AddName(failover_, options);
    failover_->add_flag("--fenced", options.fenced,
                        "You made sure that the host it ran on can do nothing any more");
    AddProbe(failover_, options,
             "Shell command run before it may run here (default: the one that `starling run` "
             "named)");
    AddJson(failover_, options);

    report_ = Add("report", "Show what a migration away from this host was like", kReportFooter);
    report_
        ->add_option("NAME", options.name, "A component, for its latest one; or a migration's id")
        ->required();
    AddJson(report_, options);

    forecast_ = Add("forecast", "Say what components will use", kForecastFooter);
    forecast_->add_option("NAME", options.name, "Only this component")
        ->check(Checked(CheckComponentName));
    forecast_->add_flag("--pool", options.pool, "The joint demand of all hosts as well");
    forecast_->add_flag("--experts", options.experts,
                        "Of components: which expert has which share in each forecast");
    AddJson(forecast_, options);

    leases_ = Add("leases", "Show what was reserved, here and elsewhere", kLeasesFooter);
    AddJson(leases_, options);

    why_ = Add("why", "Say what the agent decided by itself, and why", kWhyFooter);
    why_->add_option("NAME", options.name, "Only about this component")
        ->check(Checked(CheckComponentName));
    why_->add_option("--last", options.last, "So many decisions")
        ->type_name("N")
        ->check(CLI::Range(1, 1000))
        ->capture_default_str();
    why_->add_flag("--replay", options.again,
                   "Make each of them again, of what was logged, and say whether it is the same");
    AddJson(why_, options);

    profile_ = Add("profile", "Show and govern what is remembered of users and components",
                   kProfileFooter);
    profile_
        ->add_option("WHAT", options.profile.what, "list, show, export, delete, consent, calendar")
        ->required()
        ->check(CLI::IsMember({"list", "show", "export", "delete", "consent", "calendar"}));
    profile_->add_option("NAME", options.profile.name, "A user, or component:NAME");
    profile_->add_option("FILE", options.profile.file, "The iCalendar file")
        ->check(CLI::ExistingFile);
    CLI::Option* const consent_on =
        profile_->add_flag("--on", options.consent_on, "With consent: the user agrees");
    profile_
        ->add_flag("--off", options.consent_off,
                   "With consent: the user does not; what there is is deleted")
        ->excludes(consent_on);
    profile_->add_option("--out", options.profile.out, "With export: write to this file")
        ->type_name("FILE");
    AddJson(profile_, options);
    park_ = Add("park", "Freeze a component whose user is away", kParkFooter);
    AddName(park_, options);

    unpark_ = Add("unpark", "Let a component that rests run on", kParkFooter);
    AddName(unpark_, options);

    info_ = Add("info", "Say what this host's agent is", "");
    AddJson(info_, options);
    info_->add_flag("--peers", options.peers, "Only the names of its peers, one a line");

    bench_ = Add("bench", "Measure the transports to another host", kBenchFooter);
    AddTo(bench_, options);
    bench_
        ->add_option("--provider", options.bench.provider,
                     "Only this transport (default: each that both agents offer)")
        ->type_name("NAME")
        ->check(CLI::IsMember({"verbs", "roce", "tcp"}));
    bench_->add_flag("--no-tools", options.no_tools, "Run no measuring programs of others");
    bench_->add_option("--svg", options.bench.svg, "Write a plot of bandwidth over size")
        ->type_name("FILE");
    AddJson(bench_, options);

    cert_ = Add("cert", "Make an authority's or a host's certificate and key", kCertFooter);
    cert_->add_option("WHAT", options.cert_what, "authority or host")
        ->required()
        ->check(CLI::IsMember({"authority", "host"}));
    cert_->add_option("NAME", options.cert.host, "The host")->check(Checked(CheckHostName));
    cert_
        ->add_option("--address", options.cert.addresses,
                     "An address of the host (may be repeated)")
        ->type_name("ADDRESS")
        ->take_all()
        ->expected(1)
        ->allow_extra_args(false);
    cert_->add_option("--out", options.cert.out, "Folder for the two files")
        ->required()
        ->type_name("FOLDER");
    cert_
        ->add_option("--authority", options.cert.authority,
                     "Folder of the authority (default: that of --out)")
        ->type_name("FOLDER");
    cert_
        ->add_option("--days", options.cert.days,
                     "How long it is good (default: 3650 for an authority, 365 for a host)")
        ->type_name("DAYS")
        ->check(CLI::Range(1, security::kMaxDays));

    replay_ =
        Add("replay", "Run recorded traces through the predictor and score it", kReplayFooter);
    CLI::Option* traces = replay_->add_option("--traces", options.replay.traces, "Folder of traces")
                              ->type_name("FOLDER")
                              ->check(CLI::ExistingDirectory);
    CLI::Option* decisions =
        replay_
            ->add_option("--decision", options.decisions,
                         "Make the decisions of this log again instead, and compare")
            ->type_name("FILE")
            ->check(CLI::ExistingFile)
            ->excludes(traces);
    replay_->callback([traces, decisions] {
      if (traces->empty() && decisions->empty()) throw CLI::RequiredError("--traces");
    });
    replay_->add_option("--out", options.replay.out, "Write all figures to this file, as JSON")
        ->type_name("FILE");
    replay_->add_option("--plots", options.replay.plots, "Write charts (SVG) into this folder")
        ->type_name("FOLDER");
    replay_
        ->add_option(
            "--half", options.replay.half,
            "Only every other machine, function and user: the first (1) or second (2) half")
        ->check(CLI::Range(1, 2));
    CLI::Option* cluster = replay_->add_flag(
        "--cluster", options.cluster,
        "Run a cluster through a day of them instead, beside simpler rules; see docs/cluster.md");
    replay::ClusterShape& shape = options.cluster_replay.shape;
    replay_->add_option("--hosts", shape.hosts, "With --cluster: hosts")
        ->needs(cluster)
        ->check(CLI::Range(2, 100000))
        ->capture_default_str();
    replay_->add_option("--components", shape.components, "With --cluster: components")
        ->needs(cluster)
        ->check(CLI::Range(1, 10000000))
        ->capture_default_str();
    replay_->add_option("--steps", shape.steps, "With --cluster: steps of five minutes")
        ->needs(cluster)
        ->check(CLI::Range(1, 288))
        ->capture_default_str();
    replay_->add_option("--seed", shape.seed, "With --cluster: of sizes and places")
        ->needs(cluster)
        ->capture_default_str();
    replay_
        ->add_option("--policy", options.cluster_replay.policy,
                     "With --cluster: decide by this policy file")
        ->needs(cluster)
        ->type_name("FILE")
        ->check(CLI::ExistingFile);
    replay_
        ->add_flag("--forecast-only", options.cluster_replay.forecast_only,
                   "With --cluster: without the rules it is compared with")
        ->needs(cluster);
    replay_->add_flag("--ablations", options.replay.ablations,
                      "Also with each expert left out, or put in (takes longer)");
    replay_
        ->add_option("--summary-tolerance", options.replay.summary_tolerance,
                     "Share of its usual error by which a forecast may be off before it is sent")
        ->type_name("SHARE")
        ->check(CLI::Range(0.001, 2.0))
        ->capture_default_str();
  }

  CLI::App& app() { return app_; }
  const CLI::App& app() const { return app_; }
  bool Chose(const CLI::App* command) const { return app_.got_subcommand(command); }

  CLI::App* run_;
  CLI::App* ps_;
  CLI::App* check_;
  CLI::App* migrate_;
  CLI::App* checkpoint_;
  CLI::App* restore_;
  CLI::App* cancel_;
  CLI::App* resolve_;
  CLI::App* stop_;
  CLI::App* logs_;
  CLI::App* events_;
  CLI::App* ghost_;
  CLI::App* failover_;
  CLI::App* report_;
  CLI::App* forecast_;
  CLI::App* leases_;
  CLI::App* why_;
  CLI::App* profile_;
  CLI::App* park_;
  CLI::App* unpark_;
  CLI::App* info_;
  CLI::App* bench_;
  CLI::App* cert_;
  CLI::App* replay_;

 private:
  CLI::App* Add(const std::string& name, const std::string& about, const std::string& footer) {
    CLI::App* command = app_.add_subcommand(name, about);
    command->footer(footer);
    return command;
  }

  CLI::App app_;
};

// What the parser does not check: arguments that depend on one another. Empty when all is well.
std::string Complete(const Parser& parser, Options& options,
                     const std::vector<std::string>& command, bool separated) {
  if (parser.Chose(parser.run_)) {
    if (command.empty()) return "say after -- what to run: starling run NAME -- COMMAND...";
    v1::ComponentSpec& spec = options.spec;
    spec.set_name(options.name);
    spec.add_command(FindProgram(command[0]));
    for (size_t i = 1; i < command.size(); ++i) spec.add_command(command[i]);
    if (!options.memory.empty()) spec.set_memory_bytes(*ParseBytes(options.memory));
    if (!options.io_max.empty()) spec.set_io_max_bytes_per_s(*ParseBytes(options.io_max));
    for (const std::string& path : options.shared) spec.add_shared(path);
    for (const std::string& path : options.ship) spec.add_ship(path);
    for (const std::string& entry : options.environment) spec.add_environment(entry);
    spec.set_application(options.application);
    spec.set_priority(options.priority);
    spec.set_bears_blackout_s(options.bears_blackout_ms / 1000);
    for (const std::string& name : options.near) spec.add_near(name);
    for (const std::string& name : options.apart) spec.add_apart(name);
    for (const std::string& host : options.prefers) spec.add_prefers(host);
    spec.set_probe(options.probe);
    spec.set_probe_timeout_s(options.probe_timeout_s);
    return std::string(CheckSpec(spec).message());
  }
  // The parser's ranges let not-a-number through.
  for (const double value :
       {options.probe_timeout_s, options.max_blackout_ms, options.bears_blackout_ms,
        options.grace_s, options.every_s, options.ghost_every_s, options.checkpoint_every_s}) {
    if (!std::isfinite(value)) return "a number is needed, not 'nan'";
  }
  if (separated) return "only `starling run` takes a command after --";
  for (const CLI::App* command : {parser.migrate_, parser.stop_}) {
    if (!parser.Chose(command) || !options.name.empty() || !options.application.empty()) continue;
    return absl::StrCat("say which component: starling ", command->get_name(),
                        " NAME, or --application APP");
  }
  if (parser.Chose(parser.ghost_)) {
    const bool list = options.ghost_what == "list";
    if (!list && (options.name.empty() || options.on.empty())) {
      return absl::StrCat("say which component and which host: starling ghost ", options.ghost_what,
                          " NAME --on HOST");
    }
    const bool made = options.cold || options.warm || !options.rate.empty() ||
                      options.ghost_every_s > 0 || options.checkpoint_every_s > 0;
    if (options.ghost_what != "add" && made)
      return "only `starling ghost add` says what it is to be";
  }
  if (parser.Chose(parser.profile_)) {
    const ProfileOptions& profile = options.profile;
    if ((profile.what == "list") != profile.name.empty()) {
      return profile.what == "list"
                 ? "`starling profile list` names all; `show NAME` shows one"
                 : absl::StrCat("say whose: starling profile ", profile.what, " NAME",
                                profile.what == "calendar" ? " FILE" : "");
    }
    if ((profile.what == "consent") != (options.consent_on || options.consent_off)) {
      return profile.what == "consent" ? "say --on or --off: whether the user agrees to a profile"
                                       : "only `starling profile consent` takes --on or --off";
    }
    if ((profile.what == "calendar") != !profile.file.empty()) {
      return profile.what == "calendar"
                 ? "say which file: starling profile calendar NAME FILE"
                 : "only `starling profile calendar` takes a file after the name";
    }
    if (profile.what != "export" && !profile.out.empty()) {
      return "only `starling profile export` writes to a file";
    }
  }
  if (parser.Chose(parser.cert_)) {
    const bool host = options.cert_what == "host";
    if (host && options.cert.host.empty()) return "say which host: starling cert host NAME";
    if (!host && (!options.cert.host.empty() || !options.cert.addresses.empty() ||
                  !options.cert.authority.empty())) {
      return "an authority has no name, address or authority of its own";
    }
  }
  if (parser.Chose(parser.resolve_) && !options.here && !options.there) {
    return "say --here or --there; `starling resolve --help` says what each risks";
  }
  return "";
}

// The parser's complaint, as ours read.
std::string UsageWords(const Parser& parser, const CLI::ParseError& error,
                       const std::vector<std::string>& arguments) {
  const auto chosen = parser.app().get_subcommands();
  if (!chosen.empty()) {
    return absl::StrCat(error.what(), "; see `starling ", chosen.front()->get_name(), " --help`");
  }
  std::string what = "say what to do";
  for (size_t i = 0; i < arguments.size(); ++i) {
    if (arguments[i] == "--socket") {
      ++i;
    } else if (!absl::StartsWith(arguments[i], "-")) {
      what = absl::StrCat("'", arguments[i], "' is not a command");
      break;
    } else if (!absl::StartsWith(arguments[i], "--socket=")) {
      what = error.what();
      break;
    }
  }
  return absl::StrCat(what, "; see `starling --help`");
}

ExitCode Execute(const Parser& parser, const Options& options, Session& session) {
  const Format format = options.json ? Format::kJson : Format::kText;
  if (parser.Chose(parser.run_)) return Run(session, options.spec);
  if (parser.Chose(parser.ps_)) {
    return Ps(session,
              options.names  ? PsForm::kNames
              : options.json ? PsForm::kJson
                             : PsForm::kTable,
              options.application);
  }
  if (parser.Chose(parser.check_)) {
    v1::CheckRequest check;
    check.set_name(options.name);
    check.set_to(options.to);
    check.set_transport(options.transport);
    return Check(session, check, format);
  }
  if (parser.Chose(parser.migrate_)) {
    MigrateOptions migrate;
    migrate.request.set_name(options.name);
    migrate.request.set_to(options.to);
    migrate.request.set_transport(options.transport);
    migrate.request.set_probe(options.probe);
    migrate.request.set_probe_timeout_s(options.probe_timeout_s);
    migrate.request.set_max_blackout_s(options.max_blackout_ms / 1000);
    migrate.request.set_max_rounds(options.max_rounds);
    migrate.request.set_eager(options.eager);
    migrate.request.set_auto_converge(options.auto_converge);
    migrate.request.set_only_if_fits(options.only_if_fits);
    migrate.request.set_verify(options.verify);
    migrate.request.set_post_copy(options.post_copy);
    migrate.request.set_park(options.park);
    if (!options.max_rate.empty()) {
      migrate.request.set_max_rate_bytes_per_s(static_cast<double>(*ParseBytes(options.max_rate)));
    }
    migrate.format = format;
    migrate.quiet = options.quiet;
    return options.application.empty() ? Migrate(session, migrate)
                                       : MigrateApplication(session, options.application, migrate);
  }
  if (parser.Chose(parser.checkpoint_)) {
    CheckpointOptions checkpoint;
    checkpoint.request.set_name(options.name);
    checkpoint.request.set_folder(Absolute(options.folder));
    checkpoint.request.set_keep(static_cast<uint32_t>(options.keep));
    checkpoint.request.set_key_file(Absolute(options.key_file));
    checkpoint.every_s = options.every_s;
    checkpoint.format = format;
    return Checkpoint(session, checkpoint);
  }
  if (parser.Chose(parser.restore_)) {
    v1::RestoreCheckpointRequest restore;
    restore.set_folder(Absolute(options.folder));
    restore.set_number(options.number);
    restore.set_name(options.name);
    restore.set_key_file(Absolute(options.key_file));
    restore.set_original_gone(options.original_gone);
    return Restore(session, restore, format);
  }
  if (parser.Chose(parser.cancel_)) return Cancel(session, options.name);
  if (parser.Chose(parser.resolve_)) {
    ResolveOptions resolve;
    resolve.request.set_name(options.name);
    resolve.request.set_side(options.here ? v1::ResolveRequest::HERE : v1::ResolveRequest::THERE);
    resolve.yes = options.yes;
    return Resolve(session, resolve);
  }
  if (parser.Chose(parser.stop_)) {
    v1::StopRequest stop;
    stop.set_name(options.name);
    stop.set_grace_s(options.grace_s);
    return options.application.empty() ? Stop(session, stop)
                                       : StopApplication(session, options.application, stop);
  }
  if (parser.Chose(parser.logs_)) {
    v1::LogsRequest logs;
    logs.set_name(options.name);
    logs.set_follow(options.follow);
    if (!options.tail.empty()) logs.set_tail_bytes(*ParseBytes(options.tail));
    return Logs(session, logs);
  }
  if (parser.Chose(parser.events_)) {
    v1::EventsRequest events;
    events.set_name(options.name);
    events.set_follow(options.follow);
    events.set_after(options.after);
    return Events(session, events, format);
  }
  if (parser.Chose(parser.forecast_)) {
    v1::ForecastRequest forecast;
    forecast.set_name(options.name);
    forecast.set_pool(options.pool);
    forecast.set_experts(options.experts);
    return Forecast(session, forecast, format);
  }
  if (parser.Chose(parser.leases_)) return Leases(session, format);
  if (parser.Chose(parser.why_)) {
    v1::WhyRequest why;
    why.set_name(options.name);
    why.set_last(static_cast<uint32_t>(options.last));
    why.set_replay(options.again);
    return Why(session, why, format);
  }
  if (parser.Chose(parser.profile_)) {
    ProfileOptions profile = options.profile;
    profile.consent = options.consent_on;
    profile.format = format;
    return Profile(session, profile);
  }
  if (parser.Chose(parser.park_)) return Park(session, options.name);
  if (parser.Chose(parser.unpark_)) return Unpark(session, options.name);
  if (parser.Chose(parser.ghost_)) {
    GhostOptions ghost;
    ghost.what = options.ghost_what;
    ghost.wish.set_component(options.name);
    ghost.wish.set_on(options.on);
    ghost.wish.set_warm(!options.cold);
    if (!options.rate.empty()) {
      ghost.wish.set_rate_bytes_per_s(static_cast<double>(*ParseBytes(options.rate)));
    }
    ghost.wish.set_every_s(options.ghost_every_s);
    ghost.wish.set_checkpoint_every_s(options.checkpoint_every_s);
    ghost.format = format;
    return Ghost(session, ghost);
  }
  if (parser.Chose(parser.failover_)) {
    v1::FailoverRequest failover;
    failover.set_component(options.name);
    failover.set_fenced(options.fenced);
    failover.set_probe(options.probe);
    failover.set_probe_timeout_s(options.probe_timeout_s);
    return Failover(session, failover, format);
  }
  if (parser.Chose(parser.report_)) return Report(session, options.name, format);
  if (parser.Chose(parser.bench_)) {
    BenchOptions bench = options.bench;
    bench.to = options.to;
    bench.tools = !options.no_tools;
    bench.format = format;
    return Bench(session, bench);
  }
  return Info(session, options.peers  ? InfoForm::kPeers
                       : options.json ? InfoForm::kJson
                                      : InfoForm::kText);
}

}  // namespace

int RunCli(const std::vector<std::string>& arguments, Io& io, Interrupter& interrupter) {
  // What follows the first "--" is the component's, word for word: no parser sees it.
  const auto separator = std::find(arguments.begin(), arguments.end(), "--");
  std::vector<std::string> own(arguments.begin(), separator);
  const bool separated = separator != arguments.end();
  const std::vector<std::string> command(separated ? separator + 1 : separator, arguments.end());

  Options options;
  Parser parser(options);
  try {
    std::reverse(own.begin(), own.end());  // as CLI11 takes them
    parser.app().parse(own);
  } catch (const CLI::ParseError& error) {
    // --help and --version arrive here too.
    if (error.get_exit_code() == 0) return parser.app().exit(error, io.out, io.err);
    return static_cast<int>(Fail(io, ExitCode::kUsage, UsageWords(parser, error, arguments)));
  }
  if (const std::string wrong = Complete(parser, options, command, separated); !wrong.empty()) {
    return static_cast<int>(Fail(io, ExitCode::kUsage, wrong));
  }
  if (parser.Chose(parser.replay_)) {
    if (!options.decisions.empty()) {
      const absl::Status same = replay::ReplayDecisions(options.decisions, io.out);
      return static_cast<int>(same.ok() ? ExitCode::kOk
                                        : Fail(io, ExitCode::kFailed, std::string(same.message())));
    }
    options.cluster_replay.traces = options.replay.traces;
    options.cluster_replay.out = options.replay.out;
    options.cluster_replay.half = options.replay.half;
    const absl::Status replayed = options.cluster
                                      ? replay::ReplayCluster(options.cluster_replay, io.out)
                                      : replay::Replay(options.replay, io.out);
    if (!replayed.ok()) {
      return static_cast<int>(Fail(io, ExitCode::kFailed, std::string(replayed.message())));
    }
    return static_cast<int>(ExitCode::kOk);
  }
  if (parser.Chose(parser.cert_)) return static_cast<int>(Cert(io, options.cert));
  ConnectFailure failure;
  const auto agent = Agent::Connect(options.socket, &failure);
  if (agent == nullptr) return static_cast<int>(Fail(io, failure.code, failure.message));
  Session session{*agent, io, interrupter};
  return static_cast<int>(Execute(parser, options, session));
}

}  // namespace starling::cli
