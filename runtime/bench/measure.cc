#include "runtime/bench/measure.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstring>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/status.h"
#include "base/units.h"
#include "runtime/names.h"

namespace starling::bench {
namespace {

// The first letter of a message says whether it is to be answered with itself.
constexpr char kAsk = '?';
constexpr char kTell = '.';
constexpr char kWindow = 'w';
constexpr size_t kMessageBytes = 16;
constexpr int kWarmUp = 100;
// What is written between two messages, whose completion bounds what is under way.
constexpr uint64_t kWindowBytes = 4u << 20;

// Page-aligned memory, present before anything is timed.
class Memory {
 public:
  explicit Memory(size_t bytes)
      : bytes_(bytes),
        address_(::mmap(nullptr, bytes, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0)) {}
  Memory(const Memory&) = delete;
  Memory& operator=(const Memory&) = delete;
  ~Memory() {
    if (address_ != MAP_FAILED) ::munmap(address_, bytes_);
  }
  bool valid() const { return address_ != MAP_FAILED; }
  std::span<std::byte> span() const { return {static_cast<std::byte*>(address_), bytes_}; }

 private:
  size_t bytes_;
  void* address_;
};

absl::Status Echo(transport::Connection& connection, Deadline deadline) {
  RETURN_IF_ERROR(connection.Send(std::string(kMessageBytes, kAsk), deadline).status());
  return connection.Receive(deadline).status();
}

// Writes of `bytes` for as long as `each`, and until all of it is there; bytes written.
absl::StatusOr<uint64_t> WriteFor(transport::Connection& connection,
                                  const transport::MemoryRegion& local,
                                  const v1::ArenaChunk& remote, uint32_t key, uint64_t bytes,
                                  Duration each, Deadline deadline) {
  const uint64_t places = std::min<uint64_t>(remote.bytes(), kMemoryBytes) / bytes;
  const uint64_t per_window = std::max<uint64_t>(1, kWindowBytes / bytes);
  const TimePoint until = Clock::now() + each;
  uint64_t written = 0;
  uint64_t before = 0;
  for (uint64_t place = 0; Clock::now() < until;) {
    for (uint64_t i = 0; i < per_window; ++i) {
      RETURN_IF_ERROR(
          connection.Write(local, 0, bytes, remote.address() + place * bytes, key, deadline));
      written += bytes;
      // Neighbouring writes would go out as one.
      place = (place + 2) % places;
    }
    ASSIGN_OR_RETURN(const uint64_t message,
                     connection.Send(std::string(kMessageBytes, kTell), deadline));
    RETURN_IF_ERROR(connection.WaitCompleted(before, deadline));
    before = message;
  }
  RETURN_IF_ERROR(Echo(connection, deadline));
  return written;
}

// The key with which this connection writes to what was granted.
absl::StatusOr<uint32_t> KeyFor(transport::Connection& connection,
                                const v1::BenchGrantResponse& granted, Deadline deadline) {
  if (!granted.windows()) return granted.memory().rkey();
  RETURN_IF_ERROR(connection.Send(std::string(1, kWindow), deadline).status());
  ASSIGN_OR_RETURN(const std::string bytes, connection.Receive(deadline));
  uint32_t key = 0;
  if (bytes.size() != sizeof(key))
    return absl::DataLossError("the peer's answer has no key of a memory window");
  std::memcpy(&key, bytes.data(), sizeof(key));
  return key;
}

}  // namespace

absl::Status Serve(transport::Connection& connection, const transport::MemoryRegion& memory,
                   Deadline deadline) {
  while (true) {
    absl::StatusOr<std::string> message = connection.Receive(deadline);
    if (absl::IsUnavailable(message.status())) return absl::OkStatus();
    RETURN_IF_ERROR(message.status());
    if (*message == std::string(1, kWindow)) {
      ASSIGN_OR_RETURN(const uint32_t key,
                       connection.Grant(memory, transport::Access::kRemoteWrite, deadline));
      RETURN_IF_ERROR(
          connection.Send({reinterpret_cast<const char*>(&key), sizeof(key)}, deadline).status());
      continue;
    }
    if (message->empty() || (*message)[0] != kAsk) continue;
    RETURN_IF_ERROR(connection.Send(*message, deadline).status());
  }
}

absl::StatusOr<v1::BenchResult> Measure(transport::Fabric& fabric,
                                        const v1::BenchGrantResponse& granted,
                                        const MeasureOptions& options,
                                        const std::function<void(const std::string&)>& tell,
                                        Deadline deadline) {
  if (granted.memory().bytes() < 2 * kMaxWriteBytes)
    return absl::DataLossError("the peer granted too little memory to measure with");
  ASSIGN_OR_RETURN(const Endpoint endpoint, ParseEndpoint(granted.data_address()));
  const Memory memory(kMaxWriteBytes);
  if (!memory.valid()) return ErrnoStatus("allocate memory to measure with");
  ASSIGN_OR_RETURN(const std::unique_ptr<transport::MemoryRegion> region,
                   fabric.Register(memory.span(), transport::Access::kLocal));
  std::vector<std::unique_ptr<transport::Connection>> connections;
  std::vector<uint32_t> keys;
  for (int i = 0; i < options.connections; ++i) {
    ASSIGN_OR_RETURN(std::unique_ptr<transport::Connection> connection,
                     fabric.Connect(endpoint.address, endpoint.port, granted.token(), deadline));
    ASSIGN_OR_RETURN(keys.emplace_back(), KeyFor(*connection, granted, deadline));
    connections.push_back(std::move(connection));
  }
  v1::BenchResult result;
  result.set_provider(fabric.name());
  result.set_device(fabric.device());
  result.set_granted(granted.windows() ? "windows" : "regions");
  result.set_connection(connections[0]->description());
  result.set_connections(static_cast<uint32_t>(options.connections));

  tell(absl::StrCat(fabric.name(), ": round trips"));
  for (int i = 0; i < kWarmUp; ++i) RETURN_IF_ERROR(Echo(*connections[0], deadline));
  std::vector<double> times;
  for (int i = 0; i < options.round_trips; ++i) {
    const TimePoint start = Clock::now();
    RETURN_IF_ERROR(Echo(*connections[0], deadline));
    times.push_back(Seconds(Clock::now() - start));
  }
  std::sort(times.begin(), times.end());
  result.set_round_trips(static_cast<uint32_t>(times.size()));
  result.set_round_trip_min_s(times.front());
  result.set_round_trip_median_s(times[times.size() / 2]);
  result.set_round_trip_p99_s(times[times.size() * 99 / 100]);

  for (uint64_t bytes = 4096; bytes <= kMaxWriteBytes; bytes *= 2) {
    tell(absl::StrCat(fabric.name(), ": writes of ", FormatBytes(bytes)));
    std::vector<absl::StatusOr<uint64_t>> written(connections.size());
    std::vector<std::thread> threads;
    const TimePoint start = Clock::now();
    for (size_t i = 0; i < connections.size(); ++i) {
      threads.emplace_back([&, i] {
        written[i] = WriteFor(*connections[i], *region, granted.memory(), keys[i], bytes,
                              options.each, deadline);
      });
    }
    for (std::thread& thread : threads) thread.join();
    const double took = Seconds(Clock::now() - start);
    uint64_t all = 0;
    for (const absl::StatusOr<uint64_t>& one : written) {
      RETURN_IF_ERROR(one.status());
      all += *one;
    }
    v1::BenchPoint* point = result.add_points();
    point->set_bytes(bytes);
    point->set_bytes_per_s(static_cast<double>(all) / took);
  }
  return result;
}

}  // namespace starling::bench
