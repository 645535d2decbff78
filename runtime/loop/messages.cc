#include "runtime/loop/messages.h"

#include <algorithm>
#include <string>

namespace starling::loop {

using reservations::Amounts;
using reservations::Resource;

v1::ResourceAmounts ToMessage(const Amounts& amounts) {
  v1::ResourceAmounts message;
  message.set_cpu(amounts[Resource::kCpu]);
  message.set_memory(amounts[Resource::kMemory]);
  message.set_disk(amounts[Resource::kDisk]);
  message.set_network(amounts[Resource::kNetwork]);
  message.set_storage(amounts[Resource::kStorage]);
  message.set_gpu(amounts[Resource::kGpu]);
  message.set_gpu_memory(amounts[Resource::kGpuMemory]);
  return message;
}

Amounts FromMessage(const v1::ResourceAmounts& message) {
  Amounts amounts;
  amounts[Resource::kCpu] = message.cpu();
  amounts[Resource::kMemory] = message.memory();
  amounts[Resource::kDisk] = message.disk();
  amounts[Resource::kNetwork] = message.network();
  amounts[Resource::kStorage] = message.storage();
  amounts[Resource::kGpu] = message.gpu();
  amounts[Resource::kGpuMemory] = message.gpu_memory();
  return amounts;
}

v1::LeaseInfo ToMessage(const reservations::Lease& lease, const std::string& host, TimePoint now) {
  v1::LeaseInfo message;
  message.set_id(lease.id);
  message.set_holder(lease.holder);
  message.set_component(lease.component);
  message.set_priority(lease.priority);
  message.set_kind(std::string(reservations::Name(lease.kind)));
  message.set_pinned(lease.pinned);
  *message.mutable_amount() = ToMessage(lease.amount);
  if (!lease.pinned) message.set_left_s(std::max(0.0, Seconds(lease.end - now)));
  message.set_host(host);
  return message;
}

}  // namespace starling::loop
