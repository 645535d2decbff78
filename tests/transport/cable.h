#pragma once

#include <deque>
#include <memory>
#include <mutex>
#include <random>
#include <string>
#include <vector>

#include "transport/roce/packet_port.h"

namespace starling::transport {

// Joins two ports inside the process.
class Cable {
 public:
  explicit Cable(double loss) : loss_(loss) {}
  void Put(size_t to, std::vector<std::byte> frame) {
    std::lock_guard lock(mutex_);
    if (cut_ || std::uniform_real_distribution<double>(0, 1)(random_) < loss_) return;
    if (frames_[to].size() < 512) frames_[to].push_back(std::move(frame));
  }
  bool Take(size_t at, std::vector<std::byte>& frame) {
    std::lock_guard lock(mutex_);
    if (frames_[at].empty()) return false;
    frame = std::move(frames_[at].front());
    frames_[at].pop_front();
    return true;
  }
  void Cut(bool cut) {
    std::lock_guard lock(mutex_);
    cut_ = cut;
  }

 private:
  const double loss_;
  std::mutex mutex_;
  std::mt19937_64 random_{7};
  bool cut_ = false;
  std::deque<std::vector<std::byte>> frames_[2];
};

class CablePort final : public roce::PacketPort {
 public:
  CablePort(std::shared_ptr<Cable> cable, size_t side)
      : cable_(std::move(cable)), side_(side), mac_{2, 0, 0, 0, 0, static_cast<uint8_t>(side)} {}
  bool HasRoom() override { return true; }
  void Send(const roce::OutgoingFrame& frame) override {
    std::vector<std::byte> bytes(frame.headers.begin(), frame.headers.end());
    for (const auto& part : frame.payload) bytes.insert(bytes.end(), part.begin(), part.end());
    bytes.insert(bytes.end(), frame.trailer.begin(), frame.trailer.end());
    cable_->Put(1 - side_, std::move(bytes));
  }
  size_t Receive(absl::FunctionRef<void(std::span<const std::byte>)> handler) override {
    std::vector<std::byte> frame;
    size_t n = 0;
    for (; n < 32 && cable_->Take(side_, frame); ++n) handler(frame);
    return n;
  }
  void Flush() override {}
  const roce::MacAddress& mac() const override { return mac_; }
  size_t mtu() const override { return 9000; }
  const std::string& name() const override { return name_; }

 private:
  std::shared_ptr<Cable> cable_;
  const size_t side_;
  const roce::MacAddress mac_;
  const std::string name_ = "cable";
};

}  // namespace starling::transport
