#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "base/clock.h"
#include "base/units.h"
#include "runtime/security/roles.h"

namespace starling {

// A host that this agent may send components to and take them from.
struct PeerConfig {
  std::string name;     // as its own configuration's `host` says
  std::string address;  // "ADDR:PORT" of its [control] listen
};

// The agent's configuration: one TOML file, read once at start. docs/configuration.md and
// packaging/starlingd.toml document the same keys; a test compares the three. Value type.
struct Config {
  // This host's name among its peers. Default: the kernel's host name.
  std::string host;
  // The journal, and what must survive a reboot. Absolute. One agent per folder.
  std::string state_dir = "/var/lib/starling";
  // Sockets, components' run folders, CRIU's images: meant to be a tmpfs, because images written to
  // disk lengthen the blackout. Absolute, at most kMaxRunDir bytes.
  std::string run_dir = "/run/starling";
  // Components' standard output. Absolute.
  std::string log_dir = "/var/log/starling";
  // Its members may speak to the agent's socket beside root. Empty: root only.
  std::string socket_group = "starling";
  // trace, debug, info, warn, error or off. debug costs time inside the blackout.
  std::string log_level = "info";

  struct Control {
    // ADDR:PORT on which other agents reach this one. Default: loopback, so that an agent that
    // nobody configured is not reachable from outside.
    std::string listen = "127.0.0.1:7400";
  } control;

  struct Data {
    // Which transport carries memory: "verbs", "roce" or "tcp". Falling back silently is forbidden,
    // so there is no "auto".
    std::string provider = "verbs";
    // Further ones that this agent opens, for `migrate --transport` and for peers that use them.
    std::vector<std::string> offer;
    // "on": pages are sealed with AES-256-GCM on their way; both hosts have to say the same. Needs
    // certificates: without them nothing is sealed.
    std::string encryption = "on";
    // RDMA device, as in ibv_devices. Empty: the first one with an active port.
    std::string device;
    // ADDR:PORT on which the target's fabric listens: an address of the RDMA device's port.
    std::string listen = "127.0.0.1:7401";
    // Queue pairs of one migration, 1 to 16: one does not fill a link because its completions are
    // handled in turn.
    int queue_pairs = 2;
    // Size of one registered slab, 64 KiB to 8 MiB, a multiple of 4 KiB: the largest single WRITE.
    uint64_t slab_bytes = 512 * kKiB;
    // Slabs in the pool, 2 to 4096: at least twice what is in flight at once.
    int slabs = 16;
    // "auto": batches are compressed where the link is the bottleneck and not the processor, as
    // sampled; or "off".
    std::string compression = "auto";
  } data;

  // Of the transport "verbs".
  struct Verbs {
    // Partition key, which the port's table has to have; 0: that of the port's address.
    int partition = 0;
    // DSCP and ECN bits of what this host sends, 0 to 255; the service level is made of it.
    int traffic_class = 0;
    // "auto": what a source is granted are memory windows where the device has them; or "off".
    std::string memory_windows = "auto";
    // Further devices that a migration's data connections are spread over, in the same order on all
    // hosts: DEVICE@ADDR:PORT, the address that this host listens on when it is a target.
    std::vector<std::string> rails;
  } verbs;

  // Of the transport "roce".
  struct Roce {
    // What it sends through, as transport/roce_port.h reads it. Needed where "roce" is used.
    std::string port;
    // Its own IPv4 address, which nobody else on that network has. Empty with a port "verbs:".
    std::string ip;
    // ADDR:PORT, of the kernel's, on which queue pairs are introduced over TCP.
    std::string listen = "127.0.0.1:7402";
    // 1024, 2048 or 4096 bytes; 0: the largest that the port carries.
    int path_mtu = 0;
    // Partition key, 1 to 65535; its highest bit says full member.
    int partition = 65535;
    // DSCP and ECN bits of every packet, 0 to 255.
    int traffic_class = 0;
  } roce;

  struct Network {
    // Interface that carries components' own addresses (macvlan). Empty: `run --ip` is refused.
    std::string parent;
  } network;

  struct Migration {
    // Rounds stop when the expected blackout is below this: 1 ms to 60 s.
    Duration max_blackout = std::chrono::milliseconds(200);
    // Rounds at most, 0 to 64: a component that writes faster than the link carries would never
    // end.
    int max_rounds = 8;
    // How written memory is found: "auto", "pagemap-scan", "soft-dirty", "hash" or
    // "criu-predump".
    std::string tracker = "auto";
    // With --post-copy: what may stay behind at the freeze, in this host's memory, until the target
    // has fetched it, 1 to 2048 MiB; the rest is sent inside the freeze.
    int post_copy_mib = 192;
    // When a target checks pages against their hashes: "landing", or once more before it commits.
    std::string verify = "landing";
    // Threads that read memory, 1 to 16; at most one for each queue pair.
    int capture_threads = 2;
    // Rounds read more slowly while the component lacks more than this share of the processor time
    // that it had before them, and waits for processors; 0 to 1, 1: no bound.
    double max_slowdown = 0.05;
    // How long the cgroup may take to freeze, 0.1 to 600 s: a task in uninterruptible sleep does
    // not freeze.
    Duration freeze_timeout = std::chrono::seconds(10);
    // Longest any single step may take, 1 to 86400 s, before the migration is called off.
    Duration step_timeout = std::chrono::seconds(120);
    // Longest a single call to a peer that moves no data may take, 0.1 to 600 s.
    Duration peer_timeout = std::chrono::seconds(10);
    // A target that hears nothing from the source for this long calls the migration off (until it
    // is asked to commit), 1 to 3600 s.
    Duration lease = std::chrono::seconds(30);
    // In doubt: pause between two questions to the target, 0.05 to 60 s.
    Duration ask_again = std::chrono::seconds(1);
    // How long a probe may run when `migrate` does not say, 0.1 to 3600 s.
    Duration probe_timeout = std::chrono::seconds(10);
    // Reports of migrations that are kept, 0 to 100000.
    int keep_reports = 100;
  } migration;

  // Starting components of hosts that died from ghosts that are kept here.
  struct Failover {
    // Absolute path of a program that makes sure that a host can do nothing any more: run with the
    // host's name as its only argument, 0 says that it is so. Empty: a person has to say it.
    std::string fence_command;
    // How long it may take, 1 to 3600 s.
    Duration fence_timeout = std::chrono::seconds(60);
    // How long a ghost with an instant is kept after its source was last heard, 1 to 2592000 s.
    Duration keep = std::chrono::hours(24);
  } failover;

  // What the agent foresees, reserves and decides by itself; docs/policy.md.
  struct Loop {
    // false: components are not sampled, nothing is foreseen or decided. Leases are granted all the
    // same.
    bool enabled = true;
    // Between two samples, and between two decisions, 0.2 to 3600 s: forecasts look 1, 6 and 12 of
    // these ahead.
    Duration period = std::chrono::seconds(1);
    // Experts that are not asked for forecasts, by name (docs/predictor.md).
    std::vector<std::string> leave_out;
    // Absolute path of the policy. Empty: the default one, which observes.
    std::string policy;
    // The longest blackout that a component bears which does not say, 1 to 600000 ms.
    Duration bears_blackout = std::chrono::seconds(2);
  } loop;

  // What this host has, where it cannot be measured or not all of it counts.
  struct Resources {
    // Folders whose file systems' space counts, beside those of what components ship. Empty:
    // state_dir and log_dir.
    std::vector<std::string> disk;
    // Interfaces whose traffic counts. Empty: those that have hardware behind them.
    std::vector<std::string> network_devices;
    // What they carry in each direction, in bytes a second; 0: what they say of their speed.
    double network_bytes_per_s = 0;
    // Block devices whose traffic counts, and that --io-max is about. Empty: as above.
    std::vector<std::string> storage_devices;
    // What they read and write together, in bytes a second; 0: not known.
    double storage_bytes_per_s = 0;
  } resources;

  // What is remembered of users and components over weeks; docs/predictor.md.
  struct Profiles {
    // What was not seen for so many days is forgotten, 1 to 3650; 0: no profiles are kept.
    int keep_days = 180;
  } profiles;

  struct Criu {
    // Absolute path of criu (3.17 or later).
    std::string binary = "/usr/sbin/criu";
  } criu;

  struct Keeper {
    // Absolute path of starling-keeper. Empty: the one beside starlingd.
    std::string binary;
  } keeper;

  // Who this host is among the agents, and who may do what. docs/security.md says what it protects.
  struct Security {
    // Absolute paths of PEM files: the authority's certificate, and this host's own with its key,
    // as `starling cert` makes them. All of them, or none.
    std::string authority;
    std::string certificate;
    std::string key;
    // Lets an agent without certificates listen beyond loopback: anybody who reaches its ports can
    // take its components.
    bool insecure = false;
    // Empty: the hosts in `peers` may do everything.
    std::vector<security::Rule> allow;

    bool has_certificates() const { return !certificate.empty(); }
  } security;

  std::vector<PeerConfig> peers;

  // Where data connections over this transport are listened for.
  const std::string& DataListen(absl::string_view provider) const {
    return provider == "roce" ? roce.listen : data.listen;
  }
  // Whether this agent opens the transport.
  bool Opens(absl::string_view provider) const;
  // The command line's socket: run_dir/starlingd.sock.
  std::string SocketPath() const { return run_dir + "/starlingd.sock"; }
  // state_dir/journal.db.
  std::string JournalPath() const { return state_dir + "/journal.db"; }
  // Where components' hints are heard: run_dir/hints.
  std::string HintsPath() const { return run_dir + "/hints"; }
  // Leases, what was learned, the log of decisions: state_dir/loop.
  std::string LoopPath() const { return state_dir + "/loop"; }
  // Who works with what, and when: state_dir/loop/profiles.db.
  std::string ProfilesPath() const { return LoopPath() + "/profiles.db"; }
  // Of components' ghosts at other hosts: state_dir/ghosts.
  std::string GhostsPath() const { return state_dir + "/ghosts"; }
  // Of migrations away from here: state_dir/reports.
  std::string ReportsPath() const { return state_dir + "/reports"; }
  // nullptr when no peer has this name. Valid while the Config is.
  const PeerConfig* FindPeer(absl::string_view name) const;
};

// Longest run_dir in bytes: a Unix socket's whole path may have 107.
inline constexpr size_t kMaxRunDir = 80;

// Reads and checks the file. Errors: kNotFound or the cause when it cannot be read;
// kInvalidArgument as "FILE:LINE: KEY: what is wrong; what is allowed" for malformed TOML, an
// unknown key, a wrong type, a value out of range, two peers of one name. The first error only.
absl::StatusOr<Config> LoadConfig(const std::string& path);

// The same for text already read; `name` stands for the file in messages.
absl::StatusOr<Config> ParseConfig(absl::string_view text, absl::string_view name);

// Every key that the parser knows, as "section.key" ("peer.name" for [[peer]]), in the order of
// packaging/starlingd.toml.
std::vector<std::string> ConfigKeys();

// One of Config::Verbs::rails.
struct VerbsRail {
  std::string device;
  std::string listen;  // ADDR:PORT
};
absl::StatusOr<VerbsRail> ParseVerbsRail(const std::string& text);

}  // namespace starling
