#include "runtime/keeper/netns.h"

#include <arpa/inet.h>
#include <linux/if_link.h>
#include <net/if.h>
#include <netlink/errno.h>
#include <netlink/netlink.h>
#include <netlink/route/addr.h>
#include <netlink/route/link.h>
#include <netlink/route/link/macvlan.h>
#include <netlink/route/neighbour.h>
#include <sched.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <memory>
#include <thread>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "base/file.h"
#include "base/status.h"

namespace starling::keeper {
namespace {

struct NlDeleter {
  void operator()(nl_sock* socket) const { nl_socket_free(socket); }
  void operator()(rtnl_link* link) const { rtnl_link_put(link); }
  void operator()(rtnl_addr* address) const { rtnl_addr_put(address); }
  void operator()(nl_addr* address) const { nl_addr_put(address); }
};
template <typename T>
using NlPtr = std::unique_ptr<T, NlDeleter>;

absl::Status NlStatus(int error, absl::string_view what) {
  if (error >= 0) return absl::OkStatus();
  const std::string message = absl::StrCat(what, ": ", nl_geterror(error));
  switch (-error) {
    case NLE_EXIST:
    case NLE_BUSY:
      return absl::AlreadyExistsError(message);
    case NLE_NODEV:
    case NLE_OBJ_NOTFOUND:
      return absl::NotFoundError(message);
    case NLE_PERM:
      return absl::PermissionDeniedError(message);
    default:
      return absl::InternalError(message);
  }
}

// A route netlink socket of the calling thread's namespace.
absl::StatusOr<NlPtr<nl_sock>> OpenRoute() {
  NlPtr<nl_sock> socket(nl_socket_alloc());
  if (!socket) return absl::ResourceExhaustedError("no memory for a netlink socket");
  RETURN_IF_ERROR(NlStatus(nl_connect(socket.get(), NETLINK_ROUTE), "connect route netlink"));
  return socket;
}

absl::Status SetUp(nl_sock* socket, const char* name) {
  NlPtr<rtnl_link> which(rtnl_link_alloc());
  NlPtr<rtnl_link> change(rtnl_link_alloc());
  rtnl_link_set_ifindex(which.get(), static_cast<int>(::if_nametoindex(name)));
  rtnl_link_set_flags(change.get(), IFF_UP);
  return NlStatus(rtnl_link_change(socket, which.get(), change.get(), 0),
                  absl::StrCat("set ", name, " up"));
}

}  // namespace

absl::StatusOr<Ipv4Prefix> ParseIpv4Prefix(const std::string& text) {
  const std::vector<std::string> parts = absl::StrSplit(text, '/');
  Ipv4Prefix prefix;
  if (parts.size() != 2 || ::inet_pton(AF_INET, parts[0].c_str(), &prefix.address) != 1 ||
      !absl::SimpleAtoi(parts[1], &prefix.length) || prefix.length < 1 || prefix.length > 32) {
    return absl::InvalidArgumentError(
        absl::StrCat("'", text, "' is not an address such as 10.0.0.50/24"));
  }
  return prefix;
}

absl::StatusOr<MacAddress> ParseMac(const std::string& text) {
  MacAddress mac;
  unsigned char* b = mac.bytes;
  char rest;
  if (std::sscanf(text.c_str(), "%2hhx:%2hhx:%2hhx:%2hhx:%2hhx:%2hhx%c", b, b + 1, b + 2, b + 3,
                  b + 4, b + 5, &rest) != 6 ||
      (b[0] & 1) != 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("'", text, "' is not a station's MAC address such as 52:54:00:00:00:32"));
  }
  return mac;
}

absl::Status NetworkNamespace::Run(const std::function<absl::Status()>& work) const {
  absl::Status result;
  std::thread([&] {
    if (::setns(fd_.get(), CLONE_NEWNET) != 0) {
      result = ErrnoStatus("enter the component's network namespace");
    } else {
      result = work();
    }
  }).join();
  return result;
}

absl::Status NetworkNamespace::AddMacvlan(const std::string& parent, const MacAddress& mac) const {
  RETURN_IF_ERROR(Run([] {
    // Hosts without IPv6 do not have the file.
    const std::string knob = "/proc/sys/net/ipv6/conf/default/disable_ipv6";
    if (::access(knob.c_str(), F_OK) != 0) return absl::OkStatus();
    return WriteKnob(knob, "1");
  }));
  const unsigned index = ::if_nametoindex(parent.c_str());
  if (index == 0) {
    return absl::NotFoundError(absl::StrCat("this host has no network device '", parent,
                                            "': set network.parent to one that it has"));
  }
  RETURN_IF_ERROR(Annotate(MakeDevice(static_cast<int>(index), kDeviceName, &mac),
                           absl::StrCat("make a macvlan on ", parent)));
  return Annotate(MakeDevice(static_cast<int>(index), kSinkName, nullptr), "make the fence's sink");
}

absl::Status NetworkNamespace::MakeDevice(int parent, const char* name,
                                          const MacAddress* mac) const {
  // The kernel looks for the name among the host's devices first, and the host may well have an
  // eth0.
  const std::string passing = absl::StrCat("slg", ::gettid());
  ASSIGN_OR_RETURN(NlPtr<nl_sock> socket, OpenRoute());
  NlPtr<rtnl_link> link(rtnl_link_macvlan_alloc());
  if (!link) return absl::ResourceExhaustedError("no memory for a network device");
  rtnl_link_set_link(link.get(), parent);
  rtnl_link_set_name(link.get(), passing.c_str());
  rtnl_link_set_ns_fd(link.get(), fd_.get());
  if (mac != nullptr) {
    NlPtr<nl_addr> address(nl_addr_build(AF_LLC, mac->bytes, sizeof(mac->bytes)));
    if (!address) return absl::ResourceExhaustedError("no memory for a network device");
    rtnl_link_set_addr(link.get(), address.get());
  }
  const int mode = rtnl_link_macvlan_set_mode(link.get(), MACVLAN_MODE_BRIDGE);
  RETURN_IF_ERROR(NlStatus(mode, "set macvlan mode"));
  const int made = rtnl_link_add(socket.get(), link.get(), NLM_F_CREATE | NLM_F_EXCL);
  RETURN_IF_ERROR(NlStatus(made, "add the device"));
  return Run([&]() -> absl::Status {
    ASSIGN_OR_RETURN(NlPtr<nl_sock> inside, OpenRoute());
    NlPtr<rtnl_link> which(rtnl_link_alloc());
    NlPtr<rtnl_link> change(rtnl_link_alloc());
    rtnl_link_set_ifindex(which.get(), static_cast<int>(::if_nametoindex(passing.c_str())));
    rtnl_link_set_name(change.get(), name);
    return NlStatus(rtnl_link_change(inside.get(), which.get(), change.get(), 0),
                    absl::StrCat("name the device ", name));
  });
}

absl::Status NetworkNamespace::Configure(const Ipv4Prefix& address) const {
  return Run([&]() -> absl::Status {
    ASSIGN_OR_RETURN(NlPtr<nl_sock> socket, OpenRoute());
    RETURN_IF_ERROR(SetUp(socket.get(), "lo"));
    const unsigned index = ::if_nametoindex(kDeviceName);
    if (index == 0) return ErrnoStatus(absl::StrCat("find ", kDeviceName));
    NlPtr<rtnl_addr> add(rtnl_addr_alloc());
    NlPtr<nl_addr> local(nl_addr_build(AF_INET, &address.address, sizeof(address.address)));
    if (!add || !local) return absl::ResourceExhaustedError("no memory for an address");
    nl_addr_set_prefixlen(local.get(), address.length);
    rtnl_addr_set_ifindex(add.get(), static_cast<int>(index));
    RETURN_IF_ERROR(NlStatus(rtnl_addr_set_local(add.get(), local.get()), "set address"));
    RETURN_IF_ERROR(NlStatus(rtnl_addr_add(socket.get(), add.get(), 0), "add the address"));
    return Annotate(SetUp(socket.get(), kDeviceName),
                    "the component's device (its MAC must be free on this host)");
  });
}

absl::Status NetworkNamespace::LoopbackUp() const {
  return Run([]() -> absl::Status {
    ASSIGN_OR_RETURN(NlPtr<nl_sock> socket, OpenRoute());
    return SetUp(socket.get(), "lo");
  });
}

absl::Status NetworkNamespace::ForgetNeighbours() const {
  return Run([]() -> absl::Status {
    ASSIGN_OR_RETURN(NlPtr<nl_sock> socket, OpenRoute());
    nl_cache* listed = nullptr;
    RETURN_IF_ERROR(NlStatus(rtnl_neigh_alloc_cache(socket.get(), &listed), "list neighbours"));
    const std::unique_ptr<nl_cache, decltype(&nl_cache_free)> cache(listed, nl_cache_free);
    const auto index = static_cast<int>(::if_nametoindex(kDeviceName));
    for (nl_object* object = nl_cache_get_first(listed); object != nullptr;
         object = nl_cache_get_next(object)) {
      auto* neighbour = reinterpret_cast<rtnl_neigh*>(object);
      if (rtnl_neigh_get_ifindex(neighbour) != index) continue;
      const int error = rtnl_neigh_delete(socket.get(), neighbour, 0);
      // It may have gone by itself meanwhile.
      if (error != -NLE_OBJ_NOTFOUND) RETURN_IF_ERROR(NlStatus(error, "forget a neighbour"));
    }
    return absl::OkStatus();
  });
}

absl::Status NetworkNamespace::RemoveDevices() const {
  return Run([]() -> absl::Status {
    ASSIGN_OR_RETURN(NlPtr<nl_sock> socket, OpenRoute());
    for (const char* name : {kDeviceName, kSinkName}) {
      const unsigned index = ::if_nametoindex(name);
      if (index == 0) continue;
      NlPtr<rtnl_link> link(rtnl_link_alloc());
      rtnl_link_set_ifindex(link.get(), static_cast<int>(index));
      RETURN_IF_ERROR(NlStatus(rtnl_link_delete(socket.get(), link.get()),
                               absl::StrCat("remove the component's device ", name)));
    }
    return absl::OkStatus();
  });
}

}  // namespace starling::keeper
