#include "runtime/config.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <set>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "tests/runtime/scratch.h"

namespace starling {
namespace {

using testing::ElementsAreArray;
using testing::HasSubstr;

TEST(Config, AnEmptyFileGivesTheDefaults) {
  auto config = ParseConfig("", "starlingd.toml");
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_FALSE(config->host.empty());
  EXPECT_EQ(config->SocketPath(), "/run/starling/starlingd.sock");
  EXPECT_EQ(config->JournalPath(), "/var/lib/starling/journal.db");
  EXPECT_EQ(config->data.slab_bytes, 512 * kKiB);
  EXPECT_EQ(config->migration.max_blackout, std::chrono::milliseconds(200));
  EXPECT_TRUE(config->peers.empty());
}

TEST(Config, ReadsEveryKey) {
  auto config = ParseConfig(R"(
host = "node1"
state_dir = "/s"
run_dir = "/r"
log_dir = "/l"
socket_group = "hpc"
log_level = "debug"
[control]
listen = "10.77.0.1:7400"
[data]
provider = "tcp"
offer = ["verbs"]
encryption = "off"
device = "rxe0"
listen = "10.77.0.1:7401"
queue_pairs = 4
slab_kib = 256
slabs = 32
[verbs]
partition = 32769
traffic_class = 96
memory_windows = "off"
rails = ["rxe1@10.79.0.1:7401"]
[roce]
port = "af_packet:eth1"
ip = "10.77.0.101"
listen = "10.77.0.1:7412"
path_mtu = 2048
partition = 32775
traffic_class = 104
[network]
parent = "eth0"
[migration]
max_blackout_ms = 150.5
max_rounds = 3
freeze_timeout_s = 5
step_timeout_s = 60
peer_timeout_s = 0.5
lease_s = 20
ask_again_s = 0.25
probe_timeout_s = 7
keep_reports = 3
[resources]
disk = ["/srv"]
network_devices = ["eth0", "eth1"]
network_mib_s = 100
storage_devices = ["vda"]
storage_mib_s = 0.5
[criu]
binary = "/opt/criu"
[keeper]
binary = "/opt/starling-keeper"
[security]
authority = "/etc/a.crt"
certificate = "/etc/n.crt"
key = "/etc/n.key"
insecure = false
[[security.allow]]
peer = "node2"
components = ["web*", "db"]
direction = "from"
[[security.allow]]
peer = "*"
[[peer]]
name = "node1"
address = "10.77.0.1:7400"
[[peer]]
name = "node2"
address = "10.77.0.2:7400"
)",
                            "t");
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->host, "node1");
  EXPECT_EQ(config->state_dir, "/s");
  EXPECT_EQ(config->run_dir, "/r");
  EXPECT_EQ(config->log_dir, "/l");
  EXPECT_EQ(config->socket_group, "hpc");
  EXPECT_EQ(config->log_level, "debug");
  EXPECT_EQ(config->control.listen, "10.77.0.1:7400");
  EXPECT_EQ(config->data.provider, "tcp");
  EXPECT_EQ(config->data.offer, std::vector<std::string>{"verbs"});
  EXPECT_EQ(config->data.encryption, "off");
  EXPECT_EQ(config->data.device, "rxe0");
  EXPECT_EQ(config->data.listen, "10.77.0.1:7401");
  EXPECT_EQ(config->data.queue_pairs, 4);
  EXPECT_EQ(config->data.slab_bytes, 256 * kKiB);
  EXPECT_EQ(config->data.slabs, 32);
  EXPECT_EQ(config->verbs.partition, 32769);
  EXPECT_EQ(config->verbs.traffic_class, 96);
  EXPECT_EQ(config->verbs.memory_windows, "off");
  ASSERT_EQ(config->verbs.rails.size(), 1u);
  EXPECT_EQ(ParseVerbsRail(config->verbs.rails[0])->device, "rxe1");
  EXPECT_EQ(ParseVerbsRail(config->verbs.rails[0])->listen, "10.79.0.1:7401");
  EXPECT_EQ(config->roce.port, "af_packet:eth1");
  EXPECT_EQ(config->roce.ip, "10.77.0.101");
  EXPECT_EQ(config->roce.listen, "10.77.0.1:7412");
  EXPECT_EQ(config->roce.path_mtu, 2048);
  EXPECT_EQ(config->roce.partition, 32775);
  EXPECT_EQ(config->roce.traffic_class, 104);
  EXPECT_EQ(config->DataListen("roce"), "10.77.0.1:7412");
  EXPECT_EQ(config->DataListen("tcp"), "10.77.0.1:7401");
  EXPECT_TRUE(config->Opens("tcp") && config->Opens("verbs"));
  EXPECT_FALSE(config->Opens("roce"));
  EXPECT_EQ(config->network.parent, "eth0");
  EXPECT_EQ(config->migration.max_blackout, std::chrono::microseconds(150500));
  EXPECT_EQ(config->migration.max_rounds, 3);
  EXPECT_EQ(config->migration.freeze_timeout, std::chrono::seconds(5));
  EXPECT_EQ(config->migration.step_timeout, std::chrono::seconds(60));
  EXPECT_EQ(config->migration.peer_timeout, std::chrono::milliseconds(500));
  EXPECT_EQ(config->migration.lease, std::chrono::seconds(20));
  EXPECT_EQ(config->migration.ask_again, std::chrono::milliseconds(250));
  EXPECT_EQ(config->migration.probe_timeout, std::chrono::seconds(7));
  EXPECT_EQ(config->migration.keep_reports, 3);
  EXPECT_EQ(config->resources.disk, std::vector<std::string>{"/srv"});
  EXPECT_EQ(config->resources.network_devices, (std::vector<std::string>{"eth0", "eth1"}));
  EXPECT_EQ(config->resources.network_bytes_per_s, 100.0 * kMiB);
  EXPECT_EQ(config->resources.storage_devices, std::vector<std::string>{"vda"});
  EXPECT_EQ(config->resources.storage_bytes_per_s, 0.5 * kMiB);
  EXPECT_EQ(config->criu.binary, "/opt/criu");
  EXPECT_EQ(config->keeper.binary, "/opt/starling-keeper");
  EXPECT_EQ(config->security.authority, "/etc/a.crt");
  EXPECT_EQ(config->security.certificate, "/etc/n.crt");
  EXPECT_EQ(config->security.key, "/etc/n.key");
  EXPECT_FALSE(config->security.insecure);
  ASSERT_EQ(config->security.allow.size(), 2u);
  EXPECT_EQ(config->security.allow[0].peer, "node2");
  EXPECT_EQ(config->security.allow[0].components, (std::vector<std::string>{"web*", "db"}));
  EXPECT_TRUE(config->security.allow[0].from);
  EXPECT_FALSE(config->security.allow[0].to);
  EXPECT_EQ(config->security.allow[1].components, std::vector<std::string>{"*"});
  EXPECT_TRUE(config->security.allow[1].to);
  // Its own entry is passed over.
  ASSERT_EQ(config->peers.size(), 1u);
  ASSERT_NE(config->FindPeer("node2"), nullptr);
  EXPECT_EQ(config->FindPeer("node2")->address, "10.77.0.2:7400");
  EXPECT_EQ(config->FindPeer("node1"), nullptr);
}

struct Refusal {
  const char* text;
  const char* begin;    // of the message
  const char* allowed;  // somewhere in it
};

TEST(Config, ARefusalNamesFileLineKeyAndWhatIsAllowed) {
  const Refusal refusals[] = {
      {"hots = \"a\"", "f.toml:1: hots: is not a key", "host, state_dir"},
      {"\n[migration]\nmax_round = 3", "f.toml:3: migration.max_round: is not a key", "max_rounds"},
      {"[migratoin]\n", "f.toml:1: migratoin: is not a key", "[migration]"},
      {"host = 3", "f.toml:1: host: is an integer", "a host name"},
      {"host = \"a b\"", "f.toml:1: host: 'a b'", "a host name"},
      {"host = \"\"", "f.toml:1: host:", "a host name"},
      {"\nstate_dir = \"var\"", "f.toml:2: state_dir: 'var' is not an absolute path",
       "an absolute path"},
      {"run_dir = \"/0123456789012345678901234567890123456789012345678901234567890123456789"
       "0123456789\"",
       "f.toml:1: run_dir: is 81 bytes", "at most 80 bytes"},
      {"log_level = \"loud\"", "f.toml:1: log_level: is \"loud\"", "\"warn\""},
      {"socket_group = \"a b\"", "f.toml:1: socket_group:", "name of a group"},
      {"control = 3", "f.toml:1: control: is an integer", "[control]"},
      {"[control]\nlisten = \"10.77.0.1\"", "f.toml:2: control.listen:", "ADDR:PORT"},
      {"[data]\nprovider = \"pigeon\"", "f.toml:2: data.provider: is \"pigeon\"", "\"verbs\""},
      {"[data]\nqueue_pairs = 0", "f.toml:2: data.queue_pairs: is 0", "from 1 to 16"},
      {"[data]\nqueue_pairs = 2.5", "f.toml:2: data.queue_pairs: is a number with", "an integer"},
      {"[data]\nqueue_pairs = true", "f.toml:2: data.queue_pairs: is a boolean", "an integer"},
      {"[data]\nslab_kib = 66", "f.toml:2: data.slab_kib: is 66", "a multiple of 4"},
      {"[data]\nslabs = 1000000000000", "f.toml:2: data.slabs:", "from 2 to 4096"},
      {"[data]\nprovider = \"roce\"", "f.toml:1: roce.port: is missing", "af_packet:eth0"},
      {"[data]\noffer = [\"roce\"]\n[roce]\nip = \"10.0.0.1\"", "f.toml:3: roce.port: is missing",
       "af_packet:eth0"},
      {"[roce]\nport = \"eth0\"", "f.toml:2: roce.port: 'eth0' is no port", "verbs:DEVICE"},
      {"[roce]\nport = \"af_packet:eth0\"", "f.toml:1: roce.ip: is missing", "nobody else"},
      {"[roce]\nport = \"af_packet:eth0\"\nip = \"10.0.0\"", "f.toml:3: roce.ip: '10.0.0' is no",
       "an IPv4 address"},
      {"[roce]\nip = \"127.0.0.1\"", "f.toml:2: roce.ip: '127.0.0.1' is not an address",
       "an IPv4 address"},
      {"[roce]\nport = \"verbs:rxe0\"\nip = \"10.0.0.1\"", "f.toml:1: roce: has ip or path_mtu",
       "partition and traffic_class"},
      {"[roce]\npath_mtu = 1500", "f.toml:1: roce.path_mtu: is 1500", "1024, 2048 or 4096"},
      {"[verbs]\npartition = 65536", "f.toml:2: verbs.partition: is 65536", "from 0 to 65535"},
      {"[verbs]\ntraffic_class = 256", "f.toml:2: verbs.traffic_class: is 256", "from 0 to 255"},
      {"[verbs]\nrails = [\"rxe1\"]", "f.toml:2: verbs.rails: 'rxe1' is no rail",
       "DEVICE@ADDR:PORT"},
      {"[verbs]\nrails = [\"rxe1@10.79.0.1\"]", "f.toml:2: verbs.rails:", "ADDR:PORT"},
      {"[roce]\npartition = 0", "f.toml:2: roce.partition: is 0", "from 1 to 65535"},
      {"[roce]\nlisten = \"10.0.0.1\"", "f.toml:2: roce.listen:", "ADDR:PORT"},
      {"[network]\nparent = \"eth0/../x\"", "f.toml:2: network.parent:", "interface"},
      {"[migration]\nmax_blackout_ms = 0", "f.toml:2: migration.max_blackout_ms: is 0",
       "milliseconds from 1 to 60000"},
      {"[migration]\nlease_s = nan", "f.toml:2: migration.lease_s:", "from 1 to 3600"},
      {"[migration]\nlease_s = \"long\"", "f.toml:2: migration.lease_s: is a string", "seconds"},
      {"[migration]\nask_again_s = -1", "f.toml:2: migration.ask_again_s: is -1", "0.05 to 60"},
      {"[migration]\nlease_s = 5", "f.toml:2: migration.lease_s: is 5", "peer_timeout_s (10)"},
      {"\n[migration]\npeer_timeout_s = 30", "f.toml:3: migration.lease_s: is 30",
       "peer_timeout_s (30)"},
      {"[resources]\ndisk = [\"srv\"]", "f.toml:2: resources.disk:", "not an absolute path"},
      {"[resources]\nstorage_devices = [\"../x\"]",
       "f.toml:2: resources.storage_devices:", "names no device"},
      {"[resources]\nstorage_mib_s = -1", "f.toml:2: resources.storage_mib_s:", "a number from 0"},
      {"[criu]\nbinary = \"criu\"", "f.toml:2: criu.binary:", "an absolute path"},
      {"[data]\noffer = \"tcp\"", "f.toml:2: data.offer: is a string", "\"verbs\""},
      {"[data]\noffer = [\"pigeon\"]", "f.toml:2: data.offer: has \"pigeon\"", "\"verbs\""},
      {"[data]\noffer = [\"tcp\", \"tcp\"]", "f.toml:2: data.offer: has \"tcp\"", "\"verbs\""},
      {"[data]\nencryption = true", "f.toml:2: data.encryption: is a boolean", "\"off\""},
      {"[security]\ninsecure = 1", "f.toml:2: security.insecure: is an integer", "true or false"},
      {"[security]\nkey = \"/k\"", "f.toml:1: security: has some of", "all three or none"},
      {"[security]\ninsecure=true\nauthority=\"/a\"\ncertificate=\"/c\"\nkey=\"/k\"",
       "f.toml:1: security.insecure: is true beside", "one of the two"},
      {"[security]\n[[security.allow]]\npeer = \"a\"", "f.toml:1: security.allow: says who",
       "with authority"},
      {"[security]\nallow = 3", "f.toml:2: security.allow: is an integer", "[[security.allow]]"},
      {"[[security.allow]]\ncomponents = [\"a\"]", "f.toml:1: security.allow.peer: is missing",
       "\"*\""},
      {"[[security.allow]]\npeer = \"a b\"", "f.toml:2: security.allow.peer:", "'a b'"},
      {"[[security.allow]]\npeer = \"a\"\ncomponents = [\"a/b\"]",
       "f.toml:3: security.allow.components:", "a/b"},
      {"[[security.allow]]\npeer = \"a\"\ncomponents = []",
       "f.toml:3: security.allow.components:", "patterns"},
      {"[[security.allow]]\npeer = \"a\"\ndirection = \"up\"",
       "f.toml:3: security.allow.direction: is \"up\"", "\"from\""},
      {"[[security.allow]]\npeer = \"a\"\nhost = \"b\"", "f.toml:3: security.allow.host: is not",
       "direction"},
      {"peer = 3", "f.toml:1: peer: is an integer", "[[peer]]"},
      {"peer = [3]", "f.toml:1: peer: is an integer", "[[peer]]"},
      {"[peer]\nname = \"a\"", "f.toml:1: peer: is a table", "[[peer]]"},
      {"\n[[peer]]\nname = \"a\"", "f.toml:2: peer.address: is missing", "a name and an address"},
      {"[[peer]]\nname = \"a\"\nadress = \"b:1\"", "f.toml:3: peer.adress: is not a key",
       "name, address"},
      {"[[peer]]\nname = \"a\"\naddress = \"b\"", "f.toml:3: peer.address:", "ADDR:PORT"},
      {"[[peer]]\nname=\"a\"\naddress=\"b:1\"\n[[peer]]\nname=\"a\"\naddress=\"b:2\"",
       "f.toml:4: peer.name: there is another peer 'a'", ""},
      {"host = ", "f.toml:1: not TOML: ", ""},
      {"a = 1\n\n[x\n", "f.toml:3: not TOML: ", ""},
      {"host = \"a\"\nhost = \"b\"", "f.toml:2: not TOML: ", ""},
      {"host = \"\xff\xfe\"", "f.toml:1: not TOML: ", ""},
  };
  for (const Refusal& refusal : refusals) {
    const auto config = ParseConfig(refusal.text, "f.toml");
    ASSERT_FALSE(config.ok()) << refusal.text;
    EXPECT_EQ(config.status().code(), absl::StatusCode::kInvalidArgument);
    const std::string message(config.status().message());
    EXPECT_TRUE(absl::StartsWith(message, refusal.begin)) << message;
    EXPECT_THAT(message, HasSubstr(refusal.allowed));
  }
}

TEST(Config, SurvivesHostileText) {
  EXPECT_FALSE(ParseConfig(std::string(100000, '['), "t").ok());
  EXPECT_FALSE(ParseConfig("a = " + std::string(100000, '[') + "1", "t").ok());
  EXPECT_FALSE(ParseConfig(std::string("host = \"a\0b\"", 12), "t").ok());
}

TEST(Config, NamesTheFileThatCannotBeRead) {
  Scratch scratch;
  const auto missing = LoadConfig(scratch / "none.toml");
  EXPECT_EQ(missing.status().code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(missing.status().message()), HasSubstr(scratch / "none.toml"));
  ASSERT_TRUE(WriteFileAtomic(scratch / "bad.toml", "\n\nlog_level = 1\n").ok());
  EXPECT_THAT(std::string(LoadConfig(scratch / "bad.toml").status().message()),
              HasSubstr(scratch / "bad.toml:3: log_level:"));
}

std::string Repository(const std::string& path) {
  return *ReadFile(absl::StrCat(STARLING_SOURCE_DIR, "/", path));
}

TEST(Config, TheExampleNamesEveryKeyAndIsItselfSound) {
  const std::string example = Repository("packaging/starlingd.toml");
  ASSERT_TRUE(ParseConfig(example, "starlingd.toml").ok())
      << ParseConfig(example, "starlingd.toml").status();
  // Keys are written "#key = value"; prose is written "# words".
  std::string uncommented;
  std::vector<std::string> keys;
  std::string section;
  for (absl::string_view line : absl::StrSplit(example, '\n')) {
    if (line.size() > 1 && line[0] == '#' && line[1] != ' ') line.remove_prefix(1);
    if (absl::StartsWith(line, "#")) continue;
    absl::StrAppend(&uncommented, line, "\n");
    if (absl::StartsWith(line, "[")) {
      section = std::string(absl::StripAsciiWhitespace(line));
      section.erase(0, section.find_first_not_of('['));
      section.erase(section.find(']'));
    } else if (const size_t equals = line.find(" = "); equals != absl::string_view::npos) {
      keys.push_back(absl::StrCat(section, section.empty() ? "" : ".", line.substr(0, equals)));
    }
  }
  EXPECT_THAT(keys, ElementsAreArray(ConfigKeys()));
  auto config = ParseConfig(uncommented, "starlingd.toml");
  ASSERT_TRUE(config.ok()) << config.status();
}

TEST(Config, TheDocumentNamesEveryKeyAndNoOther) {
  // Each key is a heading: "### `section.key`".
  std::vector<std::string> keys;
  for (const absl::string_view line : absl::StrSplit(Repository("docs/configuration.md"), '\n')) {
    if (!absl::StartsWith(line, "### `")) continue;
    const absl::string_view rest = line.substr(5);
    keys.emplace_back(rest.substr(0, rest.find('`')));
  }
  EXPECT_THAT(keys, ElementsAreArray(ConfigKeys()));
}

}  // namespace
}  // namespace starling
