#include "runtime/keeper/announce.h"

#include <arpa/inet.h>
#include <net/if.h>
#include <net/if_arp.h>
#include <netinet/if_ether.h>
#include <netpacket/packet.h>
#include <sys/socket.h>

#include <cstring>

#include "absl/strings/str_cat.h"
#include "base/status.h"

namespace starling::keeper {
namespace {

struct [[gnu::packed]] ArpFrame {
  ether_header ethernet;
  ether_arp arp;
};

}  // namespace

absl::StatusOr<Announcer> Announcer::Create(const NetworkNamespace& network, const MacAddress& mac,
                                            const Ipv4Prefix& address) {
  Announcer announcer;
  announcer.mac_ = mac;
  announcer.address_ = address;
  RETURN_IF_ERROR(network.Run([&] {
    // Protocol 0: for sending only, nothing is ever queued on it.
    announcer.socket_.Reset(::socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC, 0));
    if (!announcer.socket_) return ErrnoStatus("open a packet socket");
    announcer.device_ = static_cast<int>(::if_nametoindex(kDeviceName));
    if (announcer.device_ == 0) return ErrnoStatus(absl::StrCat("find ", kDeviceName));
    return absl::OkStatus();
  }));
  return announcer;
}

absl::Status Announcer::SendOnce() const {
  absl::Status result;
  for (const uint16_t operation : {ARPOP_REQUEST, ARPOP_REPLY}) {
    ArpFrame frame = {};
    std::memset(frame.ethernet.ether_dhost, 0xff, ETH_ALEN);
    std::memcpy(frame.ethernet.ether_shost, mac_.bytes, ETH_ALEN);
    frame.ethernet.ether_type = htons(ETHERTYPE_ARP);
    frame.arp.arp_hrd = htons(ARPHRD_ETHER);
    frame.arp.arp_pro = htons(ETHERTYPE_IP);
    frame.arp.arp_hln = ETH_ALEN;
    frame.arp.arp_pln = 4;
    frame.arp.arp_op = htons(operation);
    std::memcpy(frame.arp.arp_sha, mac_.bytes, ETH_ALEN);
    std::memcpy(frame.arp.arp_spa, &address_.address, 4);
    if (operation == ARPOP_REPLY) std::memset(frame.arp.arp_tha, 0xff, ETH_ALEN);
    std::memcpy(frame.arp.arp_tpa, &address_.address, 4);

    sockaddr_ll to = {};
    to.sll_family = AF_PACKET;
    to.sll_ifindex = device_;
    to.sll_halen = ETH_ALEN;
    std::memset(to.sll_addr, 0xff, ETH_ALEN);
    if (::sendto(socket_.get(), &frame, sizeof(frame), 0, reinterpret_cast<sockaddr*>(&to),
                 sizeof(to)) < 0) {
      result = ErrnoStatus("announce the component's address");
    }
  }
  return result;
}

}  // namespace starling::keeper
