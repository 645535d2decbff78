#include "transport/roce/arp.h"

#include <arpa/inet.h>
#include <net/if_arp.h>
#include <netinet/if_ether.h>

#include <cstring>

namespace starling::transport::roce {
namespace {

constexpr MacAddress kBroadcast = {0xff, 0xff, 0xff, 0xff, 0xff, 0xff};

// Ethernet header and packet as they are on the wire.
struct Frame {
  ether_header ethernet;
  ether_arp arp;
};
static_assert(sizeof(Frame) == kArpBytes);

uint32_t LoadIp(const uint8_t* from) {
  uint32_t ip = 0;
  std::memcpy(&ip, from, sizeof(ip));
  return ntohl(ip);
}

void StoreIp(uint8_t* to, uint32_t ip) {
  ip = htonl(ip);
  std::memcpy(to, &ip, sizeof(ip));
}

}  // namespace

ArpFrame ArpTable::Make(uint16_t operation, const MacAddress& to, const MacAddress& target_mac,
                        uint32_t target_ip) const {
  Frame frame = {};
  std::memcpy(frame.ethernet.ether_dhost, to.data(), to.size());
  std::memcpy(frame.ethernet.ether_shost, mac_.data(), mac_.size());
  frame.ethernet.ether_type = htons(ETHERTYPE_ARP);
  frame.arp.arp_hrd = htons(ARPHRD_ETHER);
  frame.arp.arp_pro = htons(ETHERTYPE_IP);
  frame.arp.arp_hln = ETH_ALEN;
  frame.arp.arp_pln = sizeof(uint32_t);
  frame.arp.arp_op = htons(operation);
  std::memcpy(frame.arp.arp_sha, mac_.data(), mac_.size());
  StoreIp(frame.arp.arp_spa, ip_);
  std::memcpy(frame.arp.arp_tha, target_mac.data(), target_mac.size());
  StoreIp(frame.arp.arp_tpa, target_ip);
  ArpFrame bytes;
  std::memcpy(bytes.data(), &frame, sizeof(frame));
  return bytes;
}

std::optional<ArpFrame> ArpTable::Take(std::span<const std::byte> bytes) {
  if (bytes.size() < kArpBytes) return std::nullopt;
  Frame frame;
  std::memcpy(&frame, bytes.data(), sizeof(frame));
  if (ntohs(frame.ethernet.ether_type) != ETHERTYPE_ARP ||
      ntohs(frame.arp.arp_hrd) != ARPHRD_ETHER || ntohs(frame.arp.arp_pro) != ETHERTYPE_IP ||
      frame.arp.arp_hln != ETH_ALEN || frame.arp.arp_pln != sizeof(uint32_t)) {
    return std::nullopt;
  }
  MacAddress sender;
  std::memcpy(sender.data(), frame.arp.arp_sha, sender.size());
  const uint32_t sender_ip = LoadIp(frame.arp.arp_spa);
  if (sender == mac_ || sender_ip == ip_) return std::nullopt;
  if (const auto asked = asked_.find(sender_ip); asked != asked_.end()) asked->second = sender;
  if (ntohs(frame.arp.arp_op) != ARPOP_REQUEST || LoadIp(frame.arp.arp_tpa) != ip_)
    return std::nullopt;
  return Make(ARPOP_REPLY, sender, sender, sender_ip);
}

ArpFrame ArpTable::Ask(uint32_t ip) {
  asked_.try_emplace(ip);
  return Make(ARPOP_REQUEST, kBroadcast, {}, ip);
}

std::optional<MacAddress> ArpTable::Find(uint32_t ip) const {
  const auto found = asked_.find(ip);
  return found == asked_.end() ? std::nullopt : found->second;
}

}  // namespace starling::transport::roce
