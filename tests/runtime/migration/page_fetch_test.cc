// Pages that stay behind: from a source's offer into the arena of a component that was restored
// without them, over the fake network.

#include "runtime/migration/page_fetch.h"

#include <gtest/gtest.h>
#include <sys/mman.h>

#include <atomic>
#include <condition_variable>
#include <cstring>
#include <map>
#include <mutex>
#include <optional>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/file.h"
#include "base/status.h"
#include "runtime/migration/lane_receiver.h"
#include "runtime/migration/lane_sink.h"
#include "runtime/migration/offer.h"
#include "runtime/migration/offers.h"
#include "tests/runtime/scratch.h"
#include "transport/fake_fabric.h"

namespace starling::migration {
namespace {

using checkpoint::AddressSpace;
using checkpoint::FinalList;
using checkpoint::kPageSize;
using checkpoint::PageRun;
using checkpoint::SlotRange;

constexpr uint64_t kPid = 1000;
constexpr AddressSpace kSpace = {AddressSpace::Kind::kProcess, kPid};
// A mapping that can be restored on demand, and one that cannot (a stack).
constexpr uint64_t kFirst = 0x10000, kPages = 600;
constexpr uint64_t kStack = 0x90000, kStackPages = 8;
constexpr char kId[] = "a1b2";

std::string Varint(uint64_t value) {
  std::string bytes;
  for (; value >= 0x80; value >>= 7) bytes.push_back(static_cast<char>(value | 0x80));
  bytes.push_back(static_cast<char>(value));
  return bytes;
}

// CRIU's mm image, as far as it is looked at.
std::string MmImage() {
  std::string mm;
  const auto add = [&mm](uint64_t first, uint64_t pages, uint64_t flags, uint64_t status) {
    const std::string vma =
        absl::StrCat("\x08", Varint(first * kPageSize), "\x10", Varint((first + pages) * kPageSize),
                     "\x30", Varint(flags), "\x38", Varint(status));
    absl::StrAppend(&mm, "\x72", Varint(vma.size()), vma);
  };
  add(kFirst, kPages, MAP_PRIVATE | MAP_ANONYMOUS, 1);
  add(kStack, kStackPages, MAP_PRIVATE | MAP_ANONYMOUS, 1 | 1 << 1);
  const uint32_t head[] = {0x54564319, 0x57492820, static_cast<uint32_t>(mm.size())};
  return std::string(reinterpret_cast<const char*>(head), sizeof(head)) + mm;
}

// Who serves the component's faults, as far as a fetch knows it.
struct KeeperOfTest {
  int arena = -1;
  std::mutex mutex;
  std::condition_variable changed;
  checkpoint::RunMap<checkpoint::Missing> missing;
  std::vector<SlotRange> wanted;
  std::vector<uint64_t> order;  // first slot of each thing that arrived
  std::string lost;
  bool over = false;
  bool held = false;  // nothing arrives

  PageFetch::Keeper Parts() {
    PageFetch::Keeper keeper;
    keeper.find_missing = [this]() -> absl::StatusOr<PageFetch::Keeper::Missing> {
      const std::lock_guard lock(mutex);
      PageFetch::Keeper::Missing answer;
      answer.arena = UniqueFd(::dup(arena));
      missing.ForEach([&](const auto& run) { answer.slots.push_back({run.first, run.count}); });
      return answer;
    };
    keeper.take_wanted = [this](Duration wait) -> absl::StatusOr<PageFetch::Keeper::Wanted> {
      std::unique_lock lock(mutex);
      changed.wait_for(lock, wait, [&] { return !wanted.empty() || over; });
      PageFetch::Keeper::Wanted taken{std::exchange(wanted, {}), over};
      changed.notify_all();
      return taken;
    };
    keeper.arrived = [this](std::span<const SlotRange> slots) {
      std::unique_lock lock(mutex);
      for (const SlotRange& run : slots) {
        order.push_back(run.first);
        missing.Erase(run.first, run.count);
      }
      changed.notify_all();
      changed.wait(lock, [&] { return !held; });
      return absl::OkStatus();
    };
    keeper.lose = [this](const std::string& why) {
      const std::lock_guard lock(mutex);
      lost = why;
      return absl::OkStatus();
    };
    return keeper;
  }
  void Set(bool& flag, bool value) {
    const std::lock_guard lock(mutex);
    flag = value;
    changed.notify_all();
  }
  void WaitForArrivals(size_t count) {
    std::unique_lock lock(mutex);
    changed.wait(lock, [&] { return order.size() >= count; });
  }
};

// A device that may have no memory windows, or none that can be bound.
class FabricOfTest final : public transport::Fabric {
 public:
  FabricOfTest(std::unique_ptr<transport::Fabric> fabric, bool windows, bool bindable)
      : fabric_(std::move(fabric)), windows_(windows), bindable_(bindable) {}
  const char* name() const override { return fabric_->name(); }
  const std::string& device() const override { return fabric_->device(); }
  bool windows() const override { return windows_; }
  uint64_t max_region_bytes() const override { return kRegionBytes; }
  absl::StatusOr<std::unique_ptr<transport::MemoryRegion>> Register(
      std::span<std::byte> memory, transport::Access access) override {
    if (access == transport::Access::kRemoteRead) ++readable_regions_;
    if (access == transport::Access::kWindow && !bindable_) access = transport::Access::kLocal;
    return fabric_->Register(memory, access);
  }
  absl::StatusOr<std::unique_ptr<transport::Listener>> Listen(const std::string& address,
                                                              uint16_t port) override {
    ASSIGN_OR_RETURN(auto listener, fabric_->Listen(address, port));
    if (bindable_) return listener;
    return std::make_unique<ListenerOfTest>(std::move(listener));
  }
  absl::StatusOr<std::unique_ptr<transport::Connection>> Connect(const std::string& address,
                                                                 uint16_t port,
                                                                 absl::string_view private_data,
                                                                 Deadline deadline) override {
    return fabric_->Connect(address, port, private_data, deadline);
  }
  int readable_regions() const { return readable_regions_; }

  // Several of them in an offer.
  static constexpr uint64_t kRegionBytes = 1 << 20;

 private:
  class ConnectionOfTest final : public transport::Connection {
   public:
    explicit ConnectionOfTest(std::unique_ptr<transport::Connection> connection)
        : connection_(std::move(connection)) {}
    absl::Status Write(const transport::MemoryRegion& local, size_t offset, size_t bytes,
                       uint64_t remote_address, uint32_t remote_key, Deadline deadline) override {
      return connection_->Write(local, offset, bytes, remote_address, remote_key, deadline);
    }
    absl::Status Read(const transport::MemoryRegion& local, size_t offset, size_t bytes,
                      uint64_t remote_address, uint32_t remote_key, Deadline deadline) override {
      return connection_->Read(local, offset, bytes, remote_address, remote_key, deadline);
    }
    absl::StatusOr<uint32_t> Grant(const transport::MemoryRegion&, transport::Access,
                                   Deadline) override {
      return absl::ResourceExhaustedError("no window is left");
    }
    absl::StatusOr<uint64_t> Send(absl::string_view message, Deadline deadline) override {
      return connection_->Send(message, deadline);
    }
    uint64_t completed() const override { return connection_->completed(); }
    absl::Status WaitCompleted(uint64_t number, Deadline deadline) override {
      return connection_->WaitCompleted(number, deadline);
    }
    absl::StatusOr<std::string> Receive(Deadline deadline) override {
      return connection_->Receive(deadline);
    }
    void Shutdown() override { connection_->Shutdown(); }
    uint64_t bytes_sent() const override { return connection_->bytes_sent(); }
    const std::string& description() const override { return connection_->description(); }

   private:
    const std::unique_ptr<transport::Connection> connection_;
  };
  class IncomingOfTest final : public transport::Incoming {
   public:
    explicit IncomingOfTest(std::unique_ptr<transport::Incoming> incoming)
        : incoming_(std::move(incoming)) {}
    absl::string_view private_data() const override { return incoming_->private_data(); }
    absl::StatusOr<std::unique_ptr<transport::Connection>> Accept(Deadline deadline) override {
      ASSIGN_OR_RETURN(auto connection, incoming_->Accept(deadline));
      return std::make_unique<ConnectionOfTest>(std::move(connection));
    }

   private:
    const std::unique_ptr<transport::Incoming> incoming_;
  };
  class ListenerOfTest final : public transport::Listener {
   public:
    explicit ListenerOfTest(std::unique_ptr<transport::Listener> listener)
        : listener_(std::move(listener)) {}
    absl::StatusOr<std::unique_ptr<transport::Incoming>> Next(Deadline deadline) override {
      ASSIGN_OR_RETURN(auto incoming, listener_->Next(deadline));
      return std::make_unique<IncomingOfTest>(std::move(incoming));
    }

   private:
    const std::unique_ptr<transport::Listener> listener_;
  };

  const std::unique_ptr<transport::Fabric> fabric_;
  const bool windows_;
  const bool bindable_;
  std::atomic<int> readable_regions_{0};
};

class PageFetchTest : public testing::Test {
 protected:
  // The component's whole memory has been sent once; then the pages 100 to 499 and the stack were
  // written, and the component was frozen.
  void Freeze(bool sealed, uint64_t room = 64 << 20) {
    network_ = std::make_unique<transport::FakeNetwork>();
    here_ = std::make_unique<FabricOfTest>(network_->Open("10.0.0.1"), windows_, bindable_);
    there_ = network_->Open("10.0.0.2");
    LaneReceiver::Options receiving;
    receiving.arena_bytes = 8 << 20;
    receiving.max_arena_bytes = 1 << 30;  // tsan does not allow for more address space
    receiver_ = LaneReceiver::Create(*there_, std::move(receiving)).value();
    auto listener = there_->Listen("10.0.0.2", 7401).value();
    std::thread acceptor([&] {
      auto incoming = listener->Next(Soon()).value();
      EXPECT_TRUE(receiver_->Accept(0, std::move(incoming)).ok());
    });
    v1::ReserveResponse granted;
    for (const v1::ArenaChunk& chunk : receiver_->chunks()) *granted.add_chunks() = chunk;
    granted.set_data_address("10.0.0.2:7401");
    granted.set_token("a token");
    LaneOptions options;
    options.queue_pairs = 1;
    options.compress = false;
    auto sink = LaneSink::Connect(
        *here_, options, granted, [this](uint64_t bytes) { return receiver_->Grow(bytes); }, {},
        Soon());
    acceptor.join();
    sink_ = std::move(sink).value();
    Put(*sink_, kFirst, kPages, 'a');
    Put(*sink_, kStack, kStackPages, 'a');
    ASSERT_TRUE(sink_->Flush(Soon()).ok());

    auto offer = Offer::Create(*here_, room, sealed).value();
    OfferSink offered(*offer, sink_->slots(), *sink_);
    Put(offered, kFirst + 100, 400, 'b');
    Put(offered, kStack, kStackPages, 'b');
    ASSERT_TRUE(offered.PutZero({kSpace, (kFirst + 10) * kPageSize, 1}).ok());
    want_[kFirst + 10] = 0;
    // CRIU reads some again, and finds others to be zero.
    Put(*sink_, kFirst + 200, 3, 'c');
    ASSERT_TRUE(sink_->PutZero({kSpace, (kFirst + 300) * kPageSize, 2}).ok());
    want_[kFirst + 300] = want_[kFirst + 301] = 0;
    list_.entries = {{{kSpace, kFirst * kPageSize, 200}, true},
                     {{kSpace, (kFirst + 200) * kPageSize, 3}, false},
                     {{kSpace, (kFirst + 203) * kPageSize, kPages - 203}, true},
                     {{kSpace, kStack * kPageSize, kStackPages}, true}};
    ASSERT_TRUE(WriteFileAtomic(folder_.path() + "/mm-1000.img", MmImage()).ok());
    const absl::Status settled = offer->Settle(list_, folder_.path(), sink_->slots(), *sink_);
    ASSERT_TRUE(settled.ok()) << settled;
    ASSERT_TRUE(sink_->Flush(Soon()).ok());
    left_behind_ = offer->pages();
    runs_ = offer->Runs();
    ASSERT_TRUE(offers_.Add(kId, "two", {here_->name(), "10.0.0.1:7402"}, std::move(offer)).ok());
    offer_listener_ = here_->Listen("10.0.0.1", 7402).value();
    accepting_ = std::jthread([this](const std::stop_token& stop) {
      while (!stop.stop_requested()) {
        auto incoming = offer_listener_->Next(Deadline::After(std::chrono::milliseconds(20)));
        if (incoming.ok() && offers_.Take(here_->name(), *incoming)) ++accepted_;
      }
    });
  }

  // The target's side, up to where CRIU would restore.
  void Restore() {
    ASSERT_TRUE(receiver_->Close().ok());
    for (const v1::OfferedRun& run : runs_) {
      ASSERT_TRUE(receiver_->Promise({kSpace, run.address(), run.pages()}, run.slot()).ok());
    }
    const auto images = receiver_->arena().WriteImages(list_, folder_.path(), 1, &index_);
    ASSERT_TRUE(images.ok()) << images.status();
    keeper_.arena = receiver_->arena().fd();
    keeper_.missing = index_.missing;
  }

  void TearDown() override {
    fetch_.reset();
    accepting_ = {};
    offers_.Withdraw(kId);
    sink_.reset();
    receiver_.reset();
    offer_listener_.reset();
    here_.reset();
    there_.reset();
  }

  void Put(checkpoint::PageSink& sink, uint64_t first, uint64_t pages, char byte) {
    for (uint64_t done = 0; done < pages;) {
      auto room = sink.Acquire(pages - done);
      ASSERT_TRUE(room.ok()) << room.status();
      const uint64_t now = room->size() / kPageSize;
      for (uint64_t i = 0; i < now; ++i) {
        std::memset(room->data() + i * kPageSize, byte + static_cast<int>((done + i) % 7),
                    kPageSize);
        want_[first + done + i] = static_cast<char>(byte + (done + i) % 7);
      }
      ASSERT_TRUE(sink.Put({kSpace, (first + done) * kPageSize, now}).ok());
      done += now;
    }
  }

  void Start(Duration patience = std::chrono::seconds(60)) {
    PageFetch::Parts parts;
    parts.fabric = [this](const std::string& provider) -> absl::StatusOr<transport::Fabric*> {
      EXPECT_EQ(provider, there_->name());
      return there_.get();
    };
    parts.keeper = keeper_.Parts();
    parts.source.name = "one";
    parts.source.open = [this]() -> absl::StatusOr<v1::OpenOfferResponse> {
      v1::OpenOfferRequest request;
      request.set_migration_id(kId);
      request.set_host("two");
      request.set_by_connection(asks_);
      ASSIGN_OR_RETURN(v1::OpenOfferResponse offer, offers_.Open(request));
      if (spoil_) offer.mutable_pieces(3)->set_hash(1);
      return offer;
    };
    parts.source.drain = [this](uint64_t left, const std::string& lost) {
      v1::DrainOfferRequest request;
      request.set_migration_id(kId);
      request.set_host("two");
      request.set_pages_left(left);
      request.set_lost(lost);
      return offers_.Drain(request);
    };
    parts.patience = patience;
    parts.ended = [this](const absl::Status& status, uint64_t pages) {
      const std::lock_guard lock(keeper_.mutex);
      ended_ = status;
      fetched_ = pages;
      keeper_.changed.notify_all();
    };
    fetch_ = std::make_unique<PageFetch>(std::move(parts));
  }
  absl::Status Ended() {
    std::unique_lock lock(keeper_.mutex);
    keeper_.changed.wait(lock, [&] { return ended_.has_value(); });
    return *ended_;
  }

  void ExpectReadFromRegions(bool sealed) {
    Freeze(sealed);
    Restore();
    Start();
    EXPECT_TRUE(Ended().ok());
    ExpectAllThere();
    EXPECT_GT(here_->readable_regions(), 0);
  }
  void ExpectAllThere() {
    for (const auto& [page, byte] : want_) {
      const auto slot = receiver_->arena().Find(kSpace, page * kPageSize);
      ASSERT_TRUE(slot.has_value()) << page;
      if (byte == 0) {
        EXPECT_EQ(slot->slot, checkpoint::kZeroSlot) << page;
        continue;
      }
      const auto bytes = receiver_->arena().Slots(slot->slot, 1).value();
      ASSERT_EQ(static_cast<char>(bytes[17]), byte) << page - kFirst;
      ASSERT_EQ(static_cast<char>(bytes[kPageSize - 1]), byte) << page - kFirst;
    }
  }

  static Deadline Soon() { return Deadline::After(std::chrono::seconds(60)); }

  Scratch folder_;
  std::unique_ptr<transport::FakeNetwork> network_;
  bool windows_ = true;   // the source's device has some
  bool bindable_ = true;  // and they can be bound
  bool asks_ = true;      // the target knows how to
  std::unique_ptr<FabricOfTest> here_;
  std::unique_ptr<transport::Fabric> there_;
  std::unique_ptr<transport::Listener> offer_listener_;
  std::unique_ptr<LaneReceiver> receiver_;
  std::shared_ptr<LaneSink> sink_;
  std::map<uint64_t, char> want_;  // by page
  FinalList list_;
  checkpoint::LazyIndex index_;
  std::vector<v1::OfferedRun> runs_;
  uint64_t left_behind_ = 0;
  Offers offers_{[this](const std::string& target, absl::string_view what) {
    EXPECT_EQ(target, "two");
    EXPECT_NE(what, "");
    ++refused_;
  }};
  std::atomic<int> refused_{0};
  std::atomic<int> accepted_{0};
  std::jthread accepting_;
  KeeperOfTest keeper_;
  bool spoil_ = false;
  std::optional<absl::Status> ended_;  // under the keeper's mutex
  uint64_t fetched_ = 0;
  std::unique_ptr<PageFetch> fetch_;
};

TEST_F(PageFetchTest, BringsWhatWasLeftBehind) {
  Freeze(/*sealed=*/false);
  // All that was written last, less one page of the mapping, the stack, and what came from CRIU.
  EXPECT_EQ(left_behind_, 400u - 1 - 3 - 2);
  Restore();
  EXPECT_EQ(index_.missing.key_count(), left_behind_);
  Start();
  EXPECT_TRUE(Ended().ok());
  EXPECT_EQ(fetched_, left_behind_);
  EXPECT_TRUE(keeper_.missing.empty());
  ExpectAllThere();
  const auto state = offers_.Wait(kId, 0, Soon());
  ASSERT_TRUE(state.has_value());
  EXPECT_TRUE(state->over);
  EXPECT_EQ(state->pages_left, 0u);
  EXPECT_EQ(state->lost, "");
}

TEST_F(PageFetchTest, ReadsThroughWindowsOfItsConnection) {
  Freeze(/*sealed=*/false);
  Restore();
  v1::OpenOfferRequest request;
  request.set_migration_id(kId);
  request.set_host("two");
  request.set_by_connection(true);
  const auto offer = offers_.Open(request);
  ASSERT_TRUE(offer.ok()) << offer.status();
  EXPECT_TRUE(offer->grant_by_connection());
  EXPECT_GT(offer->regions_size(), 1);
  for (const v1::ArenaChunk& region : offer->regions()) {
    EXPECT_EQ(region.rkey(), 0u);
    EXPECT_EQ(region.address(), 0u);
  }
  Start();
  EXPECT_TRUE(Ended().ok());
  ExpectAllThere();
  EXPECT_EQ(here_->readable_regions(), 0);
  EXPECT_EQ(refused_, 0);
}

TEST_F(PageFetchTest, ReadsRegionsWhereThereAreNoWindows) {
  windows_ = false;
  ExpectReadFromRegions(/*sealed=*/false);
}

TEST_F(PageFetchTest, ReadsRegionsWhereTheTargetCannotAsk) {
  asks_ = false;
  ExpectReadFromRegions(/*sealed=*/true);
}

TEST_F(PageFetchTest, ReadsRegionsWhereNoWindowCanBeHad) {
  bindable_ = false;
  ExpectReadFromRegions(/*sealed=*/false);
}

TEST_F(PageFetchTest, ATargetThatAsksForWhatCannotBeIsRefusedAndCounted) {
  Freeze(/*sealed=*/false);
  v1::OpenOfferRequest request;
  request.set_migration_id(kId);
  request.set_host("two");
  request.set_by_connection(true);
  const auto offer = offers_.Open(request);
  ASSERT_TRUE(offer.ok()) << offer.status();
  int refused = 0;
  for (const std::string& question :
       {std::string("give me all"), EncodeGrantRequest({true, 0, 1})}) {
    auto connection = there_->Connect("10.0.0.1", 7402, offer->token(), Soon());
    ASSERT_TRUE(connection.ok()) << connection.status();
    ASSERT_TRUE((*connection)->Send(question, Soon()).ok());
    ++refused;
    const Deadline until = Soon();
    while (refused_ < refused && !until.Passed())
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    EXPECT_EQ(refused_, refused);
  }
  // One that asks as it should is still answered, for what there is.
  auto connection = there_->Connect("10.0.0.1", 7402, offer->token(), Soon());
  ASSERT_TRUE(connection.ok()) << connection.status();
  ASSERT_TRUE((*connection)->Send(EncodeGrantRequest({false, 1, 256}), Soon()).ok());
  const auto answer = (*connection)->Receive(Soon());
  ASSERT_TRUE(answer.ok()) << answer.status();
  const auto grants = DecodeGrants(*answer);
  ASSERT_TRUE(grants.ok()) << grants.status();
  EXPECT_EQ(grants->first_chunk, 1u);
  EXPECT_EQ(grants->chunks.size(), static_cast<size_t>(offer->regions_size()) - 1);
}

TEST_F(PageFetchTest, OpensWhatIsSealed) {
  Freeze(/*sealed=*/true);
  Restore();
  Start();
  EXPECT_TRUE(Ended().ok());
  ExpectAllThere();
}

TEST_F(PageFetchTest, WhatDoesNotFitIsSentInTheFreeze) {
  Freeze(/*sealed=*/false, Offer::kBlockPages * kPageSize);
  EXPECT_LE(left_behind_, Offer::kBlockPages);
  EXPECT_GE(left_behind_, Offer::kBlockPages - 10);
  Restore();
  Start();
  EXPECT_TRUE(Ended().ok());
  ExpectAllThere();
}

TEST_F(PageFetchTest, WantedComesBeforeTheRest) {
  Freeze(/*sealed=*/false);
  Restore();
  keeper_.held = true;
  Start();
  keeper_.WaitForArrivals(1);
  const uint64_t slot = receiver_->arena().Find(kSpace, (kFirst + 490) * kPageSize)->slot;
  {
    const std::lock_guard lock(keeper_.mutex);
    ASSERT_TRUE(keeper_.missing.Find(slot));
    keeper_.wanted = {{slot, 1}};
    keeper_.changed.notify_all();
  }
  {
    std::unique_lock lock(keeper_.mutex);
    ASSERT_TRUE(keeper_.changed.wait_for(lock, std::chrono::seconds(60),
                                         [&] { return keeper_.wanted.empty(); }));
  }
  std::this_thread::sleep_for(std::chrono::milliseconds(50));  // for it to be taken in
  const size_t before = keeper_.order.size();
  keeper_.Set(keeper_.held, false);
  EXPECT_TRUE(Ended().ok());
  const uint64_t next = keeper_.order[before];
  EXPECT_LE(next, slot);
  EXPECT_GT(next + kPiecePages, slot);
}

TEST_F(PageFetchTest, AnotherTakesOverInTheMiddle) {
  Freeze(/*sealed=*/true);
  Restore();
  keeper_.held = true;
  Start();
  keeper_.WaitForArrivals(1);
  std::thread ending([this] { fetch_.reset(); });
  std::this_thread::sleep_for(std::chrono::milliseconds(20));
  keeper_.Set(keeper_.held, false);
  ending.join();
  EXPECT_FALSE(ended_.has_value());
  const uint64_t left = keeper_.missing.key_count();
  EXPECT_LT(left, left_behind_);
  Start();
  EXPECT_TRUE(Ended().ok());
  EXPECT_EQ(fetched_, left);
  ExpectAllThere();
}

TEST_F(PageFetchTest, SourceThatHasLostItEndsTheComponent) {
  Freeze(/*sealed=*/false);
  Restore();
  keeper_.held = true;
  Start();
  keeper_.WaitForArrivals(1);
  offers_.Withdraw(kId);
  keeper_.Set(keeper_.held, false);
  EXPECT_FALSE(Ended().ok());
  EXPECT_NE(keeper_.lost, "");
  EXPECT_FALSE(keeper_.missing.empty());
}

TEST_F(PageFetchTest, SilentSourceIsWaitedForSoLongAndNotLonger) {
  Freeze(/*sealed=*/false);
  Restore();
  network_->PowerOff("10.0.0.1");
  Start(std::chrono::milliseconds(500));
  EXPECT_FALSE(Ended().ok());
  EXPECT_NE(keeper_.lost, "");
}

TEST_F(PageFetchTest, GoesOnAfterACut) {
  Freeze(/*sealed=*/false);
  Restore();
  keeper_.held = true;
  Start();
  keeper_.WaitForArrivals(1);
  network_->Cut();
  keeper_.Set(keeper_.held, false);
  std::this_thread::sleep_for(std::chrono::milliseconds(300));
  EXPECT_FALSE(keeper_.missing.empty());
  network_->Heal();
  EXPECT_TRUE(Ended().ok());
  ExpectAllThere();
}

TEST_F(PageFetchTest, WhatDoesNotCheckIsNeverPlaced) {
  Freeze(/*sealed=*/false);
  Restore();
  spoil_ = true;
  Start();
  EXPECT_FALSE(Ended().ok());
  EXPECT_NE(keeper_.lost, "");
  EXPECT_FALSE(keeper_.missing.empty());
}

TEST_F(PageFetchTest, EndsWhenNothingIsNeededAnyMore) {
  Freeze(/*sealed=*/false);
  Restore();
  keeper_.held = true;
  Start();
  keeper_.WaitForArrivals(1);
  keeper_.Set(keeper_.over, true);
  std::this_thread::sleep_for(std::chrono::milliseconds(20));
  keeper_.Set(keeper_.held, false);
  EXPECT_TRUE(Ended().ok());
  EXPECT_EQ(keeper_.lost, "");
  const auto state = offers_.Wait(kId, 0, Soon());
  ASSERT_TRUE(state.has_value());
  EXPECT_TRUE(state->over);
}

TEST_F(PageFetchTest, OnlyItsTargetIsGivenAnOffer) {
  Freeze(/*sealed=*/false);
  v1::OpenOfferRequest request;
  request.set_migration_id(kId);
  request.set_host("three");
  EXPECT_EQ(offers_.Open(request).status().code(), absl::StatusCode::kPermissionDenied);
  request.set_migration_id("another");
  request.set_host("two");
  EXPECT_EQ(offers_.Open(request).status().code(), absl::StatusCode::kNotFound);
  auto connection = there_->Connect("10.0.0.1", 7402, "0123456789abcdef", Soon());
  EXPECT_FALSE(connection.ok() && (*connection)->Receive(Soon()).ok());
  EXPECT_EQ(accepted_, 0);
}

}  // namespace
}  // namespace starling::migration
