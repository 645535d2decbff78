#include "runtime/hints/component_hints.h"

#include <errno.h>
#include <gtest/gtest.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cmath>
#include <cstring>
#include <functional>
#include <random>
#include <thread>

#include "libstarling/starling.hpp"
#include "libstarling/wire.h"
#include "runtime/hints/hint_listener.h"
#include "tests/runtime/scratch.h"

namespace starling::hints {
namespace {

using reservations::Resource;
using std::chrono::milliseconds;
using std::chrono::seconds;

std::string Bytes(const starling_wire& hint) {
  return std::string(reinterpret_cast<const char*>(&hint), sizeof(hint));
}

starling_wire Hint(uint16_t kind, double amount = 0, double seconds = 0) {
  starling_wire hint = {};
  hint.magic = STARLING_WIRE_MAGIC;
  hint.kind = kind;
  hint.amount = amount;
  hint.seconds = seconds;
  return hint;
}

TEST(ComponentHintsTest, KnowWhoIsConnected) {
  ComponentHints hints;
  TimePoint now{seconds(1000)};
  const auto tell = [&](uint16_t kind, const std::string& user) {
    now += seconds(1);
    starling_wire hint = Hint(kind);
    std::memcpy(hint.phase, user.data(), std::min(user.size(), sizeof(hint.phase)));
    return hints.Take(now, Bytes(hint));
  };
  EXPECT_TRUE(tell(STARLING_WIRE_CONNECTED, "ann"));
  EXPECT_TRUE(tell(STARLING_WIRE_CONNECTED, "bob@example"));
  EXPECT_TRUE(tell(STARLING_WIRE_CONNECTED, "ann"));
  EXPECT_EQ(hints.users(), (std::set<std::string>{"ann", "bob@example"}));
  EXPECT_TRUE(tell(STARLING_WIRE_DISCONNECTED, "ann"));
  EXPECT_EQ(hints.users(), std::set<std::string>{"bob@example"});
  for (const std::string bad : {"", "a b", "../x", "\x1b[2J", "-x"}) {
    EXPECT_FALSE(tell(STARLING_WIRE_CONNECTED, bad)) << bad;
  }
  EXPECT_FALSE(tell(STARLING_WIRE_CONNECTED, std::string(32, 'a')));
  // However many it tells of, only so many are kept.
  for (int i = 0; i < 1000; ++i) tell(STARLING_WIRE_CONNECTED, "user" + std::to_string(i));
  EXPECT_EQ(hints.users().size(), ComponentHints::kMostUsers);
}

TEST(ComponentHintsTest, AreTakenAsTheyAreMeant) {
  ComponentHints hints;
  const TimePoint now{seconds(1000)};
  EXPECT_TRUE(hints.Take(now, Bytes(Hint(STARLING_WIRE_GOOD_MOMENT, 0, 5))));
  EXPECT_TRUE(hints.GoodMoment(now + seconds(4)));
  EXPECT_FALSE(hints.GoodMoment(now + seconds(6)));
  starling_wire need = Hint(STARLING_WIRE_NEED, 2, 60);
  need.resource = STARLING_CPU;
  EXPECT_TRUE(hints.Take(now, Bytes(need)));
  EXPECT_EQ(hints.needs(Resource::kCpu).open(), 1u);
  const predictor::Forecast before{500, 400, 600};
  const predictor::Forecast after =
      hints.needs(Resource::kCpu).Apply(ComponentHints::AxisSeconds(now) + 60, before);
  EXPECT_GT(after.median, before.median);  // towards 2 processors, as far as it is believed
  EXPECT_LT(after.median, 2000);
  starling_wire activity = Hint(STARLING_WIRE_ACTIVITY);
  activity.keys = 3;
  EXPECT_TRUE(hints.Take(now, Bytes(activity)));
  EXPECT_TRUE(hints.Take(now, Bytes(activity)));
  EXPECT_EQ(hints.TakeActivity().keys, 6);
  EXPECT_EQ(hints.TakeActivity().keys, 0);
  starling_wire phase = Hint(STARLING_WIRE_PHASE);
  std::strcpy(phase.phase, "warm-up");
  EXPECT_TRUE(hints.Take(now, Bytes(phase)));
  EXPECT_EQ(hints.phase(), "warm-up");
}

TEST(ComponentHintsTest, NotNowIsBounded) {
  ComponentHints hints;
  TimePoint now{seconds(1000)};
  double left_alone_s = 0;
  // It asks again and again for an hour.
  for (int second = 0; second < 3600; ++second, now += seconds(1)) {
    hints.Take(now, Bytes(Hint(STARLING_WIRE_NOT_NOW, 0, 60)));
    left_alone_s += hints.NotNowLeft(now) >= seconds(1) ? 1 : Seconds(hints.NotNowLeft(now));
    EXPECT_LE(hints.NotNowLeft(now), ComponentHints::kMostNotNow);
  }
  EXPECT_LE(left_alone_s, 3600 * ComponentHints::kNotNowShare + 62);
  EXPECT_GE(left_alone_s, 800);
  hints.Take(now, Bytes(Hint(STARLING_WIRE_NOT_NOW, 0, 0)));
  EXPECT_EQ(hints.NotNowLeft(now), Duration::zero());
}

TEST(ComponentHintsTest, GarbageIsRefused) {
  ComponentHints hints;
  TimePoint now{seconds(1000)};
  const auto refused = [&](const std::function<void(starling_wire&)>& spoil) {
    starling_wire hint = Hint(STARLING_WIRE_NEED, 1, 1);
    spoil(hint);
    now += seconds(1);
    return !hints.Take(now, Bytes(hint));
  };
  EXPECT_FALSE(refused([](starling_wire&) {}));
  EXPECT_TRUE(refused([](starling_wire& hint) { hint.magic = 0; }));
  EXPECT_TRUE(refused([](starling_wire& hint) { hint.kind = 99; }));
  EXPECT_TRUE(refused([](starling_wire& hint) { hint.resource = 7; }));
  EXPECT_TRUE(refused([](starling_wire& hint) { hint.amount = NAN; }));
  EXPECT_TRUE(refused([](starling_wire& hint) { hint.amount = -1; }));
  EXPECT_TRUE(refused([](starling_wire& hint) { hint.seconds = INFINITY; }));
  EXPECT_TRUE(refused([](starling_wire& hint) { hint.seconds = 1e9; }));
  EXPECT_TRUE(refused([](starling_wire& hint) {
    hint.kind = STARLING_WIRE_PHASE;
    std::memset(hint.phase, 'x', sizeof(hint.phase));
  }));
  EXPECT_TRUE(refused([](starling_wire& hint) {
    hint.kind = STARLING_WIRE_PHASE;
    std::strcpy(hint.phase, "\033[2J");
  }));
  EXPECT_FALSE(hints.Take(now + seconds(1), "short"));
  EXPECT_FALSE(hints.Take(now + seconds(2), ""));
  std::mt19937 random(3);
  for (int i = 0; i < 100000; ++i) {
    std::string bytes(sizeof(starling_wire), '\0');
    for (char& byte : bytes) byte = static_cast<char>(random());
    if (i % 2 == 0) std::memcpy(bytes.data(), "HNT1", 4);
    if (i % 4 == 0) bytes[4] = static_cast<char>(random() % 6), bytes[5] = 0;
    now += milliseconds(20);
    hints.Take(now, bytes);
    ASSERT_LE(hints.NotNowLeft(now), ComponentHints::kMostNotNow);
    ASSERT_LE(hints.phase().size(), 31u);
  }
  for (size_t r = 0; r < reservations::kResources; ++r) {
    EXPECT_LE(hints.needs(static_cast<Resource>(r)).open(), predictor::Hints::kOpen);
  }
}

TEST(ComponentHintsTest, AFloodIsNotListenedTo) {
  ComponentHints hints;
  TimePoint now{seconds(1000)};
  for (int i = 0; i < 1000000; ++i) {
    hints.Take(now, Bytes(Hint(STARLING_WIRE_GOOD_MOMENT, 0, 1)));
    now += std::chrono::microseconds(10);
  }
  EXPECT_LE(hints.taken(), 10 * ComponentHints::kPerSecond + ComponentHints::kBurst + 1);
  EXPECT_GT(hints.refused(), 900000u);
  // And it is listened to again as soon as it keeps to the rate.
  EXPECT_TRUE(hints.Take(now + seconds(1), Bytes(Hint(STARLING_WIRE_GOOD_MOMENT, 0, 1))));
}

// The library against a real listener.
class HintListenerTest : public testing::Test {
 protected:
  void SetUp() override { Restart(); }
  void Restart() {
    listener_.reset();
    auto listener = HintListener::Start(scratch_ / "hints");
    ASSERT_TRUE(listener.ok()) << listener.status();
    listener_ = std::move(*listener);
  }
  void Be(const std::string& name) {
    setenv(STARLING_HINTS_VARIABLE, HintListener::PathOf(scratch_ / "hints", name).c_str(), 1);
  }
  // Waits until it was heard.
  bool Heard(const std::string& name, const std::function<bool(ComponentHints&)>& is) {
    const Deadline deadline = Deadline::After(seconds(60));
    bool heard = false;
    while (!heard && !deadline.Passed()) {
      listener_->With(name, [&](ComponentHints& hints) { heard = is(hints); });
      if (!heard) std::this_thread::sleep_for(milliseconds(2));
    }
    return heard;
  }
  static int OpenFiles() {
    int count = 0;
    for (int fd = 0; fd < 256; ++fd) count += fcntl_valid(fd);
    return count;
  }
  static bool fcntl_valid(int fd) {
    const int copy = dup(fd);
    if (copy >= 0) close(copy);
    return copy >= 0;
  }
  Scratch scratch_;
  std::unique_ptr<HintListener> listener_;
};

TEST_F(HintListenerTest, HearsEachComponentByItself) {
  ASSERT_TRUE(listener_->Add("one", geteuid()).ok());
  ASSERT_TRUE(listener_->Add("two", geteuid()).ok());
  Be("one");
  EXPECT_TRUE(hint::Phase("first"));
  Be("two");
  EXPECT_TRUE(hint::Phase("second"));
  EXPECT_TRUE(hint::Need(STARLING_MEMORY, 8e9, seconds(300)));
  EXPECT_TRUE(Heard("one", [](ComponentHints& h) { return h.phase() == "first"; }));
  EXPECT_TRUE(Heard("two", [](ComponentHints& h) {
    return h.phase() == "second" && h.needs(Resource::kMemory).open() == 1;
  }));
  {
    hint::NotNowScope scope(seconds(30));
    EXPECT_TRUE(Heard(
        "two", [](ComponentHints& h) { return h.NotNowLeft(Clock::now()) > Duration::zero(); }));
  }
  EXPECT_TRUE(Heard(
      "two", [](ComponentHints& h) { return h.NotNowLeft(Clock::now()) == Duration::zero(); }));
}

TEST_F(HintListenerTest, AComponentOutlivesItsAgent) {
  ASSERT_TRUE(listener_->Add("c", geteuid()).ok());
  Be("c");
  EXPECT_TRUE(hint::Phase("before"));
  const int open = OpenFiles();
  listener_.reset();
  EXPECT_EQ(starling_phase("gone"), -1);
  EXPECT_TRUE(errno == ECONNREFUSED || errno == ENOENT) << errno;
  Restart();
  ASSERT_TRUE(listener_->Add("c", geteuid()).ok());
  EXPECT_TRUE(hint::Phase("after"));
  EXPECT_TRUE(Heard("c", [](ComponentHints& h) { return h.phase() == "after"; }));
  EXPECT_EQ(OpenFiles(), open) << "something was held open between calls";
  listener_->Remove("c");
  EXPECT_FALSE(hint::Phase("removed"));
  unsetenv(STARLING_HINTS_VARIABLE);
  EXPECT_FALSE(hint::Phase("no component"));
  EXPECT_EQ(errno, ENOENT);
}

TEST_F(HintListenerTest, NeverBlocksAndLeavesOthersHeard) {
  ASSERT_TRUE(listener_->Add("loud", geteuid()).ok());
  ASSERT_TRUE(listener_->Add("quiet", geteuid()).ok());
  // Past the library: as fast as datagrams go.
  const std::string path = HintListener::PathOf(scratch_ / "hints", "loud");
  sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  std::strcpy(address.sun_path, path.c_str());
  std::jthread flood([&](const std::stop_token& stop) {
    const int fd = socket(AF_UNIX, SOCK_DGRAM, 0);
    const starling_wire hint = Hint(STARLING_WIRE_GOOD_MOMENT, 0, 1);
    const std::string large(4000, 'x');
    while (!stop.stop_requested()) {
      sendto(fd, &hint, sizeof(hint), MSG_DONTWAIT, reinterpret_cast<sockaddr*>(&address),
             sizeof(address));
      sendto(fd, large.data(), large.size(), MSG_DONTWAIT, reinterpret_cast<sockaddr*>(&address),
             sizeof(address));
    }
    close(fd);
  });
  Be("quiet");
  const Deadline deadline = Deadline::After(seconds(60));
  while (!hint::Phase("heard") && !deadline.Passed()) {
    std::this_thread::sleep_for(milliseconds(50));
  }
  EXPECT_TRUE(Heard("quiet", [](ComponentHints& h) { return h.phase() == "heard"; }));
  EXPECT_TRUE(Heard("loud", [](ComponentHints& h) { return h.refused() > 1000; }));
}

TEST_F(HintListenerTest, TheLibraryBoundsAndChecksItself) {
  ASSERT_TRUE(listener_->Add("c", geteuid()).ok());
  Be("c");
  EXPECT_EQ(starling_need(STARLING_CPU, NAN, 1), -1);
  EXPECT_EQ(errno, EINVAL);
  EXPECT_EQ(starling_need(static_cast<starling_resource>(9), 1, 1), -1);
  EXPECT_EQ(starling_not_now(61), -1);
  EXPECT_EQ(starling_phase(std::string(32, 'x').c_str()), -1);
  EXPECT_EQ(starling_phase(nullptr), -1);
  EXPECT_EQ(starling_activity(nullptr), -1);
  int handed_over = 0;
  const TimePoint started = Clock::now();
  for (int i = 0; i < 5000; ++i) handed_over += starling_good_moment(1) == 0;
  const double took_s = std::floor(Seconds(Clock::now() - started)) + 2;
  EXPECT_GT(handed_over, 0);
  EXPECT_LE(handed_over, took_s * STARLING_MOST_PER_S);
}

}  // namespace
}  // namespace starling::hints
