#include "transport/tcp_regions.h"

#include "base/random.h"
#include "base/status.h"

namespace starling::transport {
namespace {

struct Random {
  uint64_t base;
  uint32_t key;
};

// Far from both ends of the address space, so that no arithmetic on it wraps; whole pages.
constexpr uint64_t kBaseMask = 0x3fff'ffff'ffff'f000;

}  // namespace

absl::StatusOr<TcpRegions::Entry> TcpRegions::Add(std::span<std::byte> memory, Access access) {
  while (true) {
    Random random;
    RETURN_IF_ERROR(FillRandom(std::as_writable_bytes(std::span(&random, 1))));
    auto grant = std::make_shared<TcpGrant>(memory, access, random.base & kBaseMask);
    std::lock_guard lock(mutex_);
    if (random.key != 0 && grants_.emplace(random.key, grant).second)
      return Entry{random.key, std::move(grant)};
  }
}

void TcpRegions::Remove(uint32_t key) {
  std::shared_ptr<TcpGrant> grant;
  {
    std::lock_guard lock(mutex_);
    const auto found = grants_.find(key);
    grant = std::move(found->second);
    grants_.erase(found);
  }
  grant->Revoke();
}

std::shared_ptr<TcpGrant> TcpRegions::Find(uint32_t key) const {
  std::lock_guard lock(mutex_);
  const auto found = grants_.find(key);
  return found == grants_.end() ? nullptr : found->second;
}

}  // namespace starling::transport
