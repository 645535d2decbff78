#pragma once

#include <infiniband/verbs.h>
#include <rdma/rdma_cma.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <utility>

#include "transport/fabric.h"

// Owners of rdma-core's handles, private to this room. Each deleter tolerates what the kernel may
// answer: by then nobody is left to whom it could matter.

namespace starling::transport {

struct VerbsDelete {
  void operator()(ibv_context* context) const { ibv_close_device(context); }
  void operator()(ibv_pd* pd) const { ibv_dealloc_pd(pd); }
  void operator()(ibv_mw* window) const { ibv_dealloc_mw(window); }
  void operator()(ibv_mr* region) const { ibv_dereg_mr(region); }
  void operator()(ibv_cq* queue) const { ibv_destroy_cq(queue); }
  void operator()(ibv_comp_channel* channel) const { ibv_destroy_comp_channel(channel); }
  void operator()(rdma_event_channel* channel) const { rdma_destroy_event_channel(channel); }
  void operator()(ibv_qp* queue_pair) const { ibv_destroy_qp(queue_pair); }
  void operator()(ibv_context** devices) const { rdma_free_devices(devices); }
  void operator()(rdma_cm_id* id) const { rdma_destroy_id(id); }
};

using DeviceContext = std::unique_ptr<ibv_context, VerbsDelete>;
using ProtectionDomain = std::unique_ptr<ibv_pd, VerbsDelete>;
using MemoryWindow = std::unique_ptr<ibv_mw, VerbsDelete>;
using Region = std::unique_ptr<ibv_mr, VerbsDelete>;
using CompletionQueue = std::unique_ptr<ibv_cq, VerbsDelete>;
using CompletionChannel = std::unique_ptr<ibv_comp_channel, VerbsDelete>;
using Queues = std::unique_ptr<ibv_qp, VerbsDelete>;
using DeviceList = std::unique_ptr<ibv_context*[], VerbsDelete>;
using EventChannel = std::unique_ptr<rdma_event_channel, VerbsDelete>;
using CmId = std::unique_ptr<rdma_cm_id, VerbsDelete>;

class VerbsRegion final : public MemoryRegion {
 public:
  VerbsRegion(std::span<std::byte> memory, Region region)
      : memory_(memory), region_(std::move(region)) {}
  std::span<std::byte> span() const override { return memory_; }
  uint64_t remote_address() const override { return reinterpret_cast<uint64_t>(memory_.data()); }
  uint32_t remote_key() const override { return region_->rkey; }
  uint32_t local_key() const override { return region_->lkey; }
  ibv_mr* handle() const { return region_.get(); }

 private:
  std::span<std::byte> memory_;
  Region region_;
};

}  // namespace starling::transport
