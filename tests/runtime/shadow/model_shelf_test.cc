#include "runtime/shadow/model_shelf.h"

#include <gtest/gtest.h>

#include "base/file.h"
#include "tests/runtime/scratch.h"

namespace starling::shadow {
namespace {

TEST(ModelShelf, KeepsModelsOverARestart) {
  Scratch scratch(InMemory());
  {
    const auto shelf = ModelShelf::Open(scratch / "models");
    ASSERT_TRUE(shelf.ok()) << shelf.status();
    ASSERT_TRUE((*shelf)->Put("redis", {"one", "two"}).ok());
    ASSERT_TRUE((*shelf)->Put("web", {"three"}).ok());
    ASSERT_TRUE((*shelf)->Flush().ok());
    ASSERT_TRUE((*shelf)->Put("late", {"not flushed"}).ok());
  }
  const auto shelf = ModelShelf::Open(scratch / "models");
  ASSERT_TRUE(shelf.ok());
  EXPECT_EQ((*shelf)->Get("redis"), (ModelShelf::Models{"one", "two"}));
  EXPECT_EQ((*shelf)->Get("web"), ModelShelf::Models{"three"});
  EXPECT_TRUE((*shelf)->Get("late").empty());
}

TEST(ModelShelf, ForgetsWhatIsGone) {
  Scratch scratch(InMemory());
  const auto shelf = ModelShelf::Open(scratch.path());
  ASSERT_TRUE(shelf.ok());
  ASSERT_TRUE((*shelf)->Put("redis", {"one"}).ok());
  ASSERT_TRUE((*shelf)->Put("web", {"two"}).ok());
  ASSERT_TRUE((*shelf)->Flush().ok());
  (*shelf)->KeepOnly([](const std::string& name) { return name == "web"; });
  EXPECT_TRUE((*shelf)->Get("redis").empty());
  EXPECT_FALSE((*shelf)->Get("web").empty());
  EXPECT_FALSE(ReadFile(scratch / "redis.models").ok());
  EXPECT_TRUE(ReadFile(scratch / "web.models").ok());
}

TEST(ModelShelf, IsOfBoundedSize) {
  Scratch scratch(InMemory());
  const auto shelf = ModelShelf::Open(scratch.path());
  ASSERT_TRUE(shelf.ok());
  EXPECT_EQ((*shelf)->Put("a", ModelShelf::Models(17, "x")).code(),
            absl::StatusCode::kInvalidArgument);
  EXPECT_EQ((*shelf)->Put("a", {std::string(ModelShelf::kMostBytes + 1, 'x')}).code(),
            absl::StatusCode::kInvalidArgument);
  EXPECT_EQ((*shelf)->Put("../a", {"x"}).code(), absl::StatusCode::kInvalidArgument);
  EXPECT_TRUE((*shelf)->Get("a").empty());
}

TEST(ModelShelf, PassesOverDamage) {
  Scratch scratch(InMemory());
  ASSERT_TRUE(WriteFileAtomic(scratch / "redis.models", "\x0a\xff\xff\xff").ok());
  ASSERT_TRUE(WriteFileAtomic(scratch / "Not A Name.models", "").ok());
  const auto shelf = ModelShelf::Open(scratch.path());
  ASSERT_TRUE(shelf.ok());
  EXPECT_TRUE((*shelf)->Get("redis").empty());
}

}  // namespace
}  // namespace starling::shadow
