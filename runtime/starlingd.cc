// starlingd: the agent of one host. main() wires the parts by hand.

#include <grp.h>
#include <grpcpp/ext/proto_server_reflection_plugin.h>
#include <grpcpp/security/server_credentials.h>
#include <grpcpp/server_builder.h>
#include <pthread.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/utsname.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <set>
#include <thread>

#include "absl/strings/str_cat.h"
#include "base/file.h"
#include "base/log.h"
#include "base/status.h"
#include "runtime/agent/agent.h"
#include "runtime/agent/ghost_service.h"
#include "runtime/agent/peer_service.h"
#include "runtime/agent/starling_service.h"
#include "runtime/bench/bench_service.h"
#include "runtime/loop/loop.h"
#include "runtime/loop/loop_service.h"
#include "runtime/migration/images.h"
#include "runtime/migration/offers.h"
#include "runtime/names.h"
#include "runtime/profiles/profile_service.h"
#include "runtime/reservations/lease_desk.h"
#include "runtime/shadow/model_shelf.h"
#include "transport/roce_fabric.h"
#include "transport/tcp_fabric.h"
#include "transport/verbs_fabric.h"

namespace starling {
namespace {

constexpr auto kCriuTimeout = std::chrono::seconds(30);
constexpr auto kShutdownTimeout = std::chrono::seconds(2);
// Between two looks whether what was left behind here is fetched.
constexpr timespec kLookAgain = {0, 200'000'000};
constexpr int kMaxMessage = 64 << 20;
// A certificate that ends sooner than this is worth a word at start.
constexpr int kWarnDays = 30;

// Root and the members of one group may speak to the agent, nobody else.
absl::Status GuardSocket(const std::string& path, const std::string& group) {
  gid_t gid = 0;
  if (!group.empty()) {
    const struct group* entry = ::getgrnam(group.c_str());
    if (entry == nullptr) {
      return absl::FailedPreconditionError(
          absl::StrCat("there is no group '", group, "': make it (groupadd --system ", group,
                       ") or set socket_group to another or to \"\""));
    }
    gid = entry->gr_gid;
  }
  if (::chown(path.c_str(), 0, gid) != 0) return ErrnoStatus(absl::StrCat("chown ", path));
  if (::chmod(path.c_str(), group.empty() ? 0600 : 0660) != 0)
    return ErrnoStatus(absl::StrCat("chmod ", path));
  return absl::OkStatus();
}

absl::StatusOr<std::unique_ptr<transport::Fabric>> OpenVerbsDevice(const std::string& device,
                                                                   const Config& config) {
  return transport::OpenVerbs({.device = device,
                               .partition = static_cast<uint16_t>(config.verbs.partition),
                               .traffic_class = static_cast<uint8_t>(config.verbs.traffic_class),
                               .windows = config.verbs.memory_windows == "auto"});
}

absl::StatusOr<std::unique_ptr<transport::Fabric>> OpenFabric(const std::string& provider,
                                                              const Config& config) {
  if (provider == "tcp") return transport::OpenTcp();
  if (provider == "roce") {
    return transport::OpenRoce({.port = config.roce.port,
                                .ip = config.roce.ip,
                                .path_mtu = static_cast<uint32_t>(config.roce.path_mtu),
                                .partition = static_cast<uint16_t>(config.roce.partition),
                                .traffic_class = static_cast<uint8_t>(config.roce.traffic_class)});
  }
  return OpenVerbsDevice(config.data.device, config);
}

// Without profiles the agent does all else.
absl::StatusOr<std::unique_ptr<ProfileKeeper>> OpenProfiles(const Config& config) {
  if (config.profiles.keep_days == 0) {
    return absl::FailedPreconditionError(
        "no profiles are kept here: profiles.keep_days is 0 in the agent's configuration");
  }
  if (!config.loop.enabled) {
    return absl::FailedPreconditionError(
        "no profiles are kept here: loop.enabled is false in the agent's configuration");
  }
  auto profiles = ProfileKeeper::Open(config.ProfilesPath(), config.profiles.keep_days);
  if (profiles.ok()) return profiles;
  const absl::Status why = absl::FailedPreconditionError(
      absl::StrCat("no profiles are kept here: ", profiles.status().message(),
                   "; mend or move the file aside and restart the agent"));
  spdlog::error("{}", std::string(why.message()));
  return why;
}

void SaySecurity(const Config& config, const agent::ControlSecurity& security) {
  if (security.insecure()) {
    spdlog::warn(
        "INSECURE: other agents are not known by certificates. Whoever reaches {} or {} can take "
        "components from here and put others in their place; pages are not sealed",
        config.control.listen, config.DataListen(config.data.provider));
    return;
  }
  if (security.certificate_days_left() < kWarnDays) {
    spdlog::warn(
        "the certificate {} ends on {}, in {} days: make a new one with `starling cert host`",
        config.security.certificate, security.certificate_ends(), security.certificate_days_left());
  }
}

absl::Status Serve(const Config& config) {
  if (::geteuid() != 0) {
    return absl::PermissionDeniedError(
        "starlingd must run as root: it makes cgroups and namespaces and runs CRIU");
  }
  for (const std::string& folder : {config.state_dir, config.run_dir, config.log_dir}) {
    RETURN_IF_ERROR(MakeDirectories(folder, 0755));
  }
  if (const absl::Status mounted = migration::MountImages(config.run_dir); !mounted.ok())
    spdlog::warn("images stay on the file system of run_dir: {}", mounted.ToString());
  ASSIGN_OR_RETURN(const std::string boot_id, ReadBootId());
  ASSIGN_OR_RETURN(const std::unique_ptr<Journal> journal,
                   Journal::Open(config.JournalPath(), boot_id));

  agent::Host host{
      .config = config,
      .journal = *journal,
      .fabric = nullptr,
      .criu = checkpoint::QueryCriu(config.criu.binary, Deadline::After(kCriuTimeout))};
  if (!host.criu.ok()) spdlog::error("criu: {}", host.criu.status().ToString());
  utsname name;
  if (::uname(&name) == 0) host.kernel = name.release;
  host.version = STARLING_VERSION;

  ASSIGN_OR_RETURN(
      const std::unique_ptr<agent::ControlSecurity> security,
      agent::ControlSecurity::Load(config, [&host](absl::string_view kind, absl::string_view text) {
        spdlog::warn("refused ({}): {}", std::string(kind), std::string(text));
        (void)host.journal.AppendEvent("", "refused", absl::StrCat(kind, ": ", text));
      }));
  host.security = security.get();
  SaySecurity(config, *security);

  // Without a device the agent still runs components; what cannot be done says why.
  std::vector<std::unique_ptr<transport::Fabric>> fabrics;
  std::set<std::string> providers(config.data.offer.begin(), config.data.offer.end());
  providers.insert(config.data.provider);
  for (const std::string& provider : providers) {
    absl::StatusOr<std::unique_ptr<transport::Fabric>> fabric = OpenFabric(provider, config);
    if (fabric.ok()) {
      host.fabrics[provider] = fabrics.emplace_back(*std::move(fabric)).get();
      if (provider == config.data.provider) host.fabric = host.fabrics[provider];
      continue;
    }
    host.closed_fabrics[provider] = fabric.status();
    spdlog::error("{}: {}", provider, fabric.status().ToString());
  }

  if (host.fabrics.contains("verbs")) {
    for (const std::string& text : config.verbs.rails) {
      ASSIGN_OR_RETURN(const VerbsRail rail, ParseVerbsRail(text));
      agent::Rail& made = host.rails["verbs"].emplace_back();
      made.listen = rail.listen;
      absl::StatusOr<std::unique_ptr<transport::Fabric>> fabric =
          OpenVerbsDevice(rail.device, config);
      if (fabric.ok()) {
        made.fabric = fabrics.emplace_back(*std::move(fabric)).get();
      } else {
        spdlog::error("rail {}: {}", text, fabric.status().ToString());
      }
    }
  }

  agent::Agent* agent_of_exits = nullptr;
  agent::ComponentTable components(
      [&agent_of_exits](const std::shared_ptr<agent::Copy>& copy,
                        const absl::StatusOr<keeper::v1::Status>& status) {
        agent_of_exits->OnExit(copy, status);
      });
  host.components = &components;
  migration::BlackoutHistory blackouts;
  host.blackouts = &blackouts;
  migration::Offers offers([&host](const std::string& target, absl::string_view what) {
    spdlog::debug("host {}: {}", target, std::string(what));
    host.security->refusals().Add("stream", absl::StrCat("a question of host ", target));
  });
  host.offers = &offers;
  ASSIGN_OR_RETURN(
      const std::unique_ptr<reservations::LeaseDesk> leases,
      reservations::LeaseDesk::Open(config.host, config.LoopPath(), boot_id, Clock::now()));
  host.leases = leases.get();
  ASSIGN_OR_RETURN(const std::unique_ptr<shadow::ModelShelf> shelf,
                   shadow::ModelShelf::Open(config.LoopPath() + "/models"));
  host.shelf = shelf.get();
  migration::Targets targets(host);
  agent::Agent agent(host, targets);
  agent_of_exits = &agent;
  const absl::StatusOr<std::unique_ptr<ProfileKeeper>> profiles = OpenProfiles(config);
  loop::Loop loop(agent, *leases, *shelf, profiles.ok() ? profiles->get() : nullptr);
  host.reported = [&loop](const v1::MigrationReport& report) { loop.Reported(report); };
  host.parked = [&loop](const std::string& name) { return loop.Parked(name); };
  host.wake = [&loop](const std::string& name) { return loop.Wake(name); };
  host.sent_to_rest = [&loop](const std::string& name, const std::string& from) {
    loop.SentToRest(name, from);
  };
  RETURN_IF_ERROR(targets.Recover());
  RETURN_IF_ERROR(agent.Recover());
  RETURN_IF_ERROR(loop.Start());
  if (profiles.ok()) (*profiles)->Start();
  bench::Grants bench_grants(host);
  RETURN_IF_ERROR(targets.Start([&](const std::string& provider, auto& incoming) {
    return offers.Take(provider, incoming) || bench_grants.Take(provider, incoming);
  }));

  agent::StarlingService local(agent);
  agent::PeerService peers(agent, targets);
  agent::GhostService ghosts(agent);
  agent::GhostPeerService ghost_peers(agent, targets);
  bench::BenchService bench(agent);
  bench::BenchPeerService bench_peers(host, bench_grants);
  loop::LoopService loop_local(loop);
  loop::LoopPeerService loop_peers(host, loop, *leases);
  ProfileService profile_service(
      config.host, config.profiles.keep_days,
      profiles.ok() ? absl::StatusOr<ProfileKeeper*>(profiles->get()) : profiles.status());
  grpc::ServerBuilder local_builder;
  const std::string socket = config.SocketPath();
  // Nobody may connect before the rights are set.
  const mode_t mask = ::umask(0177);
  local_builder.AddListeningPort(absl::StrCat("unix:", socket), grpc::InsecureServerCredentials());
  local_builder.RegisterService(&local);
  local_builder.RegisterService(&ghosts);
  local_builder.RegisterService(&bench);
  local_builder.RegisterService(&loop_local);
  local_builder.RegisterService(&profile_service);
  const std::unique_ptr<grpc::Server> local_server = local_builder.BuildAndStart();
  ::umask(mask);
  if (local_server == nullptr)
    return absl::UnavailableError(absl::StrCat("cannot listen on ", socket));
  RETURN_IF_ERROR(GuardSocket(socket, config.socket_group));

  int port = 0;
  grpc::ServerBuilder peer_builder;
  peer_builder.AddChannelArgument(GRPC_ARG_ALLOW_REUSEPORT, 0);
  peer_builder.SetMaxReceiveMessageSize(kMaxMessage);
  peer_builder.AddListeningPort(config.control.listen, security->server(), &port);
  peer_builder.RegisterService(&peers);
  peer_builder.RegisterService(&ghost_peers);
  peer_builder.RegisterService(&bench_peers);
  peer_builder.RegisterService(&loop_peers);
  const std::unique_ptr<grpc::Server> peer_server = peer_builder.BuildAndStart();
  if (peer_server == nullptr || port == 0) {
    return absl::UnavailableError(
        absl::StrCat("cannot listen on ", config.control.listen,
                     " (control.listen): is the address this host's, and the port free?"));
  }
  spdlog::info("starlingd {} of host {} is ready: control {}, data {} over {}", host.version,
               config.host, config.control.listen, config.DataListen(config.data.provider),
               host.fabric != nullptr ? host.fabric->name() : "nothing");

  sigset_t wait_for;
  sigemptyset(&wait_for);
  sigaddset(&wait_for, SIGTERM);
  sigaddset(&wait_for, SIGINT);
  int signal_number = 0;
  sigwait(&wait_for, &signal_number);
  // Nothing new is begun.
  loop.Stop();
  if (profiles.ok()) {
    const absl::Status written = (*profiles)->Stop();
    if (!written.ok()) spdlog::warn("profiles are not written: {}", written.ToString());
  }
  if (agent.Draining()) {
    spdlog::info(
        "going down on signal {} once all that components left behind here is fetched; another "
        "signal ends the agent at once, and those components with it",
        signal_number);
    while (agent.Draining() && sigtimedwait(&wait_for, nullptr, &kLookAgain) < 0) {
    }
  }
  spdlog::info("going down on signal {}; components run on", signal_number);
  local.Stop();
  agent.Detach();
  const auto deadline = std::chrono::system_clock::now() + kShutdownTimeout;
  peer_server->Shutdown(deadline);
  local_server->Shutdown(deadline);
  // Everything that matters is in the journal and with the keepers, as after a crash; threads that
  // wait for a peer or for CRIU are not waited for.
  spdlog::shutdown();
  ::_exit(0);
}

}  // namespace
}  // namespace starling

int main(int argc, char** argv) {
  CLI::App app{
      "starlingd: the agent of one host. It runs components, moves them to other hosts and takes "
      "theirs."};
  std::string config_path = "/etc/starling/starlingd.toml";
  bool check = false;
  bool insecure = false;
  app.add_option("--config", config_path, "Configuration file; docs/configuration.md has every key")
      ->capture_default_str();
  app.add_flag("--check-config", check, "Read the configuration, say whether it is right, and end");
  app.add_flag("--insecure", insecure,
               "As security.insecure = true: listen beyond loopback without certificates");
  app.set_version_flag("--version", std::string("starlingd " STARLING_VERSION));
  CLI11_PARSE(app, argc, argv);

  absl::StatusOr<starling::Config> config = starling::LoadConfig(config_path);
  if (!config.ok()) {
    std::fprintf(stderr, "starlingd: %s\n", std::string(config.status().message()).c_str());
    return 2;
  }
  if (insecure && config->security.has_certificates()) {
    std::fprintf(stderr, "starlingd: --insecure beside the certificates of %s: choose one\n",
                 config_path.c_str());
    return 2;
  }
  if (insecure) config->security.insecure = true;
  if (check) {
    std::printf("%s is right\n", config_path.c_str());
    return 0;
  }
  spdlog::set_level(spdlog::level::from_str(config->log_level));
  spdlog::set_pattern("%Y-%m-%dT%H:%M:%S.%e %l %v");
  spdlog::flush_on(spdlog::level::info);

  // Before any thread exists, so that all of them leave the signals to sigwait().
  sigset_t blocked;
  sigemptyset(&blocked);
  sigaddset(&blocked, SIGTERM);
  sigaddset(&blocked, SIGINT);
  pthread_sigmask(SIG_BLOCK, &blocked, nullptr);
  ::signal(SIGPIPE, SIG_IGN);

  starling::agent::ControlSecurity::Prepare();
  const absl::Status status = starling::Serve(*config);
  if (!status.ok()) {
    std::fprintf(stderr, "starlingd: %s\n", std::string(status.message()).c_str());
    std::fflush(stderr);
    spdlog::shutdown();
    // Threads of parts that were made already are not worth waiting for.
    ::_exit(1);
  }
  return 0;
}
