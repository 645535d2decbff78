#pragma once

#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "runtime/keeper/netns.h"

struct nft_ctx;

namespace starling::keeper {

// Stops a component's network at its device: every frame in and out, ARP included. A kernel object
// (an nftables table of the netdev family with an ingress and an egress chain, Linux 5.17 or later)
// in the component's own network namespace, so that it holds whatever happens to us or to CRIU.
// The table is made ahead of time; raising and lowering are one small transaction each.
//
// What goes out is not dropped but forwarded to a device that is down. To TCP a drop on this host
// is a want of resources: it tries again every half second without backing off, and gives the
// connection up after 15 of those (net.ipv4.tcp_retries2) when the first transmission was what
// failed. Forwarded frames count as sent, and a connection outlasts the fence for a quarter of an
// hour. Move-only; not thread-safe.
class Fence {
 public:
  // Makes the table for eth0, raised or lowered. Errors: kFailedPrecondition naming what the kernel
  // lacks. `network` must outlive the fence.
  static absl::StatusOr<Fence> Create(const NetworkNamespace& network, bool raised);

  absl::Status Raise();
  absl::Status Lower();
  bool raised() const { return raised_; }

  // Removes every nftables table of the namespace whose name starts with `prefix`: what a CRIU that
  // was killed leaves of its network lock.
  absl::Status RemoveTables(absl::string_view prefix);

  // Frames stopped since it was last raised.
  struct Stopped {
    uint64_t in = 0;
    uint64_t out = 0;
  };
  absl::StatusOr<Stopped> CountStopped();

 private:
  struct ContextDeleter {
    void operator()(nft_ctx* context) const;
  };
  Fence(const NetworkNamespace* network, nft_ctx* context) : network_(network), context_(context) {}
  absl::StatusOr<std::string> Transact(const std::string& commands);

  const NetworkNamespace* network_;
  std::unique_ptr<nft_ctx, ContextDeleter> context_;
  bool raised_ = false;
};

}  // namespace starling::keeper
