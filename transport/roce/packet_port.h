#pragma once

#include <cstdint>
#include <span>
#include <string>

#include "absl/functional/function_ref.h"
#include "transport/roce/queue_pair_parts.h"

namespace starling::transport::roce {

// A way for Ethernet frames in and out, polled by one thread.
class PacketPort : public FrameSink {
 public:
  // Hands over what has come, some dozens of frames at most, and returns how many. A frame is the
  // handler's until it returns.
  virtual size_t Receive(absl::FunctionRef<void(std::span<const std::byte>)> handler) = 0;
  // Lets everything go that Send() has taken.
  virtual void Flush() = 0;

  virtual const MacAddress& mac() const = 0;
  // Largest IP packet.
  virtual size_t mtu() const = 0;
  // "af_packet:veth0"
  virtual const std::string& name() const = 0;
};

}  // namespace starling::transport::roce
