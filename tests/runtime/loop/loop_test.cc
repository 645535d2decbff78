#include "runtime/loop/loop.h"

#include <arpa/inet.h>
#include <gmock/gmock.h>
#include <grpcpp/server_builder.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include <filesystem>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/file.h"
#include "runtime/loop/loop_service.h"
#include "runtime/migration/offers.h"
#include "runtime/names.h"
#include "runtime/security/certificates.h"
#include "tests/runtime/scratch.h"

// Two agents in one process that know each other by certificates, over loopback, without
// components: those need root, and are in tests/e2e/loop_test.py.

namespace starling::loop {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

const bool kPrepared = [] {
  agent::ControlSecurity::Prepare();
  return true;
}();

int FreePort() {
  UniqueFd socket(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_in address = {};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t size = sizeof(address);
  if (::bind(socket.get(), reinterpret_cast<sockaddr*>(&address), size) != 0) return 0;
  if (::getsockname(socket.get(), reinterpret_cast<sockaddr*>(&address), &size) != 0) return 0;
  return ntohs(address.sin_port);
}

class Node {
 public:
  Node(const std::string& name, int port, const std::string& other, int other_port,
       const std::string& authority)
      : scratch_(InMemory()) {
    config_.host = name;
    config_.state_dir = scratch_ / "state";
    config_.run_dir = scratch_ / "run";
    config_.log_dir = scratch_ / "log";
    config_.control.listen = absl::StrCat("127.0.0.1:", port);
    config_.security.authority = authority + "/authority.crt";
    config_.security.certificate = absl::StrCat(authority, "/", name, ".crt");
    config_.security.key = absl::StrCat(authority, "/", name, ".key");
    config_.loop.period = std::chrono::milliseconds(200);
    config_.loop.policy = PolicyPath();
    config_.peers.push_back({other, absl::StrCat("127.0.0.1:", other_port)});
    EXPECT_TRUE(MakeDirectories(config_.run_dir).ok());
    SetPolicy("");
    journal_ = *Journal::Open(config_.JournalPath(), "boot");
    auto security =
        agent::ControlSecurity::Load(config_, [](absl::string_view, absl::string_view) {});
    EXPECT_TRUE(security.ok()) << security.status();
    security_ = *std::move(security);
    host_ =
        std::make_unique<agent::Host>(agent::Host{.config = config_,
                                                  .journal = *journal_,
                                                  .fabric = nullptr,
                                                  .criu = absl::FailedPreconditionError("none")});
    host_->components = &components_;
    host_->blackouts = &blackouts_;
    host_->offers = &offers_;
    host_->security = security_.get();
    leases_ = *reservations::LeaseDesk::Open(name, config_.LoopPath(), "boot", Clock::now());
    shelf_ = *shadow::ModelShelf::Open(config_.LoopPath() + "/models");
    host_->leases = leases_.get();
    host_->shelf = shelf_.get();
    targets_ = std::make_unique<migration::Targets>(*host_);
    agent_ = std::make_unique<agent::Agent>(*host_, *targets_);
    loop_ = std::make_unique<Loop>(*agent_, *leases_, *shelf_);
    const absl::Status started = loop_->Start();
    EXPECT_TRUE(started.ok()) << started;
    service_ = std::make_unique<LoopPeerService>(*host_, *loop_, *leases_);
    grpc::ServerBuilder builder;
    builder.AddListeningPort(config_.control.listen, security_->server());
    builder.RegisterService(service_.get());
    server_ = builder.BuildAndStart();
    EXPECT_NE(server_, nullptr);
  }
  ~Node() {
    loop_->Stop();
    server_->Shutdown();
  }

  std::string PolicyPath() const { return scratch_ / "policy.toml"; }
  void SetPolicy(const std::string& text) { ASSERT_TRUE(WriteFileAtomic(PolicyPath(), text).ok()); }
  Loop& loop() { return *loop_; }
  agent::Agent& agent() { return *agent_; }
  std::string Events() {
    std::string text;
    const auto events = journal_->ReadEvents(0, "", 1000);
    for (const EventRow& event : *events)
      absl::StrAppend(&text, event.kind, ": ", event.text, "\n");
    return text;
  }

 private:
  Scratch scratch_;
  Config config_;
  std::unique_ptr<Journal> journal_;
  std::unique_ptr<agent::ControlSecurity> security_;
  agent::ComponentTable components_{[](const auto&, const auto&) {}};
  migration::BlackoutHistory blackouts_;
  migration::Offers offers_{nullptr};
  std::unique_ptr<agent::Host> host_;
  std::unique_ptr<reservations::LeaseDesk> leases_;
  std::unique_ptr<shadow::ModelShelf> shelf_;
  std::unique_ptr<migration::Targets> targets_;
  std::unique_ptr<agent::Agent> agent_;
  std::unique_ptr<Loop> loop_;
  std::unique_ptr<LoopPeerService> service_;
  std::unique_ptr<grpc::Server> server_;
};

class LoopTest : public testing::Test {
 protected:
  void SetUp() override {
    ASSERT_TRUE(security::MakeAuthority(ca_.path(), 30).ok());
    for (const char* name : {"node1", "node2"}) {
      ASSERT_TRUE(
          security::MakeHostCertificate({ca_.path(), ca_.path(), name, {"127.0.0.1"}, 10}).ok());
    }
    const int first = FreePort(), second = FreePort();
    one_ = std::make_unique<Node>("node1", first, "node2", second, ca_.path());
    two_ = std::make_unique<Node>("node2", second, "node1", first, ca_.path());
    stub_ = v1::LoopPeer::NewStub((*one_->agent().Peer("node2"))->channel());
    // The first asked before the second listened.
    ASSERT_TRUE(Eventually([&] {
      v1::ForecastRequest request;
      request.set_pool(true);
      return one_->loop().Forecast(request)->pool_hosts_size() == 2;
    }));
  }

  // A machine with nothing else to do needs a second.
  static bool Eventually(const std::function<bool()>& condition) {
    const Deadline deadline = Deadline::After(std::chrono::seconds(100));
    while (!condition()) {
      if (deadline.Passed()) return false;
      std::this_thread::sleep_for(std::chrono::milliseconds(50));
    }
    return true;
  }
  v1::AskLeaseRequest Ask(const std::string& component) {
    v1::AskLeaseRequest ask;
    ask.set_host("node1");
    ask.set_length_s(600);
    ask.mutable_lease()->set_id("node1/" + component);
    ask.mutable_lease()->set_component(component);
    ask.mutable_lease()->set_kind("soft");
    ask.mutable_lease()->mutable_amount()->set_memory(1 << 20);
    return ask;
  }
  grpc::Status Asked(const v1::AskLeaseRequest& ask) {
    grpc::ClientContext context;
    v1::LeaseResponse response;
    return stub_->AskLease(&context, ask, &response);
  }

  Scratch ca_;
  std::unique_ptr<Node> one_, two_;
  std::unique_ptr<v1::LoopPeer::Stub> stub_;
};

TEST_F(LoopTest, HostsForeseeWhatThePoolWillUse) {
  v1::ForecastRequest request;
  request.set_pool(true);
  v1::ForecastResponse forecast;
  ASSERT_TRUE(Eventually([&] {
    forecast = *one_->loop().Forecast(request);
    return forecast.pool_hosts_size() == 2 && forecast.pool().metrics(1).ahead(0).outcomes() > 0;
  })) << forecast.DebugString();
  EXPECT_THAT(forecast.pool_hosts(), ElementsAre("node1", "node2"));
  // Both are this machine.
  EXPECT_NEAR(forecast.pool().metrics(1).capacity(), 2 * forecast.all().metrics(1).capacity(), 1);
  EXPECT_GT(forecast.pool().metrics(1).now(), 1.5 * forecast.all().metrics(1).now());
  // Whoever asks for all of it gets all of it; what moved since is at most as much.
  v1::LookRequest look;
  look.set_host("node1");
  for (int i = 0; i < 10; ++i) {
    grpc::ClientContext context;
    v1::LookResponse said;
    look.set_changes(i % 2 == 1);
    ASSERT_TRUE(stub_->Look(&context, look, &said).ok());
    predictor::Summary summary;
    for (const v1::MetricSummary& metric : said.demand()) {
      EXPECT_TRUE(predictor::ReadSummary(reinterpret_cast<const uint8_t*>(metric.message().data()),
                                         metric.message().size(), summary));
    }
    if (look.changes()) continue;
    ASSERT_EQ(said.demand_size(), 2);
    EXPECT_EQ(said.demand(1).metric(), "memory");
    EXPECT_GT(summary.fields[0], 0);
    EXPECT_GT(summary.At(predictor::kHorizonCount - 1).high, 0);
  }
  request.set_name("redis");
  EXPECT_EQ(one_->loop().Forecast(request).status().code(), absl::StatusCode::kNotFound);
}

TEST_F(LoopTest, AHolderIsToldOfItsLeasesAndGivesBackWhatItDoesNotNeed) {
  const grpc::Status asked = Asked(Ask("redis"));
  ASSERT_TRUE(asked.ok()) << asked.error_message();
  ASSERT_EQ(two_->loop().Leases().granted_size(), 1);
  EXPECT_EQ(two_->loop().Leases().granted(0).holder(), "node1");
  ASSERT_TRUE(Eventually([&] { return one_->loop().Leases().held_size() == 1; }));
  EXPECT_EQ(one_->loop().Leases().held(0).host(), "node2");
  EXPECT_EQ(one_->loop().Leases().held(0).component(), "redis");
  // The policy observes: nothing is done about a lease for a component that is not there.
  EXPECT_EQ(two_->loop().Leases().granted_size(), 1);
  one_->SetPolicy("mode = \"act\"\n");
  ASSERT_TRUE(Eventually([&] { return two_->loop().Leases().granted_size() == 0; }));
  ASSERT_TRUE(Eventually([&] {
    return one_->Events().find("loop-gave-back: its room on host node2") != std::string::npos;
  })) << one_->Events();
}

TEST_F(LoopTest, WhatIsNoLeaseOrAnothersIsRefused) {
  v1::AskLeaseRequest ask = Ask("redis");
  ask.mutable_lease()->set_id("node7/redis");
  EXPECT_EQ(Asked(ask).error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  ask = Ask("redis");
  ask.mutable_lease()->set_kind("loan");
  EXPECT_EQ(Asked(ask).error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  ask = Ask("../redis");
  EXPECT_EQ(Asked(ask).error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  for (const double length : {0.0, -1.0, 1e9, std::numeric_limits<double>::quiet_NaN()}) {
    ask = Ask("redis");
    ask.set_length_s(length);
    EXPECT_EQ(Asked(ask).error_code(), grpc::StatusCode::INVALID_ARGUMENT) << length;
  }
  // Who calls itself another host than its certificate does.
  ask = Ask("redis");
  ask.set_host("node2");
  EXPECT_EQ(Asked(ask).error_code(), grpc::StatusCode::PERMISSION_DENIED);
  grpc::ClientContext looking;
  v1::LookRequest look;
  look.set_host("node2");
  v1::LookResponse seen;
  EXPECT_EQ(stub_->Look(&looking, look, &seen).error_code(), grpc::StatusCode::PERMISSION_DENIED);
  // More than there is, with the words that a person needs.
  ask = Ask("redis");
  ask.mutable_lease()->mutable_amount()->set_memory(int64_t{1} << 50);
  const grpc::Status refused = Asked(ask);
  EXPECT_EQ(refused.error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
  EXPECT_THAT(refused.error_message(), HasSubstr("host node2 has no room for component redis"));
  EXPECT_EQ(two_->loop().Leases().counts().at("refused"), 1u);
}

TEST_F(LoopTest, LeasesAreRenewedClaimedAndGivenBack) {
  ASSERT_TRUE(Asked(Ask("redis")).ok());
  v1::RenewLeaseRequest renew;
  renew.set_host("node1");
  renew.set_id("node1/redis");
  renew.set_length_s(1200);
  renew.mutable_amount()->set_memory(2 << 20);
  v1::LeaseResponse response;
  grpc::ClientContext renewing;
  ASSERT_TRUE(stub_->RenewLease(&renewing, renew, &response).ok());
  EXPECT_EQ(response.lease().amount().memory(), 2 << 20);
  EXPECT_GT(response.lease().left_s(), 700);
  v1::ClaimLeaseRequest claim;
  claim.set_host("node1");
  claim.set_id("node1/redis");
  grpc::ClientContext claiming;
  ASSERT_TRUE(stub_->ClaimLease(&claiming, claim, &response).ok());
  EXPECT_EQ(response.lease().kind(), "firm");
  v1::GiveBackLeaseRequest give;
  give.set_host("node1");
  give.set_id("node1/redis");
  v1::GiveBackLeaseResponse given;
  grpc::ClientContext giving, again;
  ASSERT_TRUE(stub_->GiveBackLease(&giving, give, &given).ok());
  EXPECT_TRUE(two_->loop().Leases().granted().empty());
  EXPECT_EQ(stub_->GiveBackLease(&again, give, &given).error_code(), grpc::StatusCode::NOT_FOUND);
}

TEST_F(LoopTest, FilesAreWarmWhileALeaseLasts) {
  v1::AskLeaseRequest ask = Ask("redis");
  ask.add_files(std::filesystem::read_symlink("/proc/self/exe"));
  ask.add_files("/none");
  ASSERT_TRUE(Asked(ask).ok());
  const auto warm = [&] {
    const v1::LeasesResponse leases = two_->loop().Leases();
    return leases.granted_size() == 1 ? leases.granted(0).warm() : -1;
  };
  const auto size = static_cast<int64_t>(std::filesystem::file_size("/proc/self/exe"));
  ASSERT_TRUE(Eventually([&] { return warm() == size; })) << warm();
  // Periods of the loop go by, and it stays.
  std::this_thread::sleep_for(std::chrono::milliseconds(500));
  EXPECT_EQ(warm(), size);
  v1::GiveBackLeaseRequest give;
  give.set_host("node1");
  give.set_id("node1/redis");
  v1::GiveBackLeaseResponse given;
  grpc::ClientContext giving;
  ASSERT_TRUE(stub_->GiveBackLease(&giving, give, &given).ok());
  EXPECT_EQ(two_->loop().warmth().Bytes("node1/redis"), 0);
  // One that just ends takes them along, too.
  ask.set_length_s(0.3);
  ASSERT_TRUE(Asked(ask).ok());
  ASSERT_TRUE(Eventually([&] { return warm() == -1; }));
  EXPECT_TRUE(Eventually([&] { return two_->loop().warmth().Bytes("node1/redis") == 0; }));
}

TEST_F(LoopTest, WhatIsNotHereCannotBeParked) {
  EXPECT_EQ(one_->loop().Park("redis").code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(one_->loop().Unpark("redis").code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_TRUE(one_->loop().Wake("redis").ok()) << "nothing has to be done";
}

TEST_F(LoopTest, ABadPolicyIsToldOfAndLeavesTheOneBefore) {
  one_->SetPolicy("mode = \"act\"\n");
  const auto why = [&] { return *one_->loop().Why({}); };
  ASSERT_TRUE(Eventually([&] { return why().mode() == "act"; }));
  one_->SetPolicy("mode = \"observe\"\nmax_moves = 100\n");
  ASSERT_TRUE(Eventually([&] { return !why().refused().empty(); }));
  EXPECT_THAT(why().refused(), HasSubstr("policy.toml:2: max_moves"));
  EXPECT_EQ(why().mode(), "act");
  EXPECT_THAT(one_->Events(), HasSubstr("policy-refused"));
  one_->SetPolicy("");
  ASSERT_TRUE(Eventually([&] { return why().refused().empty() && why().mode() == "observe"; }));
}

TEST_F(LoopTest, AShortageIsTold) {
  // A quarter of the processors at work makes one of a limit of a twentieth; nothing could be
  // moved.
  std::vector<std::jthread> at_work;
  for (unsigned i = 0; i <= std::thread::hardware_concurrency() / 4; ++i) {
    at_work.emplace_back([](const std::stop_token& stop) {
      while (!stop.stop_requested()) {
      }
    });
  }
  one_->SetPolicy("[[rule]]\nresource = \"cpu\"\npercent = 50\nabove = 0.05\nwithin_s = 1\n");
  // The default policy may have had something to say of a busy machine before.
  v1::DecidedOnce told;
  ASSERT_TRUE(Eventually([&] {
    const v1::WhyResponse why = *one_->loop().Why({});
    for (const v1::DecidedOnce& decision : why.decisions()) {
      if (decision.reason().find("cpu: P50 in") != std::string::npos) told = decision;
    }
    return told.time() > 0;
  }));
  EXPECT_TRUE(told.short_of());
  EXPECT_FALSE(told.act());
}

}  // namespace
}  // namespace starling::loop
