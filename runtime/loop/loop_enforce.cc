#include <algorithm>

#include "absl/strings/str_cat.h"
#include "runtime/loop/loop.h"

// What leases promise to components of this host, and what these may not exceed.

namespace starling::loop {

using reservations::Amounts;
using reservations::Lease;
using reservations::Resource;

void Loop::Enforce() {
  const decisions::Policy& policy = policy_before_;
  std::map<std::string, Amounts> promised;
  for (const Lease& lease : leases_.List()) {
    if (lease.pinned) promised[lease.component] = lease.amount;
  }
  std::map<std::string, std::pair<std::string, int64_t>> here;  // cgroup, --io-max
  {
    std::lock_guard lock(mutex_);
    for (const auto& [name, one] : here_) {
      here[name] = {one.cgroup, static_cast<int64_t>(one.spec.io_max_bytes_per_s())};
    }
  }
  const auto tell = [this](const char* what, const std::string& name, const absl::Status& status) {
    const std::string text = status.ok() ? "" : std::string(status.message());
    const bool is_new = std::exchange(complaints_[absl::StrCat(what, " of ", name)], text) != text;
    if (is_new && !status.ok()) host_.Event(name, "not-enforced", text);
  };
  for (const auto& [name, one] : here) {
    const auto& [cgroup, most_io] = one;
    const Amounts& has = promised[name];
    const bool protect = policy.act && policy.allow.protect;
    tell("memory.low", name, limits_->Protect(name, cgroup, protect ? has[Resource::kMemory] : 0));
    int64_t io = most_io;
    if (io == 0 && policy.act && policy.allow.limits) {
      io = static_cast<int64_t>(policy.limits.headroom *
                                static_cast<double>(has[Resource::kStorage]));
    }
    tell("io.max", name, limits_->HoldIo(name, cgroup, io, storage_devices_));
  }
}

}  // namespace starling::loop
