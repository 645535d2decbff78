#include "transport/dpdk/port.h"

#include <rte_config.h>
// First the configuration; the others need it.
#include <dirent.h>
#include <linux/if_packet.h>
#include <net/if.h>
#include <rte_dev.h>
#include <rte_eal.h>
#include <rte_errno.h>
#include <rte_ethdev.h>
#include <rte_lcore.h>
#include <rte_mbuf.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cstring>
#include <mutex>
#include <optional>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/fd.h"
#include "base/log.h"
#include "base/status.h"
#include "transport/roce_port.h"

namespace starling::transport::dpdk {
namespace {

// Everything of a path MTU of 4096, and what drivers put before it.
constexpr uint32_t kFrameBytes = 8192;
// AF_XDP wants each buffer, with what DPDK keeps in front of it, within one page.
constexpr uint32_t kXdpBufferBytes = 3712;
constexpr uint32_t kBuffers = 4096;
constexpr uint32_t kBufferCache = 256;
constexpr uint16_t kRxRing = 1024;
constexpr uint16_t kTxRing = 1024;
constexpr uint16_t kBurst = 32;
// Frames that wait for the transmit ring.
constexpr size_t kTxQueue = 64;

using Kind = RocePort::Kind;

// EAL takes the calling thread's processors for its own and pins the thread to them.
class KeepAffinity {
 public:
  KeepAffinity() { (void)::sched_getaffinity(0, sizeof(set_), &set_); }
  ~KeepAffinity() { (void)::sched_setaffinity(0, sizeof(set_), &set_); }
  std::string List() const {
    std::vector<int> cpus;
    for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
      if (CPU_ISSET(cpu, &set_)) cpus.push_back(cpu);
    }
    return absl::StrJoin(cpus, ",");
  }

 private:
  cpu_set_t set_ = {};
};

// Starts EAL, once for the process. The first port decides whether it looks at PCI and takes
// hugepages, which only physical ports need.
absl::Status StartEal(const RocePort& first) {
  static std::mutex mutex;
  static bool started = false;
  static bool physical = false;
  static absl::Status failed;
  std::lock_guard lock(mutex);
  if (!failed.ok()) return failed;
  if (started) {
    if (first.kind == Kind::kPci && !physical) {
      return absl::FailedPreconditionError(
          "DPDK runs in this process already, and without hugepages: open the physical port first");
    }
    return absl::OkStatus();
  }
  const KeepAffinity affinity;
  std::vector<std::string> arguments = {"starling",
                                        "--no-shconf",
                                        "--no-telemetry",
                                        "--log-level=lib.*:warning",
                                        "--log-level=pmd.*:warning",
                                        "--file-prefix",
                                        absl::StrCat("starling-", ::getpid()),
                                        "--lcores",
                                        absl::StrCat("0@(", affinity.List(), ")")};
  physical = first.kind == Kind::kPci;
  if (physical) {
    arguments.insert(arguments.end(), {"-a", first.where});
  } else {
    arguments.insert(arguments.end(), {"--no-pci", "--no-huge", "-m", "256"});
  }
  std::vector<char*> argv;
  for (std::string& argument : arguments) argv.push_back(argument.data());
  argv.push_back(nullptr);
  if (rte_eal_init(static_cast<int>(arguments.size()), argv.data()) < 0) {
    // It cannot be tried again in this process.
    failed = absl::FailedPreconditionError(absl::StrCat(
        "start DPDK: ", rte_strerror(rte_errno),
        physical ? " (are hugepages reserved, and is the device bound to vfio-pci?)" : ""));
    return failed;
  }
  started = true;
  // Made for other processes to find this one, which without shared configuration they cannot.
  (void)::rmdir(rte_eal_get_runtime_dir());
  return absl::OkStatus();
}

// Drivers of the kernel's devices answer 1500 whatever the device carries.
std::optional<uint16_t> KernelMtu(const std::string& device) {
  ifreq request = {};
  if (device.size() >= sizeof(request.ifr_name)) return std::nullopt;
  device.copy(request.ifr_name, device.size());
  const UniqueFd socket(::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  if (!socket || ::ioctl(socket.get(), SIOCGIFMTU, &request) != 0) return std::nullopt;
  return static_cast<uint16_t>(std::min(request.ifr_mtu, 65535));
}

// The driver hands its ring to the kernel with each burst, and once only: what the socket's send
// buffer has no room for at that moment stays in the ring until the next burst, which may be never.
// So the buffer is made to hold the whole ring. The driver does not tell its sockets; they are the
// packet sockets of that device.
absl::Status WidenSendBuffers(const std::string& device) {
  const auto index = static_cast<int>(::if_nametoindex(device.c_str()));
  DIR* const folder = ::opendir("/proc/self/fd");
  if (folder == nullptr) return ErrnoStatus("read /proc/self/fd");
  absl::Status status = absl::NotFoundError(absl::StrCat("no packet socket of ", device));
  while (const dirent* entry = ::readdir(folder)) {
    int fd = -1;
    sockaddr_ll address = {};
    socklen_t length = sizeof(address);
    if (!absl::SimpleAtoi(entry->d_name, &fd) ||
        ::getsockname(fd, reinterpret_cast<sockaddr*>(&address), &length) != 0 ||
        address.sll_family != AF_PACKET || address.sll_ifindex != index) {
      continue;
    }
    // Twice, for what the kernel keeps with each frame.
    const int bytes = 2 * kTxRing * kFrameBytes;
    if (::setsockopt(fd, SOL_SOCKET, SO_SNDBUFFORCE, &bytes, sizeof(bytes)) == 0) {
      status = absl::OkStatus();
    } else {
      status = ErrnoStatus(absl::StrCat("widen the send buffer of ", device));
      break;
    }
  }
  ::closedir(folder);
  return status;
}

struct PoolDelete {
  void operator()(rte_mempool* pool) const { rte_mempool_free(pool); }
};
using Pool = std::unique_ptr<rte_mempool, PoolDelete>;

class DpdkPort final : public roce::PacketPort {
 public:
  DpdkPort(std::string name, uint16_t port, Pool pool, const roce::MacAddress& mac, size_t mtu,
           std::string bus, std::string device)
      : name_(std::move(name)),
        port_(port),
        pool_(std::move(pool)),
        mac_(mac),
        mtu_(mtu),
        bus_(std::move(bus)),
        device_(std::move(device)) {}

  ~DpdkPort() override {
    for (size_t i = 0; i < waiting_; ++i) rte_pktmbuf_free(queue_[i]);
    rte_eth_dev_stop(port_);
    rte_eth_dev_close(port_);
    (void)rte_eal_hotplug_remove(bus_.c_str(), device_.c_str());
  }

  size_t Receive(absl::FunctionRef<void(std::span<const std::byte>)> handler) override {
    // Buffers are cached for threads that EAL knows.
    if (!registered_) {
      registered_ = true;
      (void)rte_thread_register();
    }
    std::array<rte_mbuf*, kBurst> received;
    const uint16_t n = rte_eth_rx_burst(port_, 0, received.data(), kBurst);
    for (uint16_t i = 0; i < n; ++i) {
      if (i + 1 < n) rte_prefetch0(rte_pktmbuf_mtod(received[i + 1], void*));
      if (received[i]->nb_segs == 1) {
        handler(
            {rte_pktmbuf_mtod(received[i], const std::byte*), rte_pktmbuf_data_len(received[i])});
      }
    }
    rte_pktmbuf_free_bulk(received.data(), n);
    return n;
  }

  bool HasRoom() override {
    if (waiting_ < queue_.size()) return true;
    Flush();
    return waiting_ < queue_.size();
  }

  void Send(const roce::OutgoingFrame& frame) override {
    rte_mbuf* const buffer = rte_pktmbuf_alloc(pool_.get());
    if (buffer == nullptr) return;  // as if it had been lost
    // One segment: some drivers send garbage otherwise.
    char* at = rte_pktmbuf_append(buffer, static_cast<uint16_t>(frame.bytes));
    const auto put = [&at](std::span<const std::byte> bytes) {
      std::memcpy(at, bytes.data(), bytes.size());
      at += bytes.size();
    };
    put(frame.headers);
    for (const auto& part : frame.payload) put(part);
    put(frame.trailer);
    queue_[waiting_++] = buffer;
  }

  void Flush() override {
    if (waiting_ == 0) return;
    const uint16_t sent =
        rte_eth_tx_burst(port_, 0, queue_.data(), static_cast<uint16_t>(waiting_));
    std::copy(queue_.begin() + sent, queue_.begin() + static_cast<ptrdiff_t>(waiting_),
              queue_.begin());
    waiting_ -= sent;
  }

  const roce::MacAddress& mac() const override { return mac_; }
  size_t mtu() const override { return mtu_; }
  const std::string& name() const override { return name_; }

 private:
  const std::string name_;
  const uint16_t port_;
  const Pool pool_;
  const roce::MacAddress mac_;
  const size_t mtu_;
  const std::string bus_;
  const std::string device_;
  bool registered_ = false;
  std::array<rte_mbuf*, kTxQueue> queue_{};
  size_t waiting_ = 0;
};

// The driver's name for the device, and its arguments.
std::pair<std::string, std::string> Device(const RocePort& spec, unsigned number,
                                           const roce::MacAddress& mac) {
  switch (spec.kind) {
    case Kind::kAfPacket:
      // Through the device's queue: past it, what the device has no room for at that moment is
      // lost.
      return {absl::StrCat("net_af_packet", number),
              absl::StrCat("iface=", spec.where, ",qdisc_bypass=0,blocksz=65536,framesz=",
                           kFrameBytes, ",framecnt=", kRxRing)};
    case Kind::kAfXdp:
      return {absl::StrCat("net_af_xdp", number), absl::StrCat("iface=", spec.where)};
    case Kind::kMemif:
      return {absl::StrCat("net_memif", number),
              absl::StrCat("socket=", spec.where, ",socket-abstract=no,bsize=", kFrameBytes,
                           ",rsize=10,role=", spec.server ? "server" : "client",
                           ",mac=", roce::MacText(mac))};
    case Kind::kPci:
    case Kind::kVerbs:
      break;
  }
  return {spec.where, ""};
}

}  // namespace

absl::StatusOr<std::unique_ptr<roce::PacketPort>> OpenPort(const std::string& name,
                                                           const roce::MacAddress& mac,
                                                           bool force_mac) {
  ASSIGN_OR_RETURN(const RocePort spec, ParseRocePort(name));
  if (spec.kind == Kind::kVerbs)
    return absl::InvalidArgumentError(absl::StrCat("port ", name, " is none of DPDK's"));
  RETURN_IF_ERROR(StartEal(spec));
  static std::atomic<unsigned> numbers{0};
  const unsigned number = numbers++;
  const bool physical = spec.kind == Kind::kPci;
  const std::string bus = physical ? "pci" : "vdev";
  // clang does not let lambdas capture structured bindings.
  const auto named = Device(spec, number, mac);
  const std::string& device = named.first;
  const std::string& arguments = named.second;
  const auto fail = [&](int error, absl::string_view what) {
    return absl::FailedPreconditionError(
        absl::StrCat("port ", name, ": ", what, ": ", rte_strerror(error < 0 ? -error : error)));
  };
  uint16_t port = 0;
  // A physical one was found when EAL started.
  if (rte_eth_dev_get_port_by_name(device.c_str(), &port) != 0) {
    if (const int error = rte_eal_hotplug_add(bus.c_str(), device.c_str(), arguments.c_str());
        error != 0) {
      return fail(error, "open it (does it exist, and are we root?)");
    }
    if (const int error = rte_eth_dev_get_port_by_name(device.c_str(), &port); error != 0)
      return fail(error, "no driver took it");
  }
  const auto undo = [&](absl::Status status) {
    rte_eth_dev_close(port);
    (void)rte_eal_hotplug_remove(bus.c_str(), device.c_str());
    return status;
  };
  const int socket = std::max(0, rte_eth_dev_socket_id(port));
  const uint32_t buffer =
      spec.kind == Kind::kAfXdp ? kXdpBufferBytes : kFrameBytes + RTE_PKTMBUF_HEADROOM;
  Pool pool(rte_pktmbuf_pool_create(absl::StrCat("starling-", number).c_str(), kBuffers,
                                    kBufferCache, 0, static_cast<uint16_t>(buffer), socket));
  if (!pool) return undo(fail(rte_errno, "make its buffers"));

  rte_eth_dev_info info = {};
  if (const int error = rte_eth_dev_info_get(port, &info); error != 0)
    return undo(fail(error, "ask for its limits"));
  rte_eth_conf configuration = {};
  uint16_t mtu = 0;
  if (rte_eth_dev_get_mtu(port, &mtu) != 0) mtu = 1500;
  const auto wanted =
      static_cast<uint16_t>(std::min<uint32_t>({info.max_mtu == 0 ? mtu : info.max_mtu, 9000}));
  if (physical) configuration.rxmode.mtu = wanted;
  if (const int error = rte_eth_dev_configure(port, 1, 1, &configuration); error != 0)
    return undo(fail(error, "configure it"));
  uint16_t rx = kRxRing, tx = kTxRing;
  (void)rte_eth_dev_adjust_nb_rx_tx_desc(port, &rx, &tx);
  if (const int error =
          rte_eth_rx_queue_setup(port, 0, rx, static_cast<unsigned>(socket), nullptr, pool.get());
      error != 0) {
    return undo(fail(error, "set up its receive queue"));
  }
  if (const int error = rte_eth_tx_queue_setup(port, 0, tx, static_cast<unsigned>(socket), nullptr);
      error != 0) {
    return undo(fail(error, "set up its transmit queue"));
  }
  if (const int error = rte_eth_dev_start(port); error != 0) return undo(fail(error, "start it"));

  if (spec.kind == Kind::kAfPacket) {
    if (const absl::Status status = WidenSendBuffers(spec.where); !status.ok())
      return undo(Annotate(status, absl::StrCat("port ", name)));
  }

  // The device's own address is another one, and would be all that it lets in.
  if (!physical) (void)rte_eth_promiscuous_enable(port);

  roce::MacAddress own = mac;
  if (physical) {
    rte_ether_addr address = {};
    if (force_mac) {
      std::copy(mac.begin(), mac.end(), address.addr_bytes);
      if (const int error = rte_eth_dev_default_mac_addr_set(port, &address); error != 0)
        return undo(fail(error, "set its hardware address"));
    } else {
      (void)rte_eth_macaddr_get(port, &address);
      std::copy_n(address.addr_bytes, own.size(), own.begin());
    }
  }
  if (rte_eth_dev_get_mtu(port, &mtu) != 0) mtu = 1500;
  if (spec.kind == Kind::kAfPacket || spec.kind == Kind::kAfXdp)
    mtu = KernelMtu(spec.where).value_or(mtu);
  // Between two processes there is no device that limits it.
  if (spec.kind == Kind::kMemif) mtu = kFrameBytes;
  // The device may carry more than a buffer holds.
  mtu = static_cast<uint16_t>(std::min<uint32_t>(mtu, buffer - RTE_PKTMBUF_HEADROOM - 64));
  spdlog::debug("port {}: address {}, MTU {}", name, roce::MacText(own), mtu);
  return std::make_unique<DpdkPort>(name, port, std::move(pool), own, mtu, bus, device);
}

}  // namespace starling::transport::dpdk
