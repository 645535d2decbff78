// The witness's bookkeeping, alone and against a server that loses, garbles, refuses, pauses and
// hangs up to order.

#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/socket.h>

#include <fstream>
#include <functional>
#include <nlohmann/json.hpp>
#include <string>
#include <thread>

#include "absl/strings/str_format.h"
#include "tests/tools/faulty_redis.h"
#include "tools/witness/beat_log.h"
#include "tools/witness/clock.h"
#include "tools/witness/gap_recorder.h"
#include "tools/witness/heartbeat_listener.h"
#include "tools/witness/histogram.h"
#include "tools/witness/ledger.h"
#include "tools/witness/protocol.h"
#include "tools/witness/recovery.h"
#include "tools/witness/report.h"
#include "tools/witness/run.h"
#include "tools/witness/values.h"

namespace starling::witness {
namespace {

using Verdict = Ledger::Verdict;

TEST(HistogramTest, QuantilesAreWithinABucketOfTheTruth) {
  Histogram histogram;
  for (int64_t value = 1; value <= 100'000; ++value) histogram.Add(value * 1000);
  for (const double share : {0.01, 0.5, 0.9, 0.99, 0.999}) {
    const double truth = share * 100'000 * 1000;
    EXPECT_GE(static_cast<double>(histogram.Quantile(share)), truth);
    EXPECT_LE(static_cast<double>(histogram.Quantile(share)), truth * 1.017);
  }
  EXPECT_EQ(histogram.Quantile(1), 100'000'000);
  EXPECT_EQ(histogram.max_ns(), 100'000'000);
}

TEST(HistogramTest, HoldsTheSmallestAndTheAbsurd) {
  Histogram histogram;
  EXPECT_EQ(histogram.Quantile(0.5), 0);
  histogram.Add(0);
  EXPECT_EQ(histogram.Quantile(0.5), 0);
  histogram.Add(INT64_MAX);
  EXPECT_EQ(histogram.max_ns(), INT64_MAX);
  EXPECT_EQ(histogram.count(), 2u);
}

TEST(GapRecorderTest, KeepsTheLongestFirstWithTheNumbersAroundThem) {
  GapRecorder recorder(2);
  recorder.Arrive(50, 7);  // not yet recording: only its number is remembered
  recorder.Start(100);
  recorder.Arrive(110, 8);
  recorder.Arrive(160, 9);
  recorder.Arrive(165, 10);
  recorder.Arrive(365, 12);
  recorder.Finish(370);
  ASSERT_EQ(recorder.longest().size(), 2u);
  const Gap& longest = recorder.longest()[0];
  EXPECT_EQ(longest.length_ns, 200);
  EXPECT_EQ(longest.start_ns, 165);
  EXPECT_EQ(longest.before, 10u);
  EXPECT_EQ(longest.after, 12u);
  EXPECT_FALSE(longest.open);
  EXPECT_EQ(recorder.longest()[1].length_ns, 50);
  EXPECT_EQ(recorder.arrivals(), 4u);
}

TEST(GapRecorderTest, SilenceUntilTheEndIsAGapToo) {
  GapRecorder recorder;
  recorder.Start(0);
  recorder.Arrive(10, 1);
  recorder.Finish(1000);
  ASSERT_FALSE(recorder.longest().empty());
  EXPECT_EQ(recorder.longest()[0].length_ns, 990);
  EXPECT_TRUE(recorder.longest()[0].open);

  GapRecorder silent;
  silent.Start(0);
  silent.Finish(500);
  ASSERT_EQ(silent.longest().size(), 1u);
  EXPECT_EQ(silent.longest()[0].length_ns, 500);
}

TEST(BeatLogTest, CountsLostDuplicatedAndReorderedOfEachSender) {
  BeatLog log;
  for (const uint64_t number : {5, 6, 9, 8, 8, 10}) EXPECT_TRUE(log.Add(1, number));
  EXPECT_EQ(log.lost(), 1u);  // 7
  EXPECT_EQ(log.duplicated(), 1u);
  EXPECT_EQ(log.reordered(), 1u);
  EXPECT_EQ(log.senders(), 1u);
  EXPECT_TRUE(log.Add(2, 5));
  EXPECT_EQ(log.senders(), 2u);
  EXPECT_EQ(log.duplicated(), 1u);
  EXPECT_EQ(log.received(), 7u);
}

TEST(BeatLogTest, RejectsNumbersThatCannotBe) {
  BeatLog log;
  EXPECT_TRUE(log.Add(1, 100));
  EXPECT_FALSE(log.Add(1, UINT64_MAX));
  EXPECT_FALSE(log.Add(1, 99));
  EXPECT_EQ(log.lost(), 0u);
}

TEST(ValuesTest, DependOnSeedKeyAndNumberAlone) {
  EXPECT_EQ(MakeValue(1, 2, 3, 100), MakeValue(1, 2, 3, 100));
  EXPECT_NE(MakeValue(1, 2, 3, 100).substr(8), MakeValue(2, 2, 3, 100).substr(8));
  EXPECT_NE(MakeValue(1, 2, 3, 100).substr(8), MakeValue(1, 3, 3, 100).substr(8));
  EXPECT_NE(MakeValue(1, 2, 3, 100).substr(8), MakeValue(1, 2, 4, 100).substr(8));
  EXPECT_EQ(MakeValue(1, 2, 3, 100).size(), 100u);
  EXPECT_EQ(NumberIn(MakeValue(1, 2, 3, 100)), 3u);
  EXPECT_EQ(NumberIn("short"), std::nullopt);
}

class LedgerTest : public testing::Test {
 protected:
  uint64_t WriteAcknowledged(uint32_t key) {
    const uint64_t number = ledger_.BeginWrite(key);
    ledger_.Acknowledge(number);
    return number;
  }
  Verdict Judge(uint32_t key, const std::string& value) {
    return ledger_.Judge(key, ledger_.NewestSent(key), value);
  }

  Ledger ledger_{42, 8, 64};
};

TEST_F(LedgerTest, TheNewestAcknowledgedWriteIsRight) {
  WriteAcknowledged(3);
  const uint64_t newest = WriteAcknowledged(3);
  EXPECT_EQ(Judge(3, ledger_.Value(3, newest)), Verdict::kRight);
  EXPECT_EQ(ledger_.lost_writes(), 0u);
  EXPECT_EQ(ledger_.wrong_values(), 0u);
}

TEST_F(LedgerTest, AnOlderValueMeansThatEveryAcknowledgedWriteSinceIsLostOnce) {
  const uint64_t old = WriteAcknowledged(3);
  WriteAcknowledged(4);
  WriteAcknowledged(3);
  WriteAcknowledged(3);
  EXPECT_EQ(Judge(3, ledger_.Value(3, old)), Verdict::kLost);
  EXPECT_EQ(ledger_.lost_writes(), 2u);
  EXPECT_EQ(Judge(3, ledger_.Value(3, old)), Verdict::kLost);
  EXPECT_EQ(ledger_.lost_writes(), 2u);
}

TEST_F(LedgerTest, AMissingKeyHasLostAllItsWrites) {
  WriteAcknowledged(3);
  WriteAcknowledged(3);
  EXPECT_EQ(ledger_.Judge(3, ledger_.NewestSent(3), std::nullopt), Verdict::kLost);
  EXPECT_EQ(ledger_.lost_writes(), 2u);
  EXPECT_EQ(ledger_.Judge(5, 0, std::nullopt), Verdict::kRight);
}

TEST_F(LedgerTest, WritesThatWereNotAcknowledgedMayOrMayNotBeThere) {
  const uint64_t old = WriteAcknowledged(3);
  const uint64_t unsure = ledger_.BeginWrite(3);
  EXPECT_EQ(Judge(3, ledger_.Value(3, old)), Verdict::kRight);
  EXPECT_EQ(Judge(3, ledger_.Value(3, unsure)), Verdict::kRight);
  EXPECT_EQ(ledger_.lost_writes(), 0u);
}

TEST_F(LedgerTest, AReadMustNotSeeWhatWasWrittenAfterIt) {
  const uint64_t old = WriteAcknowledged(3);
  const uint64_t newer = WriteAcknowledged(3);
  EXPECT_EQ(ledger_.Judge(3, old, ledger_.Value(3, old)), Verdict::kRight);
  EXPECT_EQ(ledger_.Judge(3, old, ledger_.Value(3, newer)), Verdict::kWrong);
}

TEST_F(LedgerTest, AnythingElseIsWrong) {
  const uint64_t other = WriteAcknowledged(4);
  const uint64_t newest = WriteAcknowledged(3);
  std::string garbled = ledger_.Value(3, newest);
  garbled[40] = static_cast<char>(garbled[40] + 1);
  EXPECT_EQ(Judge(3, garbled), Verdict::kWrong);
  EXPECT_EQ(Judge(3, ledger_.Value(4, other)), Verdict::kWrong);
  EXPECT_EQ(Judge(3, ledger_.Value(3, newest).substr(0, 63)), Verdict::kWrong);
  EXPECT_EQ(Judge(3, ""), Verdict::kWrong);
  EXPECT_EQ(ledger_.wrong_values(), 4u);
  EXPECT_EQ(ledger_.lost_writes(), 0u);
}

struct ParseCase {
  std::string bytes;
  Answer::Kind kind;
  std::string payload;
};

// Every prefix must be incomplete, the whole must parse, and what follows must be left alone.
void ExpectParses(const Protocol& protocol, const ParseCase& expected) {
  for (size_t size = 0; size < expected.bytes.size(); ++size) {
    const auto answer = protocol.Parse(absl::string_view(expected.bytes).substr(0, size));
    ASSERT_TRUE(answer.ok()) << answer.status();
    EXPECT_EQ(answer->kind, Answer::Kind::kIncomplete) << size << " bytes of " << expected.bytes;
  }
  const std::string followed = expected.bytes + "+OK\r\n";
  const auto answer = protocol.Parse(followed);
  ASSERT_TRUE(answer.ok()) << answer.status();
  EXPECT_EQ(answer->kind, expected.kind) << expected.bytes;
  EXPECT_EQ(answer->payload, expected.payload);
  EXPECT_EQ(answer->consumed, expected.bytes.size());
}

TEST(ProtocolTest, Redis) {
  const auto redis = MakeRedis();
  for (const ParseCase& expected : {ParseCase{"+OK\r\n", Answer::Kind::kStored, ""},
                                    ParseCase{"$-1\r\n", Answer::Kind::kMissing, ""},
                                    ParseCase{"$4\r\na\r\nb\r\n", Answer::Kind::kValue, "a\r\nb"},
                                    ParseCase{"-OOM no\r\n", Answer::Kind::kRefused, "OOM no"}}) {
    ExpectParses(*redis, expected);
  }
  EXPECT_FALSE(redis->Parse("HTTP/1.1 200 OK\r\n").ok());
  EXPECT_FALSE(redis->Parse("$99999999999999\r\n").ok());
  EXPECT_FALSE(redis->Parse("$x\r\n").ok());
}

TEST(ProtocolTest, Memcached) {
  const auto memcached = MakeMemcached();
  for (const ParseCase& expected :
       {ParseCase{"STORED\r\n", Answer::Kind::kStored, ""},
        ParseCase{"END\r\n", Answer::Kind::kMissing, ""},
        ParseCase{"VALUE k:1 0 4\r\na\r\nb\r\nEND\r\n", Answer::Kind::kValue, "a\r\nb"},
        ParseCase{"SERVER_ERROR out of memory\r\n", Answer::Kind::kRefused,
                  "SERVER_ERROR out of memory"}}) {
    ExpectParses(*memcached, expected);
  }
  EXPECT_FALSE(memcached->Parse("VALUE k 0 1\r\nabcdefghijklmnop").ok());
}

TEST(ProtocolTest, Http) {
  const auto http = MakeHttp("10.77.0.50:80");
  for (const ParseCase& expected :
       {ParseCase{"HTTP/1.1 200 OK\r\nServer: x\r\ncontent-length: 3\r\n\r\nabc",
                  Answer::Kind::kValue, "abc"},
        ParseCase{"HTTP/1.1 404 Not Found\r\nContent-Length: 2\r\n\r\nno", Answer::Kind::kMissing,
                  ""}}) {
    ExpectParses(*http, expected);
  }
  EXPECT_FALSE(http->Parse("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").ok());
  EXPECT_FALSE(http->Parse("SSH-2.0-OpenSSH\r\n\r\n").ok());
}

// A request every 5 ms from second 0 on, each answered after 1 ms, but for what `took_ms` says.
std::vector<Reply> Replies(double seconds, const std::function<double(double)>& took_ms) {
  std::vector<Reply> replies;
  for (int i = 0; i * 0.005 < seconds; ++i) {
    replies.push_back({i * 5 * kNsPerMs,
                       static_cast<int64_t>(took_ms(i * 0.005) * static_cast<double>(kNsPerMs))});
  }
  return replies;
}

TEST(RecoveryTest, IsFromTheGapToTheFirstSecondThatIsAsBefore) {
  // Stopped from 10 to 10.4 s, slow for two seconds more, a little slower for good.
  const auto replies = Replies(20, [](double at) {
    if (at >= 10 && at < 10.4) return (10.4 - at) * 1000 + 1;
    return at < 10 ? 1.0 : at < 12.4 ? 5.0 : 1.9;
  });
  const auto recovery = Recover(replies, 0, 9 * kNsPerSecond, 20 * kNsPerSecond);
  ASSERT_TRUE(recovery.has_value());
  EXPECT_EQ(recovery->p99_before_ns, kNsPerMs);
  // The last answer before it came 1 ms after the request due at 9.995 s.
  EXPECT_NEAR(ToSeconds(recovery->gap_start_ns), 9.996, 1e-6);
  EXPECT_NEAR(ToMs(recovery->gap_ns), 405, 0.01);
  ASSERT_TRUE(recovery->p99_back_ns.has_value());
  // A second of 200 requests may have two slow ones: it begins 10 ms before 12.4 s.
  EXPECT_NEAR(ToSeconds(*recovery->p99_back_ns), 12.39 - 9.996, 1e-6);
}

TEST(RecoveryTest, WhatStaysSlowIsNotBack) {
  const auto replies = Replies(20, [](double at) { return at < 10 ? 1.0 : 2.1; });
  auto recovery = Recover(replies, 0, 10 * kNsPerSecond, 20 * kNsPerSecond);
  ASSERT_TRUE(recovery.has_value());
  EXPECT_FALSE(recovery->p99_back_ns.has_value());
  // Fast again, but not for a whole second before the end.
  const auto late =
      Replies(20, [](double at) { return at < 10 || at > 19.5 ? 1.0 : 2.1; });
  recovery = Recover(late, 0, 10 * kNsPerSecond, 20 * kNsPerSecond);
  ASSERT_TRUE(recovery.has_value());
  EXPECT_FALSE(recovery->p99_back_ns.has_value());
}

TEST(RecoveryTest, WhatIsNotFeltIsBackAtOnce) {
  const auto replies = Replies(20, [](double) { return 1.0; });
  const auto recovery = Recover(replies, 0, 10 * kNsPerSecond, 20 * kNsPerSecond);
  ASSERT_TRUE(recovery.has_value());
  ASSERT_TRUE(recovery->p99_back_ns.has_value());
  EXPECT_LT(*recovery->p99_back_ns, 5 * kNsPerMs);
}

TEST(RecoveryTest, TooFewRepliesTellNothing) {
  const auto replies = Replies(20, [](double) { return 1.0; });
  EXPECT_FALSE(Recover(replies, 0, kNsPerSecond / 4, 20 * kNsPerSecond).has_value());
  EXPECT_FALSE(Recover(replies, 0, 20 * kNsPerSecond, 20 * kNsPerSecond).has_value());
  EXPECT_FALSE(Recover({}, 0, kNsPerSecond, 2 * kNsPerSecond).has_value());
}

TEST(RecoveryTest, EventsAreLinesOfTimeAndName) {
  const auto events = ParseEvents("1.5 the first move\n\n2 back\n");
  ASSERT_TRUE(events.ok()) << events.status();
  ASSERT_EQ(events->size(), 2u);
  EXPECT_EQ((*events)[0].at_ns, 1500 * kNsPerMs);
  EXPECT_EQ((*events)[0].name, "the first move");
  EXPECT_EQ((*events)[1].name, "back");
  for (const char* wrong : {"soon", "-1 x", "nan x", "2 b\n1 a", "1e300 x"}) {
    EXPECT_FALSE(ParseEvents(wrong).ok()) << wrong;
  }
}

class WitnessTest : public testing::Test {
 protected:
  WitnessTest() {
    options_.rate_per_s = 2000;
    options_.duration_s = 0.5;
    options_.warmup_s = 0;
    options_.keys = 50;
    options_.value_bytes = 64;
    options_.drain_timeout_s = 2;
    sigemptyset(&mask_);
  }

  Result Watch(const RedisFaults& faults) {
    FaultyRedis server(faults);
    options_.server = server.endpoint();
    const auto redis = MakeRedis();
    const volatile sig_atomic_t stop = 0;
    auto result = witness::Run(options_, *redis, &stop, mask_, [] {});
    EXPECT_TRUE(result.ok()) << result.status();
    return result.ok() ? *std::move(result) : Result{};
  }

  Options options_;
  sigset_t mask_;
};

TEST_F(WitnessTest, AFaultlessServerIsFlawless) {
  options_.preload = true;
  const Result result = Watch({});
  EXPECT_TRUE(result.Flawless()) << ToText(result);
  ASSERT_TRUE(result.client.has_value());
  EXPECT_GT(result.client->writes, 0u);
  EXPECT_GT(result.client->reads, 0u);
  EXPECT_EQ(result.client->answers, result.client->writes + result.client->reads);
  EXPECT_EQ(result.verified_values, 50u);
  EXPECT_EQ(result.writes_acknowledged, result.client->writes + 50);
}

TEST_F(WitnessTest, AnAcknowledgedWriteThatWasNotDoneIsLost) {
  // The write that is forgotten is the last to its key, so that only the reading back at the end
  // can find it.
  options_.preload = true;
  options_.read_share = 1;
  const Result result = Watch({.forget_write = 17});
  EXPECT_EQ(result.lost_writes, 1u);
  EXPECT_EQ(result.wrong_values, 0u);
  EXPECT_FALSE(result.Flawless());
}

TEST_F(WitnessTest, ALostWriteIsFoundAlthoughItIsOverwrittenLater) {
  options_.preload = true;
  options_.keys = 2;
  options_.read_share = 0.9;  // so that a read comes between the write and the next one to its key
  const Result result = Watch({.forget_write = 20});
  EXPECT_EQ(result.lost_writes, 1u) << ToText(result);
}

TEST_F(WitnessTest, AGarbledValueIsWrong) {
  const Result result = Watch({.garble_read = 5});
  EXPECT_EQ(result.wrong_values, 1u);
  EXPECT_EQ(result.lost_writes, 0u);
  EXPECT_FALSE(result.Flawless());
}

TEST_F(WitnessTest, AnotherKeysValueIsWrong) {
  options_.preload = true;
  const Result result = Watch({.swap_read = 5});
  EXPECT_EQ(result.wrong_values, 1u);
  EXPECT_EQ(result.lost_writes, 0u);
}

TEST_F(WitnessTest, ARefusedWriteIsNeitherAcknowledgedNorLost) {
  const Result result = Watch({.refuse_write = 3});
  ASSERT_TRUE(result.client.has_value());
  EXPECT_EQ(result.client->refused, 1u);
  EXPECT_EQ(result.client->first_refusal, "OOM command not allowed");
  EXPECT_EQ(result.lost_writes, 0u);
  EXPECT_FALSE(result.Flawless());
}

TEST_F(WitnessTest, ABrokenConnectionStaysBrokenAndTheDataIsCheckedOverANewOne) {
  const Result result = Watch({.close_after = 100});
  EXPECT_EQ(result.broken_connections, 1u);
  EXPECT_TRUE(result.verified_over_new_connection);
  EXPECT_EQ(result.lost_writes, 0u);
  EXPECT_EQ(result.unverified_values, 0u);
  EXPECT_GT(result.unanswered, 0u);
  ASSERT_TRUE(result.client.has_value());
  // 2,000 requests a second: had it reconnected, hundreds more would have been answered.
  EXPECT_EQ(result.client->answers, 99u);
  EXPECT_TRUE(result.client->answer_gaps.longest()[0].open);
}

TEST_F(WitnessTest, AServerThatComesBackEmptyHasLostEverything) {
  const Result result = Watch({.close_after = 100, .forget_all_on_close = true});
  EXPECT_EQ(result.broken_connections, 1u);
  EXPECT_EQ(result.lost_writes, result.writes_acknowledged);
  EXPECT_GT(result.lost_writes, 0u);
}

TEST_F(WitnessTest, AServerThatStaysAwayLeavesEverythingUnverified) {
  const Result result = Watch({.close_after = 100, .stay_closed = true});
  EXPECT_GT(result.unverified_values, 0u);
  EXPECT_EQ(result.verified_values, 0u);
  EXPECT_FALSE(result.Flawless());
}

TEST_F(WitnessTest, APauseShowsInTheGapAndInTheLatencyOfWhatWasScheduledMeanwhile) {
  const Result result = Watch({.pause_at = 300, .pause_ms = 200});
  EXPECT_TRUE(result.Flawless()) << ToText(result);
  ASSERT_TRUE(result.client.has_value());
  const ClientStatistics& client = *result.client;
  EXPECT_GE(client.answer_gaps.longest()[0].length_ns, 190 * kNsPerMs);
  EXPECT_GE(client.latency.max_ns(), 190 * kNsPerMs);
  // 0.2 s of 0.5 s: a tenth of the requests was scheduled at least 150 ms before the pause ended. A
  // client that waits for an answer before it asks again would have seen a single slow request.
  EXPECT_GE(client.latency.Quantile(0.99), 100 * kNsPerMs);
}

TEST_F(WitnessTest, WhatIsNotTheProtocolBreaksTheConnection) {
  const Result result = Watch({.babble = true});
  EXPECT_EQ(result.broken_connections, 1u);
  EXPECT_NE(result.connection_error.find("ESMTP"), std::string::npos) << result.connection_error;
}

TEST_F(WitnessTest, NobodyThereIsAnErrorOfTheSetUp) {
  options_.server = Endpoint{INADDR_LOOPBACK, 1};
  options_.ready_timeout_s = 0.2;
  const auto redis = MakeRedis();
  const volatile sig_atomic_t stop = 0;
  const auto result = witness::Run(options_, *redis, &stop, mask_, [] {});
  ASSERT_FALSE(result.ok());
  EXPECT_NE(result.status().message().find("127.0.0.1:1"), std::string::npos) << result.status();
}

TEST_F(WitnessTest, TheJsonCarriesTheVerdict) {
  const Result result = Watch({.garble_read = 5});
  const auto json = nlohmann::json::parse(ToJson(result));
  EXPECT_EQ(json.at("schema"), 1);
  EXPECT_EQ(json.at("wrong_values"), 1);
  EXPECT_EQ(json.at("lost_writes"), 0);
  EXPECT_EQ(json.at("flawless"), false);
  EXPECT_GT(json.at("answer_gaps").at("gaps").size(), 0u);
}

TEST_F(WitnessTest, TellsWhatWasFeltOfAnEvent) {
  options_.duration_s = 3;
  options_.events_file = testing::TempDir() + "/witness-events";
  // The server pauses at its 2,000th answer, a second after the start.
  std::ofstream(options_.events_file)
      << absl::StrFormat("%.6f pause\n", ToSeconds(Now()) + 0.5);
  const Result result = Watch({.pause_at = 2000, .pause_ms = 300});
  ASSERT_EQ(result.events.size(), 1u);
  ASSERT_TRUE(result.events[0].second.has_value()) << ToText(result);
  EXPECT_GE(result.events[0].second->gap_ns, 290 * kNsPerMs);
  const auto json = nlohmann::json::parse(ToJson(result));
  EXPECT_EQ(json.at("events").at(0).at("name"), "pause");
  EXPECT_GE(json.at("events").at(0).at("gap_ms"), 290);
  EXPECT_TRUE(json.at("events").at(0).contains("p99_back_s"));
  unlink(options_.events_file.c_str());
}

TEST(HeartbeatListenerTest, HearsBeatsAndNothingElse) {
  constexpr uint16_t kPort = 47391;
  auto listener = HeartbeatListener::Open(kPort);
  ASSERT_TRUE(listener.ok()) << listener.status();
  (*listener)->StartRecording();
  const Socket sender(socket(AF_INET, SOCK_DGRAM, 0));
  sockaddr_in address = {};
  address.sin_family = AF_INET;
  address.sin_port = htons(kPort);
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  ASSERT_EQ(connect(sender.fd(), reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
  for (const uint64_t number : {1, 2, 2, 4}) {
    const Beat beat = {kBeatMagic, 9, number};
    ASSERT_EQ(send(sender.fd(), &beat, sizeof beat, 0), static_cast<ssize_t>(sizeof beat));
  }
  ASSERT_EQ(send(sender.fd(), "noise", 5, 0), 5);
  const Beat last = {kBeatMagic, 9, 5};
  ASSERT_EQ(send(sender.fd(), &last, sizeof last, 0), static_cast<ssize_t>(sizeof last));
  const int64_t deadline = Now() + 10 * kNsPerSecond;
  while ((*listener)->heard() < 5 && Now() < deadline) std::this_thread::yield();
  const HeartbeatListener::Seen seen = (*listener)->Finish();
  EXPECT_EQ(seen.beats.received(), 5u);
  EXPECT_EQ(seen.beats.duplicated(), 1u);
  EXPECT_EQ(seen.beats.lost(), 1u);
  EXPECT_EQ(seen.foreign, 1u);
}

}  // namespace
}  // namespace starling::witness
