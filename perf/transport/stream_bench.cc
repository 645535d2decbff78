// How fast a migration's page stream lands pages in an arena, plain or sealed: hashing, messages,
// answers and all, but without a component that is read. Both ends in this process, over TCP on
// loopback, or one end on each of two machines (--listen, --connect). One JSON object.

#include <poll.h>
#include <sys/socket.h>

#include <CLI/CLI.hpp>
#include <cstring>
#include <iostream>
#include <nlohmann/json.hpp>
#include <random>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/status.h"
#include "base/units.h"
#include "runtime/migration/lane_receiver.h"
#include "runtime/migration/lane_sink.h"
#include "runtime/migration/stream_keys.h"
#include "transport/sockets.h"
#include "transport/tcp_fabric.h"
#include "transport/verbs_fabric.h"

namespace starling::migration {
namespace {

using checkpoint::AddressSpace;
using checkpoint::kPageSize;

struct Options {
  bool sealed = false;
  bool hashes = false;
  std::string provider = "tcp";
  std::string device;
  bool windows = true;
  // One end only, of two machines.
  std::string listen;
  std::string connect;
  uint16_t port = 7595;
  int queue_pairs = Config::Data().queue_pairs;
  uint64_t slab_kib = Config::Data().slab_bytes / kKiB;
  int slabs = Config::Data().slabs;
  uint64_t mib = 256;  // of the component that is made up
  double seconds = 2;

  uint64_t bytes() const { return mib * kMiB; }
};

Deadline Patience() { return Deadline::After(std::chrono::seconds(60)); }

// A share of the memory through one lane.
absl::Status Send(checkpoint::PageLane& lane, std::span<const std::byte> memory, uint64_t begin,
                  uint64_t end) {
  for (uint64_t at = begin; at < end;) {
    ASSIGN_OR_RETURN(const std::span<std::byte> room, lane.Acquire((end - at) / kPageSize));
    const uint64_t bytes = std::min<uint64_t>(room.size(), end - at);
    std::memcpy(room.data(), memory.data() + at, bytes);
    RETURN_IF_ERROR(lane.Put({{AddressSpace::Kind::kProcess, 1}, at, bytes / kPageSize}));
    at += bytes;
  }
  return absl::OkStatus();
}

absl::StatusOr<std::unique_ptr<transport::Fabric>> OpenFabric(const Options& options) {
  if (options.provider == "tcp") return transport::OpenTcp();
  return transport::OpenVerbs({.device = options.device, .windows = options.windows});
}

LaneOptions Lanes(const Options& options) {
  Config::Data data;  // as configured by default
  data.queue_pairs = options.queue_pairs;
  data.slab_bytes = options.slab_kib * kKiB;
  data.slabs = options.slabs;
  LaneOptions lanes = LaneOptionsFrom(data);
  lanes.compress = false;
  return lanes;
}

// Both ends make the same keys of it.
constexpr char kMigration[] = "0123456789abcdef";

absl::StatusOr<StreamKeys> KeysOf(const std::string& share, int queue_pairs) {
  if (share.empty()) return StreamKeys();
  return DeriveStreamKeys(share, share, kMigration, static_cast<uint32_t>(queue_pairs));
}

// The target: what it grants, and who takes its data connections.
class Target {
 public:
  static absl::StatusOr<std::unique_ptr<Target>> Make(transport::Fabric& fabric,
                                                      const Options& options,
                                                      const std::string& address) {
    const LaneOptions lanes = Lanes(options);
    auto target = std::unique_ptr<Target>(new Target());
    LaneReceiver::Options receiving;
    receiving.arena_bytes = options.bytes();
    receiving.grant_by_connection = true;
    v1::ReserveResponse& granted = target->granted_;
    if (options.sealed) {
      const auto slots = static_cast<uint32_t>(lanes.queue_pairs) * kRingSlotsPerLane;
      receiving.ring = {slots, lanes.slab_bytes};
      granted.set_ring_slots(slots);
      ASSIGN_OR_RETURN(*granted.mutable_key_share(), NewKeyShare());
    }
    ASSIGN_OR_RETURN(receiving.keys, KeysOf(granted.key_share(), lanes.queue_pairs));
    receiving.by_tag = options.sealed && !options.hashes;
    granted.set_by_tag(receiving.by_tag);
    ASSIGN_OR_RETURN(target->receiver_, LaneReceiver::Create(fabric, std::move(receiving)));
    ASSIGN_OR_RETURN(target->listener_, fabric.Listen(address, options.port));
    for (const v1::ArenaChunk& chunk : target->receiver_->chunks()) *granted.add_chunks() = chunk;
    if (const auto ring = target->receiver_->ring()) *granted.mutable_ring() = *ring;
    granted.set_data_address(absl::StrCat(address, ":", options.port));
    granted.set_grant_by_connection(target->receiver_->grants_by_connection());
    granted.set_windows(target->receiver_->windows());
    target->acceptor_ = std::thread([self = target.get(), lanes] {
      for (int i = 0; i < lanes.queue_pairs; ++i) {
        auto incoming = self->listener_->Next(Patience());
        if (!incoming.ok()) return;
        const absl::string_view shown = (*incoming)->private_data();
        const auto number = static_cast<uint32_t>(shown.empty() ? 0 : shown[0]);
        const absl::Status accepted = self->receiver_->Accept(number, *std::move(incoming));
        if (!accepted.ok()) std::cerr << "stream-bench: " << accepted << "\n";
      }
    });
    return target;
  }
  ~Target() {
    if (acceptor_.joinable()) acceptor_.join();
  }

  const v1::ReserveResponse& granted() const { return granted_; }
  LaneReceiver& receiver() { return *receiver_; }

 private:
  Target() = default;
  std::unique_ptr<LaneReceiver> receiver_;
  std::unique_ptr<transport::Listener> listener_;
  v1::ReserveResponse granted_;
  std::thread acceptor_;
};

absl::Status Measure(transport::Fabric& fabric, const Options& options,
                     const v1::ReserveResponse& granted) {
  const LaneOptions lanes = Lanes(options);
  ASSIGN_OR_RETURN(const StreamKeys keys, KeysOf(granted.key_share(), lanes.queue_pairs));
  const auto nothing_more = [](uint64_t) -> absl::StatusOr<std::vector<v1::ArenaChunk>> {
    return absl::ResourceExhaustedError("the arena is as large as the memory");
  };
  ASSIGN_OR_RETURN(const std::shared_ptr<LaneSink> sink,
                   LaneSink::Connect(fabric, lanes, granted, nothing_more, keys, Patience()));
  std::vector<std::byte> memory(options.bytes());
  std::mt19937_64 content(1);
  for (size_t i = 0; i < memory.size(); i += sizeof(uint64_t)) {
    const uint64_t value = content();
    std::memcpy(&memory[i], &value, sizeof(value));
  }
  // The first pass only warms up: the arena's pages appear.
  uint64_t bytes = 0;
  TimePoint start{};
  for (int pass = 0; pass < 2 || Seconds(Clock::now() - start) < options.seconds; ++pass) {
    if (pass == 1) {
      std::cerr << "stream-bench: under way" << std::endl;
      start = Clock::now();
      bytes = 0;
    }
    const size_t threads = sink->lanes().size();
    std::vector<absl::Status> sent(threads);
    std::vector<std::thread> sending;
    for (size_t i = 0; i < threads; ++i) {
      sending.emplace_back([&, i] {
        const uint64_t share = options.bytes() / threads / kPageSize * kPageSize;
        sent[i] = Send(*sink->lanes()[i], memory, i * share, (i + 1) * share);
      });
      bytes += options.bytes() / threads / kPageSize * kPageSize;
    }
    for (std::thread& thread : sending) thread.join();
    for (const absl::Status& status : sent) RETURN_IF_ERROR(status);
    ASSIGN_OR_RETURN(const auto refused, sink->Flush(Patience()));
    if (!refused.empty()) return absl::DataLossError("pages did not come through whole");
  }
  const double took = Seconds(Clock::now() - start);
  std::cout << nlohmann::json{{"provider", fabric.name()},
                              {"sealed", options.sealed},
                              {"granted", granted.windows() ? "windows" : "regions"},
                              {"queue_pairs", lanes.queue_pairs},
                              {"bytes", bytes},
                              {"seconds", took},
                              {"bytes_per_s", static_cast<double>(bytes) / took}}
                   .dump()
            << std::endl;
  return absl::OkStatus();
}

absl::Status BothEnds(const Options& options) {
  ASSIGN_OR_RETURN(const std::unique_ptr<transport::Fabric> here, OpenFabric(options));
  ASSIGN_OR_RETURN(const std::unique_ptr<transport::Fabric> there, OpenFabric(options));
  ASSIGN_OR_RETURN(const std::unique_ptr<Target> target,
                   Target::Make(*there, options, "127.0.0.1"));
  return Measure(*here, options, target->granted());
}

// What one end has to know of the other goes over a TCP connection on the next port: four bytes of
// length, and a ReserveResponse. It stays open until all is done.
absl::Status ListeningEnd(const Options& options) {
  ASSIGN_OR_RETURN(const std::unique_ptr<transport::Fabric> fabric, OpenFabric(options));
  ASSIGN_OR_RETURN(const UniqueFd listening,
                   transport::ListenTcp(options.listen, static_cast<uint16_t>(options.port + 1)));
  ASSIGN_OR_RETURN(const std::unique_ptr<Target> target,
                   Target::Make(*fabric, options, options.listen));
  std::cerr << "stream-bench: listening" << std::endl;
  RETURN_IF_ERROR(transport::Await(listening.get(), POLLIN, Patience(), "wait for the source"));
  const UniqueFd control(
      ::accept4(listening.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
  if (!control) return ErrnoStatus("accept the source");
  const std::string bytes = target->granted().SerializeAsString();
  const auto length = static_cast<uint32_t>(bytes.size());
  RETURN_IF_ERROR(transport::WriteWhole(control.get(), std::as_bytes(std::span(&length, 1)),
                                        Patience(), "tell the source"));
  RETURN_IF_ERROR(transport::WriteWhole(control.get(), std::as_bytes(std::span(bytes)), Patience(),
                                        "tell the source"));
  return transport::Await(control.get(), POLLIN, Deadline::After(std::chrono::minutes(10)),
                          "wait for the end");
}

absl::Status ConnectingEnd(const Options& options) {
  ASSIGN_OR_RETURN(const std::unique_ptr<transport::Fabric> fabric, OpenFabric(options));
  ASSIGN_OR_RETURN(const UniqueFd control,
                   transport::ConnectTcp(options.connect, static_cast<uint16_t>(options.port + 1),
                                         Patience(), "ask the target"));
  uint32_t length = 0;
  RETURN_IF_ERROR(transport::ReadWhole(control.get(), std::as_writable_bytes(std::span(&length, 1)),
                                       Patience(), "hear the target"));
  std::string bytes(std::min<uint32_t>(length, 1 << 20), '\0');
  RETURN_IF_ERROR(transport::ReadWhole(control.get(), std::as_writable_bytes(std::span(bytes)),
                                       Patience(), "hear the target"));
  v1::ReserveResponse granted;
  if (!granted.ParseFromString(bytes)) return absl::DataLossError("the target says nothing known");
  return Measure(*fabric, options, granted);
}

absl::Status Run(const Options& options) {
  if (!options.listen.empty()) return ListeningEnd(options);
  if (!options.connect.empty()) return ConnectingEnd(options);
  return BothEnds(options);
}

}  // namespace
}  // namespace starling::migration

int main(int argc, char** argv) {
  starling::migration::Options options;
  CLI::App app{"Measures a migration's page stream."};
  app.add_flag("--sealed", options.sealed, "encrypted, with keys of its own");
  app.add_flag("--hashes", options.hashes, "sealed: with hashes beside the tags, as with --verify");
  app.add_option("--provider", options.provider)->check(CLI::IsMember({"tcp", "verbs"}));
  app.add_option("--device", options.device, "of verbs; default: the first active one");
  app.add_flag("!--no-windows", options.windows, "of verbs: regions even where there are windows");
  app.add_option("--listen", options.listen, "be the target on this address, once");
  app.add_option("--connect", options.connect, "be the source of the target there");
  app.add_option("--queue-pairs", options.queue_pairs)->check(CLI::Range(1, 16));
  app.add_option("--slab-kib", options.slab_kib, "as data.slab_kib; the same at both ends")
      ->check(CLI::Range(64, 4096));
  app.add_option("--slabs", options.slabs, "as data.slabs")->check(CLI::Range(2, 4096));
  app.add_option("--mib", options.mib, "memory to send; the same at both ends")
      ->check(CLI::Range(1, 4096));
  app.add_option("--port", options.port, "and the next one");
  app.add_option("--seconds", options.seconds);
  CLI11_PARSE(app, argc, argv);
  spdlog::set_level(spdlog::level::err);  // that the other end goes at the end needs no word
  const absl::Status status = starling::migration::Run(options);
  if (!status.ok()) std::cerr << "stream-bench: " << status << "\n";
  return status.ok() ? 0 : 1;
}
