// How fast a migration's page stream lands pages in an arena over TCP on loopback, plain or sealed:
// hashing, messages, answers and all, but without a component that is read. Both ends are in this
// process. One JSON object.

#include <sys/mman.h>

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
#include "transport/tcp_fabric.h"

namespace starling::migration {
namespace {

using checkpoint::AddressSpace;
using checkpoint::kPageSize;

constexpr uint64_t kMemoryBytes = 256 * kMiB;  // of the component that is made up

struct Options {
  bool sealed = false;
  uint16_t port = 7595;
  double seconds = 2;
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

absl::Status Measure(const Options& options) {
  const std::unique_ptr<transport::Fabric> here = transport::OpenTcp();
  const std::unique_ptr<transport::Fabric> there = transport::OpenTcp();
  const Config::Data data;  // as configured by default
  LaneOptions lanes = LaneOptionsFrom(data);
  lanes.compress = false;
  LaneReceiver::Options receiving;
  receiving.arena_bytes = kMemoryBytes;
  std::random_device random;
  if (options.sealed) {
    receiving.ring = {static_cast<uint32_t>(lanes.queue_pairs) * kRingSlotsPerLane,
                      lanes.slab_bytes};
    receiving.keys.resize(static_cast<size_t>(lanes.queue_pairs));
    for (ChannelKeys& keys : receiving.keys) {
      for (uint8_t& byte : keys.to_target) byte = static_cast<uint8_t>(random());
      for (uint8_t& byte : keys.to_source) byte = static_cast<uint8_t>(random());
    }
  }
  const StreamKeys keys = receiving.keys;
  ASSIGN_OR_RETURN(const std::unique_ptr<LaneReceiver> receiver,
                   LaneReceiver::Create(*there, std::move(receiving)));
  ASSIGN_OR_RETURN(const auto listener, there->Listen("127.0.0.1", options.port));
  std::vector<absl::Status> accepted(static_cast<size_t>(lanes.queue_pairs));
  std::thread acceptor([&] {
    for (size_t i = 0; i < accepted.size(); ++i) {
      auto incoming = listener->Next(Patience());
      accepted[i] = incoming.ok() ? receiver->Accept(static_cast<uint32_t>(i), *std::move(incoming))
                                  : incoming.status();
    }
  });
  v1::ReserveResponse granted;
  for (const v1::ArenaChunk& chunk : receiver->chunks()) *granted.add_chunks() = chunk;
  granted.set_data_address(absl::StrCat("127.0.0.1:", options.port));
  if (const auto ring = receiver->ring()) {
    *granted.mutable_ring() = *ring;
    granted.set_ring_slots(static_cast<uint32_t>(lanes.queue_pairs) * kRingSlotsPerLane);
  }
  auto connected = LaneSink::Connect(
      *here, lanes, granted, [&](uint64_t bytes) { return receiver->Grow(bytes); }, keys,
      Patience());
  acceptor.join();
  for (const absl::Status& status : accepted) RETURN_IF_ERROR(status);
  ASSIGN_OR_RETURN(const std::shared_ptr<LaneSink> sink, std::move(connected));

  std::vector<std::byte> memory(kMemoryBytes);
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
      start = Clock::now();
      bytes = 0;
    }
    const size_t threads = sink->lanes().size();
    std::vector<absl::Status> sent(threads);
    std::vector<std::thread> sending;
    for (size_t i = 0; i < threads; ++i) {
      sending.emplace_back([&, i] {
        const uint64_t share = kMemoryBytes / threads / kPageSize * kPageSize;
        sent[i] = Send(*sink->lanes()[i], memory, i * share, (i + 1) * share);
      });
    }
    for (std::thread& thread : sending) thread.join();
    for (const absl::Status& status : sent) RETURN_IF_ERROR(status);
    ASSIGN_OR_RETURN(const auto refused, sink->Flush(Patience()));
    if (!refused.empty()) return absl::DataLossError("pages did not come through whole");
    bytes += kMemoryBytes;
  }
  const double took = Seconds(Clock::now() - start);
  std::cout << nlohmann::json{{"sealed", options.sealed},
                              {"bytes", bytes},
                              {"seconds", took},
                              {"bytes_per_s", static_cast<double>(bytes) / took}}
                   .dump()
            << std::endl;
  return absl::OkStatus();
}

}  // namespace
}  // namespace starling::migration

int main(int argc, char** argv) {
  starling::migration::Options options;
  CLI::App app{"Measures a migration's page stream over TCP on loopback."};
  app.add_flag("--sealed", options.sealed, "encrypted, with keys of its own");
  app.add_option("--port", options.port);
  app.add_option("--seconds", options.seconds);
  CLI11_PARSE(app, argc, argv);
  spdlog::set_level(spdlog::level::err);  // that the other end goes at the end needs no word
  const absl::Status status = starling::migration::Measure(options);
  if (!status.ok()) std::cerr << "stream-bench: " << status << "\n";
  return status.ok() ? 0 : 1;
}
