#include "tools/starling/exit_code.h"

#include <gtest/gtest.h>

#include "absl/strings/str_cat.h"
#include "base/file.h"

namespace starling::cli {
namespace {

using absl::StatusCode;

TEST(ExitCode, IsThatOfTheAgentsWord) {
  const std::pair<StatusCode, int> table[] = {
      {StatusCode::kOk, 0},
      {StatusCode::kInvalidArgument, 2},
      {StatusCode::kOutOfRange, 2},
      {StatusCode::kNotFound, 3},
      {StatusCode::kAlreadyExists, 4},
      {StatusCode::kFailedPrecondition, 4},
      {StatusCode::kResourceExhausted, 4},
      {StatusCode::kAborted, 5},
      {StatusCode::kUnknown, 6},
      {StatusCode::kPermissionDenied, 8},
      {StatusCode::kUnauthenticated, 8},
      {StatusCode::kUnavailable, 9},
      {StatusCode::kInternal, 1},
      {StatusCode::kDataLoss, 1},
      {StatusCode::kDeadlineExceeded, 1},
      {StatusCode::kCancelled, 1},
      {StatusCode::kUnimplemented, 1},
      {static_cast<StatusCode>(99), 1},
  };
  for (const auto& [code, exit] : table) {
    EXPECT_EQ(static_cast<int>(ExitCodeOf(code, true)), exit) << absl::StatusCodeToString(code);
  }
}

TEST(ExitCode, ABrokenConnectionIsNoWordOfTheAgent) {
  for (const StatusCode code : {StatusCode::kUnavailable, StatusCode::kUnknown,
                                StatusCode::kCancelled, StatusCode::kInternal}) {
    EXPECT_EQ(ExitCodeOf(code, false), ExitCode::kAgentUnreachable);
  }
  EXPECT_EQ(ExitCodeOf(StatusCode::kDeadlineExceeded, false), ExitCode::kFailed);
}

TEST(ExitCode, AMigrationsLastStepOverrulesItsStatus) {
  EXPECT_EQ(MigrationExitCode(v1::DONE, StatusCode::kUnavailable, false), ExitCode::kOk);
  EXPECT_EQ(MigrationExitCode(v1::CALLED_OFF, StatusCode::kOk, true), ExitCode::kCalledOff);
  EXPECT_EQ(MigrationExitCode(v1::COMMIT, StatusCode::kUnknown, true), ExitCode::kInDoubt);
  EXPECT_EQ(MigrationExitCode(v1::COMMIT, StatusCode::kUnknown, false),
            ExitCode::kAgentUnreachable);
  EXPECT_EQ(MigrationExitCode(v1::PRECOPY, StatusCode::kOk, true), ExitCode::kFailed);
  EXPECT_EQ(MigrationExitCode(v1::STEP_UNSPECIFIED, StatusCode::kFailedPrecondition, true),
            ExitCode::kRefused);
}

TEST(ExitCode, EachIsDocumented) {
  const auto document = ReadFile(absl::StrCat(STARLING_SOURCE_DIR, "/docs/cli.md"));
  ASSERT_TRUE(document.ok()) << document.status();
  for (const ExitCode code :
       {ExitCode::kOk, ExitCode::kFailed, ExitCode::kUsage, ExitCode::kNotFound, ExitCode::kRefused,
        ExitCode::kCalledOff, ExitCode::kInDoubt, ExitCode::kAgentUnreachable,
        ExitCode::kNotPermitted, ExitCode::kPeerUnreachable, ExitCode::kInterrupted}) {
    EXPECT_NE(document->find(absl::StrCat("\n| ", static_cast<int>(code), " | ")),
              std::string::npos)
        << static_cast<int>(code);
  }
}

}  // namespace
}  // namespace starling::cli
