#include "runtime/migration/progress.h"

#include <gtest/gtest.h>

#include <thread>

namespace starling::migration {
namespace {

TEST(ProgressBoard, GivesEachWatcherTheNewestAndTheLast) {
  ProgressBoard board({});
  uint64_t version = 0;
  v1::MigrationProgress progress;
  EXPECT_TRUE(board.WaitNewer(version, progress, Deadline::Never()));
  board.Update([](v1::MigrationProgress& p) { p.set_round(1); });
  board.Update([](v1::MigrationProgress& p) { p.set_round(2); });
  EXPECT_TRUE(board.WaitNewer(version, progress, Deadline::Never()));
  EXPECT_EQ(progress.round(), 2u);
  const uint64_t seen = version;
  EXPECT_TRUE(board.WaitNewer(version, progress, Deadline::After(std::chrono::milliseconds(1))));
  EXPECT_EQ(version, seen);
  board.Finish([](v1::MigrationProgress& p) { p.set_step(v1::DONE); });
  EXPECT_TRUE(board.WaitNewer(version, progress, Deadline::Never()));
  EXPECT_EQ(progress.step(), v1::DONE);
  EXPECT_FALSE(board.WaitNewer(version, progress, Deadline::Never()));
}

TEST(ProgressBoard, WakesAWatcherFromAnotherThread) {
  ProgressBoard board({});
  std::thread writer(
      [&] { board.Finish([](v1::MigrationProgress& p) { p.set_step(v1::CALLED_OFF); }); });
  EXPECT_EQ(board.WaitFinished().step(), v1::CALLED_OFF);
  writer.join();
  EXPECT_TRUE(board.finished());
}

}  // namespace
}  // namespace starling::migration
