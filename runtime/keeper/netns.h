#pragma once

#include <functional>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/fd.h"

namespace starling::keeper {

// Name of a component's network device inside its namespace.
inline constexpr char kDeviceName[] = "eth0";
// A second device of it, for ever down: what the fence stops goes there, see fence.h.
inline constexpr char kSinkName[] = "sink";

// "ADDR/LEN" in parts. `address` in network byte order.
struct Ipv4Prefix {
  uint32_t address = 0;
  int length = 0;
};
// kInvalidArgument naming the text for anything but a dotted address and a length of 1 to 32.
absl::StatusOr<Ipv4Prefix> ParseIpv4Prefix(const std::string& text);

struct MacAddress {
  unsigned char bytes[6] = {};
};
absl::StatusOr<MacAddress> ParseMac(const std::string& text);

// A component's network namespace, held by descriptor and by no name. Thread-safe: everything that
// must happen inside runs in a thread of its own that enters the namespace and ends.
class NetworkNamespace {
 public:
  // `fd` is a /proc/PID/ns/net.
  explicit NetworkNamespace(UniqueFd fd) : fd_(std::move(fd)) {}

  int fd() const { return fd_.get(); }

  // Runs `work` on a thread inside the namespace and returns what it returns.
  absl::Status Run(const std::function<absl::Status()>& work) const;

  // Makes the macvlan (bridge mode) on the host's device `parent` as eth0, down and without an
  // address, IPv6 switched off on it, so that it never says a word by itself; and the sink.
  // Errors: kNotFound when the host has no such device; kAlreadyExists when another device on the
  // host has this MAC.
  absl::Status AddMacvlan(const std::string& parent, const MacAddress& mac) const;

  // lo up; the address on eth0, then eth0 up.
  absl::Status Configure(const Ipv4Prefix& address) const;

  // Only lo up, for a namespace without a device.
  absl::Status LoopbackUp() const;

  // Forgets what eth0 knows of its neighbours, so that the next packet asks at once. Behind a fence
  // questions go unanswered, and the kernel repeats them only once a second.
  absl::Status ForgetNeighbours() const;

  // Takes both devices away, so that nothing of a killed component can leave while the kernel still
  // winds the namespace up. A missing device is fine.
  absl::Status RemoveDevices() const;

 private:
  absl::Status MakeDevice(int parent, const char* name, const MacAddress* mac) const;

  UniqueFd fd_;
};

}  // namespace starling::keeper
