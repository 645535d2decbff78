// Every operation of a queue pair between two machines, in both directions, at lengths around the
// path MTU: what a provider can do that fabric.h does not show. Run as `listen` on one and as
// `connect` on the other; `--provider verbs` is the kernel's, `--provider roce` ours:
//   queue_pair_check listen  --provider verbs --address 10.77.0.2 --port 7500
//   queue_pair_check connect --provider roce --roce-port af_packet:eth0 --roce-ip 10.77.0.101
//                            --address 10.77.0.2 --port 7500

#include <CLI/CLI.hpp>
#include <cstring>
#include <functional>
#include <iostream>
#include <random>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/clock.h"
#include "base/status.h"
#include "transport/address_exchange.h"
#include "transport/dpdk/port.h"
#include "transport/roce_fabric.h"
#include "transport/roce_queue_pair.h"
#include "transport/verbs_queue_pair.h"

namespace starling::transport {
namespace {

constexpr size_t kBytes = 64 * 1024;
constexpr uint32_t kReceives = 16;
constexpr size_t kLengths[] = {1, 3, 1024, 4095, 4096, 4097, 8192, 12289, 50000};

struct Options {
  std::string provider;
  RoceOptions roce;
  std::string address;
  uint16_t port = 7500;
  double timeout_s = 30;
  Deadline deadline() const {
    return Deadline::After(
        std::chrono::duration_cast<Duration>(std::chrono::duration<double>(timeout_s)));
  }
};

// Four pieces of memory of each side, and what the peer may do with them.
struct Memory {
  std::vector<std::byte> source, target, inbox, fetched;
};

struct Keys {
  uint32_t source = 0;  // for the peer's READs
  uint32_t target = 0;  // for the peer's WRITEs
  uint32_t local = 0;   // of source
  uint32_t inbox = 0;
  uint32_t fetched = 0;
};

struct Grant {
  uint64_t source = 0;
  uint64_t target = 0;
  uint32_t source_key = 0;
  uint32_t target_key = 0;
};

// One side of one provider. The order of members is that of making; they go in reverse.
struct Side {
  std::unique_ptr<RoceThread> thread;
  ProtectionDomain pd;
  std::vector<Region> regions;
  std::unique_ptr<VerbsEvents> events;
  std::unique_ptr<QueuePair> queue_pair;
  QueuePairAddress own;
  std::function<absl::Status(const QueuePairAddress&, Deadline)> connect;
  std::function<void(UniqueFd)> watch;
  Keys keys;
};

absl::Status OpenRoceSide(const Options& options, Memory& memory, Side& side) {
  ASSIGN_OR_RETURN(const uint32_t ip, roce::ParseIp(options.roce.ip));
  const roce::MacAddress mac = {
      2, 0x53, 0, 0, static_cast<uint8_t>(ip >> 8), static_cast<uint8_t>(ip)};
  ASSIGN_OR_RETURN(auto port, dpdk::OpenPort(options.roce.port, mac, false));
  ASSIGN_OR_RETURN(side.thread, RoceThread::Start(std::move(port), ip, std::random_device()()));
  roce::PairTuning tuning;
  tuning.receive_depth = kReceives;
  ASSIGN_OR_RETURN(auto queue_pair, RoceQueuePair::Make(*side.thread, tuning));
  side.own = {.ip = ip, .number = queue_pair->number(), .mtu = 4096, .reads = 16};
  side.thread->Run([&](roce::Engine& engine) {
    side.own.psn = engine.RandomPsn();
    roce::RegionTable& regions = engine.regions();
    side.keys = {.source = *regions.Add(memory.source, Access::kRemoteRead),
                 .target = *regions.Add(memory.target, Access::kRemoteWrite),
                 .local = *regions.Add(memory.source, Access::kLocal),
                 .inbox = *regions.Add(memory.inbox, Access::kLocal),
                 .fetched = *regions.Add(memory.fetched, Access::kLocal)};
  });
  RoceQueuePair* const raw = queue_pair.get();
  side.connect = [&side, raw](const QueuePairAddress& peer, Deadline deadline) -> absl::Status {
    roce::Path path;
    ASSIGN_OR_RETURN(path.peer_mac, side.thread->Resolve(peer.ip, deadline));
    path.peer_ip = peer.ip;
    path.peer_queue_pair = peer.number;
    path.own_psn = side.own.psn;
    path.peer_psn = peer.psn;
    path.mtu = std::min(side.own.mtu, peer.mtu);
    raw->Connect(path, "roce");
    return absl::OkStatus();
  };
  side.watch = [raw](UniqueFd peer) { raw->WatchPeer(std::move(peer)); };
  side.queue_pair = std::move(queue_pair);
  return absl::OkStatus();
}

absl::Status OpenVerbsSide(Memory& memory, Side& side) {
  int count = 0;
  ibv_device** const devices = ibv_get_device_list(&count);
  if (devices == nullptr || count == 0) return absl::FailedPreconditionError("no RDMA device");
  // Stays open until the process ends.
  ibv_context* const context = ibv_open_device(devices[0]);
  ibv_free_device_list(devices);
  if (context == nullptr) return ErrnoStatus("open the RDMA device");
  side.pd.reset(ibv_alloc_pd(context));
  if (!side.pd) return ErrnoStatus("allocate a protection domain");
  const auto add = [&](std::vector<std::byte>& bytes, int access) {
    side.regions.emplace_back(
        ibv_reg_mr(side.pd.get(), bytes.data(), bytes.size(), access | IBV_ACCESS_LOCAL_WRITE));
    return side.regions.back()->lkey;
  };
  side.keys.source = side.keys.local = add(memory.source, IBV_ACCESS_REMOTE_READ);
  side.keys.target = add(memory.target, IBV_ACCESS_REMOTE_WRITE);
  side.keys.inbox = add(memory.inbox, 0);
  side.keys.fetched = add(memory.fetched, 0);
  ASSIGN_OR_RETURN(const VerbsPort port, FindVerbsPort(context));
  ASSIGN_OR_RETURN(side.events, VerbsEvents::Watch(context));
  ASSIGN_OR_RETURN(auto queue_pair, VerbsQueuePair::Make(context, port, side.pd.get(), *side.events,
                                                         {.receive_depth = kReceives}));
  VerbsQueuePair* const raw = queue_pair.get();
  side.own = raw->OwnAddress(port);
  side.connect = [raw, port](const QueuePairAddress& peer, Deadline) {
    return raw->ConnectTo(port, peer, "verbs");
  };
  side.watch = [raw](UniqueFd peer) { raw->WatchPeer(std::move(peer)); };
  side.queue_pair = std::move(queue_pair);
  return absl::OkStatus();
}

class Check {
 public:
  Check(const Options& options, Memory& memory, Side& side)
      : options_(options), memory_(memory), side_(side) {}

  absl::Status PostReceives() {
    for (uint64_t i = 0; i < kReceives; ++i) RETURN_IF_ERROR(PostReceive());
    return absl::OkStatus();
  }

  absl::Status ExchangeGrants() {
    const Grant own = {reinterpret_cast<uint64_t>(memory_.source.data()),
                       reinterpret_cast<uint64_t>(memory_.target.data()), side_.keys.source,
                       side_.keys.target};
    std::memcpy(memory_.fetched.data(), &own, sizeof(own));
    RETURN_IF_ERROR(Post(Operation::kMessage, memory_.fetched, side_.keys.fetched, sizeof(own)));
    RETURN_IF_ERROR(Next(/*received=*/false).status());
    ASSIGN_OR_RETURN(const WorkCompletion said, Next(/*received=*/true));
    if (said.bytes != sizeof(grant_)) return absl::DataLossError("no grant");
    std::memcpy(&grant_, memory_.inbox.data(), sizeof(grant_));
    RETURN_IF_ERROR(PostReceive());
    // Nobody begins before the other has read it: the next message would take its place. This one
    // is empty.
    RETURN_IF_ERROR(Post(Operation::kMessage, memory_.source, side_.keys.local, 0));
    RETURN_IF_ERROR(Next(/*received=*/false).status());
    RETURN_IF_ERROR(Next(/*received=*/true).status());
    return PostReceive();
  }

  // All operations at all lengths; the peer follows.
  absl::Status Lead() {
    for (const size_t bytes : kLengths) {
      for (const bool immediate : {false, true}) {
        const uint32_t number = immediate ? 0xabc00000u + static_cast<uint32_t>(bytes) : 0;
        RETURN_IF_ERROR(Post(immediate ? Operation::kWriteImmediate : Operation::kWrite,
                             memory_.source, side_.keys.local, bytes, grant_.target,
                             grant_.target_key, number));
        RETURN_IF_ERROR(Next(false).status());
        // After the plain write a message says that it is there.
        if (!immediate) {
          RETURN_IF_ERROR(Post(Operation::kMessage, memory_.source, side_.keys.local, bytes));
          RETURN_IF_ERROR(Next(false).status());
        }
        // The peer has looked, and what was there is gone.
        RETURN_IF_ERROR(Next(true).status());
        RETURN_IF_ERROR(PostReceive());
      }
      RETURN_IF_ERROR(Post(Operation::kRead, memory_.fetched, side_.keys.fetched, bytes,
                           grant_.source, grant_.source_key));
      RETURN_IF_ERROR(Next(false).status());
      if (std::memcmp(memory_.fetched.data(), memory_.source.data(), bytes) != 0)
        return absl::DataLossError(absl::StrCat("READ of ", bytes, " bytes brought others"));
    }
    return absl::OkStatus();
  }

  // Who led last has read last, from memory that the other side keeps until it is told.
  absl::Status Part(bool led_last) {
    if (!led_last) {
      RETURN_IF_ERROR(Next(true).status());
      // For the acknowledgement to go out.
      std::this_thread::sleep_for(std::chrono::milliseconds(200));
      return absl::OkStatus();
    }
    RETURN_IF_ERROR(Post(Operation::kMessage, memory_.source, side_.keys.local, 0));
    return Next(false).status();
  }

  absl::Status Follow() {
    for (const size_t bytes : kLengths) {
      for (const bool immediate : {false, true}) {
        ASSIGN_OR_RETURN(const WorkCompletion got, Next(true));
        const auto same = [&](const std::vector<std::byte>& memory) {
          return std::memcmp(memory.data(), memory_.source.data(), bytes) == 0;
        };
        const uint32_t number = immediate ? 0xabc00000u + static_cast<uint32_t>(bytes) : 0;
        if (got.has_immediate != immediate || got.immediate != number || !same(memory_.target) ||
            (!immediate && (got.bytes != bytes || !same(memory_.inbox)))) {
          return absl::DataLossError(absl::StrCat(
              bytes, immediate ? " bytes with an immediate" : " bytes", " arrived as others"));
        }
        std::fill(memory_.target.begin(), memory_.target.end(), std::byte{0});
        std::fill(memory_.inbox.begin(), memory_.inbox.end(), std::byte{0});
        RETURN_IF_ERROR(PostReceive());
        RETURN_IF_ERROR(Post(Operation::kMessage, memory_.source, side_.keys.local, 1));
        RETURN_IF_ERROR(Next(false).status());
      }
    }
    return absl::OkStatus();
  }

 private:
  // All into the same place: one message is under way at a time.
  absl::Status PostReceive() {
    return side_.queue_pair->PostReceive(
        1, {reinterpret_cast<uint64_t>(memory_.inbox.data()), kBytes, side_.keys.inbox});
  }

  absl::Status Post(Operation operation, const std::vector<std::byte>& memory, uint32_t key,
                    size_t bytes, uint64_t remote_address = 0, uint32_t remote_key = 0,
                    uint32_t immediate = 0) {
    WorkRequest request;
    request.id = 2;
    request.operation = operation;
    request.signalled = true;
    request.piece_count = bytes > 0 ? 1 : 0;
    request.pieces[0] = {reinterpret_cast<uint64_t>(memory.data()), static_cast<uint32_t>(bytes),
                         key};
    request.remote_address = remote_address;
    request.remote_key = remote_key;
    request.immediate = immediate;
    return side_.queue_pair->Post({&request, 1});
  }

  // The next completion of one kind; the other kind waits.
  absl::StatusOr<WorkCompletion> Next(bool received) {
    std::vector<WorkCompletion>& wanted = received ? received_ : sent_;
    const Deadline deadline = options_.deadline();
    while (wanted.empty()) {
      std::array<WorkCompletion, 8> polled;
      ASSIGN_OR_RETURN(const size_t n, side_.queue_pair->Poll(polled));
      for (size_t i = 0; i < n; ++i) {
        if (polled[i].error != 0) return absl::UnavailableError(polled[i].error_text);
        (polled[i].received ? received_ : sent_).push_back(polled[i]);
      }
      if (deadline.Passed())
        return absl::DeadlineExceededError(received ? "nothing was received" : "nothing completed");
    }
    const WorkCompletion next = wanted.front();
    wanted.erase(wanted.begin());
    return next;
  }

  const Options& options_;
  Memory& memory_;
  Side& side_;
  Grant grant_;
  std::vector<WorkCompletion> received_, sent_;
};

absl::Status Run(const Options& options, bool listen) {
  Memory memory;
  // Both sides have the same content, so that each knows what has to arrive.
  std::mt19937 random(1);
  memory.source.resize(kBytes);
  for (std::byte& byte : memory.source) byte = static_cast<std::byte>(random());
  memory.target.resize(kBytes);
  memory.inbox.resize(kBytes);
  memory.fetched.resize(kBytes);
  Side side;
  RETURN_IF_ERROR(options.provider == "roce" ? OpenRoceSide(options, memory, side)
                                             : OpenVerbsSide(memory, side));
  Check check(options, memory, side);
  RETURN_IF_ERROR(check.PostReceives());
  if (listen) {
    ASSIGN_OR_RETURN(auto listener, IntroductionListener::Listen(options.address, options.port));
    std::cout << "listening on " << options.address << ":" << options.port << std::endl;
    QueuePairAddress peer;
    ASSIGN_OR_RETURN(Introduction introduction, listener.NextHeard(peer, Deadline::Never()));
    RETURN_IF_ERROR(side.connect(peer, options.deadline()));
    RETURN_IF_ERROR(introduction.Accept(side.own, options.deadline()));
    side.watch(introduction.Release());
  } else {
    ASSIGN_OR_RETURN(Introduction introduction,
                     Introduction::Connect(options.address, options.port, options.deadline()));
    ASSIGN_OR_RETURN(const QueuePairAddress peer,
                     introduction.Ask(side.own, "", options.deadline()));
    RETURN_IF_ERROR(side.connect(peer, options.deadline()));
    RETURN_IF_ERROR(introduction.SayReady(options.deadline()));
    side.watch(introduction.Release());
  }
  RETURN_IF_ERROR(check.ExchangeGrants());
  for (const bool leads : {!listen, listen}) RETURN_IF_ERROR(leads ? check.Lead() : check.Follow());
  RETURN_IF_ERROR(check.Part(listen));
  std::cout << "every operation, both ways, at " << std::size(kLengths) << " lengths: as sent"
            << std::endl;
  return absl::OkStatus();
}

}  // namespace
}  // namespace starling::transport

int main(int argc, char** argv) {
  using starling::transport::Options;
  Options options;
  CLI::App app("Carries out every operation of a queue pair between two machines.");
  app.require_subcommand(1);
  app.add_option("--provider", options.provider, "verbs or roce")
      ->required()
      ->check(CLI::IsMember({"verbs", "roce"}));
  app.add_option("--roce-port", options.roce.port,
                 "of roce: af_packet:DEVICE, af_xdp:DEVICE, memif:SOCKET, pci:ADDRESS");
  app.add_option("--roce-ip", options.roce.ip, "address of that port");
  app.add_option("--address", options.address, "the listening side's")->required();
  app.add_option("--port", options.port, "its TCP port");
  app.add_option("--timeout", options.timeout_s, "deadline of each step in seconds");
  CLI::App* const listen = app.add_subcommand("listen")->fallthrough();
  app.add_subcommand("connect")->fallthrough();
  CLI11_PARSE(app, argc, argv);
  const absl::Status status = starling::transport::Run(options, listen->parsed());
  if (!status.ok()) std::cerr << "queue_pair_check: " << status << "\n";
  return status.ok() ? 0 : 1;
}
