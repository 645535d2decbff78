#include "runtime/bench/grants.h"

#include <openssl/crypto.h>
#include <sys/mman.h>

#include <atomic>

#include "absl/strings/str_cat.h"
#include "base/random.h"
#include "base/status.h"
#include "runtime/names.h"

namespace starling::bench {
namespace {

constexpr size_t kTokenBytes = 16;
// A measurement takes a few seconds; this is for slow ones.
constexpr auto kLease = std::chrono::seconds(120);
constexpr size_t kMaxAtOnce = 2;
constexpr auto kAcceptTimeout = std::chrono::seconds(5);
// Ports of tools' servers: one after the other, so that one that lingers is not met.
constexpr uint16_t kFirstPort = 18600;
constexpr uint16_t kPorts = 64;

}  // namespace

struct Grants::Granted {
  ~Granted() {
    for (const auto& connection : connections) connection->Shutdown();
    for (std::thread& thread : threads) thread.join();
    connections.clear();
    region.reset();
    if (memory != MAP_FAILED) ::munmap(memory, kMemoryBytes);
  }

  std::string token;
  std::string provider;
  const TimePoint until = Clock::now() + kLease;
  void* memory = MAP_FAILED;
  std::unique_ptr<transport::MemoryRegion> region;
  std::vector<std::unique_ptr<transport::Connection>> connections;
  std::vector<std::thread> threads;
  std::atomic<int> serving{0};
};

Grants::Grants(const agent::Host& host)
    : host_(host), sweeper_([this](const std::stop_token& stop) { Sweep(stop); }) {}

Grants::~Grants() {
  sweeper_ = {};
  granted_.clear();
}

absl::StatusOr<v1::BenchGrantResponse> Grants::Grant(const v1::BenchGrantRequest& request) {
  ASSIGN_OR_RETURN(transport::Fabric* const fabric, host_.Transport(request.provider()));
  auto granted = std::make_shared<Granted>();
  granted->provider = fabric->name();
  ASSIGN_OR_RETURN(granted->token, RandomBytes(kTokenBytes));
  granted->memory = ::mmap(nullptr, kMemoryBytes, PROT_READ | PROT_WRITE,
                           MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
  if (granted->memory == MAP_FAILED) return ErrnoStatus("allocate memory to measure with");
  const bool windows = request.windows() && fabric->windows();
  ASSIGN_OR_RETURN(
      granted->region,
      fabric->Register({static_cast<std::byte*>(granted->memory), kMemoryBytes},
                       windows ? transport::Access::kWindow : transport::Access::kRemoteWrite));
  v1::BenchGrantResponse response;
  response.set_data_address(host_.config.DataListen(fabric->name()));
  response.set_token(granted->token);
  response.mutable_memory()->set_address(granted->region->remote_address());
  response.set_windows(windows);
  if (!windows) response.mutable_memory()->set_rkey(granted->region->remote_key());
  response.mutable_memory()->set_bytes(kMemoryBytes);
  std::lock_guard lock(mutex_);
  if (granted_.size() >= kMaxAtOnce) {
    return absl::ResourceExhaustedError(
        absl::StrCat("host ", host_.config.host, " is being measured already: try again"));
  }
  granted_.push_back(std::move(granted));
  return response;
}

absl::StatusOr<v1::BenchServeResponse> Grants::Serve(const v1::BenchServeRequest& request) {
  ASSIGN_OR_RETURN(const Endpoint endpoint, ParseEndpoint(host_.config.data.listen));
  const auto verbs = host_.fabrics.find("verbs");
  const std::string device = verbs == host_.fabrics.end() ? "" : verbs->second->device();
  std::lock_guard lock(mutex_);
  ForgetEnded();
  if (served_.size() >= kMaxAtOnce) {
    return absl::ResourceExhaustedError(
        absl::StrCat("host ", host_.config.host, " is being measured already: try again"));
  }
  const uint16_t port = static_cast<uint16_t>(kFirstPort + next_port_++ % kPorts);
  ASSIGN_OR_RETURN(const ToolCommands commands, CommandsOf(request.tool(), device, endpoint.address,
                                                           port, host_.config.data.queue_pairs));
  ASSIGN_OR_RETURN(std::unique_ptr<ToolProcess> process, ToolProcess::Start(commands.server));
  served_.push_back({std::move(process), Clock::now() + kLease / 4});
  v1::BenchServeResponse response;
  response.set_address(endpoint.address);
  response.set_port(port);
  return response;
}

bool Grants::Take(const std::string& provider, std::unique_ptr<transport::Incoming>& incoming) {
  const absl::string_view shown = incoming->private_data().substr(0, kTokenBytes);
  std::shared_ptr<Granted> granted;
  {
    std::lock_guard lock(mutex_);
    for (const auto& candidate : granted_) {
      if (candidate->provider == provider && shown.size() == kTokenBytes &&
          CRYPTO_memcmp(shown.data(), candidate->token.data(), kTokenBytes) == 0) {
        granted = candidate;
      }
    }
    if (granted == nullptr || granted->connections.size() >= kMaxConnections) return false;
  }
  absl::StatusOr<std::unique_ptr<transport::Connection>> connection =
      incoming->Accept(Deadline::After(kAcceptTimeout));
  incoming.reset();
  if (!connection.ok()) {
    spdlog::warn("bench: {}", connection.status().ToString());
    return true;
  }
  std::lock_guard lock(mutex_);
  transport::Connection& serving = *granted->connections.emplace_back(*std::move(connection));
  ++granted->serving;
  granted->threads.emplace_back([&serving, raw = granted.get()] {
    (void)bench::Serve(serving, *raw->region, Deadline(raw->until));
    --raw->serving;
  });
  return true;
}

// A server serves one client.
void Grants::ForgetEnded() {
  std::erase_if(served_,
                [](Served& one) { return Clock::now() >= one.until || one.process->Ended(); });
}

void Grants::Sweep(const std::stop_token& stop) {
  std::unique_lock lock(mutex_);
  while (!wake_.wait_for(lock, stop, std::chrono::milliseconds(500),
                         [&] { return stop.stop_requested(); })) {
    std::list<std::shared_ptr<Granted>> over;
    for (auto it = granted_.begin(); it != granted_.end();) {
      const auto next = std::next(it);
      const bool done = !(*it)->threads.empty() && (*it)->serving == 0;
      if (done || Clock::now() >= (*it)->until) over.splice(over.end(), granted_, it);
      it = next;
    }
    ForgetEnded();
    lock.unlock();
    over.clear();  // waits for threads, without the lock
    lock.lock();
  }
}

}  // namespace starling::bench
