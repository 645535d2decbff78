#include "runtime/migration/fetch_order.h"

#include <gtest/gtest.h>

#include <vector>

#include "checkpoint/page_stream.h"

namespace starling::migration {
namespace {

using checkpoint::kPageSize;
using checkpoint::SlotRange;

// Ten pieces of four pages: the first offered has the last slots.
std::vector<FetchOrder::Piece> Pieces() {
  std::vector<FetchOrder::Piece> pieces;
  for (uint64_t i = 0; i < 10; ++i) pieces.push_back({(9 - i) * 4, 4, i * 4 * kPageSize});
  return pieces;
}

std::vector<size_t> Take(FetchOrder& order, uint64_t most_pages) {
  std::vector<size_t> taken = order.Next(most_pages);
  order.Landed(taken);
  return taken;
}

TEST(FetchOrderTest, ReadsAdjacentPiecesTogetherInTheOrderOfTheOffer) {
  const std::vector<SlotRange> missing = {{0, 40}};
  FetchOrder order(Pieces(), missing);
  EXPECT_TRUE(order.complete());
  EXPECT_EQ(order.pages_left(), 40u);
  EXPECT_EQ(order.Next(12), (std::vector<size_t>{0, 1, 2}));
  EXPECT_EQ(Take(order, 12), (std::vector<size_t>{0, 1, 2}));  // until it has landed
  EXPECT_EQ(Take(order, 12), (std::vector<size_t>{3, 4, 5}));
  EXPECT_EQ(Take(order, 1), (std::vector<size_t>{6}));  // one at least
  EXPECT_EQ(Take(order, 100), (std::vector<size_t>{7, 8, 9}));
  EXPECT_TRUE(order.Next(100).empty());
  EXPECT_EQ(order.pages_left(), 0u);
}

TEST(FetchOrderTest, WantedPiecesComeFirstThenWhatLiesBehindThem) {
  const std::vector<SlotRange> missing = {{0, 40}};
  FetchOrder order(Pieces(), missing);
  EXPECT_EQ(Take(order, 4), (std::vector<size_t>{0}));
  order.Want({9, 1});  // in the piece of slots 8 to 11
  EXPECT_EQ(Take(order, 4), (std::vector<size_t>{7}));
  EXPECT_EQ(Take(order, 4), (std::vector<size_t>{6}));
  EXPECT_EQ(Take(order, 4), (std::vector<size_t>{5}));
  EXPECT_EQ(Take(order, 4), (std::vector<size_t>{4}));
  EXPECT_EQ(Take(order, 4), (std::vector<size_t>{3}));
  EXPECT_EQ(Take(order, 100), (std::vector<size_t>{1, 2}));
  // What is there already is not fetched again.
  order.Want({8, 8});
  EXPECT_EQ(Take(order, 100), (std::vector<size_t>{8, 9}));
  EXPECT_TRUE(order.Next(100).empty());
}

TEST(FetchOrderTest, WantedAcrossPiecesIsFetchedWhole) {
  const std::vector<SlotRange> missing = {{0, 40}};
  FetchOrder order(Pieces(), missing);
  order.Want({10, 5});  // slots 10 to 14: two pieces
  EXPECT_EQ(Take(order, 4), (std::vector<size_t>{7}));
  EXPECT_EQ(Take(order, 4), (std::vector<size_t>{6}));
}

TEST(FetchOrderTest, WithAWantedPieceComesWhatFollowsItInTheOffer) {
  const std::vector<SlotRange> missing = {{0, 40}};
  FetchOrder order(Pieces(), missing);
  order.Want({20, 1});
  EXPECT_EQ(Take(order, 12), (std::vector<size_t>{4, 5, 6}));
}

TEST(FetchOrderTest, OnlyWhatIsMissingIsFetched) {
  const std::vector<SlotRange> missing = {{8, 4}, {20, 2}};
  FetchOrder order(Pieces(), missing);
  EXPECT_TRUE(order.complete());
  EXPECT_EQ(order.pages_left(), 8u);
  EXPECT_EQ(Take(order, 100), (std::vector<size_t>{4}));
  EXPECT_EQ(Take(order, 100), (std::vector<size_t>{7}));
  EXPECT_TRUE(order.Next(100).empty());
}

TEST(FetchOrderTest, KnowsWhatIsNotOffered) {
  const std::vector<SlotRange> missing = {{38, 4}};
  EXPECT_FALSE(FetchOrder(Pieces(), missing).complete());
}

}  // namespace
}  // namespace starling::migration
