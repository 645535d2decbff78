#pragma once

#include <functional>
#include <memory>
#include <string>

#include "runtime/agent/components.h"
#include "runtime/agent/peer_client.h"
#include "runtime/migration/page_fetch.h"

// What a PageFetch stands between: the keeper of a copy on this host, and the agent of the host
// that it came from.

namespace starling::migration {

PageFetch::Keeper FetchForKeeper(const std::shared_ptr<agent::Copy>& copy);

// `host` is this one; `before` is called before the offer is asked for.
PageFetch::Source FetchFromSource(const std::shared_ptr<agent::PeerClient>& peer,
                                  const std::string& migration_id, const std::string& host,
                                  std::function<void()> before);

}  // namespace starling::migration
