// starling-witness: the client and observer outside the machines between which a component moves.

#include <signal.h>

#include <CLI/CLI.hpp>
#include <cmath>
#include <fstream>
#include <iostream>
#include <memory>
#include <string>

#include "tools/witness/protocol.h"
#include "tools/witness/report.h"
#include "tools/witness/run.h"
#include "tools/witness/values.h"

namespace {

using namespace starling::witness;  // NOLINT(build/namespaces): this file only wires them together

constexpr int kFlawless = 0;
constexpr int kCannotStart = 1;
constexpr int kFlawed = 2;

volatile sig_atomic_t g_stop = 0;

// SIGTERM and SIGINT stay blocked except while waiting, so none is missed. Returns the mask to wait
// with.
sigset_t CatchStopSignals() {
  struct sigaction action = {};
  action.sa_handler = [](int) { g_stop = 1; };
  sigset_t stops;
  sigset_t while_waiting;
  sigemptyset(&stops);
  for (const int signal_number : {SIGTERM, SIGINT}) {
    sigaction(signal_number, &action, nullptr);
    sigaddset(&stops, signal_number);
  }
  sigprocmask(SIG_BLOCK, &stops, &while_waiting);
  return while_waiting;
}

std::unique_ptr<Protocol> MakeProtocol(const std::string& name, const std::string& host) {
  if (name == "memcached") return MakeMemcached();
  if (name == "http") return MakeHttp(host);
  return MakeRedis();
}

int Fail(const absl::Status& status) {
  std::cerr << "starling-witness: " << status.message() << "\n";
  return kCannotStart;
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app(
      "Watches a server from outside: keeps one connection open, writes numbered values and reads\n"
      "random ones back at a fixed pace, receives heartbeats, and tells what was lost, wrong, "
      "broken\n"
      "or late. Ends after --duration, on SIGTERM, or when --stop-file appears; then reads "
      "everything\n"
      "back. Exit code: 0 flawless, 1 could not start, 2 something was lost, wrong, broken, "
      "refused,\n"
      "or a heartbeat came twice.");
  Options options;
  std::string protocol_name = "redis";
  std::string connect;
  std::string json_file;
  std::string site;
  double preload_mib = 0;
  bool wait_ready = false;
  app.add_option("--connect", connect,
                 "IP:PORT of the server; without it only heartbeats are watched");
  app.add_option("--protocol", protocol_name, "What the server speaks")
      ->check(CLI::IsMember({"redis", "memcached", "http"}))
      ->capture_default_str();
  app.add_option("--heartbeat-port", options.heartbeat_port, "UDP port on which heartbeats come");
  app.add_option("--rate", options.rate_per_s,
                 "Requests per second, sent at times fixed in advance")
      ->check(CLI::Range(0.1, 1e6))
      ->capture_default_str();
  app.add_option("--read-share", options.read_share, "Share of the requests that read")
      ->check(CLI::Range(0.0, 1.0))
      ->capture_default_str();
  app.add_option("--duration", options.duration_s, "Seconds to measure; 0: until stopped")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  app.add_option("--warmup", options.warmup_s, "Seconds of load before measuring starts")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  app.add_option("--seed", options.seed, "Equal seeds give equal keys and values")
      ->capture_default_str();
  app.add_option("--keys", options.keys, "Number of keys (with --preload-mib: what fills it)")
      ->check(CLI::Range(1u, 1u << 30))
      ->capture_default_str();
  app.add_option("--value-size", options.value_bytes, "Bytes in a value")
      ->check(CLI::Range(kSmallestValue, size_t{64} << 20))
      ->capture_default_str();
  app.add_option("--preload-mib", preload_mib, "MiB of incompressible values to write first")
      ->check(CLI::NonNegativeNumber);
  app.add_option("--ready-timeout", options.ready_timeout_s,
                 "Seconds to connect and to get a heartbeat")
      ->capture_default_str();
  app.add_option("--drain-timeout", options.drain_timeout_s,
                 "Seconds to wait for late answers at the end")
      ->capture_default_str();
  app.add_option("--stop-file", options.stop_file, "Stop when this file exists");
  app.add_option("--events", options.events_file,
                 "Lines of \"SECONDS NAME\" (monotonic clock), read at the end: for each, how long "
                 "until the\n99th percentile of reply times was back within twice of before");
  app.add_option("--json", json_file, "Write the report there as JSON");
  app.add_flag("--wait-ready", wait_ready, "Print a line \"ready\" when measuring starts");
  app.add_option(
      "--make-site", site,
      "Only write the files for --protocol http (by --seed, --keys, --value-size) there");
  CLI11_PARSE(app, argc, argv);

  if (!site.empty()) {
    const absl::Status written = WriteSite(site, options);
    return written.ok() ? kFlawless : Fail(written);
  }
  std::string host;
  if (!connect.empty()) {
    absl::StatusOr<Endpoint> server = Endpoint::Parse(connect);
    if (!server.ok()) return Fail(server.status());
    options.server = *server;
    host = server->ToString();
  } else if (options.heartbeat_port == 0) {
    return Fail(
        absl::InvalidArgumentError("nothing to watch: give --connect, --heartbeat-port or both"));
  }
  if (preload_mib > 0) {
    options.preload = true;
    const double bytes = preload_mib * (1 << 20);
    options.keys =
        static_cast<uint32_t>(std::ceil(bytes / static_cast<double>(options.value_bytes)));
  }

  const sigset_t wait_mask = CatchStopSignals();
  const std::unique_ptr<Protocol> protocol = MakeProtocol(protocol_name, host);
  const absl::StatusOr<Result> result = Run(options, *protocol, &g_stop, wait_mask, [wait_ready] {
    if (wait_ready) std::cout << "ready" << std::endl;
  });
  if (!result.ok()) return Fail(result.status());

  std::cout << ToText(*result) << std::flush;
  if (!json_file.empty()) {
    std::ofstream file(json_file);
    file << ToJson(*result);
    file.close();
    if (!file) return Fail(absl::UnavailableError("cannot write " + json_file));
  }
  return result->Flawless() ? kFlawless : kFlawed;
}
