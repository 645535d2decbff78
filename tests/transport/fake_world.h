#pragma once

#include <gtest/gtest.h>

#include <cstring>
#include <memory>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "transport/fake_fabric.h"

namespace starling::transport {

inline Deadline Soon() { return Deadline::After(std::chrono::seconds(30)); }
inline Deadline InMilliseconds(int n) { return Deadline::After(std::chrono::milliseconds(n)); }

inline std::vector<std::byte> RandomBytes(size_t size, uint64_t seed) {
  std::mt19937_64 random(seed);
  std::vector<std::byte> bytes(size);
  for (std::byte& byte : bytes) byte = static_cast<std::byte>(random());
  return bytes;
}

// Two hosts on a fake network, "a" connected to "b".
struct World {
  explicit World(const FakeFaults& faults = {}, const ConnectionTuning& tuning = {})
      : network(faults), fabric_a(network.Open("a", tuning)), fabric_b(network.Open("b", tuning)) {
    auto listening = fabric_b->Listen("b", 1);
    EXPECT_TRUE(listening.ok()) << listening.status();
    listener = std::move(*listening);
    std::thread acceptor([this] {
      auto incoming = listener->Next(Soon());
      ASSERT_TRUE(incoming.ok()) << incoming.status();
      auto accepted = (*incoming)->Accept(Soon());
      ASSERT_TRUE(accepted.ok()) << accepted.status();
      b = std::move(*accepted);
    });
    auto connected = fabric_a->Connect("b", 1, "token", Soon());
    EXPECT_TRUE(connected.ok()) << connected.status();
    if (connected.ok()) a = std::move(*connected);
    acceptor.join();
  }

  // Everything gone, and the network agrees.
  void ExpectNothingLeft() {
    a.reset();
    b.reset();
    listener.reset();
    EXPECT_EQ(network.counts().queue_pairs, 0u);
    EXPECT_EQ(network.counts().regions, 0u);
  }

  FakeNetwork network;
  std::unique_ptr<Fabric> fabric_a;
  std::unique_ptr<Fabric> fabric_b;
  std::unique_ptr<Listener> listener;
  std::unique_ptr<Connection> a;
  std::unique_ptr<Connection> b;
};

// Registered memory of a test; the registration goes first.
struct Registered {
  Registered(Fabric& fabric, std::vector<std::byte> content, Access access)
      : bytes(std::move(content)) {
    auto registered = fabric.Register(bytes, access);
    EXPECT_TRUE(registered.ok()) << registered.status();
    region = std::move(*registered);
  }
  uint64_t at(size_t offset) const { return region->remote_address() + offset; }
  uint32_t key() const { return region->remote_key(); }

  std::vector<std::byte> bytes;
  std::unique_ptr<MemoryRegion> region;
};

}  // namespace starling::transport
