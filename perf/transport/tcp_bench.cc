// How fast the transport over TCP writes from one process's memory into another's: a child grants,
// the parent writes over some connections at once, each from a thread of its own. One JSON object.

#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <cstring>
#include <iostream>
#include <nlohmann/json.hpp>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/clock.h"
#include "base/file.h"
#include "base/status.h"
#include "transport/tcp_fabric.h"

namespace starling::transport {
namespace {

// Of one migration's slabs, as configured by default.
constexpr size_t kSlabBytes = 512 * 1024;
constexpr size_t kSlabs = 16;
constexpr size_t kArenaBytes = 64u << 20;

struct Grant {
  uint64_t address = 0;
  uint32_t key = 0;
};

struct Memory {
  explicit Memory(size_t bytes)
      : span(static_cast<std::byte*>(::mmap(nullptr, bytes, PROT_READ | PROT_WRITE,
                                            MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0)),
             bytes) {}
  std::span<std::byte> span;
};

Deadline Patience() { return Deadline::After(std::chrono::seconds(60)); }

// Answers the last message of each connection, when everything before it has landed.
absl::Status Serve(int to_parent, const std::string& address, uint16_t port, int streams) {
  const std::unique_ptr<Fabric> fabric = OpenTcp();
  ASSIGN_OR_RETURN(const std::unique_ptr<Listener> listener, fabric->Listen(address, port));
  const Memory arena(kArenaBytes);
  ASSIGN_OR_RETURN(const std::unique_ptr<MemoryRegion> region,
                   fabric->Register(arena.span, Access::kRemoteWrite));
  const Grant grant = {region->remote_address(), region->remote_key()};
  RETURN_IF_ERROR(WriteAll(to_parent, &grant, sizeof(grant)));
  std::vector<std::thread> threads;
  std::vector<std::unique_ptr<Connection>> connections;
  for (int i = 0; i < streams; ++i) {
    ASSIGN_OR_RETURN(const std::unique_ptr<Incoming> incoming, listener->Next(Patience()));
    ASSIGN_OR_RETURN(std::unique_ptr<Connection> connection, incoming->Accept(Patience()));
    Connection& serving = *connections.emplace_back(std::move(connection));
    threads.emplace_back([&serving] {
      while (true) {
        const absl::StatusOr<std::string> message = serving.Receive(Patience());
        if (!message.ok()) return;
        if (*message == "end") (void)serving.Send("done", Patience()).ok();
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  return absl::OkStatus();
}

absl::StatusOr<uint64_t> Stream(Connection& connection, const MemoryRegion& slabs, Grant grant,
                                Duration how_long) {
  const TimePoint until = Clock::now() + how_long;
  uint64_t written = 0;
  std::vector<uint64_t> messages(kSlabs);
  for (size_t turn = 0; Clock::now() < until; ++turn) {
    const size_t slab = turn % kSlabs;
    RETURN_IF_ERROR(connection.WaitCompleted(messages[slab], Patience()));
    RETURN_IF_ERROR(connection.Write(slabs, slab * kSlabBytes, kSlabBytes,
                                     grant.address + turn * kSlabBytes % kArenaBytes, grant.key,
                                     Patience()));
    ASSIGN_OR_RETURN(messages[slab], connection.Send("batch", Patience()));
    written += kSlabBytes;
  }
  RETURN_IF_ERROR(connection.Send("end", Patience()).status());
  RETURN_IF_ERROR(connection.Receive(Patience()).status());
  return written;
}

absl::Status Measure(int from_child, const std::string& address, uint16_t port, int streams,
                     double seconds) {
  Grant grant;
  ASSIGN_OR_RETURN(const bool there, ReadExactly(from_child, &grant, sizeof(grant)));
  if (!there) return absl::UnavailableError("the granting side ended");
  const std::unique_ptr<Fabric> fabric = OpenTcp();
  std::vector<Memory> memory;
  std::vector<std::unique_ptr<MemoryRegion>> regions;
  std::vector<std::unique_ptr<Connection>> connections;
  for (int i = 0; i < streams; ++i) {
    memory.emplace_back(kSlabBytes * kSlabs);
    ASSIGN_OR_RETURN(std::unique_ptr<MemoryRegion> region,
                     fabric->Register(memory.back().span, Access::kLocal));
    regions.push_back(std::move(region));
    ASSIGN_OR_RETURN(std::unique_ptr<Connection> connection,
                     fabric->Connect(address, port, "", Patience()));
    connections.push_back(std::move(connection));
  }
  const auto how_long =
      std::chrono::duration_cast<Duration>(std::chrono::duration<double>(seconds));
  std::vector<absl::StatusOr<uint64_t>> written(connections.size());
  std::vector<std::thread> threads;
  const TimePoint start = Clock::now();
  for (size_t i = 0; i < connections.size(); ++i) {
    threads.emplace_back(
        [&, i] { written[i] = Stream(*connections[i], *regions[i], grant, how_long); });
  }
  for (std::thread& thread : threads) thread.join();
  const double took = Seconds(Clock::now() - start);
  uint64_t all = 0;
  for (const auto& one : written) {
    RETURN_IF_ERROR(one.status());
    all += *one;
  }
  const nlohmann::json result = {{"streams", streams},
                                 {"bytes", all},
                                 {"seconds", took},
                                 {"bytes_per_s", static_cast<double>(all) / took}};
  std::cout << result.dump() << std::endl;
  return absl::OkStatus();
}

}  // namespace
}  // namespace starling::transport

int main(int argc, char** argv) {
  CLI::App app{"Measures the transport over TCP between two processes of this host."};
  std::string address = "127.0.0.1";
  uint16_t port = 7590;
  int streams = 1;
  double seconds = 2;
  app.add_option("--address", address)->capture_default_str();
  app.add_option("--port", port)->capture_default_str();
  app.add_option("--streams", streams)->check(CLI::Range(1, 16))->capture_default_str();
  app.add_option("--seconds", seconds)->check(CLI::Range(0.1, 60.0))->capture_default_str();
  CLI11_PARSE(app, argc, argv);
  int ends[2];
  if (::pipe(ends) != 0) return 1;
  const pid_t child = ::fork();
  if (child == 0) {
    ::close(ends[0]);
    const absl::Status served = starling::transport::Serve(ends[1], address, port, streams);
    if (!served.ok()) std::cerr << served << std::endl;
    ::_exit(served.ok() ? 0 : 1);
  }
  ::close(ends[1]);
  const absl::Status measured =
      starling::transport::Measure(ends[0], address, port, streams, seconds);
  if (!measured.ok()) std::cerr << measured << std::endl;
  int status = 0;
  ::waitpid(child, &status, 0);
  return measured.ok() && status == 0 ? 0 : 1;
}
