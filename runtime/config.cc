#include "runtime/config.h"

#include <errno.h>
#include <toml++/toml.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <set>

#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/file.h"
#include "base/status.h"
#include "runtime/names.h"
#include "runtime/toml_keys.h"
#include "transport/roce_port.h"

namespace starling {
namespace {

absl::Status CheckFolder(const std::string& text) { return CheckAbsolutePath(text); }

absl::Status CheckRunDir(const std::string& text) {
  RETURN_IF_ERROR(CheckAbsolutePath(text));
  if (text.size() <= kMaxRunDir) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("is ", text.size(), " bytes long"));
}

absl::Status CheckWord(const std::string& text, size_t most, absl::string_view also) {
  for (const char c : text) {
    if (!absl::ascii_isalnum(c) && also.find(c) == absl::string_view::npos) {
      return absl::InvalidArgumentError(
          absl::StrCat("is \"", absl::CHexEscape(text.substr(0, 64)), "\""));
    }
  }
  if (text.size() > most) return absl::InvalidArgumentError("is too long");
  return absl::OkStatus();
}

// The name of a folder of sysfs.
absl::Status CheckDevice(const std::string& text) {
  if (text.empty() || text[0] == '.') {
    return absl::InvalidArgumentError(
        absl::StrCat("has \"", absl::CHexEscape(text.substr(0, 64)), "\", which names no device"));
  }
  return CheckWord(text, 63, "_-.!");
}

// A function that names a member, for the tables below.
#define MEMBER(path) \
  [](Config & config) -> auto& { return config.path; }

// In the order of packaging/starlingd.toml.
const std::vector<TomlKey<Config>>& Keys() {
  static const auto& keys = *new std::vector<TomlKey<Config>>{
      TextKey<Config>("", "host", "a host name", MEMBER(host),
                      [](const std::string& text) { return CheckHostName(text); }),
      TextKey<Config>("", "state_dir", "an absolute path", MEMBER(state_dir), CheckFolder),
      TextKey<Config>("", "run_dir",
                      absl::StrCat("an absolute path of at most ", kMaxRunDir, " bytes"),
                      MEMBER(run_dir), CheckRunDir),
      TextKey<Config>("", "log_dir", "an absolute path", MEMBER(log_dir), CheckFolder),
      TextKey<Config>("", "socket_group", "the name of a group, or \"\" for root only",
                      MEMBER(socket_group),
                      [](const std::string& text) { return CheckWord(text, 32, "_-."); }),
      OneOfKey<Config>("", "log_level", MEMBER(log_level),
                       {"trace", "debug", "info", "warn", "error", "off"}),
      TextKey<Config>("control", "listen", "ADDR:PORT", MEMBER(control.listen),
                      [](const std::string& text) { return ParseEndpoint(text).status(); }),
      OneOfKey<Config>("data", "provider", MEMBER(data.provider), {"verbs", "roce", "tcp"}),
      WordsKey<Config>("data", "offer", MEMBER(data.offer), {"verbs", "roce", "tcp"}),
      OneOfKey<Config>("data", "encryption", MEMBER(data.encryption), {"on", "off"}),
      TextKey<Config>("data", "device", "an RDMA device's name, or \"\" for the first active one",
                      MEMBER(data.device),
                      [](const std::string& text) { return CheckWord(text, 63, "_-."); }),
      TextKey<Config>("data", "listen", "ADDR:PORT", MEMBER(data.listen),
                      [](const std::string& text) { return ParseEndpoint(text).status(); }),
      IntegerKey<Config>("data", "queue_pairs", MEMBER(data.queue_pairs), 1, 16),
      IntegerKey<Config>("data", "slab_kib", MEMBER(data.slab_bytes), 64, 8192, 4, kKiB),
      IntegerKey<Config>("data", "slabs", MEMBER(data.slabs), 2, 4096),
      OneOfKey<Config>("data", "compression", MEMBER(data.compression), {"auto", "off"}),
      IntegerKey<Config>("verbs", "partition", MEMBER(verbs.partition), 0, 65535),
      IntegerKey<Config>("verbs", "traffic_class", MEMBER(verbs.traffic_class), 0, 255),
      OneOfKey<Config>("verbs", "memory_windows", MEMBER(verbs.memory_windows), {"auto", "off"}),
      TextsKey<Config>("verbs", "rails", "DEVICE@ADDR:PORT", MEMBER(verbs.rails),
                       [](const std::string& text) { return ParseVerbsRail(text).status(); }),
      TextKey<Config>("roce", "port", "a port, or \"\" for none", MEMBER(roce.port),
                      [](const std::string& text) {
                        return text.empty() ? absl::OkStatus()
                                            : transport::ParseRocePort(text).status();
                      }),
      TextKey<Config>("roce", "ip", "an IPv4 address, or \"\" for none", MEMBER(roce.ip),
                      [](const std::string& text) {
                        return text.empty() ? absl::OkStatus() : CheckHostAddress(text);
                      }),
      TextKey<Config>("roce", "listen", "ADDR:PORT", MEMBER(roce.listen),
                      [](const std::string& text) { return ParseEndpoint(text).status(); }),
      IntegerKey<Config>("roce", "path_mtu", MEMBER(roce.path_mtu), 0, 4096),
      IntegerKey<Config>("roce", "partition", MEMBER(roce.partition), 1, 65535),
      IntegerKey<Config>("roce", "traffic_class", MEMBER(roce.traffic_class), 0, 255),
      TextKey<Config>("network", "parent", "an interface's name, or \"\" for none",
                      MEMBER(network.parent),
                      [](const std::string& text) { return CheckWord(text, 15, "_-."); }),
      TimeKey<Config>("migration", "max_blackout_ms", MEMBER(migration.max_blackout), 1e-3, 1,
                      60000),
      IntegerKey<Config>("migration", "max_rounds", MEMBER(migration.max_rounds), 0, 64),
      OneOfKey<Config>("migration", "tracker", MEMBER(migration.tracker),
                       {"auto", "pagemap-scan", "soft-dirty", "hash", "criu-predump"}),
      IntegerKey<Config>("migration", "post_copy_mib", MEMBER(migration.post_copy_mib), 1, 2048),
      OneOfKey<Config>("migration", "verify", MEMBER(migration.verify), {"landing", "commit"}),
      IntegerKey<Config>("migration", "capture_threads", MEMBER(migration.capture_threads), 1, 16),
      NumberKey<Config>("migration", "max_slowdown", MEMBER(migration.max_slowdown), 0, 1),
      TimeKey<Config>("migration", "freeze_timeout_s", MEMBER(migration.freeze_timeout), 1, 0.1,
                      600),
      TimeKey<Config>("migration", "step_timeout_s", MEMBER(migration.step_timeout), 1, 1, 86400),
      TimeKey<Config>("migration", "peer_timeout_s", MEMBER(migration.peer_timeout), 1, 0.1, 600),
      TimeKey<Config>("migration", "lease_s", MEMBER(migration.lease), 1, 1, 3600),
      TimeKey<Config>("migration", "ask_again_s", MEMBER(migration.ask_again), 1, 0.05, 60),
      TimeKey<Config>("migration", "probe_timeout_s", MEMBER(migration.probe_timeout), 1, 0.1,
                      3600),
      IntegerKey<Config>("migration", "keep_reports", MEMBER(migration.keep_reports), 0, 100000),
      TextKey<Config>(
          "failover",
          "fence_command", "an absolute path, or \"\" for none", MEMBER(failover.fence_command),
          [](const std::string& text) {
            return text.empty() ? absl::OkStatus() : CheckAbsolutePath(text);
          }),
      TimeKey<Config>("failover", "fence_timeout_s", MEMBER(failover.fence_timeout), 1, 1, 3600),
      TimeKey<Config>("failover", "keep_s", MEMBER(failover.keep), 1, 1, 2592000),
      FlagKey<Config>("loop", "enabled", MEMBER(loop.enabled)),
      TimeKey<Config>("loop", "period_s", MEMBER(loop.period), 1, 0.2, 3600),
      WordsKey<Config>("loop", "leave_out", MEMBER(loop.leave_out),
                       {"smooth-05", "smooth-15", "smooth-40", "median-7", "median-25",
                        "regression", "seasonal", "seasonal-median", "seasonal-found", "trend"}),
      TextKey<Config>(
          "loop", "policy", "an absolute path, or \"\" for the default policy", MEMBER(loop.policy),
          [](const std::string& text) {
            return text.empty() ? absl::OkStatus() : CheckAbsolutePath(text);
          }),
      TimeKey<Config>("loop", "bears_blackout_ms", MEMBER(loop.bears_blackout), 1e-3, 1, 600000),
      TextsKey<Config>("resources", "disk", "absolute paths", MEMBER(resources.disk), CheckFolder),
      TextsKey<Config>("resources", "network_devices", "interfaces' names",
                       MEMBER(resources.network_devices), CheckDevice),
      NumberKey<Config>("resources", "network_mib_s", MEMBER(resources.network_bytes_per_s), 0, 1e6,
                        static_cast<double>(kMiB)),
      TextsKey<Config>("resources", "storage_devices", "block devices' names, as in /sys/block",
                       MEMBER(resources.storage_devices), CheckDevice),
      NumberKey<Config>("resources", "storage_mib_s", MEMBER(resources.storage_bytes_per_s), 0, 1e6,
                        static_cast<double>(kMiB)),
      IntegerKey<Config>("profiles", "keep_days", MEMBER(profiles.keep_days), 0, 3650),
      TextKey<Config>("criu", "binary", "an absolute path", MEMBER(criu.binary), CheckFolder),
      TextKey<Config>(
          "keeper", "binary", "an absolute path, or \"\" for the one beside starlingd",
          MEMBER(keeper.binary),
          [](const std::string&
                 text) { return text.empty() ? absl::OkStatus() : CheckAbsolutePath(text); }),
      TextKey<Config>("security", "authority", "an absolute path", MEMBER(security.authority),
                      CheckFolder),
      TextKey<Config>("security", "certificate", "an absolute path", MEMBER(security.certificate),
                      CheckFolder),
      TextKey<Config>("security", "key", "an absolute path", MEMBER(security.key), CheckFolder),
      FlagKey<Config>("security", "insecure", MEMBER(security.insecure)),
  };
  return keys;
}

#undef MEMBER

constexpr std::array<absl::string_view, 2> kPeerKeys = {"name", "address"};
constexpr std::array<absl::string_view, 3> kRuleKeys = {"peer", "components", "direction"};
constexpr size_t kMaxPattern = 64;

// "*" or a host's name.
absl::Status CheckRulePeer(const std::string& text) {
  return text == "*" ? absl::OkStatus() : CheckHostName(text);
}

absl::Status CheckPattern(const std::string& text) {
  if (text.empty()) return absl::InvalidArgumentError("has an empty pattern");
  return CheckWord(text, kMaxPattern, "-*?");
}

// One parse of one file: knows its name for messages.
class Reader {
 public:
  Reader(absl::string_view file, Config& config) : file_(file), config_(config) {}

  absl::Status Read(const toml::table& top) {
    std::set<std::string> sections;
    for (const TomlKey<Config>& key : Keys()) {
      if (!key.section.empty()) sections.emplace(key.section);
    }
    for (const auto& [key, node] : top) {
      const std::string name(key.str());
      if (name == "peer") {
        RETURN_IF_ERROR(ReadPeers(node));
      } else if (sections.count(name) != 0) {
        const toml::table* table = node.as_table();
        if (table == nullptr) {
          return Wrong(key.source(), name,
                       WrongTomlType(node, absl::StrCat("a table: [", name, "]")).message());
        }
        RETURN_IF_ERROR(ReadSection(name, *table));
      } else {
        RETURN_IF_ERROR(ReadKey("", key, node));
      }
    }
    RETURN_IF_ERROR(CheckRoce(top));
    RETURN_IF_ERROR(CheckSecurity(top));
    return CheckLease(top);
  }

 private:
  absl::Status Wrong(const toml::source_region& where, absl::string_view key,
                     absl::string_view what) {
    return WrongTomlKey(file_, where, key, what);
  }

  // What of [roce] can only be right together.
  absl::Status CheckRoce(const toml::table& top) {
    const Config::Roce& roce = config_.roce;
    const toml::table* table = top["roce"].as_table();
    const toml::source_region& where = (table != nullptr                    ? table
                                        : top["data"].as_table() != nullptr ? top["data"].as_table()
                                                                            : &top)
                                           ->source();
    if (config_.Opens("roce") && roce.port.empty()) {
      return Wrong(where, "roce.port",
                   "is missing; the transport roce, which [data] names, needs what it is to send "
                   "through, such as \"af_packet:eth0\"");
    }
    if (roce.path_mtu != 0 && roce.path_mtu != 1024 && roce.path_mtu != 2048 &&
        roce.path_mtu != 4096) {
      return Wrong(where, "roce.path_mtu",
                   absl::StrCat("is ", roce.path_mtu, "; allowed is 0, 1024, 2048 or 4096"));
    }
    if (roce.port.empty()) return absl::OkStatus();
    ASSIGN_OR_RETURN(const transport::RocePort port, transport::ParseRocePort(roce.port));
    const Config::Roce none;
    if (port.kind != transport::RocePort::Kind::kVerbs) {
      if (!roce.ip.empty()) return absl::OkStatus();
      return Wrong(where, "roce.ip",
                   absl::StrCat("is missing; ", roce.port,
                                " needs an IPv4 address that nobody else on its network has"));
    }
    if (!roce.ip.empty() || roce.path_mtu != none.path_mtu) {
      return Wrong(where, "roce",
                   absl::StrCat("has ip or path_mtu beside ", roce.port,
                                ", a device with an address and a path MTU of its own; allowed are "
                                "port, listen, partition and traffic_class"));
    }
    return absl::OkStatus();
  }

  // What of [security] can only be right together.
  absl::Status CheckSecurity(const toml::table& top) {
    const toml::table* table = top["security"].as_table();
    if (table == nullptr) return absl::OkStatus();
    const Config::Security& security = config_.security;
    const int files = static_cast<int>(!security.authority.empty()) +
                      static_cast<int>(!security.certificate.empty()) +
                      static_cast<int>(!security.key.empty());
    if (files != 0 && files != 3) {
      return Wrong(table->source(), "security",
                   "has some of authority, certificate and key; allowed are all three or none");
    }
    if (files == 3 && security.insecure) {
      return Wrong(table->source(), "security.insecure",
                   "is true beside a certificate; allowed is one of the two");
    }
    if (files == 0 && !security.allow.empty()) {
      return Wrong(table->source(), "security.allow",
                   "says who may do what, but nobody is known without certificates; allowed is "
                   "with authority, certificate and key");
    }
    return absl::OkStatus();
  }

  absl::Status ReadRules(const toml::node& node) {
    const toml::array* rules = node.as_array();
    if (rules == nullptr || !rules->is_array_of_tables()) {
      return Wrong(node.source(), "security.allow",
                   WrongTomlType(node, "[[security.allow]] tables").message());
    }
    for (const toml::node& entry : *rules) {
      security::Rule rule;
      for (const auto& [key, value] : *entry.as_table())
        RETURN_IF_ERROR(ReadRuleKey(key, value, rule));
      if (rule.peer.empty()) {
        return Wrong(entry.source(), "security.allow.peer",
                     "is missing; each [[security.allow]] is about a host, or \"*\"");
      }
      if (rule.components.empty()) rule.components.push_back("*");
      config_.security.allow.push_back(std::move(rule));
    }
    return absl::OkStatus();
  }

  absl::Status ReadRuleKey(const toml::key& key, const toml::node& value, security::Rule& rule) {
    const std::string name(key.str());
    const std::string shown = absl::StrCat("security.allow.", absl::CHexEscape(name));
    absl::Status status;
    if (name == "peer") {
      constexpr absl::string_view kAllowed = "a host name, or \"*\"";
      const auto text = TomlText(value, kAllowed);
      status = text.ok() ? CheckRulePeer(*text) : text.status();
      if (status.ok()) rule.peer = *text;
    } else if (name == "components") {
      constexpr absl::string_view kAllowed =
          "an array of patterns: letters, digits, '-', '*' and '?'";
      const toml::array* array = value.as_array();
      if (array == nullptr || array->empty()) status = WrongTomlType(value, kAllowed);
      for (size_t i = 0; status.ok() && i < array->size(); ++i) {
        const auto text = TomlText(*array->get(i), kAllowed);
        status = text.ok() ? CheckPattern(*text) : text.status();
        if (status.ok()) rule.components.push_back(*text);
      }
    } else if (name == "direction") {
      constexpr absl::string_view kAllowed = "one of \"both\", \"from\", \"to\"";
      const auto text = TomlText(value, kAllowed);
      status = text.status();
      if (text.ok()) {
        rule.from = *text == "both" || *text == "from";
        rule.to = *text == "both" || *text == "to";
        if (!rule.from && !rule.to) {
          status = absl::InvalidArgumentError(
              absl::StrCat("is \"", absl::CHexEscape(*text), "\"; allowed is ", kAllowed));
        }
      }
    } else {
      status = absl::InvalidArgumentError(
          absl::StrCat("is not a key; allowed are ", absl::StrJoin(kRuleKeys, ", ")));
    }
    return status.ok() ? status : Wrong(key.source(), shown, status.message());
  }

  absl::Status CheckLease(const toml::table& top) {
    if (config_.migration.lease > config_.migration.peer_timeout) return absl::OkStatus();
    // The defaults agree, so at least one of the two is in the file.
    const auto lease = top["migration"]["lease_s"];
    const auto timeout = top["migration"]["peer_timeout_s"];
    const toml::node* node = lease ? lease.node() : timeout.node();
    return Wrong(node->source(), "migration.lease_s",
                 absl::StrCat("is ", Seconds(config_.migration.lease),
                              "; allowed is more than migration.peer_timeout_s (",
                              Seconds(config_.migration.peer_timeout),
                              "): the lease would end while a single call is waited for"));
  }

  absl::Status ReadSection(const std::string& section, const toml::table& table) {
    for (const auto& [key, node] : table) {
      const bool rules = section == "security" && key.str() == "allow";
      RETURN_IF_ERROR(rules ? ReadRules(node) : ReadKey(section, key, node));
    }
    return absl::OkStatus();
  }

  absl::Status ReadKey(absl::string_view section, const toml::key& key, const toml::node& node) {
    return SetTomlKey(file_, Keys(), section, key, node, config_,
                      ", and the tables [control], [data], [roce], [network], [migration], "
                      "[criu], [keeper], [security] and [[peer]]");
  }

  absl::Status ReadPeers(const toml::node& node) {
    const toml::array* peers = node.as_array();
    if (peers == nullptr) {
      return Wrong(node.source(), "peer", WrongTomlType(node, "[[peer]] tables").message());
    }
    std::set<std::string> names;
    for (const toml::node& entry : *peers) {
      const toml::table* table = entry.as_table();
      if (table == nullptr) {
        return Wrong(entry.source(), "peer", WrongTomlType(entry, "[[peer]] tables").message());
      }
      PeerConfig peer;
      for (const auto& [key, value] : *table) {
        RETURN_IF_ERROR(ReadPeerKey(key, value, peer));
      }
      for (const auto& [name, text] :
           {std::pair("name", &peer.name), std::pair("address", &peer.address)}) {
        if (text->empty()) {
          return Wrong(entry.source(), absl::StrCat("peer.", name),
                       "is missing; each [[peer]] has a name and an address");
        }
      }
      if (!names.insert(peer.name).second) {
        return Wrong(entry.source(), "peer.name",
                     absl::StrCat("there is another peer '", peer.name, "'"));
      }
      config_.peers.push_back(std::move(peer));
    }
    return absl::OkStatus();
  }

  absl::Status ReadPeerKey(const toml::key& key, const toml::node& value, PeerConfig& peer) {
    const std::string name(key.str());
    const std::string shown = absl::StrCat("peer.", absl::CHexEscape(name));
    if (name != "name" && name != "address") {
      return Wrong(key.source(), shown, "is not a key; allowed are name, address");
    }
    const absl::string_view allowed = name == "name" ? "a host name" : "ADDR:PORT";
    const auto text = TomlText(value, allowed);
    if (!text.ok()) return Wrong(key.source(), shown, text.status().message());
    const absl::Status status =
        name == "name" ? CheckHostName(*text) : ParseEndpoint(*text).status();
    if (!status.ok()) {
      return Wrong(key.source(), shown, absl::StrCat(status.message(), "; allowed is ", allowed));
    }
    (name == "name" ? peer.name : peer.address) = *text;
    return absl::OkStatus();
  }

  const std::string file_;
  Config& config_;
};

absl::StatusOr<std::string> KernelHostName() {
  std::array<char, 256> name = {};
  if (gethostname(name.data(), name.size() - 1) != 0) return ErrnoStatus("gethostname");
  return std::string(name.data());
}

}  // namespace

bool Config::Opens(absl::string_view provider) const {
  return data.provider == provider ||
         std::find(data.offer.begin(), data.offer.end(), provider) != data.offer.end();
}

const PeerConfig* Config::FindPeer(absl::string_view name) const {
  for (const PeerConfig& peer : peers) {
    if (peer.name == name) return &peer;
  }
  return nullptr;
}

absl::StatusOr<Config> ParseConfig(absl::string_view text, absl::string_view name) {
  Config config;
  try {
    const toml::table top =
        toml::parse(std::string_view(text.data(), text.size()), std::string(name));
    RETURN_IF_ERROR(Reader(name, config).Read(top));
  } catch (const toml::parse_error& error) {
    return absl::InvalidArgumentError(absl::StrCat(
        name, ":", error.source().begin.line, ": not TOML: ", std::string(error.description())));
  }
  if (config.host.empty()) {
    ASSIGN_OR_RETURN(config.host, KernelHostName());
    RETURN_IF_ERROR(Annotate(CheckHostName(config.host),
                             absl::StrCat(name,
                                          ": host is not given, and the kernel's host name "
                                          "will not do")));
  }
  // One list of peers can be handed to all hosts: the entry of this one is passed over.
  std::erase_if(config.peers, [&](const PeerConfig& peer) { return peer.name == config.host; });
  return config;
}

absl::StatusOr<Config> LoadConfig(const std::string& path) {
  auto text = ReadFile(path, kMiB);
  if (!text.ok()) return Annotate(text.status(), "configuration");
  return ParseConfig(*text, path);
}

std::vector<std::string> ConfigKeys() {
  std::vector<std::string> names;
  for (const TomlKey<Config>& key : Keys()) {
    names.push_back(key.section.empty() ? std::string(key.name)
                                        : absl::StrCat(key.section, ".", key.name));
  }
  for (const absl::string_view key : kRuleKeys)
    names.push_back(absl::StrCat("security.allow.", key));
  for (const absl::string_view key : kPeerKeys) names.push_back(absl::StrCat("peer.", key));
  return names;
}

absl::StatusOr<VerbsRail> ParseVerbsRail(const std::string& text) {
  const size_t at = text.find('@');
  if (at == 0 || at == std::string::npos) {
    return absl::InvalidArgumentError(
        absl::StrCat("'", absl::CHexEscape(text), "' is no rail; one is DEVICE@ADDR:PORT"));
  }
  VerbsRail rail{text.substr(0, at), text.substr(at + 1)};
  RETURN_IF_ERROR(CheckWord(rail.device, 63, "_-."));
  RETURN_IF_ERROR(ParseEndpoint(rail.listen).status());
  return rail;
}

}  // namespace starling
