// What RoCEv2 in user space moves over a port, and what the port moves by itself; perf/run
// transport starts both ends, each in a network namespace of its own.
//   roce-bench port-listen | port-connect   bare frames of the path MTU's size, as fast as they
//                                           arrive: some are under way, and what arrived is told
//   roce-bench listen | connect             RDMA writes from registered memory
// The side that knows prints JSON: {"bytes_per_s": payload}.

#include <sys/mman.h>
#include <sys/prctl.h>

#include <CLI/CLI.hpp>
#include <iostream>
#include <nlohmann/json.hpp>
#include <thread>
#include <vector>

#include "base/clock.h"
#include "base/status.h"
#include "base/units.h"
#include "transport/dpdk/port.h"
#include "transport/fabric.h"
#include "transport/roce/packet.h"
#include "transport/roce/queue_pair_parts.h"
#include "transport/roce_fabric.h"

namespace starling::transport {
namespace {

struct Options {
  RoceOptions roce;
  std::string address;
  uint16_t port = 7590;
  double seconds = 2;
  size_t mib = 64;         // of the memory that is written from and to
  size_t write_kib = 512;  // of each write
  size_t queue_pairs = 1;
};

constexpr roce::MacAddress kListener = {2, 0, 0, 0, 0x77, 1};
constexpr roce::MacAddress kConnector = {2, 0, 0, 0, 0x77, 2};
constexpr uint32_t kMtu = 4096;
// Bare frames under way, fewer than the receiver's ring holds, and how often their count is told.
constexpr uint32_t kWindow = 256;
constexpr uint32_t kTellEvery = 32;
// What has not been told of after this time was lost.
constexpr auto kLost = std::chrono::milliseconds(50);
// As RoceThread: a thread that spins where processors are shared keeps its own peer from running.
constexpr auto kSpin = std::chrono::microseconds(50);
constexpr auto kSleep = std::chrono::microseconds(50);
constexpr auto kWait = std::chrono::seconds(30);

Deadline Soon() { return Deadline::After(kWait); }

Duration Length(const Options& options) {
  return std::chrono::duration_cast<Duration>(std::chrono::duration<double>(options.seconds));
}

void Print(uint64_t bytes, Duration duration) {
  std::cout << nlohmann::json{{"bytes_per_s", static_cast<double>(bytes) / Seconds(duration)},
                              {"bytes", bytes}}
                   .dump()
            << std::endl;
}

// A frame whose sequence number is `count`.
class BareFrame {
 public:
  BareFrame(const roce::MacAddress& from, const roce::MacAddress& to, size_t payload)
      : content_(payload), part_(content_) {
    headers_.destination_mac = to;
    headers_.source_mac = from;
    headers_.opcode = roce::Opcode::kWriteMiddle;
    tail_bytes_ = roce::EncodeTrailer(0, payload, tail_.data());
  }
  void Send(roce::PacketPort& port, uint32_t count) {
    headers_.psn = count & roce::kMask24;
    const size_t head_bytes = roce::EncodeHeaders(headers_, content_.size(), head_.data());
    port.Send({.headers = {head_.data(), head_bytes},
               .payload = {&part_, 1},
               .trailer = {tail_.data(), tail_bytes_},
               .bytes = head_bytes + content_.size() + tail_bytes_});
  }

 private:
  const std::vector<std::byte> content_;
  const std::span<const std::byte> part_;
  roce::Headers headers_;
  std::array<std::byte, roce::kMaxHeaderBytes> head_;
  std::array<std::byte, roce::kMaxTrailerBytes> tail_;
  size_t tail_bytes_ = 0;
};

// Counts from the first frame to the last: what comes between is what the port carries.
absl::Status PortListen(const Options& options) {
  ASSIGN_OR_RETURN(const auto port, dpdk::OpenPort(options.roce.port, kListener, false));
  std::cerr << "listening" << std::endl;
  BareFrame tells(kListener, kConnector, 64);
  uint64_t bytes = 0;
  uint32_t frames = 0, told = 0;
  TimePoint first{}, last{};
  const Deadline deadline = Soon();
  while (!deadline.Passed()) {
    uint64_t here = 0;
    port->Receive([&](std::span<const std::byte> frame) {
      roce::Packet packet;
      if (roce::Decode(frame, packet) == roce::DecodeError::kNone &&
          packet.headers.destination_mac == kListener) {
        here += packet.payload.size();
        ++frames;
      }
    });
    const TimePoint now = Clock::now();
    if (here > 0) {
      if (bytes == 0) first = now;
      last = now;
      bytes += here;
    }
    if ((frames - told >= kTellEvery || (here == 0 && frames != told)) && port->HasRoom()) {
      told = frames;
      tells.Send(*port, frames);
      port->Flush();
    }
    if (here == 0 && bytes > 0 && now - last > std::chrono::milliseconds(500)) {
      Print(bytes, last - first);
      return absl::OkStatus();
    }
    if (here == 0 && now - last > kSpin) std::this_thread::sleep_for(kSleep);
  }
  return absl::DeadlineExceededError("nothing came through the port");
}

absl::Status PortConnect(const Options& options) {
  ASSIGN_OR_RETURN(const auto port, dpdk::OpenPort(options.roce.port, kConnector, false));
  BareFrame carries(kConnector, kListener, kMtu);
  uint32_t sent = 0, arrived = 0, lost = 0;
  TimePoint active = Clock::now();
  const TimePoint end = active + Length(options);
  for (TimePoint now = active; now < end; now = Clock::now()) {
    const uint32_t before = arrived;
    port->Receive([&](std::span<const std::byte> frame) {
      roce::Packet packet;
      if (roce::Decode(frame, packet) == roce::DecodeError::kNone &&
          packet.headers.destination_mac == kConnector) {
        arrived = static_cast<uint32_t>(roce::ExtendPsn(packet.headers.psn, arrived));
      }
    });
    if (now - active > kLost) lost = sent - arrived;
    const uint32_t from = sent;
    while (sent - from < 32 && sent < arrived + lost + kWindow && port->HasRoom())
      carries.Send(*port, ++sent);
    port->Flush();
    if (arrived != before || sent != from) active = now;
    if (now - active > kSpin) std::this_thread::sleep_for(kSleep);
  }
  return absl::OkStatus();
}

std::span<std::byte> Allocate(size_t bytes) {
  void* const memory = ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE,
                              MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
  if (memory == MAP_FAILED) throw std::bad_alloc();
  return {static_cast<std::byte*>(memory), bytes};
}

struct Grant {
  uint64_t address = 0;
  uint32_t key = 0;
};

absl::Status Listen(const Options& options) {
  ASSIGN_OR_RETURN(const std::unique_ptr<Fabric> fabric, OpenRoce(options.roce));
  ASSIGN_OR_RETURN(const auto listener, fabric->Listen(options.address, options.port));
  std::cerr << "listening" << std::endl;
  const auto memory = Allocate(options.mib * kMiB);
  ASSIGN_OR_RETURN(const auto region, fabric->Register(memory, Access::kRemoteWrite));
  const Grant grant = {region->remote_address(), region->remote_key()};
  std::vector<std::unique_ptr<Connection>> connections;
  for (size_t i = 0; i < options.queue_pairs; ++i) {
    ASSIGN_OR_RETURN(const auto incoming, listener->Next(Soon()));
    ASSIGN_OR_RETURN(auto connection, incoming->Accept(Soon()));
    RETURN_IF_ERROR(
        connection->Send({reinterpret_cast<const char*>(&grant), sizeof(grant)}, Soon()).status());
    connections.push_back(std::move(connection));
  }
  // Until they end.
  for (const auto& connection : connections) {
    while (connection->Receive(Soon()).ok()) {
    }
  }
  return absl::OkStatus();
}

absl::Status Connect(const Options& options) {
  ASSIGN_OR_RETURN(const std::unique_ptr<Fabric> fabric, OpenRoce(options.roce));
  const auto memory = Allocate(options.mib * kMiB);
  ASSIGN_OR_RETURN(const auto region, fabric->Register(memory, Access::kLocal));
  std::vector<std::unique_ptr<Connection>> connections;
  std::vector<Grant> grants;
  for (size_t i = 0; i < options.queue_pairs; ++i) {
    ASSIGN_OR_RETURN(auto connection, fabric->Connect(options.address, options.port, "", Soon()));
    ASSIGN_OR_RETURN(const std::string said, connection->Receive(Soon()));
    Grant grant;
    if (said.size() != sizeof(grant)) return absl::DataLossError("no grant");
    std::memcpy(&grant, said.data(), sizeof(grant));
    grants.push_back(grant);
    connections.push_back(std::move(connection));
  }
  const size_t bytes_each = options.write_kib * kKiB;
  uint64_t bytes = 0;
  size_t offset = 0;
  // The first tenth only warms up.
  const TimePoint begin = Clock::now();
  TimePoint start{};
  for (size_t turn = 0;; ++turn) {
    const TimePoint now = Clock::now();
    if (start == TimePoint{} && now - begin > Length(options) / 10) {
      start = now;
      bytes = 0;
    }
    if (now - begin > Length(options)) break;
    Connection& connection = *connections[turn % connections.size()];
    const Grant& grant = grants[turn % connections.size()];
    RETURN_IF_ERROR(
        connection.Write(*region, offset, bytes_each, grant.address + offset, grant.key, Soon()));
    // A message behind each write, as a batch has one.
    ASSIGN_OR_RETURN(const uint64_t sent, connection.Send("batch", Soon()));
    if (sent > 8) RETURN_IF_ERROR(connection.WaitCompleted(sent - 8, Soon()));
    bytes += bytes_each;
    offset = (offset + bytes_each) % memory.size();
  }
  for (const auto& connection : connections) {
    ASSIGN_OR_RETURN(const uint64_t sent, connection->Send("end", Soon()));
    RETURN_IF_ERROR(connection->WaitCompleted(sent, Soon()));
  }
  Print(bytes, Clock::now() - start);
  return absl::OkStatus();
}

}  // namespace
}  // namespace starling::transport

int main(int argc, char** argv) {
  using namespace starling::transport;
  Options options;
  CLI::App app("Measures RoCEv2 in user space, and the port it uses.");
  app.require_subcommand(1);
  app.add_option("--roce-port", options.roce.port, "af_packet:DEVICE, ...")->required();
  app.add_option("--roce-ip", options.roce.ip, "address of that port");
  app.add_option("--path-mtu", options.roce.path_mtu);
  app.add_option("--address", options.address, "of the listening side's kernel");
  app.add_option("--port", options.port);
  app.add_option("--seconds", options.seconds);
  app.add_option("--write-kib", options.write_kib);
  app.add_option("--queue-pairs", options.queue_pairs);
  absl::Status (*const run[])(const Options&) = {PortListen, PortConnect, Listen, Connect};
  const char* const names[] = {"port-listen", "port-connect", "listen", "connect"};
  for (const char* name : names) app.add_subcommand(name)->fallthrough();
  CLI11_PARSE(app, argc, argv);
  ::prctl(PR_SET_TIMERSLACK, 1000);  // as RoceThread
  for (size_t i = 0; i < std::size(names); ++i) {
    if (!app.got_subcommand(names[i])) continue;
    const absl::Status status = run[i](options);
    if (!status.ok()) std::cerr << "roce-bench: " << status << "\n";
    return status.ok() ? 0 : 1;
  }
}
