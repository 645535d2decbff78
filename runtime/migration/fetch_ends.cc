#include "runtime/migration/fetch_ends.h"

#include <cstring>
#include <optional>
#include <span>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/file.h"
#include "base/status.h"
#include "runtime/keeper_client.h"

namespace starling::migration {
namespace {

using checkpoint::SlotRange;

constexpr auto kKeeperTimeout = std::chrono::seconds(10);
// Between two looks whether a keeper serves already.
constexpr auto kServingSoon = std::chrono::milliseconds(5);
// Calls to the source: it is asked again.
constexpr auto kOpenTimeout = std::chrono::seconds(5);
constexpr auto kDrainTimeout = std::chrono::seconds(1);

// A connection to a keeper that is kept for many short calls, and made again when it broke. One
// thread at a time.
class KeeperLine {
 public:
  explicit KeeperLine(std::string socket) : socket_(std::move(socket)) {}

  absl::StatusOr<keeper::v1::Reply> Call(const keeper::v1::Request& request, Deadline deadline) {
    if (!client_) {
      ASSIGN_OR_RETURN(keeper::KeeperClient client, keeper::KeeperClient::Connect(socket_));
      client_.emplace(std::move(client));
    }
    absl::StatusOr<keeper::v1::Reply> reply = client_->Call(request, {}, deadline);
    if (!reply.ok()) client_.reset();
    return reply;
  }

 private:
  const std::string socket_;
  std::optional<keeper::KeeperClient> client_;
};

}  // namespace

PageFetch::Keeper FetchForKeeper(const std::shared_ptr<agent::Copy>& copy) {
  PageFetch::Keeper keeper;
  keeper.find_missing = [copy]() -> absl::StatusOr<PageFetch::Keeper::Missing> {
    keeper::v1::Request request;
    request.mutable_find_missing();
    std::vector<UniqueFd> fds;
    // A restore that has only begun serves nothing yet.
    const Deadline until = Deadline::After(kKeeperTimeout);
    absl::Status found;
    do {
      found = copy->Call(request, until, {}, &fds).status();
      if (!absl::IsFailedPrecondition(found)) break;
      std::this_thread::sleep_for(kServingSoon);
    } while (!until.Passed());
    RETURN_IF_ERROR(found);
    if (fds.size() != 2) return absl::InternalError("the keeper did not hand over the arena");
    PageFetch::Keeper::Missing missing;
    missing.arena = std::move(fds[0]);
    ASSIGN_OR_RETURN(const std::string slots,
                     ReadFile(absl::StrCat("/proc/self/fd/", fds[1].get())));
    missing.slots.resize(slots.size() / sizeof(SlotRange));
    std::memcpy(missing.slots.data(), slots.data(), missing.slots.size() * sizeof(SlotRange));
    return missing;
  };
  keeper.take_wanted = [line = std::make_shared<KeeperLine>(copy->socket())](
                           Duration wait) -> absl::StatusOr<PageFetch::Keeper::Wanted> {
    keeper::v1::Request request;
    request.mutable_take_wanted()->set_wait_s(Seconds(wait));
    ASSIGN_OR_RETURN(const keeper::v1::Reply reply,
                     line->Call(request, Deadline::After(wait + kKeeperTimeout)));
    PageFetch::Keeper::Wanted wanted;
    for (const keeper::v1::Slots& slots : reply.wanted().slots()) {
      wanted.slots.push_back({slots.first(), slots.count()});
    }
    wanted.over = reply.wanted().over();
    return wanted;
  };
  keeper.arrived =
      [line = std::make_shared<KeeperLine>(copy->socket())](std::span<const SlotRange> slots) {
        keeper::v1::Request request;
        for (const SlotRange& run : slots) {
          keeper::v1::Slots& to = *request.mutable_arrived()->add_slots();
          to.set_first(run.first);
          to.set_count(run.count);
        }
        return line->Call(request, Deadline::After(kKeeperTimeout)).status();
      };
  keeper.lose = [copy](const std::string& why) {
    keeper::v1::Request request;
    request.mutable_lose()->set_reason(why);
    return copy->Call(request, Deadline::After(kKeeperTimeout)).status();
  };
  return keeper;
}

PageFetch::Source FetchFromSource(const std::shared_ptr<agent::PeerClient>& peer,
                                  const std::string& migration_id, const std::string& host,
                                  std::function<void()> before) {
  PageFetch::Source source;
  source.name = peer->name();
  source.open = [peer, migration_id, host, before = std::move(before)] {
    before();
    v1::OpenOfferRequest open;
    open.set_migration_id(migration_id);
    open.set_host(host);
    open.set_by_connection(true);
    return peer->OpenOffer(open, Deadline::After(kOpenTimeout));
  };
  source.drain = [peer, migration_id, host](uint64_t left, const std::string& lost) {
    v1::DrainOfferRequest drain;
    drain.set_migration_id(migration_id);
    drain.set_host(host);
    drain.set_pages_left(left);
    drain.set_lost(lost);
    return peer->DrainOffer(drain, Deadline::After(kDrainTimeout)).status();
  };
  return source;
}

}  // namespace starling::migration
