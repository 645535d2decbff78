#include "runtime/bench/measure.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <thread>

#include "absl/strings/str_cat.h"
#include "transport/tcp_fabric.h"

namespace starling::bench {
namespace {

Deadline Soon() { return Deadline::After(std::chrono::seconds(100)); }

// Both ends over TCP, on loopback.
class MeasureTest : public ::testing::Test {
 protected:
  void SetUp() override {
    for (port = static_cast<uint16_t>(32000 + ::getpid() % 10000);; ++port) {
      auto listening = fabric->Listen("127.0.0.1", port);
      if (!listening.ok()) continue;
      listener = std::move(*listening);
      break;
    }
    auto registered = fabric->Register(memory, transport::Access::kRemoteWrite);
    ASSERT_TRUE(registered.ok()) << registered.status();
    region = std::move(*registered);
    granted.set_data_address(absl::StrCat("127.0.0.1:", port));
    granted.set_token("token");
    granted.mutable_memory()->set_address(region->remote_address());
    granted.mutable_memory()->set_rkey(region->remote_key());
    granted.mutable_memory()->set_bytes(memory.size());
  }

  std::unique_ptr<transport::Fabric> fabric = transport::OpenTcp();
  uint16_t port = 0;
  std::unique_ptr<transport::Listener> listener;
  std::vector<std::byte> memory = std::vector<std::byte>(kMemoryBytes);
  std::unique_ptr<transport::MemoryRegion> region;
  v1::BenchGrantResponse granted;
};

TEST_F(MeasureTest, EverySizeHasARateAndRoundTripsATime) {
  std::vector<absl::Status> served(2);
  std::thread server([&] {
    std::vector<std::unique_ptr<transport::Connection>> connections;
    std::vector<std::thread> threads;
    for (absl::Status& status : served) {
      auto incoming = listener->Next(Soon());
      ASSERT_TRUE(incoming.ok()) << incoming.status();
      auto accepted = (*incoming)->Accept(Soon());
      ASSERT_TRUE(accepted.ok()) << accepted.status();
      transport::Connection& connection = *connections.emplace_back(std::move(*accepted));
      threads.emplace_back(
          [this, &connection, &status] { status = Serve(connection, *region, Soon()); });
    }
    for (std::thread& thread : threads) thread.join();
  });
  MeasureOptions options;
  options.each = std::chrono::milliseconds(5);
  options.round_trips = 20;
  int told = 0;
  const auto result = Measure(
      *fabric, granted, options, [&](const std::string&) { ++told; }, Soon());
  server.join();
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_EQ(result->provider(), "tcp");
  EXPECT_EQ(result->connections(), 2u);
  ASSERT_EQ(result->points_size(), 12);  // 4 KiB to 8 MiB
  EXPECT_EQ(told, 13);
  for (const v1::BenchPoint& point : result->points()) EXPECT_GT(point.bytes_per_s(), 0);
  EXPECT_EQ(result->points(0).bytes(), 4096u);
  EXPECT_EQ(result->points(11).bytes(), kMaxWriteBytes);
  EXPECT_EQ(result->round_trips(), 20u);
  EXPECT_GT(result->round_trip_min_s(), 0);
  EXPECT_LE(result->round_trip_min_s(), result->round_trip_median_s());
  EXPECT_LE(result->round_trip_median_s(), result->round_trip_p99_s());
  for (const absl::Status& status : served) EXPECT_TRUE(status.ok()) << status;
}

TEST_F(MeasureTest, TooLittleMemoryIsRefused) {
  granted.mutable_memory()->set_bytes(kMaxWriteBytes);
  const auto result = Measure(
      *fabric, granted, {}, [](const std::string&) {}, Soon());
  EXPECT_TRUE(absl::IsDataLoss(result.status())) << result.status();
}

TEST_F(MeasureTest, APeerThatRefusesIsAnError) {
  std::thread server([&] { (void)listener->Next(Soon()); });
  const auto result = Measure(
      *fabric, granted, {}, [](const std::string&) {}, Soon());
  server.join();
  EXPECT_TRUE(absl::IsPermissionDenied(result.status())) << result.status();
}

}  // namespace
}  // namespace starling::bench
