#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <optional>
#include <span>

#include "transport/roce/packet.h"

namespace starling::transport::roce {

inline constexpr size_t kArpBytes = 42;
using ArpFrame = std::array<std::byte, kArpBytes>;

// Who has which address (RFC 826), for a port that has one IPv4 address of its own and no kernel
// behind it. No I/O: frames in, frames out. Only addresses that were asked for are remembered, so
// that strangers cannot fill the table. One thread.
class ArpTable {
 public:
  ArpTable(const MacAddress& mac, uint32_t ip) : mac_(mac), ip_(ip) {}

  // A frame that came; what is to be sent in answer to it, if anything.
  std::optional<ArpFrame> Take(std::span<const std::byte> frame);

  // A question for `ip`, to be sent now and again until Find() knows.
  ArpFrame Ask(uint32_t ip);
  std::optional<MacAddress> Find(uint32_t ip) const;

 private:
  ArpFrame Make(uint16_t operation, const MacAddress& to, const MacAddress& target_mac,
                uint32_t target_ip) const;

  const MacAddress mac_;
  const uint32_t ip_;
  std::map<uint32_t, std::optional<MacAddress>> asked_;
};

}  // namespace starling::transport::roce
