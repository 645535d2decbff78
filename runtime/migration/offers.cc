#include "runtime/migration/offers.h"

#include <openssl/crypto.h>

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/log.h"
#include "base/random.h"
#include "base/status.h"

namespace starling::migration {
namespace {

constexpr auto kAcceptTimeout = std::chrono::seconds(5);

}  // namespace

absl::StatusOr<std::string> MakeToken() { return RandomBytes(kTokenBytes); }

bool ShowsToken(absl::string_view private_data, const std::string& token) {
  return private_data.size() >= kTokenBytes && token.size() == kTokenBytes &&
         CRYPTO_memcmp(private_data.data(), token.data(), kTokenBytes) == 0;
}

Offers::~Offers() {
  for (auto& [id, entry] : entries_) End(std::move(entry.connection), std::move(entry.watching));
}

absl::Status Offers::Add(const std::string& migration_id, const std::string& target,
                         const std::string& provider, std::unique_ptr<Offer> offer) {
  Entry entry;
  entry.target = target;
  entry.provider = provider;
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
  End(std::move(entry.connection), std::move(entry.watching));
}

bool Offers::Has(const std::string& migration_id) {
  const std::lock_guard lock(mutex_);
  return entries_.contains(migration_id);
}

void Offers::End(std::unique_ptr<transport::Connection> connection, std::thread watching) {
  if (connection != nullptr) connection->Shutdown();
  if (watching.joinable()) watching.join();
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
  std::string token, provider;
  {
    const std::lock_guard lock(mutex_);
    ASSIGN_OR_RETURN(Entry* const entry, Find(request.migration_id(), request.host()));
    offer = entry->offer;
    token = entry->token;
    provider = entry->provider;
  }
  ASSIGN_OR_RETURN(v1::OpenOfferResponse response, offer->Describe());
  response.set_data_address(data_address_);
  response.set_token(token);
  response.set_provider(provider);
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
      return each.second.provider == provider && ShowsToken(shown, each.second.token);
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
  std::thread watching;
  {
    const std::lock_guard lock(mutex_);
    const auto entry = find(shown);
    if (entry == entries_.end()) return true;  // withdrawn meanwhile
    before = std::exchange(entry->second.connection, *std::move(accepted));
    watching = std::exchange(entry->second.watching,
                             std::thread([connection = entry->second.connection.get()] {
                               (void)connection->Receive(Deadline::Never()).status();
                             }));
  }
  End(std::move(before), std::move(watching));
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
