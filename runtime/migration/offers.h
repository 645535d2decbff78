#pragma once

#include <condition_variable>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "base/clock.h"
#include "runtime/migration/offer.h"
#include "runtime/proto/starling.pb.h"
#include "transport/fabric.h"

namespace starling::migration {

// What is shown when a data connection is made.
inline constexpr size_t kTokenBytes = 16;
absl::StatusOr<std::string> MakeToken();
// Whether a connection's private data begins with that token.
bool ShowsToken(absl::string_view private_data, const std::string& token);

// The offers of this host's agent: each is open to the target of its migration alone, until that
// has all of it or it is withdrawn. In memory only: they end with the agent. Thread-safe.
class Offers {
 public:
  // Hears, on some thread, what was not taken from a target that an offer is open to.
  using Refused = std::function<void(const std::string& target, absl::string_view what)>;
  explicit Offers(Refused refused) : refused_(std::move(refused)) {}
  ~Offers();

  // The transport that an offer is registered with, and where it listens here (ADDR:PORT).
  struct Over {
    std::string provider;
    std::string address;
  };
  // `offer` has been settled.
  absl::Status Add(const std::string& migration_id, const std::string& target, Over over,
                   std::unique_ptr<Offer> offer);
  void Withdraw(const std::string& migration_id);
  bool Has(const std::string& migration_id);

  // For the Peer service, which knows that the request's host is the one that calls. kNotFound
  // when there is none (any more); kPermissionDenied for anybody but its target.
  absl::Status MayTake(const std::string& migration_id, const std::string& host);
  absl::StatusOr<v1::OpenOfferResponse> Open(const v1::OpenOfferRequest& request);
  absl::Status Drain(const v1::DrainOfferRequest& request);

  // For a data connection over `provider` that shows no migration's token: takes it when it shows
  // an offer's. One before it of the same target is ended.
  bool Take(const std::string& provider, std::unique_ptr<transport::Incoming>& incoming);

  struct State {
    uint64_t pages_left = 0;
    bool over = false;  // nothing more is needed, or will be
    std::string lost;   // why
    TimePoint heard{};  // from its target, or added
  };
  // Waits for something else than `pages_left`, or the deadline. Nothing: no such offer.
  std::optional<State> Wait(const std::string& migration_id, uint64_t pages_left,
                            Deadline deadline);

 private:
  struct Entry {
    std::string target;
    Over over;
    std::string token;
    std::shared_ptr<Offer> offer;
    State state;
    // The target reads; it may ask for what it may read. The thread answers, and sees the end.
    std::unique_ptr<transport::Connection> connection;
    std::thread serving;
  };
  // Under mutex_.
  absl::StatusOr<Entry*> Find(const std::string& migration_id, const std::string& host);
  static void End(std::unique_ptr<transport::Connection> connection, std::thread serving);
  void Serve(transport::Connection& connection, Offer& offer, const std::string& target) const;

  const Refused refused_;
  std::mutex mutex_;  // guards all below
  std::condition_variable changed_;
  std::map<std::string, Entry> entries_;
};

}  // namespace starling::migration
