#include "runtime/loop/past_moves.h"

#include <gtest/gtest.h>

#include <cmath>

#include "base/file.h"
#include "base/units.h"
#include "tests/runtime/scratch.h"

namespace starling::loop {
namespace {

v1::MigrationReport Report() {
  v1::MigrationReport report;
  report.set_migration_id("01");
  report.set_component("redis");
  report.set_to("node2");
  v1::PageRound* first = report.add_page_rounds();
  first->set_number(1);
  first->set_pages(20000);
  first->set_zero_pages(5600);
  first->set_rate_bytes_per_s(50e6);
  first->set_dirty_bytes_per_s(1e6);
  report.add_page_rounds()->set_number(0);
  report.set_wire_bytes(120 * kMiB);
  report.set_total_s(4);
  report.set_held_s(0.8);
  return report;
}

TEST(PastMoves, LearnsFromReportsAndKeepsThem) {
  Scratch scratch(InMemory());
  {
    PastMoves moves(scratch / "moves.json");
    EXPECT_NEAR(moves.Expect("redis", 100.0 * kMiB).blackout_s, 0.3, 0.01) << "a guess";
    ASSERT_TRUE(moves.Learn(Report()).ok());
    EXPECT_DOUBLE_EQ(moves.link_bytes_per_s(), 50e6);
  }
  PastMoves moves(scratch / "moves.json");
  EXPECT_DOUBLE_EQ(moves.link_bytes_per_s(), 50e6);
  const decisions::MoveCost cost = moves.Expect("redis", 100.0 * kMiB);
  EXPECT_NEAR(cost.blackout_s, 0.8, 0.01);
  EXPECT_GT(cost.bytes, 100.0 * kMiB);
  EXPECT_GT(cost.total_s, 2);
}

TEST(PastMoves, DoesNotLearnFromWhatWasCalledOff) {
  Scratch scratch(InMemory());
  PastMoves moves(scratch / "moves.json");
  v1::MigrationReport report = Report();
  report.set_error("called off");
  ASSERT_TRUE(moves.Learn(report).ok());
  decisions::PastMove move;
  EXPECT_FALSE(FromReport(report, move));
  EXPECT_FALSE(FromReport(v1::MigrationReport(), move));
  EXPECT_FALSE(ReadFile(scratch / "moves.json").ok());
}

google::protobuf::RepeatedPtrField<v1::MoveTaken> Said(const PastMoves& moves,
                                                       const std::string& host) {
  google::protobuf::RepeatedPtrField<v1::MoveTaken> said;
  for (v1::MoveTaken& move : moves.Last(host)) *said.Add() = std::move(move);
  return said;
}

// The host that a component came to sent it on as if that took 0.3 s, whatever it had taken.
TEST(PastMoves, KnowsOfWhatCameByWhereItCameFrom) {
  Scratch scratch(InMemory());
  PastMoves source(scratch / "source.json");
  ASSERT_TRUE(source.Learn(Report()).ok());
  EXPECT_TRUE(source.Last("node3").empty());
  EXPECT_TRUE(source.Last("").empty());
  {
    PastMoves target(scratch / "target.json");
    ASSERT_TRUE(target.Hear("node1", Said(source, "node2")).ok());
    EXPECT_NEAR(target.Expect("redis", 100.0 * kMiB).blackout_s, 0.8, 0.01);
    EXPECT_EQ(target.WrittenPerSecond("redis"), 1e6);
    EXPECT_TRUE(target.Last("node1").empty()) << "it did not go there";
  }
  // Known already, also by an agent that was started again: each counts once.
  PastMoves target(scratch / "target.json");
  ASSERT_TRUE(RemoveTree(scratch / "target.json").ok());
  ASSERT_TRUE(target.Hear("node1", Said(source, "node2")).ok());
  EXPECT_FALSE(ReadFile(scratch / "target.json").ok());
  // The next move of it is news again.
  v1::MigrationReport next = Report();
  next.set_migration_id("02");
  next.set_held_s(1.8);
  ASSERT_TRUE(source.Learn(next).ok());
  ASSERT_EQ(source.Last("node2").size(), 1U);
  ASSERT_TRUE(target.Hear("node1", Said(source, "node2")).ok());
  EXPECT_GT(target.Expect("redis", 100.0 * kMiB).blackout_s, 1);
}

TEST(PastMoves, PassesOverWhatIsSaidAndCannotBe) {
  Scratch scratch(InMemory());
  PastMoves source(scratch / "source.json");
  ASSERT_TRUE(source.Learn(Report()).ok());
  const v1::MoveTaken good = source.Last("node2").at(0);
  PastMoves target(scratch / "target.json");
  const auto refused = [&](auto&& spoil) {
    google::protobuf::RepeatedPtrField<v1::MoveTaken> said;
    *said.Add() = good;
    spoil(*said.Mutable(0));
    ASSERT_TRUE(target.Hear("node1", said).ok());
    EXPECT_FALSE(ReadFile(scratch / "target.json").ok()) << said.Get(0).ShortDebugString();
  };
  refused([](v1::MoveTaken& move) { move.set_component("../x"); });
  refused([](v1::MoveTaken& move) { move.set_component(""); });
  refused([](v1::MoveTaken& move) { move.set_migration_id("no id"); });
  refused([](v1::MoveTaken& move) { move.set_blackout_s(-1); });
  refused([](v1::MoveTaken& move) { move.set_blackout_s(std::nan("")); });
  refused([](v1::MoveTaken& move) { move.set_memory_bytes(1e300); });
}

TEST(PastMoves, KeepsABoundedNumber) {
  Scratch scratch(InMemory());
  PastMoves moves(scratch / "moves.json");
  for (size_t i = 0; i < PastMoves::kMost + 20; ++i) ASSERT_TRUE(moves.Learn(Report()).ok());
  const auto text = ReadFile(scratch / "moves.json");
  ASSERT_TRUE(text.ok());
  size_t count = 0;
  for (size_t at = text->find("redis"); at != std::string::npos; at = text->find("redis", at + 1)) {
    ++count;
  }
  EXPECT_EQ(count, PastMoves::kMost);
}

TEST(PastMoves, PassesOverDamage) {
  Scratch scratch(InMemory());
  for (const char* text :
       {"", "nonsense", "[1]", "{\"schema\":1,\"moves\":[1,{\"total_s\":\"x\"}]}",
        "{\"schema\":1,\"moves\":[{\"link_bytes_per_s\":-1}]}"}) {
    ASSERT_TRUE(WriteFileAtomic(scratch / "moves.json", text).ok());
    PastMoves moves(scratch / "moves.json");
    EXPECT_GT(moves.link_bytes_per_s(), 0) << text;
  }
}

}  // namespace
}  // namespace starling::loop
