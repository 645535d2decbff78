#include "transport/fake_fabric.h"

#include <algorithm>
#include <condition_variable>
#include <cstring>
#include <deque>
#include <map>
#include <mutex>
#include <random>
#include <set>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/status.h"
#include "transport/queue_pair.h"

namespace starling::transport {
namespace {

// Beside kFlushed.
enum Error { kLocalProtection = 4, kRemoteAccess = 10, kRetriesExceeded = 12, kTooLong = 1 };

const char* ErrorText(int error) {
  switch (error) {
    case kTooLong:
      return "message longer than the receive buffer";
    case kLocalProtection:
      return "local protection error";
    case kFlushed:
      return "work request flushed";
    case kRemoteAccess:
      return "remote access error";
    case kRetriesExceeded:
      return "transport retry counter exceeded";
    default:
      return "success";
  }
}

struct UnderWay {
  WorkRequest request;
  TimePoint due;
  int attempts = 0;
};

struct Receive {
  uint64_t id;
  Piece buffer;
};

// One queue pair; guarded by the network's mutex.
struct Pair {
  uint64_t number = 0;
  std::string host;
  std::string description;
  std::mt19937_64 random;
  Pair* peer = nullptr;
  bool failed = false;
  bool peer_gone = false;  // and not told yet
  bool woken = false;
  TimePoint last_due{};
  std::deque<UnderWay> sends;
  std::deque<Receive> receives;
  std::deque<WorkCompletion> completions;
  std::condition_variable changed;
};

struct Grant {
  std::span<std::byte> memory;
  Access access;
  const Pair* window_of = nullptr;    // whose peer alone may use it
  Access opens_as = Access::kWindow;  // of a window, once it is bound
};

struct Request {
  std::string private_data;
  std::string from;
  Pair* caller = nullptr;  // null once the caller has given up
  enum class Answer { kNone, kAccepted, kRefused } answer = Answer::kNone;
  std::condition_variable answered;
};

struct Waiting {
  std::deque<std::shared_ptr<Request>> requests;
  std::condition_variable came;
};

}  // namespace

class FakeNetwork::Impl {
 public:
  explicit Impl(const FakeFaults& faults_given) : faults(faults_given), wire_([this] { Run(); }) {}
  ~Impl() {
    {
      std::lock_guard lock(mutex);
      ending_ = true;
    }
    work_.notify_all();
    wire_.join();
  }

  // All below with `mutex` held.

  void Queue(Pair& pair, const WorkRequest& request) {
    Duration delay = faults.delay_min;
    if (faults.delay_max > faults.delay_min) {
      delay += Duration(static_cast<Duration::rep>(
          pair.random() % static_cast<uint64_t>((faults.delay_max - faults.delay_min).count())));
    }
    // Nothing overtakes within a connection.
    pair.last_due = std::max(pair.last_due, Clock::now() + delay);
    pair.sends.push_back({request, pair.last_due, 0});
    work_.notify_all();
  }

  void Complete(Pair& pair, WorkCompletion completion) {
    completion.error_text = ErrorText(completion.error);
    pair.completions.push_back(completion);
    pair.changed.notify_all();
  }

  // The operation at the head failed; what is behind it is flushed.
  void Fail(Pair& pair, int error) {
    if (std::exchange(pair.failed, true)) return;
    for (const UnderWay& operation : pair.sends) {
      Complete(pair, {.id = operation.request.id, .error = error});
      error = kFlushed;
    }
    pair.sends.clear();
    for (const Receive& receive : pair.receives)
      Complete(pair, {.id = receive.id, .error = kFlushed});
    pair.receives.clear();
  }

  // A process that ends properly tells its peer.
  void Remove(Pair& pair) {
    pairs.erase(&pair);
    std::erase_if(grants, [&](const auto& each) { return each.second.window_of == &pair; });
    if (pair.peer == nullptr) return;
    Pair& peer = *pair.peer;
    peer.peer = nullptr;
    if (!Reaches(pair.host) || !Reaches(peer.host)) return;
    peer.peer_gone = true;
    peer.changed.notify_all();
  }

  bool Reaches(const std::string& host) const { return !cut && !powered_off.contains(host); }

  mutable std::mutex mutex;
  std::map<uint32_t, Grant> grants;
  std::set<Pair*> pairs;
  std::map<std::string, Waiting*> listeners;
  std::set<std::string> powered_off;
  bool cut = false;
  uint32_t next_key = 100;
  uint64_t next_number = 1;
  Counts counts;
  const FakeFaults faults;

 private:
  void Run() {
    std::unique_lock lock(mutex);
    while (!ending_) {
      Pair* next = nullptr;
      for (Pair* pair : pairs) {
        if (!pair->sends.empty() &&
            (next == nullptr || pair->sends.front().due < next->sends.front().due))
          next = pair;
      }
      if (next == nullptr) {
        work_.wait(lock);
      } else if (const TimePoint due = next->sends.front().due; due > Clock::now()) {
        work_.wait_until(lock, due);
      } else {
        Attempt(*next);
      }
    }
  }

  void Attempt(Pair& pair) {
    UnderWay& operation = pair.sends.front();
    if (operation.request.operation == Operation::kBind) {
      Grant& window = grants[operation.request.remote_key];
      window.access = window.opens_as;
      return Finish(pair);
    }
    const bool through = pair.peer != nullptr && Reaches(pair.host) && Reaches(pair.peer->host);
    const bool lost =
        faults.loss > 0 && std::uniform_real_distribution<double>(0, 1)(pair.random) < faults.loss;
    if (!through || lost) {
      ++counts.lost;
      if (faults.retries >= 0 && ++operation.attempts > faults.retries)
        return Fail(pair, kRetriesExceeded);
      operation.due = Clock::now() + faults.retry_after;
      return;
    }
    if (pair.peer->failed) return Fail(pair, kRetriesExceeded);
    switch (operation.request.operation) {
      case Operation::kMessage:
        return Deliver(pair, operation);
      case Operation::kWrite:
      case Operation::kRead:
      case Operation::kWriteImmediate:
        return Place(pair, operation);
      case Operation::kBind:
        return;
    }
  }

  std::byte* Find(uint32_t key, uint64_t address, uint64_t bytes, bool remote, Access access,
                  const Pair* peer = nullptr) {
    const auto found = grants.find(key);
    if (found == grants.end()) return nullptr;
    const Grant& grant = found->second;
    const auto start = reinterpret_cast<uint64_t>(grant.memory.data());
    if (address < start || address - start > grant.memory.size() ||
        bytes > grant.memory.size() - (address - start)) {
      return nullptr;
    }
    if (remote && grant.access != access) return nullptr;
    if (grant.window_of != nullptr && grant.window_of != peer) return nullptr;
    return grant.memory.data() + (address - start);
  }

  void Place(Pair& pair, UnderWay& operation) {
    const WorkRequest& request = operation.request;
    const bool write = request.operation != Operation::kRead;
    const bool immediate = request.operation == Operation::kWriteImmediate;
    if (immediate && pair.peer->receives.empty()) {
      ++counts.receiver_not_ready;
      operation.due = Clock::now() + faults.retry_after;
      return;
    }
    uint64_t bytes = 0;
    for (uint32_t i = 0; i < request.piece_count; ++i) bytes += request.pieces[i].bytes;
    std::byte* remote = Find(request.remote_key, request.remote_address, bytes, true,
                             write ? Access::kRemoteWrite : Access::kRemoteRead, pair.peer);
    if (remote == nullptr) {
      ++counts.refused_accesses;
      Fail(*pair.peer, kFlushed);
      return Fail(pair, kRemoteAccess);
    }
    for (uint32_t i = 0; i < request.piece_count; ++i) {
      const Piece& piece = request.pieces[i];
      std::byte* local = Find(piece.local_key, piece.address, piece.bytes, false, Access::kLocal);
      if (local == nullptr) {
        ++counts.refused_accesses;
        return Fail(pair, kLocalProtection);
      }
      std::memcpy(write ? remote : local, write ? local : remote, piece.bytes);
      remote += piece.bytes;
    }
    if (write) ++counts.writes;
    if (immediate) {
      Pair& peer = *pair.peer;
      Complete(peer, {.id = peer.receives.front().id,
                      .received = true,
                      .has_immediate = true,
                      .immediate = request.immediate});
      peer.receives.pop_front();
    }
    Finish(pair);
  }

  void Deliver(Pair& pair, UnderWay& operation) {
    Pair& peer = *pair.peer;
    if (peer.receives.empty()) {
      ++counts.receiver_not_ready;
      operation.due = Clock::now() + faults.retry_after;
      return;
    }
    const Piece& from = operation.request.pieces[0];
    const Receive receive = peer.receives.front();
    const std::byte* source = Find(from.local_key, from.address, from.bytes, false, Access::kLocal);
    std::byte* target =
        Find(receive.buffer.local_key, receive.buffer.address, from.bytes, false, Access::kLocal);
    if (source == nullptr) return Fail(pair, kLocalProtection);
    if (target == nullptr || from.bytes > receive.buffer.bytes) {
      Fail(peer, kTooLong);
      return Fail(pair, kRemoteAccess);
    }
    peer.receives.pop_front();
    std::memcpy(target, source, from.bytes);
    ++counts.messages;
    Complete(peer, {.id = receive.id, .received = true, .bytes = from.bytes});
    Finish(pair);
  }

  void Finish(Pair& pair) {
    const WorkRequest request = pair.sends.front().request;
    pair.sends.pop_front();
    if (request.signalled) Complete(pair, {.id = request.id});
  }

  bool ending_ = false;
  std::condition_variable work_;
  std::thread wire_;  // last: it uses all of the above
};

namespace {

class FakeQueuePair final : public QueuePair {
 public:
  FakeQueuePair(std::shared_ptr<FakeNetwork::Impl> network, const std::string& host)
      : network_(std::move(network)) {
    std::lock_guard lock(network_->mutex);
    pair_.number = network_->next_number++;
    pair_.host = host;
    pair_.random.seed(network_->faults.seed * 1000003 + pair_.number);
    pair_.description = absl::StrCat(host, " (fake, queue pair ", pair_.number, ")");
    network_->pairs.insert(&pair_);
  }
  ~FakeQueuePair() override {
    std::lock_guard lock(network_->mutex);
    network_->Remove(pair_);
  }

  // With the network's mutex held.
  static void Join(Pair& a, const std::string& a_address, Pair& b, const std::string& b_address) {
    a.peer = &b;
    b.peer = &a;
    a.description =
        absl::StrCat(a_address, " -> ", b_address, " (fake, queue pair ", a.number, ")");
    b.description =
        absl::StrCat(b_address, " -> ", a_address, " (fake, queue pair ", b.number, ")");
  }
  Pair& pair() { return pair_; }

  absl::Status Post(std::span<const WorkRequest> requests) override {
    std::lock_guard lock(network_->mutex);
    ++network_->counts.doorbells;
    for (const WorkRequest& request : requests) {
      if (pair_.failed) {
        network_->Complete(pair_, {.id = request.id, .error = kFlushed});
      } else {
        network_->Queue(pair_, request);
      }
    }
    return absl::OkStatus();
  }

  absl::StatusOr<Window> MakeWindow(const MemoryRegion& region, Access access) override {
    std::lock_guard lock(network_->mutex);
    const uint32_t key = network_->next_key++;
    network_->grants[key] = {region.span(), Access::kWindow, &pair_, access};
    return Window{0, key};
  }

  absl::Status PostReceive(uint64_t id, const Piece& buffer) override {
    std::lock_guard lock(network_->mutex);
    if (pair_.failed) {
      network_->Complete(pair_, {.id = id, .error = kFlushed});
    } else {
      pair_.receives.push_back({id, buffer});
    }
    return absl::OkStatus();
  }

  absl::StatusOr<size_t> Poll(std::span<WorkCompletion> completions) override {
    std::lock_guard lock(network_->mutex);
    const size_t n = std::min(completions.size(), pair_.completions.size());
    std::copy_n(pair_.completions.begin(), n, completions.begin());
    pair_.completions.erase(pair_.completions.begin(),
                            pair_.completions.begin() + static_cast<ptrdiff_t>(n));
    return n;
  }

  absl::Status Arm() override { return absl::OkStatus(); }

  absl::StatusOr<Event> Wait(Deadline deadline) override {
    std::unique_lock lock(network_->mutex);
    pair_.changed.wait_until(lock, Clock::now() + deadline.Left(), [&] {
      return !pair_.completions.empty() || pair_.peer_gone || pair_.woken;
    });
    if (!pair_.completions.empty()) return Event::kCompleted;
    if (std::exchange(pair_.peer_gone, false)) return Event::kPeerGone;
    return Event::kNothing;
  }

  void Wake() override {
    std::lock_guard lock(network_->mutex);
    pair_.woken = true;
    pair_.changed.notify_all();
  }

  // Stays as it is once the connection is in use.
  const std::string& description() const override { return pair_.description; }

 private:
  std::shared_ptr<FakeNetwork::Impl> network_;
  Pair pair_;
};

class FakeRegion final : public MemoryRegion {
 public:
  FakeRegion(std::shared_ptr<FakeNetwork::Impl> network, std::span<std::byte> memory, Access access)
      : network_(std::move(network)), memory_(memory) {
    std::lock_guard lock(network_->mutex);
    key_ = network_->next_key++;
    network_->grants[key_] = {memory, access};
  }
  ~FakeRegion() override {
    std::lock_guard lock(network_->mutex);
    network_->grants.erase(key_);
  }
  std::span<std::byte> span() const override { return memory_; }
  uint64_t remote_address() const override { return reinterpret_cast<uint64_t>(memory_.data()); }
  uint32_t remote_key() const override { return key_; }
  uint32_t local_key() const override { return key_; }

 private:
  std::shared_ptr<FakeNetwork::Impl> network_;
  std::span<std::byte> memory_;
  uint32_t key_ = 0;
};

struct Made {
  FakeQueuePair* queue_pair;
  std::unique_ptr<QueuePairConnection> connection;
};

absl::StatusOr<Made> MakeConnection(const std::shared_ptr<FakeNetwork::Impl>& network,
                                    const std::string& host, Fabric& fabric,
                                    const ConnectionTuning& tuning) {
  auto queue_pair = std::make_unique<FakeQueuePair>(network, host);
  FakeQueuePair* const raw = queue_pair.get();
  ASSIGN_OR_RETURN(std::unique_ptr<QueuePairConnection> connection,
                   QueuePairConnection::Make(std::move(queue_pair), fabric, tuning));
  return Made{raw, std::move(connection)};
}

class FakeIncoming final : public Incoming {
 public:
  FakeIncoming(std::shared_ptr<FakeNetwork::Impl> network, std::shared_ptr<Request> request,
               std::string host, std::string address, Fabric& fabric,
               const ConnectionTuning& tuning)
      : network_(std::move(network)),
        request_(std::move(request)),
        host_(std::move(host)),
        address_(std::move(address)),
        fabric_(fabric),
        tuning_(tuning) {}
  ~FakeIncoming() override { Answer(Request::Answer::kRefused); }

  absl::string_view private_data() const override { return request_->private_data; }

  absl::StatusOr<std::unique_ptr<Connection>> Accept(Deadline) override {
    ASSIGN_OR_RETURN(Made made, MakeConnection(network_, host_, fabric_, tuning_));
    std::lock_guard lock(network_->mutex);
    if (request_->caller == nullptr || !network_->Reaches(host_)) {
      return absl::UnavailableError(
          absl::StrCat("accept a connection from ", request_->from, ": it has gone"));
    }
    FakeQueuePair::Join(*request_->caller, request_->from, made.queue_pair->pair(), address_);
    request_->answer = Request::Answer::kAccepted;
    request_->answered.notify_all();
    return std::unique_ptr<Connection>(std::move(made.connection));
  }

 private:
  void Answer(Request::Answer answer) {
    std::lock_guard lock(network_->mutex);
    if (request_->answer == Request::Answer::kNone) request_->answer = answer;
    request_->answered.notify_all();
  }

  std::shared_ptr<FakeNetwork::Impl> network_;
  std::shared_ptr<Request> request_;
  std::string host_;
  std::string address_;
  Fabric& fabric_;
  ConnectionTuning tuning_;
};

class FakeListener final : public Listener {
 public:
  FakeListener(std::shared_ptr<FakeNetwork::Impl> network, std::string host, std::string address,
               Fabric& fabric, const ConnectionTuning& tuning)
      : network_(std::move(network)),
        host_(std::move(host)),
        address_(std::move(address)),
        fabric_(fabric),
        tuning_(tuning) {}
  ~FakeListener() override {
    std::lock_guard lock(network_->mutex);
    const auto found = network_->listeners.find(address_);
    if (found == network_->listeners.end() || found->second != &waiting_) return;
    network_->listeners.erase(found);
    for (const auto& request : waiting_.requests) {
      request->answer = Request::Answer::kRefused;
      request->answered.notify_all();
    }
  }

  bool Register() {
    std::lock_guard lock(network_->mutex);
    return network_->listeners.emplace(address_, &waiting_).second;
  }

  absl::StatusOr<std::unique_ptr<Incoming>> Next(Deadline deadline) override {
    std::unique_lock lock(network_->mutex);
    if (!waiting_.came.wait_until(lock, Clock::now() + deadline.Left(),
                                  [&] { return !waiting_.requests.empty(); })) {
      return absl::DeadlineExceededError("no connection was asked for");
    }
    std::shared_ptr<Request> request = std::move(waiting_.requests.front());
    waiting_.requests.pop_front();
    lock.unlock();
    return std::make_unique<FakeIncoming>(network_, std::move(request), host_, address_, fabric_,
                                          tuning_);
  }

 private:
  std::shared_ptr<FakeNetwork::Impl> network_;
  std::string host_;
  std::string address_;
  Fabric& fabric_;
  ConnectionTuning tuning_;
  Waiting waiting_;
};

class FakeFabric final : public Fabric {
 public:
  FakeFabric(std::shared_ptr<FakeNetwork::Impl> network, std::string host,
             const ConnectionTuning& tuning)
      : network_(std::move(network)), host_(std::move(host)), tuning_(tuning) {}

  const char* name() const override { return "fake"; }
  const std::string& device() const override { return host_; }
  uint64_t max_region_bytes() const override { return uint64_t{1} << 30; }
  bool windows() const override { return true; }

  absl::StatusOr<std::unique_ptr<MemoryRegion>> Register(std::span<std::byte> memory,
                                                         Access access) override {
    if (memory.empty() || memory.size() > max_region_bytes()) {
      return absl::OutOfRangeError(
          absl::StrCat("a region of ", memory.size(), " bytes: at most ", max_region_bytes()));
    }
    return std::make_unique<FakeRegion>(network_, memory, access);
  }

  absl::StatusOr<std::unique_ptr<Listener>> Listen(const std::string& address,
                                                   uint16_t port) override {
    auto listener = std::make_unique<FakeListener>(
        network_, host_, absl::StrCat(address, ":", port), *this, tuning_);
    if (!listener->Register())
      return absl::AlreadyExistsError(absl::StrCat("listen on ", address, ":", port, ": in use"));
    return listener;
  }

  absl::StatusOr<std::unique_ptr<Connection>> Connect(const std::string& address, uint16_t port,
                                                      absl::string_view private_data,
                                                      Deadline deadline) override {
    if (private_data.size() > kMaxPrivateData) {
      return absl::InvalidArgumentError(
          absl::StrCat("private data has more than ", kMaxPrivateData, " bytes"));
    }
    const std::string what = absl::StrCat("connect to ", address, ":", port);
    ASSIGN_OR_RETURN(Made made, MakeConnection(network_, host_, *this, tuning_));
    auto request = std::make_shared<Request>();
    request->private_data = std::string(private_data);
    request->from = host_;
    request->caller = &made.queue_pair->pair();
    std::unique_lock lock(network_->mutex);
    if (network_->Reaches(host_) && network_->Reaches(address)) {
      const auto listener = network_->listeners.find(absl::StrCat(address, ":", port));
      if (listener == network_->listeners.end())
        return absl::UnavailableError(absl::StrCat(what, ": nobody listens there"));
      listener->second->requests.push_back(request);
      listener->second->came.notify_all();
    }
    request->answered.wait_until(lock, Clock::now() + deadline.Left(),
                                 [&] { return request->answer != Request::Answer::kNone; });
    switch (std::exchange(request->answer, Request::Answer::kRefused)) {
      case Request::Answer::kAccepted:
        return std::unique_ptr<Connection>(std::move(made.connection));
      case Request::Answer::kRefused:
        return absl::PermissionDeniedError(absl::StrCat(what, ": the peer refused"));
      case Request::Answer::kNone:
        break;
    }
    request->caller = nullptr;
    return absl::DeadlineExceededError(absl::StrCat(what, ": no answer in time"));
  }

 private:
  std::shared_ptr<FakeNetwork::Impl> network_;
  std::string host_;
  ConnectionTuning tuning_;
};

}  // namespace

FakeNetwork::FakeNetwork(const FakeFaults& faults) : impl_(std::make_shared<Impl>(faults)) {}
FakeNetwork::~FakeNetwork() = default;

std::unique_ptr<Fabric> FakeNetwork::Open(const std::string& address,
                                          const ConnectionTuning& tuning) {
  return std::make_unique<FakeFabric>(impl_, address, tuning);
}

void FakeNetwork::Cut() {
  std::lock_guard lock(impl_->mutex);
  impl_->cut = true;
}

void FakeNetwork::Heal() {
  std::lock_guard lock(impl_->mutex);
  impl_->cut = false;
}

void FakeNetwork::PowerOff(const std::string& address) {
  std::lock_guard lock(impl_->mutex);
  impl_->powered_off.insert(address);
}

FakeNetwork::Counts FakeNetwork::counts() const {
  std::lock_guard lock(impl_->mutex);
  Counts counts = impl_->counts;
  counts.regions = impl_->grants.size();
  counts.queue_pairs = impl_->pairs.size();
  return counts;
}

}  // namespace starling::transport
