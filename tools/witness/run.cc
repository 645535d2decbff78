#include "tools/witness/run.h"

#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <memory>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "tools/witness/clock.h"
#include "tools/witness/ledger.h"
#include "tools/witness/values.h"

namespace starling::witness {
namespace {

constexpr int64_t kStopCheckNs = 50 * kNsPerMs;
constexpr size_t kWindowRequests = 256;   // outstanding at once while filling and verifying
constexpr size_t kWindowBytes = 1 << 20;  // the same for bytes not yet sent
constexpr size_t kMostUnsentBytes = 256
                                    << 20;  // then a server that does not answer is asked no more

int64_t Ns(double seconds) { return static_cast<int64_t>(seconds * kNsPerSecond); }

class Course {
 public:
  Course(const Options& options, const Protocol& protocol, const volatile sig_atomic_t* stop,
         const sigset_t& wait_mask)
      : options_(options),
        protocol_(protocol),
        stop_(stop),
        wait_mask_(wait_mask),
        ledger_(options.seed, options.keys, options.value_bytes),
        random_(options.seed) {}

  absl::StatusOr<Result> Run(const std::function<void()>& on_ready) {
    absl::Status prepared = Prepare();
    if (!prepared.ok()) return prepared;
    StartMeasuring();
    on_ready();
    Load(options_.duration_s > 0 ? result_.started_ns + Ns(options_.duration_s) : INT64_MAX);
    StopMeasuring();
    if (client_ != nullptr) Verify();
    Conclude();
    if (absl::Status told = TellEvents(); !told.ok()) return told;
    return std::move(result_);
  }

 private:
  absl::Status Prepare() {
    result_.options = options_;
    result_.protocol = std::string(protocol_.name());
    const int64_t deadline = Now() + Ns(options_.ready_timeout_s);
    if (options_.heartbeat_port != 0) {
      absl::StatusOr<std::unique_ptr<HeartbeatListener>> listener =
          HeartbeatListener::Open(options_.heartbeat_port);
      if (!listener.ok()) return listener.status();
      listener_ = *std::move(listener);
    }
    if (options_.server.has_value()) {
      absl::StatusOr<Socket> connection = ConnectTcp(*options_.server, deadline);
      if (!connection.ok()) return connection.status();
      client_ = std::make_unique<Client>(protocol_, ledger_, *std::move(connection));
      if (!options_.events_file.empty()) client_->KeepReplies();
      absl::Status filled = protocol_.can_write() ? Preload() : AssumeSite();
      if (!filled.ok()) return filled;
      next_scheduled_ns_ = Now();
      Load(Now() + Ns(options_.warmup_s));
      if (client_->broken()) {
        return absl::UnavailableError(
            absl::StrCat("the connection broke while warming up: ", client_->error().message()));
      }
    }
    while (listener_ != nullptr && listener_->heard() == 0) {
      if (Stopped()) return absl::CancelledError("told to stop before the first heartbeat came");
      if (Now() > deadline) {
        return absl::DeadlineExceededError(
            absl::StrCat("no heartbeat came on UDP port ", options_.heartbeat_port));
      }
      Load(Now() + kStopCheckNs);
    }
    return absl::OkStatus();
  }

  // The files that WriteSite() wrote count as writes that were acknowledged.
  absl::Status AssumeSite() {
    for (uint32_t key = 0; key < options_.keys; ++key) {
      ledger_.Acknowledge(ledger_.BeginWrite(key));
      written_.push_back(key);
    }
    return absl::OkStatus();
  }

  absl::Status Preload() {
    if (!options_.preload) return absl::OkStatus();
    for (uint32_t key = 0; key < options_.keys; ++key) {
      const int64_t deadline = Now() + Ns(options_.ready_timeout_s);
      AwaitWindow(deadline);
      if (client_->broken() || Now() > deadline || Stopped()) break;
      client_->Write(key, Now(), false);
      written_.push_back(key);
    }
    AwaitAnswers(Now() + Ns(options_.ready_timeout_s));
    if (client_->broken()) {
      return absl::UnavailableError(
          absl::StrCat("the connection broke while filling: ", client_->error().message()));
    }
    if (ledger_.acknowledged() != options_.keys) {
      return absl::ResourceExhaustedError(
          absl::StrCat("the server took only ", ledger_.acknowledged(), " of ", options_.keys,
                       " values: ", client_->statistics().first_refusal));
    }
    return absl::OkStatus();
  }

  void StartMeasuring() {
    measuring_ = true;
    result_.started_ns = Now();
    if (listener_ != nullptr) listener_->StartRecording();
    if (client_ != nullptr) client_->statistics().answer_gaps.Start(result_.started_ns);
  }

  // Asks at the scheduled times, late or not, until `until_ns` or told to stop.
  void Load(int64_t until_ns) {
    const int64_t period_ns = std::max<int64_t>(Ns(1 / options_.rate_per_s), 1);
    while (!Stopped()) {
      const int64_t now = Now();
      if (now >= until_ns) break;
      int64_t wake_ns = std::min(until_ns, now + kStopCheckNs);
      if (client_ == nullptr) {
        const timespec wait = {0, std::max<int64_t>(wake_ns - now, 0)};
        pselect(0, nullptr, nullptr, nullptr, &wait, &wait_mask_);
        continue;
      }
      while (next_scheduled_ns_ <= now && !client_->broken() &&
             client_->unsent_bytes() < kMostUnsentBytes) {
        Ask(next_scheduled_ns_);
        next_scheduled_ns_ += period_ns;
      }
      if (!client_->broken() && next_scheduled_ns_ > now) {
        wake_ns = std::min(wake_ns, next_scheduled_ns_);
      }
      client_->Pump(wake_ns, wait_mask_);
    }
  }

  void Ask(int64_t scheduled_ns) {
    const bool can_read = !written_.empty();
    if (can_read && (!protocol_.can_write() || random_.Share() < options_.read_share)) {
      client_->Read(written_[random_.Below(written_.size())], scheduled_ns, measuring_);
      return;
    }
    const auto key = static_cast<uint32_t>(random_.Below(options_.keys));
    if (ledger_.NewestSent(key) == 0) written_.push_back(key);
    client_->Write(key, scheduled_ns, measuring_);
  }

  // Lets what was asked be answered, and ends all recording.
  void StopMeasuring() {
    if (client_ != nullptr) AwaitAnswers(Now() + Ns(options_.drain_timeout_s));
    result_.ended_ns = Now();
    measuring_ = false;
    if (listener_ != nullptr) result_.heartbeat = listener_->Finish();
    if (client_ != nullptr) client_->statistics().answer_gaps.Finish(result_.ended_ns);
  }

  // Reads every key back. Should the connection have broken, a new one tells whether data was lost
  // as well.
  void Verify() {
    if (client_->broken()) result_.broken_connections = 1;
    result_.unanswered = client_->outstanding();
    result_.client = client_->statistics();
    if (client_->broken() || client_->outstanding() > 0) {
      if (client_->broken()) result_.connection_error = std::string(client_->error().message());
      absl::StatusOr<Socket> connection = ConnectTcp(*options_.server, Now() + 2 * kNsPerSecond);
      if (!connection.ok()) {
        result_.unverified_values = written_.size();
        return;
      }
      result_.verified_over_new_connection = true;
      client_ = std::make_unique<Client>(protocol_, ledger_, *std::move(connection));
    }
    const uint64_t refused_before = client_->statistics().refused;
    uint64_t asked = 0;
    for (const uint32_t key : written_) {
      const int64_t deadline = Now() + Ns(options_.drain_timeout_s);
      AwaitWindow(deadline);
      if (client_->broken() || Now() > deadline) break;
      client_->Read(key, Now(), false);
      ++asked;
    }
    AwaitAnswers(Now() + Ns(options_.drain_timeout_s));
    if (client_->broken() && result_.broken_connections == 0) {
      result_.broken_connections = 1;
      result_.connection_error = std::string(client_->error().message());
    }
    result_.verified_values =
        asked - client_->outstanding() - (client_->statistics().refused - refused_before);
    result_.unverified_values = written_.size() - result_.verified_values;
  }

  void Conclude() {
    if (!options_.server.has_value()) return;
    result_.writes_acknowledged = ledger_.acknowledged();
    result_.lost_writes = ledger_.lost_writes();
    result_.wrong_values = ledger_.wrong_values();
  }

  absl::Status TellEvents() {
    if (options_.events_file.empty()) return absl::OkStatus();
    std::ifstream file(options_.events_file);
    const std::string text{std::istreambuf_iterator<char>(file), {}};
    absl::StatusOr<std::vector<Event>> events = ParseEvents(text);
    if (!events.ok()) {
      return absl::InvalidArgumentError(
          absl::StrCat(options_.events_file, ": ", events.status().message()));
    }
    int64_t from_ns = result_.started_ns;
    for (size_t i = 0; i < events->size(); ++i) {
      const bool last = i + 1 == events->size();
      std::optional<Recovery> recovery;
      if (result_.client.has_value()) {
        recovery = Recover(result_.client->replies, from_ns, (*events)[i].at_ns,
                           last ? result_.ended_ns : (*events)[i + 1].at_ns);
      }
      from_ns = (*events)[i].at_ns;
      result_.events.emplace_back(std::move((*events)[i]), recovery);
    }
    return absl::OkStatus();
  }

  void AwaitWindow(int64_t deadline_ns) {
    while (!client_->broken() && Now() < deadline_ns &&
           (client_->outstanding() >= kWindowRequests || client_->unsent_bytes() >= kWindowBytes)) {
      client_->Pump(std::min(deadline_ns, Now() + kStopCheckNs), wait_mask_);
    }
  }

  void AwaitAnswers(int64_t deadline_ns) {
    while (!client_->broken() && client_->outstanding() > 0 && Now() < deadline_ns) {
      client_->Pump(std::min(deadline_ns, Now() + kStopCheckNs), wait_mask_);
    }
  }

  bool Stopped() {
    if (*stop_ != 0) return true;
    if (options_.stop_file.empty() || Now() < next_stop_check_ns_) return false;
    next_stop_check_ns_ = Now() + kStopCheckNs;
    return access(options_.stop_file.c_str(), F_OK) == 0;
  }

  const Options& options_;
  const Protocol& protocol_;
  const volatile sig_atomic_t* stop_;
  const sigset_t& wait_mask_;
  Ledger ledger_;
  Random random_;
  std::unique_ptr<HeartbeatListener> listener_;
  std::unique_ptr<Client> client_;
  std::vector<uint32_t> written_;  // keys written at least once
  int64_t next_scheduled_ns_ = 0;
  int64_t next_stop_check_ns_ = 0;
  bool measuring_ = false;
  Result result_;
};

}  // namespace

bool Result::Flawless() const {
  return lost_writes == 0 && wrong_values == 0 && broken_connections == 0 && unanswered == 0 &&
         unverified_values == 0 && (!client.has_value() || client->refused == 0) &&
         (!heartbeat.has_value() || heartbeat->beats.duplicated() == 0);
}

absl::StatusOr<Result> Run(const Options& options, const Protocol& protocol,
                           const volatile sig_atomic_t* stop, const sigset_t& wait_mask,
                           const std::function<void()>& on_ready) {
  return Course(options, protocol, stop, wait_mask).Run(on_ready);
}

absl::Status WriteSite(const std::string& folder, const Options& options) {
  std::error_code error;
  std::filesystem::create_directories(folder, error);
  Ledger ledger(options.seed, options.keys, options.value_bytes);
  for (uint32_t key = 0; key < options.keys; ++key) {
    const std::string path = absl::StrCat(folder, "/", FileName(key));
    const std::string value = ledger.Value(key, ledger.BeginWrite(key));
    std::ofstream file(path, std::ios::binary);
    file << value;
    file.close();
    if (!file) return absl::UnavailableError(absl::StrCat("cannot write ", path));
  }
  return absl::OkStatus();
}

}  // namespace starling::witness
