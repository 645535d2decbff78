#include "runtime/loop/neighbours.h"

#include <algorithm>
#include <condition_variable>

namespace starling::loop {
namespace {

// Periods of silence after which a host counts as silent, and never less than this.
constexpr int kPatience = 4;
constexpr Duration kLeastPatience = std::chrono::seconds(5);
// A way that became longer is believed after a while.
constexpr double kForget = 1.02;

}  // namespace

Neighbours::Neighbours(agent::Agent& agent, Duration period)
    : host_(agent.host()), period_(period) {
  for (const PeerConfig& config : host_.config.peers) {
    absl::StatusOr<std::shared_ptr<agent::PeerClient>> client = agent.Peer(config.name);
    if (!client.ok()) continue;
    Peer& peer = *peers_.emplace_back(std::make_unique<Peer>());
    peer.client = *std::move(client);
    peer.latest.name = config.name;
  }
  for (const auto& peer : peers_) {
    peer->thread =
        std::jthread([this, peer = peer.get()](const std::stop_token& stop) { Ask(stop, *peer); });
  }
}

Neighbours::~Neighbours() {
  for (const auto& peer : peers_) peer->thread.request_stop();
  for (const auto& peer : peers_) peer->thread.join();
}

void Neighbours::Ask(const std::stop_token& stop, Peer& peer) {
  const auto stub = v1::LoopPeer::NewStub(peer.client->channel());
  v1::LookRequest request;
  request.set_host(host_.config.host);
  std::mutex sleep_mutex;
  std::condition_variable_any sleep;
  while (!stop.stop_requested()) {
    const TimePoint begun = Clock::now();
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() +
                         std::chrono::duration_cast<std::chrono::system_clock::duration>(
                             host_.config.migration.peer_timeout));
    v1::LookResponse said;
    const bool heard = stub->Look(&context, request, &said).ok();
    // After an answer that was lost only all of it makes sure what is known.
    request.set_changes(heard);
    if (heard) {
      const double took_s = Seconds(Clock::now() - begun);
      std::lock_guard lock(mutex_);
      Neighbour& latest = peer.latest;
      peer.heard_at = Clock::now();
      latest.distance_s =
          latest.distance_s == 0 ? took_s : std::min(took_s, kForget * latest.distance_s);
      for (const v1::MetricSummary& summary : said.demand()) {
        predictor::Summary& known = summary.metric() == "cpu" ? latest.cpu : latest.memory;
        if (summary.metric() != "cpu" && summary.metric() != "memory") continue;
        // One that cannot be read changes nothing.
        (void)predictor::ReadSummary(reinterpret_cast<const uint8_t*>(summary.message().data()),
                                     summary.message().size(), known);
      }
      latest.said = std::move(said);
    }
    std::unique_lock lock(sleep_mutex);
    sleep.wait_until(lock, stop, begun + period_, [] { return false; });
  }
}

std::vector<Neighbour> Neighbours::All() const {
  const TimePoint limit = Clock::now() - std::max<Duration>(kPatience * period_, kLeastPatience);
  std::vector<Neighbour> all;
  std::lock_guard lock(mutex_);
  for (const auto& peer : peers_) {
    all.push_back(peer->latest);
    all.back().heard = peer->heard_at > limit;
  }
  return all;
}

}  // namespace starling::loop
