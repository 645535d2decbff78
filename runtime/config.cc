#include "runtime/config.h"

#include <errno.h>
#include <toml++/toml.h>
#include <unistd.h>

#include <array>
#include <functional>
#include <initializer_list>
#include <set>

#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/file.h"
#include "base/status.h"
#include "runtime/names.h"

namespace starling {
namespace {

// What one key's value may be, and where it goes. `set` answers with the words after "KEY: ".
struct Key {
  absl::string_view section;  // empty: the file's top
  absl::string_view name;
  std::function<absl::Status(const toml::node&, Config&)> set;
};

absl::string_view TypeName(const toml::node& node) {
  switch (node.type()) {
    case toml::node_type::table:
      return "a table";
    case toml::node_type::array:
      return "an array";
    case toml::node_type::string:
      return "a string";
    case toml::node_type::integer:
      return "an integer";
    case toml::node_type::floating_point:
      return "a number with a fraction";
    case toml::node_type::boolean:
      return "a boolean";
    default:
      return "a date or time";
  }
}

absl::Status WrongType(const toml::node& node, absl::string_view allowed) {
  return absl::InvalidArgumentError(absl::StrCat("is ", TypeName(node), "; allowed is ", allowed));
}

absl::StatusOr<std::string> TextOf(const toml::node& node, absl::string_view allowed) {
  const auto text = node.value_exact<std::string>();
  if (!text) return WrongType(node, allowed);
  return *text;
}

template <typename Field>
Key Text(absl::string_view section, absl::string_view name, std::string allowed, Field field,
         std::function<absl::Status(const std::string&)> check) {
  return {section, name, [=](const toml::node& node, Config& config) -> absl::Status {
            ASSIGN_OR_RETURN(std::string text, TextOf(node, allowed));
            if (absl::Status status = check(text); !status.ok()) {
              return absl::InvalidArgumentError(
                  absl::StrCat(status.message(), "; allowed is ", allowed));
            }
            field(config) = std::move(text);
            return absl::OkStatus();
          }};
}

template <typename Field>
Key OneOf(absl::string_view section, absl::string_view name, Field field,
          std::initializer_list<absl::string_view> choices) {
  const std::vector<absl::string_view> known(choices);
  const std::string allowed = absl::StrCat("one of \"", absl::StrJoin(known, "\", \""), "\"");
  return {section, name, [=](const toml::node& node, Config& config) -> absl::Status {
            ASSIGN_OR_RETURN(std::string text, TextOf(node, allowed));
            for (const absl::string_view choice : known) {
              if (choice != text) continue;
              field(config) = std::move(text);
              return absl::OkStatus();
            }
            return absl::InvalidArgumentError(
                absl::StrCat("is \"", absl::CHexEscape(text), "\"; allowed is ", allowed));
          }};
}

// `scale` turns the file's unit into the member's.
template <typename Field>
Key Integer(absl::string_view section, absl::string_view name, Field field, int64_t least,
            int64_t most, int64_t step = 1, int64_t scale = 1) {
  const std::string allowed = absl::StrCat("an integer from ", least, " to ", most,
                                           step == 1 ? "" : absl::StrCat(", a multiple of ", step));
  return {
      section, name, [=](const toml::node& node, Config& config) -> absl::Status {
        const auto value = node.value_exact<int64_t>();
        if (!value) return WrongType(node, allowed);
        if (*value < least || *value > most || *value % step != 0) {
          return absl::InvalidArgumentError(absl::StrCat("is ", *value, "; allowed is ", allowed));
        }
        field(config) = *value * scale;
        return absl::OkStatus();
      }};
}

// An integer or a number with a fraction.
absl::StatusOr<double> Number(const toml::node& node, double least, double most,
                              const std::string& allowed) {
  double value = 0;
  if (const auto integer = node.value_exact<int64_t>()) {
    value = static_cast<double>(*integer);
  } else if (const auto real = node.value_exact<double>()) {
    value = *real;
  } else {
    return WrongType(node, allowed);
  }
  // Written so that not-a-number fails too.
  if (!(value >= least && value <= most)) {
    return absl::InvalidArgumentError(absl::StrCat("is ", value, "; allowed is ", allowed));
  }
  return value;
}

template <typename Field>
Key Real(absl::string_view section, absl::string_view name, Field field, double least,
         double most) {
  const std::string allowed = absl::StrCat("a number from ", least, " to ", most);
  return {section, name, [=](const toml::node& node, Config& config) -> absl::Status {
            ASSIGN_OR_RETURN(field(config), Number(node, least, most, allowed));
            return absl::OkStatus();
          }};
}

// A time in the unit that the key's name ends with.
template <typename Field>
Key Time(absl::string_view section, absl::string_view name, Field field, double unit_s,
         double least, double most) {
  const std::string allowed = absl::StrCat("a number of ", unit_s == 1 ? "seconds" : "milliseconds",
                                           " from ", least, " to ", most);
  return {section, name, [=](const toml::node& node, Config& config) -> absl::Status {
            ASSIGN_OR_RETURN(const double value, Number(node, least, most, allowed));
            field(config) =
                std::chrono::duration_cast<Duration>(std::chrono::duration<double>(value * unit_s));
            return absl::OkStatus();
          }};
}

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

// A function that names a member, for the tables below.
#define MEMBER(path) \
  [](Config & config) -> auto& { return config.path; }

// In the order of packaging/starlingd.toml.
const std::vector<Key>& Keys() {
  static const auto& keys = *new std::vector<Key>{
      Text("", "host", "a host name", MEMBER(host),
           [](const std::string& text) { return CheckHostName(text); }),
      Text("", "state_dir", "an absolute path", MEMBER(state_dir), CheckFolder),
      Text("", "run_dir", absl::StrCat("an absolute path of at most ", kMaxRunDir, " bytes"),
           MEMBER(run_dir), CheckRunDir),
      Text("", "log_dir", "an absolute path", MEMBER(log_dir), CheckFolder),
      Text("", "socket_group", "the name of a group, or \"\" for root only", MEMBER(socket_group),
           [](const std::string& text) { return CheckWord(text, 32, "_-."); }),
      OneOf("", "log_level", MEMBER(log_level), {"trace", "debug", "info", "warn", "error", "off"}),
      Text("control", "listen", "ADDR:PORT", MEMBER(control.listen),
           [](const std::string& text) { return ParseEndpoint(text).status(); }),
      OneOf("data", "provider", MEMBER(data.provider), {"verbs"}),
      Text("data", "device", "an RDMA device's name, or \"\" for the first active one",
           MEMBER(data.device), [](const std::string& text) { return CheckWord(text, 63, "_-."); }),
      Text("data", "listen", "ADDR:PORT", MEMBER(data.listen),
           [](const std::string& text) { return ParseEndpoint(text).status(); }),
      Integer("data", "queue_pairs", MEMBER(data.queue_pairs), 1, 16),
      Integer("data", "slab_kib", MEMBER(data.slab_bytes), 64, 8192, 4, kKiB),
      Integer("data", "slabs", MEMBER(data.slabs), 2, 4096),
      OneOf("data", "compression", MEMBER(data.compression), {"auto", "off"}),
      Text("network", "parent", "an interface's name, or \"\" for none", MEMBER(network.parent),
           [](const std::string& text) { return CheckWord(text, 15, "_-."); }),
      Time("migration", "max_blackout_ms", MEMBER(migration.max_blackout), 1e-3, 1, 60000),
      Integer("migration", "max_rounds", MEMBER(migration.max_rounds), 0, 64),
      OneOf("migration", "tracker", MEMBER(migration.tracker),
            {"auto", "pagemap-scan", "soft-dirty", "hash", "criu-predump"}),
      OneOf("migration", "verify", MEMBER(migration.verify), {"landing", "commit"}),
      Integer("migration", "capture_threads", MEMBER(migration.capture_threads), 1, 16),
      Real("migration", "max_slowdown", MEMBER(migration.max_slowdown), 0, 1),
      Time("migration", "freeze_timeout_s", MEMBER(migration.freeze_timeout), 1, 0.1, 600),
      Time("migration", "step_timeout_s", MEMBER(migration.step_timeout), 1, 1, 86400),
      Time("migration", "peer_timeout_s", MEMBER(migration.peer_timeout), 1, 0.1, 600),
      Time("migration", "lease_s", MEMBER(migration.lease), 1, 1, 3600),
      Time("migration", "ask_again_s", MEMBER(migration.ask_again), 1, 0.05, 60),
      Time("migration", "probe_timeout_s", MEMBER(migration.probe_timeout), 1, 0.1, 3600),
      Integer("migration", "keep_reports", MEMBER(migration.keep_reports), 0, 100000),
      Text("criu", "binary", "an absolute path", MEMBER(criu.binary), CheckFolder),
      Text("keeper", "binary", "an absolute path, or \"\" for the one beside starlingd",
           MEMBER(keeper.binary),
           [](const std::string& text) {
             return text.empty() ? absl::OkStatus() : CheckAbsolutePath(text);
           }),
  };
  return keys;
}

#undef MEMBER

constexpr std::array<absl::string_view, 2> kPeerKeys = {"name", "address"};

// One parse of one file: knows its name for messages.
class Reader {
 public:
  Reader(absl::string_view file, Config& config) : file_(file), config_(config) {}

  absl::Status Read(const toml::table& top) {
    std::set<std::string> sections;
    for (const Key& key : Keys()) {
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
                       WrongType(node, absl::StrCat("a table: [", name, "]")).message());
        }
        RETURN_IF_ERROR(ReadSection(name, *table));
      } else {
        RETURN_IF_ERROR(ReadKey("", key, node));
      }
    }
    return CheckLease(top);
  }

 private:
  absl::Status Wrong(const toml::source_region& where, absl::string_view key,
                     absl::string_view what) {
    return absl::InvalidArgumentError(
        absl::StrCat(file_, ":", where.begin.line, ": ", key, ": ", what));
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
    for (const auto& [key, node] : table) RETURN_IF_ERROR(ReadKey(section, key, node));
    return absl::OkStatus();
  }

  absl::Status ReadKey(absl::string_view section, const toml::key& key, const toml::node& node) {
    const std::string shown = section.empty() ? std::string(key.str())
                                              : absl::StrCat(section, ".", std::string(key.str()));
    std::vector<absl::string_view> known;
    for (const Key& entry : Keys()) {
      if (entry.section != section) continue;
      known.push_back(entry.name);
      if (entry.name != absl::string_view(key.str().data(), key.str().size())) continue;
      const absl::Status status = entry.set(node, config_);
      return status.ok() ? status : Wrong(key.source(), shown, status.message());
    }
    std::string allowed = absl::StrJoin(known, ", ");
    if (section.empty()) {
      absl::StrAppend(&allowed,
                      ", and the tables [control], [data], [network], [migration], [criu], "
                      "[keeper] and [[peer]]");
    }
    return Wrong(key.source(), absl::CHexEscape(shown),
                 absl::StrCat("is not a key; allowed are ", allowed));
  }

  absl::Status ReadPeers(const toml::node& node) {
    const toml::array* peers = node.as_array();
    if (peers == nullptr) {
      return Wrong(node.source(), "peer", WrongType(node, "[[peer]] tables").message());
    }
    std::set<std::string> names;
    for (const toml::node& entry : *peers) {
      const toml::table* table = entry.as_table();
      if (table == nullptr) {
        return Wrong(entry.source(), "peer", WrongType(entry, "[[peer]] tables").message());
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
    const auto text = TextOf(value, allowed);
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
  for (const Key& key : Keys()) {
    names.push_back(key.section.empty() ? std::string(key.name)
                                        : absl::StrCat(key.section, ".", key.name));
  }
  for (const absl::string_view key : kPeerKeys) names.push_back(absl::StrCat("peer.", key));
  return names;
}

}  // namespace starling
