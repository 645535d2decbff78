#include "transport/roce_fabric.h"

#include <algorithm>
#include <random>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/log.h"
#include "base/status.h"
#include "transport/address_exchange.h"
#include "transport/dpdk/port.h"
#include "transport/roce_port.h"
#include "transport/roce_queue_pair.h"
#include "transport/verbs_fabric.h"

namespace starling::transport {
namespace {

// Any memory of this process can be named; this only keeps sums from running over.
constexpr uint64_t kMaxRegionBytes = uint64_t{1} << 40;

// Bytes of an IP packet beside the payload, at most.
constexpr size_t kPacketOverhead =
    roce::kMaxHeaderBytes - roce::kEthernetBytes + roce::kMaxTrailerBytes;

class RoceRegion final : public MemoryRegion {
 public:
  RoceRegion(RoceThread& thread, std::span<std::byte> memory, uint32_t key)
      : thread_(thread), memory_(memory), key_(key) {}
  ~RoceRegion() override {
    thread_.Run([this](roce::Engine& engine) { engine.regions().Remove(key_); });
  }
  std::span<std::byte> span() const override { return memory_; }
  uint64_t remote_address() const override { return reinterpret_cast<uint64_t>(memory_.data()); }
  uint32_t remote_key() const override { return key_; }
  uint32_t local_key() const override { return key_; }

 private:
  RoceThread& thread_;
  std::span<std::byte> memory_;
  uint32_t key_;
};

class RoceFabric final : public Fabric {
 public:
  RoceFabric(std::unique_ptr<RoceThread> thread, const RoceOptions& options, uint32_t ip,
             uint32_t mtu, const ConnectionTuning& tuning)
      : thread_(std::move(thread)),
        options_(options),
        ip_(ip),
        mtu_(mtu),
        tuning_(tuning),
        device_(thread_->port().name()) {}

  const char* name() const override { return "roce"; }
  const std::string& device() const override { return device_; }
  uint64_t max_region_bytes() const override { return kMaxRegionBytes; }

  absl::StatusOr<std::unique_ptr<MemoryRegion>> Register(std::span<std::byte> memory,
                                                         Access access) override;
  absl::StatusOr<std::unique_ptr<Listener>> Listen(const std::string& address,
                                                   uint16_t port) override;
  absl::StatusOr<std::unique_ptr<Connection>> Connect(const std::string& address, uint16_t port,
                                                      absl::string_view private_data,
                                                      Deadline deadline) override;

  absl::StatusOr<std::unique_ptr<Connection>> Accept(Introduction introduction,
                                                     const QueuePairAddress& peer,
                                                     Deadline deadline);

 private:
  // A queue pair and the connection that owns it, not connected yet.
  struct Unconnected {
    RoceQueuePair* queue_pair;
    std::unique_ptr<QueuePairConnection> connection;
    QueuePairAddress own;
  };

  absl::StatusOr<Unconnected> MakeConnection();
  absl::Status ConnectPair(Unconnected& made, const QueuePairAddress& peer, Deadline deadline,
                           Introduction& introduction);

  std::unique_ptr<RoceThread> thread_;
  const RoceOptions options_;
  const uint32_t ip_;
  const uint32_t mtu_;
  const ConnectionTuning tuning_;
  const std::string device_;
};

absl::StatusOr<std::unique_ptr<MemoryRegion>> RoceFabric::Register(std::span<std::byte> memory,
                                                                   Access access) {
  if (memory.empty() || memory.size() > kMaxRegionBytes) {
    return absl::OutOfRangeError(absl::StrCat("a region of ", memory.size(),
                                              " bytes cannot be registered with ", device_,
                                              ": at most ", kMaxRegionBytes));
  }
  std::optional<uint32_t> key;
  thread_->Run([&](roce::Engine& engine) { key = engine.regions().Add(memory, access); });
  if (!key)
    return absl::ResourceExhaustedError(absl::StrCat(device_, " has no room for another region"));
  return std::make_unique<RoceRegion>(*thread_, memory, *key);
}

absl::StatusOr<std::unique_ptr<Listener>> RoceFabric::Listen(const std::string& address,
                                                             uint16_t port) {
  return ListenForIntroductions(address, port, *this);
}

absl::StatusOr<RoceFabric::Unconnected> RoceFabric::MakeConnection() {
  roce::PairTuning pair;
  pair.send_depth = tuning_.send_depth;
  pair.receive_depth = QueuePairConnection::ReceiveDepth(tuning_);
  ASSIGN_OR_RETURN(std::unique_ptr<RoceQueuePair> queue_pair, RoceQueuePair::Make(*thread_, pair));
  Unconnected made;
  made.queue_pair = queue_pair.get();
  made.own = {.ip = ip_,
              .number = queue_pair->number(),
              .mtu = mtu_,
              .reads = static_cast<uint8_t>(pair.reads),
              .partition = options_.partition};
  thread_->Run([&](roce::Engine& engine) { made.own.psn = engine.RandomPsn(); });
  ASSIGN_OR_RETURN(made.connection,
                   QueuePairConnection::Make(std::move(queue_pair), *this, tuning_));
  return made;
}

absl::Status RoceFabric::ConnectPair(Unconnected& made, const QueuePairAddress& peer,
                                     Deadline deadline, Introduction& introduction) {
  if ((peer.partition & 0x7fff) != (options_.partition & 0x7fff)) {
    return absl::FailedPreconditionError(absl::StrCat(introduction.description(),
                                                      ": the peer is in partition ", peer.partition,
                                                      ", ", device_, " in ", options_.partition));
  }
  roce::Path path;
  ASSIGN_OR_RETURN(path.peer_mac, thread_->Resolve(peer.ip, deadline));
  path.peer_ip = peer.ip;
  path.peer_queue_pair = peer.number;
  path.own_psn = made.own.psn;
  path.peer_psn = peer.psn;
  path.mtu = std::min(mtu_, peer.mtu);
  path.partition = options_.partition;
  path.traffic_class = options_.traffic_class;
  std::string description = absl::StrCat(introduction.description(), " (", device_, ", queue pair ",
                                         made.queue_pair->number(), ")");
  spdlog::debug("{}: {} to {} at {}, queue pair {}, path MTU {}", description, roce::IpText(ip_),
                roce::IpText(peer.ip), roce::MacText(path.peer_mac), peer.number, path.mtu);
  made.queue_pair->Connect(path, std::move(description));
  return absl::OkStatus();
}

absl::StatusOr<std::unique_ptr<Connection>> RoceFabric::Connect(const std::string& address,
                                                                uint16_t port,
                                                                absl::string_view private_data,
                                                                Deadline deadline) {
  RETURN_IF_ERROR(QueuePairConnection::CheckPrivateData(private_data));
  ASSIGN_OR_RETURN(Introduction introduction, Introduction::Connect(address, port, deadline));
  ASSIGN_OR_RETURN(Unconnected made, MakeConnection());
  ASSIGN_OR_RETURN(const QueuePairAddress peer, introduction.Ask(made.own, private_data, deadline));
  RETURN_IF_ERROR(ConnectPair(made, peer, deadline, introduction));
  RETURN_IF_ERROR(introduction.SayReady(deadline));
  made.queue_pair->WatchPeer(introduction.Release());
  return std::unique_ptr<Connection>(std::move(made.connection));
}

absl::StatusOr<std::unique_ptr<Connection>> RoceFabric::Accept(Introduction introduction,
                                                               const QueuePairAddress& peer,
                                                               Deadline deadline) {
  ASSIGN_OR_RETURN(Unconnected made, MakeConnection());
  RETURN_IF_ERROR(ConnectPair(made, peer, deadline, introduction));
  RETURN_IF_ERROR(introduction.Accept(made.own, deadline));
  made.queue_pair->WatchPeer(introduction.Release());
  return std::unique_ptr<Connection>(std::move(made.connection));
}

}  // namespace

absl::StatusOr<std::unique_ptr<Fabric>> MakeRoceFabric(std::unique_ptr<roce::PacketPort> port,
                                                       const RoceOptions& options,
                                                       const ConnectionTuning& tuning) {
  ASSIGN_OR_RETURN(const uint32_t ip, roce::ParseIp(options.ip));
  uint32_t mtu = roce::kMaxPathMtu;
  while (mtu > 512 && mtu + kPacketOverhead > port->mtu()) mtu /= 2;
  if (options.path_mtu != 0 &&
      (options.path_mtu > mtu ||
       (options.path_mtu != 1024 && options.path_mtu != 2048 && options.path_mtu != 4096))) {
    return absl::InvalidArgumentError(
        absl::StrCat("a path MTU of ", options.path_mtu, " is not possible over ", port->name(),
                     ", whose packets have ", port->mtu(), " bytes at most: say ", mtu));
  }
  if (options.path_mtu != 0) mtu = options.path_mtu;
  std::random_device random;
  const uint64_t seed = uint64_t{random()} << 32 | random();
  ASSIGN_OR_RETURN(std::unique_ptr<RoceThread> thread,
                   RoceThread::Start(std::move(port), ip, seed));
  return std::make_unique<RoceFabric>(std::move(thread), options, ip, mtu, tuning);
}

absl::StatusOr<std::unique_ptr<Fabric>> OpenRoce(const RoceOptions& options) {
  ASSIGN_OR_RETURN(const RocePort named, ParseRocePort(options.port));
  if (named.kind == RocePort::Kind::kVerbs)
    return OpenVerbs({.device = named.where,
                      .connect = VerbsConnect::kIntroduction,
                      .partition = options.partition == RoceOptions().partition ? uint16_t{0}
                                                                                : options.partition,
                      .traffic_class = options.traffic_class});
  ASSIGN_OR_RETURN(const uint32_t ip, roce::ParseIp(options.ip));
  roce::MacAddress mac = {0x02,
                          0x53,
                          static_cast<uint8_t>(ip >> 24),
                          static_cast<uint8_t>(ip >> 16),
                          static_cast<uint8_t>(ip >> 8),
                          static_cast<uint8_t>(ip)};
  if (!options.mac.empty()) {
    ASSIGN_OR_RETURN(mac, roce::ParseMac(options.mac));
  }
  ASSIGN_OR_RETURN(std::unique_ptr<roce::PacketPort> port,
                   dpdk::OpenPort(options.port, mac, !options.mac.empty()));
  return MakeRoceFabric(std::move(port), options);
}

}  // namespace starling::transport
