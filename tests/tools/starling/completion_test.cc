#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>

#include <regex>
#include <set>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "tests/runtime/scratch.h"

// The bash completion, in a real bash, against a stand-in for the agent's answers, and against the
// real program's --help.

namespace starling {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;
using testing::UnorderedElementsAre;

std::string Output(const std::string& command) {
  std::string text;
  FILE* pipe = popen(command.c_str(), "r");
  if (pipe == nullptr) return text;
  char buffer[4096];
  while (const size_t size = fread(buffer, 1, sizeof buffer, pipe)) text.append(buffer, size);
  pclose(pipe);
  return text;
}

class CompletionTest : public testing::Test {
 protected:
  void SetUp() override {
    const std::string fake = scratch_ / "starling";
    ASSERT_TRUE(WriteFileAtomic(fake,
                                "#!/bin/sh\n"
                                "[ \"$1\" = --socket ] && { prefix=$2-; shift 2; }\n"
                                "case \"$*\" in\n"
                                "  'ps --names') echo ${prefix}redis; echo ${prefix}web ;;\n"
                                "  'info --peers') echo ${prefix}node2; echo ${prefix}node3 ;;\n"
                                "  *) exit 2 ;;\n"
                                "esac\n",
                                0755)
                    .ok());
    ASSERT_EQ(chmod(fake.c_str(), 0755), 0);
  }

  // What is offered for the last of `words`, which come after "starling".
  std::vector<std::string> Offered(const std::vector<std::string>& words) {
    std::string quoted;
    for (const std::string& word : words) absl::StrAppend(&quoted, " '", word, "'");
    const std::string script = absl::StrCat(
        "source ", STARLING_SOURCE_DIR, "/packaging/starling.bash\n",
        // Outside a real completion there are no options to set.
        "compopt() { :; }\n", "COMP_WORDS=('", scratch_ / "starling", "'", quoted, ")\n",
        "COMP_CWORD=", words.size(), "\n_starling\n", "printf '%s\\n' \"${COMPREPLY[@]}\"\n");
    EXPECT_TRUE(WriteFileAtomic(scratch_ / "script", script).ok());
    return absl::StrSplit(Output("bash --norc " + (scratch_ / "script")), '\n', absl::SkipEmpty());
  }

  Scratch scratch_;
};

TEST_F(CompletionTest, OffersCommandsNamesAndHosts) {
  EXPECT_THAT(Offered({"re"}), ElementsAre("restore", "resolve", "report", "replay"));
  EXPECT_EQ(Offered({""}).size(), 24u);
  EXPECT_THAT(Offered({"migrate", ""}), ElementsAre("redis", "web"));
  EXPECT_THAT(Offered({"migrate", "w"}), ElementsAre("web"));
  EXPECT_THAT(Offered({"migrate", "web", "--to", ""}), ElementsAre("node2", "node3"));
  EXPECT_THAT(Offered({"migrate", "web", "--to", "=", "node3"}), ElementsAre("node3"));
  EXPECT_THAT(Offered({"--socket", "x", "stop", ""}), ElementsAre("x-redis", "x-web"));
  EXPECT_THAT(Offered({"migrate", "--to", "node2", ""}), ElementsAre("redis", "web"));
  EXPECT_THAT(Offered({"migrate", "--max-rounds", ""}), IsEmpty());
  EXPECT_THAT(Offered({"migrate", "--transport", ""}), ElementsAre("verbs", "roce", "tcp"));
  EXPECT_THAT(Offered({"cert", ""}), ElementsAre("authority", "host"));
  EXPECT_THAT(Offered({"profile", "co"}), ElementsAre("consent"));
  EXPECT_THAT(Offered({"ghost", ""}), ElementsAre("add", "list", "drop"));
  EXPECT_THAT(Offered({"ghost", "add", ""}), ElementsAre("redis", "web"));
  EXPECT_THAT(Offered({"ghost", "add", "web", "--on", ""}), ElementsAre("node2", "node3"));
  EXPECT_THAT(Offered({"migrate", "--max-rate", ""}), IsEmpty());
  EXPECT_THAT(Offered({"run", "a", "--", "r"}), IsEmpty());
}

// Every long option that --help shows is offered, and none that it does not.
TEST_F(CompletionTest, OffersTheOptionsThatThereAre) {
  for (const std::string command :
       {"run",  "ps",   "check",  "migrate", "checkpoint", "restore", "cancel",   "resolve",
        "stop", "logs", "events", "ghost",   "failover",   "report",  "forecast", "leases",
        "why",  "park", "unpark", "profile", "info",       "bench",   "cert",     "replay"}) {
    const std::string help = Output(absl::StrCat(STARLING_PROGRAM, " ", command, " --help"));
    std::set<std::string> known = {"--socket"};
    const std::regex option(R"(\n  (?:-\w,)?(--[a-z-]+))");
    for (std::sregex_iterator it(help.begin(), help.end(), option), end; it != end; ++it) {
      known.insert((*it)[1]);
    }
    const std::vector<std::string> offered = Offered({command, "--"});
    EXPECT_EQ(absl::StrJoin(std::set<std::string>(offered.begin(), offered.end()), " "),
              absl::StrJoin(known, " "))
        << command;
  }
}

}  // namespace
}  // namespace starling
