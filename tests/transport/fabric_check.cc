// Moves hashed content between two machines over a real provider, and measures. Run as `listen` on
// one and as `connect` on the other:
//   fabric_check listen  --address 10.77.0.2 --port 7500
//   fabric_check connect --address 10.77.0.2 --port 7500 --mib 64
// The connecting side decides on everything. It sends the content twice: "bare", straight from
// registered memory as ib_write_bw does, and "checked", copied into slabs and hashed on both sides
// batch by batch and as a whole. Then it reads all of it back by RDMA READ and compares. With
// --until-loss it writes on and on until the peer is lost, and the exit code says whether that was
// noticed in time. `--provider roce` takes a port, and an address of its own but with the port
// verbs:DEVICE.

#include <sys/mman.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstring>
#include <iostream>
#include <random>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/status.h"
#include "base/units.h"
#include "base/xxh3.h"
#include "transport/fabric.h"
#include "transport/roce_fabric.h"
#include "transport/verbs_fabric.h"

namespace starling::transport {
namespace {

constexpr absl::string_view kToken = "starling fabric check";
constexpr uint64_t kMaxConnections = 8;

enum class What : uint64_t { kHello = 1, kGrant, kBatch, kEnd, kAnswer, kPing };

// All messages of this program; both sides run the same build.
struct Note {
  What what = What::kHello;
  uint64_t bytes = 0;        // hello: of the arena; batch: length
  uint64_t offset = 0;       // batch
  uint64_t hash = 0;         // batch, end: XXH3, 0 for unchecked
  uint64_t address = 0;      // grant
  uint64_t key = 0;          // grant
  uint64_t read_key = 0;     // grant
  uint64_t connections = 0;  // hello
  uint64_t count = 0;  // end: batches sent here since the last end; answer: batches that were wrong
};

std::string Encode(const Note& note) {
  return std::string(reinterpret_cast<const char*>(&note), sizeof(note));
}

absl::StatusOr<Note> ReceiveNote(Connection& connection, Deadline deadline) {
  ASSIGN_OR_RETURN(const std::string bytes, connection.Receive(deadline));
  if (bytes.size() != sizeof(Note)) return absl::DataLossError("a message of another length");
  Note note;
  std::memcpy(&note, bytes.data(), sizeof(note));
  return note;
}

absl::StatusOr<Note> ExpectNote(Connection& connection, What what, Deadline deadline) {
  ASSIGN_OR_RETURN(const Note note, ReceiveNote(connection, deadline));
  if (note.what != what) return absl::DataLossError("a message of another kind");
  return note;
}

// Page-aligned memory, present before anything is timed.
class Memory {
 public:
  explicit Memory(size_t bytes) : bytes_(bytes) {
    address_ = ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
    if (address_ == MAP_FAILED) throw std::bad_alloc();
  }
  Memory(const Memory&) = delete;
  Memory& operator=(const Memory&) = delete;
  ~Memory() { ::munmap(address_, bytes_); }
  std::span<std::byte> span() const { return {static_cast<std::byte*>(address_), bytes_}; }

 private:
  void* address_;
  size_t bytes_;
};

struct Options {
  std::string provider = "verbs";
  std::string device;
  RoceOptions roce;
  uint16_t partition = 0;  // 0: the port's own
  uint8_t traffic_class = 0;
  std::string address;
  uint16_t port = 7500;
  uint64_t mib = 64;
  uint64_t slab_kib = 512;
  uint64_t slabs = 16;
  uint64_t queue_pairs = 1;
  uint64_t pings = 200;
  uint64_t seed = 1;
  double timeout_s = 10;
  bool until_loss = false;

  Deadline deadline() const {
    return Deadline::After(
        std::chrono::duration_cast<Duration>(std::chrono::duration<double>(timeout_s)));
  }
};

absl::StatusOr<std::unique_ptr<Fabric>> OpenFabric(const Options& options) {
  if (options.provider == "roce") {
    RoceOptions roce = options.roce;
    if (options.partition != 0) roce.partition = options.partition;
    roce.traffic_class = options.traffic_class;
    return OpenRoce(roce);
  }
  return OpenVerbs({.device = options.device,
                    .partition = options.partition,
                    .traffic_class = options.traffic_class});
}

// --- the listening side ---

absl::Status Serve(Connection& connection, std::span<std::byte> arena, const Options& options) {
  uint64_t wrong = 0;
  uint64_t batches = 0;
  while (true) {
    ASSIGN_OR_RETURN(const std::string bytes, connection.Receive(options.deadline()));
    if (bytes.size() < sizeof(Note)) return absl::DataLossError("a message of another length");
    Note note;
    std::memcpy(&note, bytes.data(), sizeof(note));
    if (note.what == What::kPing) {
      RETURN_IF_ERROR(connection.Send(bytes, options.deadline()).status());
      continue;
    }
    if (note.offset > arena.size() || note.bytes > arena.size() - note.offset) {
      return absl::DataLossError("a batch outside the arena");
    }
    const auto place = arena.subspan(note.offset, note.bytes);
    const bool right = note.hash == 0 || Xxh3(place.data(), place.size()) == note.hash;
    if (!right) ++wrong;
    if (note.what == What::kBatch) {
      ++batches;
      continue;
    }
    if (note.count != batches) ++wrong;
    note = {.what = What::kAnswer, .count = wrong};
    batches = wrong = 0;
    RETURN_IF_ERROR(connection.Send(Encode(note), options.deadline()).status());
  }
}

absl::StatusOr<std::unique_ptr<Connection>> AcceptOne(Listener& listener, Deadline deadline,
                                                      const Options& options) {
  while (true) {
    ASSIGN_OR_RETURN(std::unique_ptr<Incoming> incoming, listener.Next(deadline));
    if (incoming->private_data().substr(0, kToken.size()) == kToken)
      return incoming->Accept(options.deadline());
    std::cout << "refused a caller with the wrong token\n";
  }
}

absl::Status Listen(const Options& options) {
  ASSIGN_OR_RETURN(const std::unique_ptr<Fabric> fabric, OpenFabric(options));
  ASSIGN_OR_RETURN(const std::unique_ptr<Listener> listener,
                   fabric->Listen(options.address, options.port));
  std::cout << "listening on " << options.address << ":" << options.port << " (" << fabric->device()
            << ")" << std::endl;
  std::vector<std::unique_ptr<Connection>> connections;
  ASSIGN_OR_RETURN(std::unique_ptr<Connection> first,
                   AcceptOne(*listener, Deadline::Never(), options));
  ASSIGN_OR_RETURN(const Note hello, ExpectNote(*first, What::kHello, options.deadline()));
  if (hello.connections < 1 || hello.connections > kMaxConnections ||
      hello.bytes > fabric->max_region_bytes()) {
    return absl::InvalidArgumentError("the peer asks for too much");
  }
  connections.push_back(std::move(first));
  while (connections.size() < hello.connections) {
    ASSIGN_OR_RETURN(std::unique_ptr<Connection> next,
                     AcceptOne(*listener, options.deadline(), options));
    connections.push_back(std::move(next));
  }
  const Memory arena(hello.bytes);
  ASSIGN_OR_RETURN(const std::unique_ptr<MemoryRegion> region,
                   fabric->Register(arena.span(), Access::kRemoteWrite));
  ASSIGN_OR_RETURN(const std::unique_ptr<MemoryRegion> readable,
                   fabric->Register(arena.span(), Access::kRemoteRead));
  const Note grant = {.what = What::kGrant,
                      .bytes = hello.bytes,
                      .address = region->remote_address(),
                      .key = region->remote_key(),
                      .read_key = readable->remote_key()};
  RETURN_IF_ERROR(connections[0]->Send(Encode(grant), options.deadline()).status());

  std::vector<absl::Status> ends(connections.size());
  std::vector<std::thread> threads;
  const TimePoint start = Clock::now();
  for (size_t i = 0; i < connections.size(); ++i) {
    threads.emplace_back([&, i] { ends[i] = Serve(*connections[i], arena.span(), options); });
  }
  for (std::thread& thread : threads) thread.join();
  for (size_t i = 0; i < connections.size(); ++i) {
    std::cout << "connection " << i << " ended after " << Seconds(Clock::now() - start)
              << " s: " << ends[i] << std::endl;
  }
  return absl::OkStatus();
}

// --- the connecting side ---

class Sender {
 public:
  Sender(Fabric& fabric, const Options& options)
      : fabric_(fabric),
        options_(options),
        source_(options.mib * kMiB),
        pool_(options.slab_kib * kKiB * options.slabs) {}

  absl::Status Connect() {
    for (uint64_t i = 0; i < options_.queue_pairs; ++i) {
      ASSIGN_OR_RETURN(
          std::unique_ptr<Connection> connection,
          fabric_.Connect(options_.address, options_.port, kToken, options_.deadline()));
      connections_.push_back(std::move(connection));
      if (i == 0) {
        const Note hello = {.what = What::kHello,
                            .bytes = source_.span().size(),
                            .connections = options_.queue_pairs};
        RETURN_IF_ERROR(connections_[0]->Send(Encode(hello), options_.deadline()).status());
      }
    }
    ASSIGN_OR_RETURN(grant_, ExpectNote(*connections_[0], What::kGrant, options_.deadline()));
    ASSIGN_OR_RETURN(source_region_, fabric_.Register(source_.span(), Access::kLocal));
    ASSIGN_OR_RETURN(pool_region_, fabric_.Register(pool_.span(), Access::kLocal));
    Fill(options_.seed);
    return absl::OkStatus();
  }

  void Fill(uint64_t seed) {
    std::mt19937_64 random(seed);
    const std::span<std::byte> memory = source_.span();
    for (size_t i = 0; i < memory.size(); i += sizeof(uint64_t)) {
      const uint64_t value = random();
      std::memcpy(&memory[i], &value, sizeof(value));
    }
  }

  // The whole source once; returns when the peer has answered for every batch.
  absl::Status Pass(bool checked) {
    const size_t slab_bytes = options_.slab_kib * kKiB;
    struct Slab {
      size_t lane = 0;
      uint64_t message = 0;
    };
    std::vector<Slab> slabs(options_.slabs);
    std::vector<uint64_t> batches(connections_.size());
    size_t turn = 0;
    for (size_t offset = 0; offset < source_.span().size(); offset += slab_bytes, ++turn) {
      const size_t bytes = std::min(slab_bytes, source_.span().size() - offset);
      Slab& slab = slabs[turn % slabs.size()];
      if (slab.message > 0) {
        RETURN_IF_ERROR(connections_[slab.lane]->WaitCompleted(slab.message, options_.deadline()));
      }
      slab.lane = turn % connections_.size();
      Connection& connection = *connections_[slab.lane];
      Note note = {.what = What::kBatch, .bytes = bytes, .offset = offset};
      const MemoryRegion* region = source_region_.get();
      size_t from = offset;
      if (checked) {
        from = (turn % slabs.size()) * slab_bytes;
        region = pool_region_.get();
        std::memcpy(pool_.span().data() + from, source_.span().data() + offset, bytes);
        note.hash = Xxh3(pool_.span().data() + from, bytes);
      }
      RETURN_IF_ERROR(connection.Write(*region, from, bytes, grant_.address + offset,
                                       static_cast<uint32_t>(grant_.key), options_.deadline()));
      ASSIGN_OR_RETURN(slab.message, connection.Send(Encode(note), options_.deadline()));
      ++batches[slab.lane];
    }
    return End(batches);
  }

  absl::Status End(const std::vector<uint64_t>& batches) {
    // Two rounds: only when all lanes have answered does the whole lie there.
    for (size_t i = 0; i < connections_.size(); ++i) {
      RETURN_IF_ERROR(Ask(*connections_[i], {.what = What::kEnd, .count = batches[i]}));
    }
    return absl::OkStatus();
  }

  absl::Status CheckWhole() {
    return Ask(*connections_[0], {.what = What::kEnd,
                                  .bytes = source_.span().size(),
                                  .hash = Xxh3(source_.span().data(), source_.span().size())});
  }

  absl::Status Ask(Connection& connection, const Note& note) {
    RETURN_IF_ERROR(connection.Send(Encode(note), options_.deadline()).status());
    ASSIGN_OR_RETURN(const Note answer, ExpectNote(connection, What::kAnswer, options_.deadline()));
    if (answer.count != 0)
      return absl::DataLossError(absl::StrCat(answer.count, " batches did not arrive as sent"));
    return absl::OkStatus();
  }

  absl::Status Ping(Connection& connection) {
    RETURN_IF_ERROR(connection.Send(Encode({.what = What::kPing}), options_.deadline()).status());
    return ExpectNote(connection, What::kPing, options_.deadline()).status();
  }

  // The whole content back, and compared.
  absl::Status ReadBack() {
    for (size_t offset = 0, turn = 0; offset < source_.span().size(); ++turn) {
      const size_t bytes = std::min(pool_.span().size(), source_.span().size() - offset);
      Connection& connection = *connections_[turn % connections_.size()];
      RETURN_IF_ERROR(connection.Read(*pool_region_, 0, bytes, grant_.address + offset,
                                      static_cast<uint32_t>(grant_.read_key), options_.deadline()));
      // Who is read from notices nothing of it, and would give us up.
      RETURN_IF_ERROR(Ping(connection));
      if (std::memcmp(pool_.span().data(), source_.span().data() + offset, bytes) != 0)
        return absl::DataLossError(absl::StrCat("what was read from ", offset, " on is wrong"));
      offset += bytes;
    }
    return absl::OkStatus();
  }

  // Messages of many lengths, nearly the longest included, there and back.
  absl::Status LongMessages() {
    for (size_t bytes = sizeof(Note); bytes <= kMaxMessageBytes - 8; bytes += 677) {
      std::string message = Encode({.what = What::kPing});
      for (size_t i = message.size(); i < bytes; ++i) message += static_cast<char>(i * 31);
      RETURN_IF_ERROR(connections_[0]->Send(message, options_.deadline()).status());
      ASSIGN_OR_RETURN(const std::string back, connections_[0]->Receive(options_.deadline()));
      if (back != message) return absl::DataLossError("a message came back changed");
    }
    return absl::OkStatus();
  }

  absl::StatusOr<double> MedianPingMicroseconds() {
    std::vector<double> times;
    for (uint64_t i = 0; i < options_.pings; ++i) {
      const TimePoint start = Clock::now();
      RETURN_IF_ERROR(Ping(*connections_[0]));
      times.push_back(Seconds(Clock::now() - start) * 1e6);
    }
    std::nth_element(times.begin(), times.begin() + static_cast<ptrdiff_t>(times.size() / 2),
                     times.end());
    return times[times.size() / 2];
  }

  const std::string& description() const { return connections_[0]->description(); }
  uint64_t source_bytes() const { return source_.span().size(); }

 private:
  Fabric& fabric_;
  const Options& options_;
  const Memory source_;
  const Memory pool_;
  Note grant_;
  std::unique_ptr<MemoryRegion> source_region_;
  std::unique_ptr<MemoryRegion> pool_region_;
  std::vector<std::unique_ptr<Connection>> connections_;
};

// 0 as wanted, 1 not.
absl::Status WriteUntilLoss(Sender& sender, const Options& options) {
  std::cout << "writing until the peer is lost" << std::endl;
  uint64_t passes = 0;
  while (true) {
    const TimePoint start = Clock::now();
    const absl::Status status = sender.Pass(/*checked=*/true);
    if (status.ok()) {
      ++passes;
      continue;
    }
    const double pass_s = Seconds(Clock::now() - start);
    std::cout << "lost after " << passes << " passes, " << pass_s << " s into the next: " << status
              << std::endl;
    const bool noticed = absl::IsUnavailable(status) || absl::IsDeadlineExceeded(status);
    if (!noticed) return status;
    // A second use answers with the first error, at once.
    const TimePoint again = Clock::now();
    const absl::Status second = sender.CheckWhole();
    if (second.ok()) return absl::InternalError("a lost connection was usable again");
    if (absl::IsUnavailable(status) && Seconds(Clock::now() - again) > options.timeout_s) {
      return absl::InternalError("a failed connection kept its user waiting");
    }
    return absl::OkStatus();
  }
}

absl::Status ConnectAndSend(const Options& options) {
  ASSIGN_OR_RETURN(const std::unique_ptr<Fabric> fabric, OpenFabric(options));
  Sender sender(*fabric, options);
  RETURN_IF_ERROR(sender.Connect());
  std::cout << sender.description() << std::endl;
  if (options.until_loss) return WriteUntilLoss(sender, options);

  RETURN_IF_ERROR(sender.LongMessages());
  ASSIGN_OR_RETURN(const double ping_us, sender.MedianPingMicroseconds());
  std::cout << "message there and back: median " << ping_us << " us of " << options.pings
            << std::endl;
  for (const bool checked : {false, true}) {
    if (checked)
      sender.Fill(options.seed +
                  1);  // so that the first pass's content cannot be taken for the second's
    const TimePoint start = Clock::now();
    RETURN_IF_ERROR(sender.Pass(checked));
    const double seconds = Seconds(Clock::now() - start);
    RETURN_IF_ERROR(sender.CheckWhole());
    std::cout << (checked ? "checked" : "bare") << ": " << options.mib << " MiB in " << seconds
              << " s, " << static_cast<double>(sender.source_bytes()) / 1e6 / seconds << " MB/s, "
              << options.queue_pairs << " queue pairs, slabs of " << options.slab_kib
              << " KiB; content arrived as sent" << std::endl;
  }
  const TimePoint start = Clock::now();
  RETURN_IF_ERROR(sender.ReadBack());
  const double seconds = Seconds(Clock::now() - start);
  std::cout << "read: " << options.mib << " MiB in " << seconds << " s, "
            << static_cast<double>(sender.source_bytes()) / 1e6 / seconds
            << " MB/s; content came back as sent" << std::endl;
  return absl::OkStatus();
}

}  // namespace
}  // namespace starling::transport

int main(int argc, char** argv) {
  using starling::transport::Options;
  Options options;
  bool verbose = false;
  CLI::App app("Moves hashed content between two machines, and measures.");
  app.require_subcommand(1);
  app.add_option("--provider", options.provider, "verbs or roce")
      ->check(CLI::IsMember({"verbs", "roce"}));
  app.add_option("--roce-port", options.roce.port,
                 "af_packet:DEVICE, af_xdp:DEVICE, memif:SOCKET, pci:ADDRESS, verbs:DEVICE");
  app.add_option("--roce-ip", options.roce.ip, "address of that port");
  app.add_option("--path-mtu", options.roce.path_mtu, "of roce; default: the largest");
  app.add_option("--traffic-class", options.traffic_class, "of all packets");
  app.add_option("--partition", options.partition, "key of it; default: the port's own");
  app.add_option("--device", options.device,
                 "verbs: RDMA device; default: the first with an active port");
  app.add_option("--timeout", options.timeout_s, "deadline of each operation in seconds");
  app.add_flag("--verbose", verbose, "log the queue pairs' attributes");
  CLI::App* listen = app.add_subcommand("listen", "grant memory and check what arrives");
  CLI::App* connect = app.add_subcommand("connect", "send");
  for (CLI::App* side : {listen, connect}) {
    side->add_option("--address", options.address, "the listening side's address")->required();
    side->add_option("--port", options.port, "its port");
    side->fallthrough();
  }
  connect->add_option("--mib", options.mib, "content to send")->check(CLI::Range(1, 8192));
  connect->add_option("--slab-kib", options.slab_kib, "bytes of one batch")
      ->check(CLI::Range(4, 16384));
  connect->add_option("--slabs", options.slabs, "batches under way")->check(CLI::Range(1, 1024));
  connect->add_option("--queue-pairs", options.queue_pairs, "connections, taken in turn")
      ->check(CLI::Range(1, 8));
  connect->add_option("--pings", options.pings, "messages to time")->check(CLI::Range(1, 1000000));
  connect->add_option("--seed", options.seed, "of the content");
  connect->add_flag("--until-loss", options.until_loss,
                    "write until the peer is lost; 0 when that was noticed");
  CLI11_PARSE(app, argc, argv);
  if (verbose) spdlog::set_level(spdlog::level::debug);
  const absl::Status status = listen->parsed() ? starling::transport::Listen(options)
                                               : starling::transport::ConnectAndSend(options);
  if (!status.ok()) std::cerr << "fabric_check: " << status << "\n";
  return status.ok() ? 0 : 1;
}
