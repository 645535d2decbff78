#pragma once

#include <functional>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "base/log.h"
#include "checkpoint/criu_session.h"
#include "runtime/agent/components.h"
#include "runtime/agent/control_security.h"
#include "runtime/config.h"
#include "runtime/journal.h"
#include "runtime/keeper_client.h"
#include "runtime/migration/blackout_history.h"
#include "transport/fabric.h"

namespace starling::migration {
class Offers;
}
namespace starling::reservations {
class LeaseDesk;
}
namespace starling::shadow {
class ModelShelf;
}

namespace starling::agent {

// Number of the protocol between agents; peers of another number refuse one another.
inline constexpr uint32_t kProtocol = 2;

// A device beside the first that a transport's data connections are spread over.
struct Rail {
  transport::Fabric* fabric = nullptr;  // null: it could not be opened
  std::string listen;                   // ADDR:PORT, of this host as a target
};

// What every part of the agent stands on; made and wired once by main(), outlives all that refers
// to it.
struct Host {
  const Config& config;
  Journal& journal;
  transport::Fabric* fabric;  // that of data.provider; nullptr: closed_fabrics says why
  absl::StatusOr<checkpoint::CriuFacts> criu;
  std::string kernel;
  std::string version;
  ComponentTable* components = nullptr;
  migration::BlackoutHistory* blackouts = nullptr;
  migration::Offers* offers = nullptr;
  // All transports that are open, `fabric` among them, by name.
  std::map<std::string, transport::Fabric*> fabrics;
  // Their rails, by name; in the order of the configuration, which is alike on all hosts.
  std::map<std::string, std::vector<Rail>> rails;
  // Transports of the configuration that could not be opened, and why.
  std::map<std::string, absl::Status> closed_fabrics;
  const ControlSecurity* security = nullptr;
  // What this host promised to others.
  reservations::LeaseDesk* leases = nullptr;
  // What the shadows of its components learned.
  shadow::ModelShelf* shelf = nullptr;
  // Hears how each migration away from here went; empty before there is anybody to tell.
  std::function<void(const v1::MigrationReport&)> reported;
  // Whether a component rests, frozen; and has it run before something is done to it. Empty before
  // there is anybody who lets one rest.
  std::function<bool(const std::string& component)> parked;
  std::function<absl::Status(const std::string& component)> wake;
  // A component came from another host, which wants it parked here.
  std::function<void(const std::string& component, const std::string& from)> sent_to_rest;

  // The transport of that name, or `fabric` for none. kFailedPrecondition, or what
  // closed_fabrics says, when it is not open.
  absl::StatusOr<transport::Fabric*> Transport(const std::string& provider) const;
  std::span<const Rail> RailsOf(const std::string& provider) const;
  // For who has just taken the claim of a component: it does not rest, nor will it.
  absl::Status Wake(const std::string& component) const {
    return wake ? wake(component) : absl::OkStatus();
  }
  // Whether pages are to be sealed on their way.
  bool encrypts() const { return !security->insecure() && config.data.encryption == "on"; }

  // To the log and to `starling events`. An event that cannot be kept is not worth failing for.
  void Event(absl::string_view component, absl::string_view kind, absl::string_view text) const {
    spdlog::info("{}: {}: {}", std::string(component), std::string(kind), std::string(text));
    (void)journal.AppendEvent(component, kind, text);
  }
};

// What a report says of this host.
v1::HostFacts FactsOf(const Host& host);

// How this host's keepers are started, but for what is the component's own.
keeper::StartKeeperOptions KeeperOptions(const Config& config);

}  // namespace starling::agent
