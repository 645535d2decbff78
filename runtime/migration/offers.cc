#include "runtime/migration/offers.h"

#include <openssl/crypto.h>

#include <algorithm>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/log.h"
#include "base/random.h"
#include "base/status.h"
#include "runtime/migration/lane_grants.h"

namespace starling::migration {
namespace {

constexpr auto kAcceptTimeout = std::chrono::seconds(5);
constexpr auto kAnswerTimeout = std::chrono::seconds(10);

// One after the other from the first on, so that nothing is granted twice.
absl::Status AnswerGrants(absl::string_view message, transport::Connection& connection,
                          Offer& offer, std::vector<Granted>& granted) {
  ASSIGN_OR_RETURN(const GrantRequest request, DecodeGrantRequest(message));
  if (request.ring) return absl::DataLossError("a landing ring was asked for where there is none");
  if (!offer.windows()) return absl::DataLossError("grants were asked for that came before");
  const size_t end = std::min<size_t>(offer.region_count(), request.first_chunk + request.chunks);
  while (granted.size() < end) {
    ASSIGN_OR_RETURN(granted.emplace_back(), offer.Grant(connection, granted.size()));
  }
  Grants grants;
  grants.first_chunk = request.first_chunk;
  for (size_t i = request.first_chunk; i < end; ++i) grants.chunks.push_back(granted[i]);
  return connection.Send(EncodeGrants(grants), Deadline::After(kAnswerTimeout)).status();
}

}  // namespace

absl::StatusOr<std::string> MakeToken() { return RandomBytes(kTokenBytes); }

bool ShowsToken(absl::string_view private_data, const std::string& token) {
  return private_data.size() >= kTokenBytes && token.size() == kTokenBytes &&
         CRYPTO_memcmp(private_data.data(), token.data(), kTokenBytes) == 0;
}

Offers::~Offers() {
  for (auto& [id, entry] : entries_) End(std::move(entry.connection), std::move(entry.serving));
}

absl::Status Offers::Add(const std::string& migration_id, const std::string& target, Over over,
                         std::unique_ptr<Offer> offer) {
  Entry entry;
  entry.target = target;
  entry.over = std::move(over);
  ASSIGN_OR_RETURN(entry.token, MakeToken());
  entry.offer = std::move(offer);
  entry.state.pages_left = entry.offer->pages();
  entry.state.heard = Clock::now();
  const std::lock_guard lock(mutex_);
  if (!entries_.emplace(migration_id, std::move(entry)).second) {
    return absl::InternalError(absl::StrCat("migration ", migration_id, " has an offer already"));
  }
  return absl::OkStatus();
}

void Offers::Withdraw(const std::string& migration_id) {
  Entry entry;
  {
    const std::lock_guard lock(mutex_);
    const auto found = entries_.find(migration_id);
    if (found == entries_.end()) return;
    entry = std::move(found->second);
    entries_.erase(found);
    changed_.notify_all();
  }
  // The memory goes after the connection that could read it.
  End(std::move(entry.connection), std::move(entry.serving));
}

bool Offers::Has(const std::string& migration_id) {
  const std::lock_guard lock(mutex_);
  return entries_.contains(migration_id);
}

void Offers::End(std::unique_ptr<transport::Connection> connection, std::thread serving) {
  if (connection != nullptr) connection->Shutdown();
  if (serving.joinable()) serving.join();
}

void Offers::Serve(transport::Connection& connection, Offer& offer,
                   const std::string& target) const {
  std::vector<Granted> granted;
  while (true) {
    const absl::StatusOr<std::string> message = connection.Receive(Deadline::Never());
    if (!message.ok()) {
      if (connection.refused_peer() && refused_) refused_(target, message.status().message());
      return;
    }
    const absl::Status answered = AnswerGrants(*message, connection, offer, granted);
    if (answered.ok()) continue;
    spdlog::warn("data connection {}: {}", connection.description(), answered.ToString());
    if (absl::IsDataLoss(answered) && refused_) refused_(target, answered.message());
    connection.Shutdown();
    return;
  }
}

absl::StatusOr<Offers::Entry*> Offers::Find(const std::string& migration_id,
                                            const std::string& host) {
  const auto found = entries_.find(migration_id);
  if (found == entries_.end()) {
    return absl::NotFoundError(
        absl::StrCat("nothing of migration ", migration_id, " is kept here (any more)"));
  }
  if (found->second.target != host) {
    return absl::PermissionDeniedError(absl::StrCat("migration ", migration_id, " goes to host ",
                                                    found->second.target, ", not to ", host));
  }
  found->second.state.heard = Clock::now();
  return &found->second;
}

absl::Status Offers::MayTake(const std::string& migration_id, const std::string& host) {
  const std::lock_guard lock(mutex_);
  return Find(migration_id, host).status();
}

absl::StatusOr<v1::OpenOfferResponse> Offers::Open(const v1::OpenOfferRequest& request) {
  std::shared_ptr<Offer> offer;
  std::string token;
  Over over;
  {
    const std::lock_guard lock(mutex_);
    ASSIGN_OR_RETURN(Entry* const entry, Find(request.migration_id(), request.host()));
    offer = entry->offer;
    token = entry->token;
    over = entry->over;
  }
  ASSIGN_OR_RETURN(v1::OpenOfferResponse response, offer->Describe(request.by_connection()));
  response.set_data_address(over.address);
  response.set_token(token);
  response.set_provider(over.provider);
  return response;
}

absl::Status Offers::Drain(const v1::DrainOfferRequest& request) {
  const std::lock_guard lock(mutex_);
  ASSIGN_OR_RETURN(Entry* const entry, Find(request.migration_id(), request.host()));
  entry->state.pages_left = std::min(entry->state.pages_left, request.pages_left());
  entry->state.lost = request.lost();
  entry->state.over = request.pages_left() == 0 || !request.lost().empty();
  changed_.notify_all();
  return absl::OkStatus();
}

bool Offers::Take(const std::string& provider, std::unique_ptr<transport::Incoming>& incoming) {
  // Under mutex_.
  const auto find = [&](absl::string_view shown) {
    return std::find_if(entries_.begin(), entries_.end(), [&](const auto& each) {
      return each.second.over.provider == provider && ShowsToken(shown, each.second.token);
    });
  };
  const std::string shown(incoming->private_data().substr(0, kTokenBytes));
  {
    const std::lock_guard lock(mutex_);
    if (find(shown) == entries_.end()) return false;
  }
  auto accepted = incoming->Accept(Deadline::After(kAcceptTimeout));
  incoming.reset();
  if (!accepted.ok()) {
    spdlog::warn("data port: {}", accepted.status().ToString());
    return true;
  }
  std::unique_ptr<transport::Connection> before;
  std::thread serving;
  {
    const std::lock_guard lock(mutex_);
    const auto entry = find(shown);
    if (entry == entries_.end()) return true;  // withdrawn meanwhile
    before = std::exchange(entry->second.connection, *std::move(accepted));
    serving = std::exchange(
        entry->second.serving,
        std::thread([this, connection = entry->second.connection.get(), offer = entry->second.offer,
                     target = entry->second.target] { Serve(*connection, *offer, target); }));
  }
  End(std::move(before), std::move(serving));
  return true;
}

std::optional<Offers::State> Offers::Wait(const std::string& migration_id, uint64_t pages_left,
                                          Deadline deadline) {
  std::unique_lock lock(mutex_);
  const auto look = [&]() -> std::optional<State> {
    const auto found = entries_.find(migration_id);
    if (found == entries_.end()) return std::nullopt;
    return found->second.state;
  };
  changed_.wait_until(lock, std::min(deadline.at(), Clock::now() + std::chrono::hours(1)), [&] {
    const auto state = look();
    return !state || state->over || state->pages_left != pages_left;
  });
  return look();
}

}  // namespace starling::migration
