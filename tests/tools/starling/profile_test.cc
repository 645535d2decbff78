#include <gmock/gmock.h>
#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>
#include <stdlib.h>

#include <ctime>
#include <nlohmann/json.hpp>
#include <sstream>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "base/file.h"
#include "runtime/profiles/profile_service.h"
#include "tests/runtime/scratch.h"
#include "tools/starling/cli.h"

// `starling profile` against the agent's own service and store.

namespace starling::cli {
namespace {

using nlohmann::json;
using testing::HasSubstr;
using testing::Not;
using testing::StartsWith;

constexpr char kCalendar[] =
    "BEGIN:VCALENDAR\nBEGIN:VEVENT\nSUMMARY:secret\nDTSTART;VALUE=DATE:20240101\nEND:VEVENT\n"
    "END:VCALENDAR\n";

class Answers final : public v1::Starling::Service {};

class ProfileTest : public testing::Test {
 protected:
  void SetUp() override {
    unsetenv("STARLING_SOCKET");
    keeper_ = *ProfileKeeper::Open(scratch_ / "profiles.db", 90);
    Serve(keeper_.get());
  }
  void Serve(absl::StatusOr<ProfileKeeper*> keeper) {
    if (server_ != nullptr) server_->Shutdown();
    server_.reset();
    service_ = std::make_unique<ProfileService>("node1", 90, std::move(keeper));
    grpc::ServerBuilder builder;
    builder.AddListeningPort("unix:" + socket_, grpc::InsecureServerCredentials());
    builder.RegisterService(&answers_);
    builder.RegisterService(service_.get());
    server_ = builder.BuildAndStart();
    ASSERT_NE(server_, nullptr);
  }
  int Call(const std::string& line) {
    std::vector<std::string> words = {"--socket", socket_, "profile"};
    for (const auto& word : absl::StrSplit(line, ' ')) words.emplace_back(word);
    out_.str("");
    err_.str("");
    Io io{out_, err_, in_};
    return RunCli(words, io, interrupter_);
  }
  std::string File(const std::string& name, const std::string& text) {
    EXPECT_TRUE(WriteFileAtomic(scratch_ / name, text).ok());
    return scratch_ / name;
  }
  // Some minutes of a user at a component, until now.
  void Work() {
    const int64_t now = LocalTime(static_cast<double>(std::time(nullptr)));
    keeper_->See(now - 60, {{"desk", {"ann"}, "", true, true}});
    keeper_->See(now, {{"desk", {}, "", false, true}});
  }

  Scratch scratch_{InMemory()};
  const std::string socket_ = scratch_ / "s";
  std::unique_ptr<ProfileKeeper> keeper_;
  Answers answers_;
  std::unique_ptr<ProfileService> service_;
  std::unique_ptr<grpc::Server> server_;
  std::ostringstream out_, err_;
  std::istringstream in_;
  Interrupter interrupter_;
};

TEST_F(ProfileTest, GoesThroughAWholeLife) {
  EXPECT_EQ(Call("list"), 0) << err_.str();
  EXPECT_EQ(out_.str(), "no profiles\n");
  EXPECT_EQ(Call("consent ann --on"), 0) << err_.str();
  EXPECT_EQ(Call(absl::StrCat("calendar ann ", File("holidays.ics", kCalendar))), 0) << err_.str();
  EXPECT_EQ(out_.str(), "1 entries\n");
  Work();
  EXPECT_EQ(Call("list --json"), 0) << err_.str();
  json list = json::parse(out_.str());
  ASSERT_EQ(list["profiles"].size(), 2u);
  EXPECT_EQ(list["keep_days"], 90);
  EXPECT_EQ(list["profiles"][0]["subject"], "component:desk");
  EXPECT_EQ(list["profiles"][1]["subject"], "user:ann");
  EXPECT_EQ(list["profiles"][1]["visits"], 1);
  EXPECT_EQ(Call("list"), 0);
  EXPECT_THAT(out_.str(), HasSubstr("user:ann"));
  EXPECT_EQ(Call("show ann"), 0) << err_.str();
  EXPECT_THAT(out_.str(), StartsWith("user:ann, who consents; last seen "));
  EXPECT_THAT(out_.str(), HasSubstr("desk"));
  EXPECT_EQ(Call("show component:desk --json"), 0) << err_.str();
  EXPECT_EQ(json::parse(out_.str())["last_visits"].size(), 1u);
  EXPECT_EQ(Call("export ann"), 0) << err_.str();
  EXPECT_EQ(json::parse(out_.str())["visits"][0]["component"], "desk");
  EXPECT_THAT(out_.str(), Not(HasSubstr("secret")));
  const std::string out = scratch_ / "ann.json";
  EXPECT_EQ(Call(absl::StrCat("export ann --out ", out)), 0) << err_.str();
  EXPECT_EQ(json::parse(*ReadFile(out))["subject"], "user:ann");
  EXPECT_EQ(Call("delete ann"), 0) << err_.str();
  EXPECT_EQ(Call("show ann --json"), 0) << err_.str();
  EXPECT_TRUE(json::parse(out_.str())["week"].empty());
  EXPECT_EQ(Call("consent ann --off"), 0) << err_.str();
  EXPECT_EQ(Call("show ann"), 3);
}

TEST_F(ProfileTest, ErrorsNameTheThingAndTheMend) {
  const std::string good = File("good.ics", kCalendar), bad = File("bad.ics", "BEGIN:VCARD\n");
  EXPECT_EQ(Call("show bob"), 3);
  EXPECT_THAT(err_.str(), HasSubstr("nothing is kept of user:bob here"));
  EXPECT_EQ(Call("delete component:desk"), 3);
  EXPECT_EQ(Call("export bob"), 3);
  EXPECT_EQ(Call("calendar bob " + good), 4);
  EXPECT_THAT(err_.str(), HasSubstr("`starling profile consent bob --on`"));
  EXPECT_EQ(Call("consent bob --on"), 0);
  EXPECT_EQ(Call("calendar bob " + bad), 2);
  EXPECT_THAT(err_.str(), HasSubstr("line 1: does not begin with BEGIN:VCALENDAR"));
  EXPECT_EQ(Call("calendar bob " + File("large.ics", std::string(3500000, 'x'))), 2);
  EXPECT_EQ(Call("calendar component:desk " + good), 2);
  EXPECT_THAT(err_.str(), HasSubstr("cannot name a user"));
  EXPECT_EQ(Call("consent UPPER/ --on"), 2);
}

TEST_F(ProfileTest, WrongUsageReachesNoAgent) {
  Serve(absl::InternalError("was asked"));
  const std::string file = File("good.ics", kCalendar);
  const std::pair<std::string, const char*> cases[] = {
      {"frobnicate", "frobnicate"},
      {"show", "starling profile show NAME"},
      {"list ann", "show NAME"},
      {"consent ann", "--on or --off"},
      {"consent ann --on --off", "excludes"},
      {"show ann --on", "only `starling profile consent`"},
      {"calendar ann", "which file"},
      {"calendar ann /no/such/file", "/no/such/file"},
      {"show ann " + file, "only `starling profile calendar`"},
      {"show ann --out x", "only `starling profile export`"},
  };
  for (const auto& [line, words] : cases) {
    EXPECT_EQ(Call(line), 2) << line;
    EXPECT_THAT(err_.str(), HasSubstr(words)) << line;
    EXPECT_THAT(err_.str(), Not(HasSubstr("was asked"))) << line;
  }
}

TEST_F(ProfileTest, SaysWhyThereAreNone) {
  Serve(absl::FailedPreconditionError("no profiles are kept here: profiles.keep_days is 0"));
  for (const char* line : {"list", "show ann", "export ann", "delete ann", "consent ann --on"}) {
    EXPECT_EQ(Call(line), 4) << line;
    EXPECT_THAT(err_.str(), HasSubstr("keep_days is 0")) << line;
  }
}

}  // namespace
}  // namespace starling::cli
