#include "tools/starling/cli.h"

#include <gmock/gmock.h>
#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <condition_variable>
#include <filesystem>
#include <functional>
#include <nlohmann/json.hpp>
#include <sstream>
#include <thread>

#include "absl/strings/str_split.h"
#include "tests/runtime/scratch.h"

namespace starling::cli {
namespace {

using grpc::ServerContext;
using grpc::ServerWriter;
using grpc::Status;
using grpc::StatusCode;
using nlohmann::json;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::Not;
using testing::StartsWith;

// Answers as a test tells it to, and remembers what it was asked.
class FakeAgent final : public v1::Starling::Service {
 public:
  Status Info(ServerContext*, const v1::InfoRequest*, v1::InfoResponse* response) override {
    response->set_host("node1");
    response->add_peers("node2");
    response->add_peers("node3");
    return answer;
  }
  Status Run(ServerContext*, const v1::RunRequest* request, v1::RunResponse* response) override {
    spec = request->spec();
    response->mutable_component()->set_state(v1::RUNNING);
    response->mutable_component()->set_epoch(1);
    return answer;
  }
  Status List(ServerContext*, const v1::ListRequest*, v1::ListResponse* response) override {
    response->set_host("node1");
    for (const char* name : {"redis", "web"}) {
      v1::Component& component = *response->add_components();
      component.mutable_spec()->set_name(name);
      component.set_state(v1::RUNNING);
    }
    for (const char* name : application) {
      v1::Component& component = *response->add_components();
      component.mutable_spec()->set_name(name);
      component.mutable_spec()->set_application("shop");
      component.set_state(v1::RUNNING);
    }
    return answer;
  }
  Status Check(ServerContext*, const v1::CheckRequest* request,
               v1::CheckResponse* response) override {
    EXPECT_EQ(request->to(), "node2");
    if (check_only.empty() || check_only == request->name()) *response = check;
    return answer;
  }
  Status Migrate(ServerContext* context, const v1::MigrateRequest* request,
                 ServerWriter<v1::MigrationProgress>* writer) override {
    migrate = *request;
    migrated.push_back(request->name());
    return on_migrate ? on_migrate(context, writer) : answer;
  }
  Status Checkpoint(ServerContext*, const v1::CheckpointRequest* request,
                    v1::CheckpointResponse* response) override {
    checkpoint = *request;
    *response = taken;
    // One that is repeated ends with the first that fails.
    return ++checkpoints < 3 ? answer : Status(StatusCode::NOT_FOUND, "it has ended");
  }
  Status RestoreCheckpoint(ServerContext*, const v1::RestoreCheckpointRequest* request,
                           v1::RestoreCheckpointResponse* response) override {
    restore = *request;
    response->mutable_component()->mutable_spec()->set_name("redis");
    response->mutable_component()->set_state(v1::RUNNING);
    response->mutable_component()->set_epoch(4);
    response->set_number(7);
    response->set_connections(2);
    return answer;
  }
  Status Cancel(ServerContext*, const v1::CancelRequest*, v1::CancelResponse*) override {
    return answer;
  }
  Status Resolve(ServerContext*, const v1::ResolveRequest* request,
                 v1::ResolveResponse* response) override {
    ++resolved;
    side = request->side();
    response->mutable_component()->set_state(v1::RUNNING);
    return answer;
  }
  Status Stop(ServerContext*, const v1::StopRequest* request, v1::StopResponse* response) override {
    grace_s = request->grace_s();
    stopped.push_back(request->name());
    response->mutable_component()->set_state(v1::EXITED);
    response->mutable_component()->set_exit_status(143);
    return answer;
  }
  Status Logs(ServerContext*, const v1::LogsRequest* request,
              ServerWriter<v1::LogsChunk>* writer) override {
    tail_bytes = request->tail_bytes();
    v1::LogsChunk chunk;
    chunk.set_data(std::string("one\n\0\xff", 6));
    writer->Write(chunk);
    chunk.set_data("two");
    writer->Write(chunk);
    return answer;
  }
  Status Events(ServerContext*, const v1::EventsRequest* request,
                ServerWriter<v1::Event>* writer) override {
    v1::Event event;
    event.set_number(request->after() + 1);
    event.set_component(request->name());
    event.set_kind("started");
    writer->Write(event);
    return answer;
  }

  Status Report(ServerContext*, const v1::ReportRequest* request,
                v1::ReportResponse* response) override {
    if (request->name() != "redis") return Status(StatusCode::NOT_FOUND, "no such report");
    response->set_json("{\"schema\":1}\n");
    response->set_text("redis runs on node2\n  caf\x1b[2J\n");
    return answer;
  }

  Status answer;
  v1::ComponentSpec spec;
  v1::CheckResponse check;
  v1::MigrateRequest migrate;
  v1::CheckpointRequest checkpoint;
  v1::CheckpointResponse taken;
  int checkpoints = 0;
  v1::RestoreCheckpointRequest restore;
  std::function<Status(ServerContext*, ServerWriter<v1::MigrationProgress>*)> on_migrate;
  std::vector<const char*> application;  // components of application shop
  std::string check_only;                // of whom `check` is the answer; empty: of all
  std::vector<std::string> migrated, stopped;
  int resolved = 0;
  v1::ResolveRequest::Side side = v1::ResolveRequest::SIDE_UNSPECIFIED;
  double grace_s = 0;
  uint64_t tail_bytes = 0;
};

v1::MigrationProgress Progress(v1::Step step, uint32_t round = 0) {
  v1::MigrationProgress progress;
  progress.set_schema(1);
  progress.set_migration_id("7f3a");
  progress.set_component("redis");
  progress.set_from("node1");
  progress.set_to("node2");
  progress.set_step(step);
  progress.set_round(round);
  progress.set_elapsed_s(0.5);
  return progress;
}

std::vector<std::string> Split(const std::string& text, char by) {
  return absl::StrSplit(text, by);
}

class CliTest : public testing::Test {
 protected:
  void SetUp() override {
    unsetenv("STARLING_SOCKET");
    // The stand-ins below write to sockets that the other side may have closed.
    signal(SIGPIPE, SIG_IGN);
    grpc::ServerBuilder builder;
    builder.AddListeningPort("unix:" + socket_, grpc::InsecureServerCredentials());
    builder.RegisterService(&agent_);
    server_ = builder.BuildAndStart();
    ASSERT_NE(server_, nullptr);
  }

  // As typed after "starling", words split at spaces; {} stands for an empty word.
  int Call(const std::string& line) {
    std::vector<std::string> words = {"--socket", socket_};
    for (const std::string& word : Split(line, ' ')) {
      words.push_back(word == "{}" ? "" : word);
    }
    return CallWords(words);
  }
  int CallWords(const std::vector<std::string>& words) {
    out_.str("");
    err_.str("");
    Io io{out_, err_, in_, terminal_, in_terminal_, 100};
    return RunCli(words, io, interrupter_);
  }

  std::vector<json> OutLines() {
    std::vector<json> lines;
    for (const std::string& line : Split(out_.str(), '\n')) {
      if (!line.empty()) lines.push_back(json::parse(line));
    }
    return lines;
  }

  Scratch scratch_;
  const std::string socket_ = scratch_ / "s";
  FakeAgent agent_;
  std::unique_ptr<grpc::Server> server_;
  std::ostringstream out_, err_;
  std::istringstream in_;
  bool terminal_ = false;
  bool in_terminal_ = false;
  Interrupter interrupter_;
};

TEST_F(CliTest, RunHandsOverTheSpec) {
  EXPECT_EQ(Call("run redis --user nobody --ip 10.77.0.50/24 --memory 512M --shared /shared/a "
                 "--shared /shared/b --ship /srv/data --env LANG=C --directory /srv -- /bin/prog "
                 "--socket {} -- [x]"),
            0)
      << err_.str();
  const v1::ComponentSpec& spec = agent_.spec;
  EXPECT_EQ(spec.name(), "redis");
  EXPECT_THAT(spec.command(), testing::ElementsAre("/bin/prog", "--socket", "", "--", "[x]"));
  EXPECT_EQ(spec.user(), "nobody");
  EXPECT_EQ(spec.ip(), "10.77.0.50/24");
  EXPECT_EQ(spec.memory_bytes(), 512u << 20);
  EXPECT_THAT(spec.shared(), testing::ElementsAre("/shared/a", "/shared/b"));
  EXPECT_THAT(spec.ship(), testing::ElementsAre("/srv/data"));
  EXPECT_THAT(spec.environment(), testing::ElementsAre("LANG=C"));
  EXPECT_EQ(spec.directory(), "/srv");
  EXPECT_EQ(out_.str(), "redis is running (epoch 1)\n");
  EXPECT_EQ(Call("run --env A=B redis --io-max 2M --probe true --probe-timeout 3 -- sh"), 0)
      << err_.str();
  EXPECT_EQ(agent_.spec.io_max_bytes_per_s(), 2u << 20);
  EXPECT_EQ(agent_.spec.probe(), "true");
  EXPECT_EQ(agent_.spec.probe_timeout_s(), 3);
  EXPECT_THAT(agent_.spec.command(0), testing::AnyOf("/bin/sh", "/usr/bin/sh"));
}

TEST_F(CliTest, WrongUsageReachesNoAgent) {
  agent_.answer = Status(StatusCode::INTERNAL, "was asked");
  const std::pair<const char*, const char*> cases[] = {
      {"run redis", "say after --"},
      {"run redis --", "say after --"},
      {"run Redis -- /bin/true", "'Redis' cannot name a component"},
      {"run redis -- ./prog", "'./prog' is not an absolute path"},
      {"run redis -- no-such-program-anywhere", "is not an absolute path"},
      {"run redis --memory 5Q -- /bin/true", "'5Q'"},
      {"run redis --memory 1K -- /bin/true", "memory"},
      {"run redis --ip 10.77.0.50 -- /bin/true", "no prefix length"},
      {"run redis --shared data -- /bin/true", "'data' is not an absolute path"},
      {"run redis --env LANG -- /bin/true", "KEY=VALUE"},
      {"run redis --ship data -- /bin/true", "'data' is not an absolute path"},
      {"run redis --io-max 0 -- /bin/true", "lets nothing through"},
      {"run redis --io-max 1K -- /bin/true", "io_max: 1024 bytes a second; allowed is"},
      {"run redis --probe-timeout 3 -- /bin/true", "probe_timeout: only with a probe"},
      {"run redis --probe true --probe-timeout 0 -- /bin/true", "--probe-timeout"},
      {"run redis --probe true --probe-timeout nan -- /bin/true", "probe_timeout"},
      {"run redis --ship /a --ship /a/b -- /bin/true", "lie one in the other"},
      {"run redis --shared /a --ship /a/b -- /bin/true", "lie one in the other"},
      {"checkpoint redis", "--to is required"},
      {"checkpoint redis --to /x --keep 0", "--keep"},
      {"checkpoint redis --to /x --every 0", "--every"},
      {"checkpoint redis --to /x --every nan", "number"},
      {"restore", "DIR is required"},
      {"restore /x --name Redis", "'Redis' cannot name a component"},
      {"restore /x --number 0", "--number"},
      {"run redis --user a:b -- /bin/true", "user"},
      {"ps -- /bin/true", "only `starling run`"},
      {"ps redis", "redis"},
      {"migrate redis", "--to is required"},
      {"migrate --to node2", "say which component: starling migrate NAME, or --application APP"},
      {"migrate redis --application shop --to node2", "excludes"},
      {"stop", "say which component"},
      {"run redis --application Shop -- /bin/true", "'Shop' cannot name an application"},
      {"run redis --near application:a/b -- /bin/true", "'a/b' cannot name an application"},
      {"migrate redis --to a/b", "'a/b' cannot name a host"},
      {"migrate redis --to node2 --max-rounds 0", "--max-rounds"},
      {"migrate redis --to node2 --max-rate 0", "'0' lets nothing through"},
      {"migrate redis --to node2 --max-rate fast", "'fast'"},
      {"migrate redis --to node2 --max-blackout nan", "number"},
      {"migrate redis --to node2 --max-blackout fast", "--max-blackout"},
      {"resolve redis", "--here or --there"},
      {"resolve redis --here --there", "excludes"},
      {"stop redis --grace -1", "--grace"},
      {"logs redis --tail much", "'much'"},
      {"events redis --after x", "--after"},
      {"frobnicate", "'frobnicate' is not a command"},
      {"--frobnicate ps", "--frobnicate"},
  };
  for (const auto& [line, words] : cases) {
    EXPECT_EQ(Call(line), 2) << line;
    EXPECT_THAT(err_.str(), StartsWith("starling: ")) << line;
    EXPECT_THAT(err_.str(), HasSubstr(words)) << line;
    EXPECT_THAT(err_.str(), Not(HasSubstr("was asked"))) << line;
    EXPECT_THAT(out_.str(), IsEmpty()) << line;
  }
}

TEST_F(CliTest, HelpIsThereForEveryCommandWithoutAnAgent) {
  server_->Shutdown();
  EXPECT_EQ(Call("--help"), 0);
  EXPECT_THAT(out_.str(), HasSubstr("Exit codes:"));
  EXPECT_EQ(Call("--version"), 0);
  EXPECT_THAT(out_.str(), StartsWith("starling "));
  for (const std::string command : {"run", "ps", "check", "migrate", "checkpoint", "restore",
                                    "cancel", "resolve", "stop", "logs", "events", "info"}) {
    EXPECT_EQ(Call(command + " --help"), 0);
    EXPECT_THAT(out_.str(), HasSubstr("Usage: starling " + command));
  }
}

TEST_F(CliTest, TheAgentsWordBecomesExitCodeAndMessage) {
  const std::pair<StatusCode, int> table[] = {
      {StatusCode::INVALID_ARGUMENT, 2},
      {StatusCode::NOT_FOUND, 3},
      {StatusCode::ALREADY_EXISTS, 4},
      {StatusCode::FAILED_PRECONDITION, 4},
      {StatusCode::RESOURCE_EXHAUSTED, 4},
      {StatusCode::ABORTED, 5},
      {StatusCode::UNKNOWN, 6},
      {StatusCode::PERMISSION_DENIED, 8},
      {StatusCode::UNAVAILABLE, 9},
      {StatusCode::INTERNAL, 1},
  };
  for (const auto& [status, exit] : table) {
    agent_.answer = Status(status, "because\x1b[31m");
    for (const std::string line :
         {"run redis -- /bin/true", "ps", "check redis --to node2", "migrate redis --to node2",
          "cancel redis", "resolve redis --here", "stop redis", "logs redis", "events", "info"}) {
      EXPECT_EQ(Call(line), exit) << line;
      EXPECT_THAT(err_.str(), HasSubstr("because?[31m")) << line;
    }
  }
}

TEST_F(CliTest, PsInThreeForms) {
  EXPECT_EQ(Call("ps"), 0);
  EXPECT_THAT(out_.str(), StartsWith("NAME "));
  EXPECT_EQ(Call("ps --names"), 0);
  EXPECT_EQ(out_.str(), "redis\nweb\n");
  EXPECT_EQ(Call("ps --json"), 0);
  EXPECT_EQ(OutLines().at(0)["components"][1]["name"], "web");
  EXPECT_EQ(Call("info --peers"), 0);
  EXPECT_EQ(out_.str(), "node2\nnode3\n");
  EXPECT_EQ(Call("info --json"), 0);
  EXPECT_EQ(OutLines().at(0)["host"], "node1");
}

TEST_F(CliTest, CheckNamesEveryObstacle) {
  EXPECT_EQ(Call("check redis --to node2"), 0);
  EXPECT_THAT(out_.str(), HasSubstr("redis can be moved to node2"));
  for (const char* path : {"/a", "/b"}) {
    v1::Obstacle& obstacle = *agent_.check.add_obstacles();
    obstacle.set_code("open-file-missing");
    obstacle.set_thing(path);
    obstacle.set_reason("is not there");
    obstacle.set_mend("copy it");
  }
  EXPECT_EQ(Call("check redis --to node2"), 4);
  EXPECT_THAT(out_.str(), HasSubstr("/a: is not there [open-file-missing]\n    copy it\n"));
  EXPECT_THAT(out_.str(), HasSubstr("/b: is not there"));
  EXPECT_EQ(Call("check redis --to node2 --json"), 4);
  EXPECT_EQ(OutLines().at(0)["obstacles"][1]["thing"], "/b");
}

// The lines of a refusal were once joined by '?', as if each end of a line were an attack on the
// terminal.
TEST_F(CliTest, MigrateThatIsRefusedSaysEachObstacleOnItsLines) {
  agent_.on_migrate = [](ServerContext*, ServerWriter<v1::MigrationProgress>*) {
    return Status(StatusCode::FAILED_PRECONDITION,
                  "cannot be moved:\n  /a\x1b is not there [code]\n    copy it");
  };
  EXPECT_EQ(Call("migrate redis --to node2"), 4);
  EXPECT_EQ(err_.str(), "starling: cannot be moved:\n  /a? is not there [code]\n    copy it\n");
}

TEST_F(CliTest, MigrateShowsLinesAndTheReport) {
  agent_.on_migrate = [](ServerContext*, ServerWriter<v1::MigrationProgress>* writer) {
    writer->Write(Progress(v1::PREFLIGHT));
    writer->Write(Progress(v1::PRECOPY, 1));
    writer->Write(Progress(v1::PRECOPY, 1));
    writer->Write(Progress(v1::COMMIT));
    v1::MigrationProgress done = Progress(v1::DONE);
    done.mutable_report()->set_component("redis");
    done.mutable_report()->set_from("node1");
    done.mutable_report()->set_to("node2");
    done.mutable_report()->set_provider("verbs");
    done.mutable_report()->set_epoch(2);
    writer->Write(done);
    return Status::OK;
  };
  EXPECT_EQ(Call("migrate redis --to node2 --probe true --probe-timeout 3 --max-blackout 150 "
                 "--max-rounds 4 --max-rate 2M"),
            0);
  EXPECT_EQ(agent_.migrate.probe(), "true");
  EXPECT_EQ(agent_.migrate.probe_timeout_s(), 3);
  EXPECT_DOUBLE_EQ(agent_.migrate.max_blackout_s(), 0.15);
  EXPECT_EQ(agent_.migrate.max_rounds(), 4u);
  EXPECT_DOUBLE_EQ(agent_.migrate.max_rate_bytes_per_s(), 2 << 20);
  EXPECT_EQ(err_.str(), "    0.5 s  preflight\n    0.5 s  pre-copy round 1\n    0.5 s  commit\n");
  EXPECT_THAT(out_.str(), StartsWith("redis runs on node2 (epoch 2)\n"));

  EXPECT_FALSE(agent_.migrate.park());
  EXPECT_EQ(Call("migrate redis --to node2 --park --quiet"), 0);
  EXPECT_TRUE(agent_.migrate.park());
  EXPECT_THAT(err_.str(), IsEmpty());
  terminal_ = true;
  EXPECT_EQ(Call("migrate redis --to node2"), 0);
  EXPECT_THAT(err_.str(), HasSubstr("\rpre-copy 1"));
  EXPECT_THAT(err_.str(), testing::EndsWith("\r\x1b[K"));
  terminal_ = false;

  EXPECT_EQ(Call("migrate redis --to node2 --json"), 0);
  EXPECT_THAT(err_.str(), IsEmpty());
  const std::vector<json> lines = OutLines();
  ASSERT_EQ(lines.size(), 5u);
  for (size_t i = 0; i < lines.size(); ++i) {
    EXPECT_EQ(lines[i]["schema"], 1);
    EXPECT_EQ(lines[i]["type"], i + 1 == lines.size() ? "report" : "progress");
  }
  EXPECT_EQ(lines.back()["outcome"], "done");
  EXPECT_EQ(lines.back()["report"]["epoch"], 2);
}

TEST_F(CliTest, MigrateTellsHowItEndedOtherwise) {
  // Called off, with a report.
  agent_.on_migrate = [](ServerContext*, ServerWriter<v1::MigrationProgress>* writer) {
    v1::MigrationProgress off = Progress(v1::CALLED_OFF);
    off.mutable_report()->set_component("redis");
    off.mutable_report()->set_from("node1");
    off.mutable_report()->set_error("the link was cut");
    writer->Write(off);
    return Status(StatusCode::ABORTED, "the link was cut");
  };
  EXPECT_EQ(Call("migrate redis --to node2"), 5);
  EXPECT_THAT(out_.str(), HasSubstr("called off, redis runs on node1: the link was cut"));
  EXPECT_EQ(Call("migrate redis --to node2 --json"), 5);
  EXPECT_EQ(OutLines().back()["outcome"], "called-off");
  EXPECT_EQ(OutLines().back()["error"], "the link was cut");
  // In doubt.
  agent_.on_migrate = [](ServerContext*, ServerWriter<v1::MigrationProgress>* writer) {
    writer->Write(Progress(v1::COMMIT));
    return Status(StatusCode::UNKNOWN, "node2 does not answer");
  };
  EXPECT_EQ(Call("migrate redis --to node2"), 6);
  EXPECT_THAT(err_.str(), HasSubstr("redis is in doubt: node2 does not answer"));
  EXPECT_THAT(err_.str(), HasSubstr("starling resolve"));
  // Refused before it began: still one JSON line.
  agent_.on_migrate = nullptr;
  agent_.answer = Status(StatusCode::NOT_FOUND, "no component 'redis'");
  EXPECT_EQ(Call("migrate redis --to node2 --json"), 3);
  ASSERT_EQ(OutLines().size(), 1u);
  EXPECT_EQ(OutLines().back()["outcome"], "refused");
  EXPECT_EQ(OutLines().back()["exit_code"], 3);
  // An agent that ends without a word.
  agent_.answer = Status::OK;
  EXPECT_EQ(Call("migrate redis --to node2"), 1);
  EXPECT_THAT(err_.str(), HasSubstr("without a result"));
}

TEST_F(CliTest, CheckpointsAreToldOf) {
  agent_.taken.set_number(3);
  agent_.taken.set_file("/backup/checkpoint-00000003");
  agent_.taken.set_content_bytes(171 << 20);
  agent_.taken.set_bytes_written(12 << 20);
  agent_.taken.set_held_s(0.0931);
  agent_.taken.set_total_s(1.5);
  agent_.taken.set_connections(1);
  agent_.taken.add_warnings("checkpoint 2 is cut short");
  EXPECT_EQ(Call("checkpoint redis --to backup/ --keep 5 --encrypt-key ./key"), 0) << err_.str();
  const std::string here = std::filesystem::current_path().string();
  EXPECT_EQ(agent_.checkpoint.folder(), here + "/backup") << "the agent is somewhere else";
  EXPECT_EQ(agent_.checkpoint.key_file(), here + "/key");
  EXPECT_EQ(agent_.checkpoint.keep(), 5u);
  EXPECT_THAT(out_.str(), HasSubstr("checkpoint 3 of redis: 12.0 MiB written of 171.0 MiB, held "
                                    "for 93.1 ms"));
  EXPECT_THAT(out_.str(), HasSubstr("1 connection established"));
  EXPECT_EQ(err_.str(), "starling: checkpoint 2 is cut short\n");
  // Again and again, until one fails.
  agent_.checkpoints = 0;
  EXPECT_EQ(Call("checkpoint redis --to /backup --every 0.1 --json"), 3);
  ASSERT_EQ(OutLines().size(), 2u);
  EXPECT_EQ(OutLines()[0]["number"], 3);
  EXPECT_EQ(OutLines()[0]["component"], "redis");
}

TEST_F(CliTest, ARestoreSaysWhatIsClosed) {
  EXPECT_EQ(Call("restore /backup/ --name other --number 7 --original-gone"), 0) << err_.str();
  EXPECT_EQ(agent_.restore.folder(), "/backup");
  EXPECT_EQ(agent_.restore.name(), "other");
  EXPECT_EQ(agent_.restore.number(), 7u);
  EXPECT_TRUE(agent_.restore.original_gone());
  EXPECT_THAT(out_.str(), StartsWith("redis is running (epoch 4), as it was at "));
  EXPECT_THAT(out_.str(), HasSubstr("2 connections established then are closed"));
  EXPECT_EQ(Call("restore /backup --json"), 0);
  EXPECT_EQ(OutLines()[0]["connections"], 2);
}

TEST_F(CliTest, CtrlCLeavesTheMigrationGoing) {
  std::atomic<bool> cancelled = false;
  agent_.on_migrate = [&](ServerContext* context, ServerWriter<v1::MigrationProgress>* writer) {
    writer->Write(Progress(v1::PRECOPY, 1));
    std::thread([&] { interrupter_.Interrupt(); }).join();
    while (!context->IsCancelled()) std::this_thread::sleep_for(std::chrono::milliseconds(1));
    cancelled = true;
    return Status::CANCELLED;
  };
  EXPECT_EQ(Call("migrate redis --to node2"), 130);
  EXPECT_THAT(err_.str(), HasSubstr("the migration of redis goes on"));
  EXPECT_THAT(err_.str(), HasSubstr("starling cancel redis"));
  server_->Shutdown();
  EXPECT_TRUE(cancelled);
}

TEST_F(CliTest, ResolveSaysItsRiskAndAsksAPerson) {
  EXPECT_EQ(Call("resolve redis --here"), 0);
  EXPECT_EQ(agent_.side, v1::ResolveRequest::HERE);
  EXPECT_THAT(err_.str(), HasSubstr("two copies"));
  EXPECT_EQ(Call("resolve redis --there"), 0);
  EXPECT_EQ(agent_.side, v1::ResolveRequest::THERE);
  EXPECT_THAT(err_.str(), HasSubstr("is lost"));
  EXPECT_EQ(agent_.resolved, 2);
  in_terminal_ = true;
  in_.str("no\n");
  EXPECT_EQ(Call("resolve redis --there"), 4);
  EXPECT_EQ(agent_.resolved, 2);
  in_.clear();
  in_.str("redis\n");
  EXPECT_EQ(Call("resolve redis --there"), 0);
  EXPECT_EQ(Call("resolve redis --there --yes"), 0);
  EXPECT_EQ(agent_.resolved, 4);
}

TEST_F(CliTest, AnApplicationIsItsComponents) {
  EXPECT_EQ(
      Call("run a --application shop --near application:shop --apart application:batch -- sh"), 0)
      << err_.str();
  EXPECT_EQ(agent_.spec.application(), "shop");
  EXPECT_THAT(agent_.spec.near(), testing::ElementsAre("application:shop"));
  EXPECT_EQ(Call("stop --application shop"), 3) << "none of them runs here";
  EXPECT_THAT(err_.str(), HasSubstr("no component of application shop runs on host node1"));
  agent_.application = {"db", "front"};
  EXPECT_EQ(Call("ps --application shop --names"), 0);
  EXPECT_EQ(out_.str(), "db\nfront\n");
  EXPECT_EQ(Call("stop --application shop --grace 2"), 0);
  EXPECT_THAT(agent_.stopped, testing::ElementsAre("db", "front"));
  EXPECT_EQ(agent_.grace_s, 2);
  agent_.on_migrate = [](ServerContext*, ServerWriter<v1::MigrationProgress>* writer) {
    writer->Write(Progress(v1::DONE));
    return Status::OK;
  };
  EXPECT_EQ(Call("migrate --application shop --to node2 --quiet"), 0) << err_.str();
  EXPECT_THAT(agent_.migrated, testing::ElementsAre("db", "front"));
  // The first that fails is the last.
  agent_.migrated.clear();
  agent_.on_migrate = [](ServerContext*, ServerWriter<v1::MigrationProgress>*) {
    return Status(StatusCode::RESOURCE_EXHAUSTED, "no room");
  };
  EXPECT_EQ(Call("migrate --application shop --to node2 --quiet"), 4);
  EXPECT_THAT(agent_.migrated, testing::ElementsAre("db"));
  EXPECT_THAT(err_.str(), HasSubstr("0 of 2 components have moved; not db, front"));
  // Who cannot be moved is asked for first, so that then none is.
  agent_.migrated.clear();
  agent_.check_only = "front";
  agent_.check.add_obstacles()->set_code("device");
  EXPECT_EQ(Call("migrate --application shop --to node2 --quiet"), 4);
  EXPECT_THAT(agent_.migrated, testing::ElementsAre("front"));
}

TEST_F(CliTest, StopLogsEventsCancel) {
  EXPECT_EQ(Call("stop redis --grace 2.5"), 0);
  EXPECT_EQ(agent_.grace_s, 2.5);
  EXPECT_EQ(out_.str(), "redis is exited, exit status 143\n");
  EXPECT_EQ(Call("logs redis --tail 4K"), 0);
  EXPECT_EQ(agent_.tail_bytes, 4096u);
  EXPECT_EQ(out_.str(), std::string("one\n\0\xfftwo", 9));
  EXPECT_EQ(Call("events redis --after 41"), 0);
  EXPECT_THAT(out_.str(), HasSubstr("#42  redis  started"));
  EXPECT_EQ(Call("events --json"), 0);
  EXPECT_EQ(OutLines().at(0)["number"], 1);
  EXPECT_EQ(Call("cancel redis"), 0);
}

TEST_F(CliTest, ReportShowsWhatTheAgentKept) {
  EXPECT_EQ(Call("report redis"), 0);
  EXPECT_EQ(out_.str(), "redis runs on node2\n  caf?[2J\n");
  EXPECT_EQ(Call("report redis --json"), 0);
  EXPECT_EQ(OutLines().at(0)["schema"], 1);
  EXPECT_EQ(Call("report 7f3a"), 3);
  EXPECT_EQ(Call("report"), 2);
}

TEST_F(CliTest, SaysThatNoAgentRuns) {
  server_->Shutdown();
  unlink(socket_.c_str());
  EXPECT_EQ(Call("ps"), 7);
  EXPECT_THAT(err_.str(), HasSubstr("starlingd does not run: there is no socket " + socket_));
  ASSERT_TRUE(WriteFileAtomic(socket_, "").ok());
  EXPECT_EQ(Call("ps"), 7);
  EXPECT_EQ(CallWords({"--socket", std::string(200, 'x'), "ps"}), 2);
}

TEST_F(CliTest, TheSocketCanBeNamedByTheEnvironment) {
  setenv("STARLING_SOCKET", socket_.c_str(), 1);
  EXPECT_EQ(CallWords({"ps", "--names"}), 0);
  EXPECT_EQ(out_.str(), "redis\nweb\n");
  unsetenv("STARLING_SOCKET");
}

// Whoever listens closes at once what is opened: not an agent.
TEST_F(CliTest, SaysThatSomebodyElseAnswers) {
  const std::string path = scratch_ / "other";
  UniqueFd listener(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  path.copy(address.sun_path, sizeof address.sun_path - 1);
  ASSERT_EQ(bind(listener.get(), reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
  ASSERT_EQ(listen(listener.get(), 8), 0);
  std::thread server([&] {
    while (true) {
      UniqueFd client(accept(listener.get(), nullptr, nullptr));
      if (!client) return;
      if (write(client.get(), "220 mail\r\n", 10) < 0) continue;
    }
  });
  EXPECT_EQ(CallWords({"--socket", path, "ps"}), 7);
  EXPECT_THAT(err_.str(), HasSubstr("does not answer as starlingd does"));
  shutdown(listener.get(), SHUT_RDWR);
  server.join();
}

// Between command line and agent, so that a test can cut them apart as kill -9 does.
class Relay {
 public:
  Relay(const std::string& path, const std::string& agent) : agent_(agent) {
    listener_.Reset(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    const sockaddr_un address = Address(path);
    if (bind(listener_.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0 ||
        listen(listener_.get(), 8) != 0) {
      abort();
    }
    thread_ = std::thread([this] { Serve(); });
  }
  ~Relay() {
    Cut();
    thread_.join();
  }
  void Cut() {
    cut_ = true;
    shutdown(listener_.get(), SHUT_RDWR);
  }

 private:
  static sockaddr_un Address(const std::string& path) {
    sockaddr_un address = {};
    address.sun_family = AF_UNIX;
    path.copy(address.sun_path, sizeof address.sun_path - 1);
    return address;
  }

  // Pairs of descriptors, [i] and [i ^ 1], until the cut.
  void Serve() {
    std::vector<UniqueFd> ends;
    while (!cut_) {
      std::vector<pollfd> polls = {{listener_.get(), POLLIN, 0}};
      for (const UniqueFd& end : ends) polls.push_back({end.get(), POLLIN, 0});
      poll(polls.data(), polls.size(), 5);
      if (cut_) return;
      if (polls[0].revents != 0) {
        UniqueFd client(accept(listener_.get(), nullptr, nullptr));
        UniqueFd server(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
        const sockaddr_un address = Address(agent_);
        if (!client || connect(server.get(), reinterpret_cast<const sockaddr*>(&address),
                               sizeof address) != 0) {
          continue;
        }
        ends.push_back(std::move(client));
        ends.push_back(std::move(server));
        continue;
      }
      for (size_t i = 1; i < polls.size(); ++i) {
        if (polls[i].revents == 0) continue;
        char buffer[4096];
        const ssize_t got = read(ends[i - 1].get(), buffer, sizeof buffer);
        UniqueFd& other = ends[(i - 1) ^ 1];
        if (got <= 0) {
          ends[i - 1].Reset();
          other.Reset();
        } else if (!WriteAll(other.get(), buffer, got).ok()) {
          other.Reset();
        }
      }
    }
  }

  const std::string agent_;
  UniqueFd listener_;
  std::atomic<bool> cut_ = false;
  std::thread thread_;
};

TEST_F(CliTest, AnAgentThatDiesIsNotAMigrationInDoubt) {
  for (int round = 0; round < 10; ++round) {
    const std::string path = scratch_ / "relay";
    Relay relay(path, socket_);
    agent_.on_migrate = [&](ServerContext* context, ServerWriter<v1::MigrationProgress>* writer) {
      writer->Write(Progress(v1::COMMIT));
      relay.Cut();
      while (!context->IsCancelled()) std::this_thread::sleep_for(std::chrono::milliseconds(1));
      return Status::CANCELLED;
    };
    EXPECT_EQ(CallWords({"--socket", path, "migrate", "redis", "--to", "node2"}), 7);
    EXPECT_THAT(err_.str(), HasSubstr("starlingd went away"));
    // Through the relay a word of the agent is still one.
    unlink(path.c_str());
    Relay whole(path, socket_);
    agent_.on_migrate = nullptr;
    agent_.answer = Status(StatusCode::UNAVAILABLE, "node2 does not answer");
    EXPECT_EQ(CallWords({"--socket", path, "migrate", "redis", "--to", "node2"}), 9);
    agent_.answer = Status::OK;
    unlink(path.c_str());
  }
}

TEST_F(CliTest, AnAgentThatIsToldToStopIsNotAMigrationInDoubt) {
  std::thread stopper;
  agent_.on_migrate = [&](ServerContext* context, ServerWriter<v1::MigrationProgress>* writer) {
    writer->Write(Progress(v1::COMMIT));
    stopper = std::thread([&] { server_->Shutdown(std::chrono::system_clock::now()); });
    while (!context->IsCancelled()) std::this_thread::sleep_for(std::chrono::milliseconds(1));
    return Status::CANCELLED;
  };
  const int code = Call("migrate redis --to node2");
  stopper.join();
  EXPECT_EQ(code, 7) << err_.str();
}

TEST(AgentConnect, SaysThatAStrangerMayNot) {
  Scratch scratch;
  ASSERT_EQ(chmod(scratch.path().c_str(), 0755), 0);
  const std::string path = scratch / "closed";
  UniqueFd listener(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  path.copy(address.sun_path, sizeof address.sun_path - 1);
  ASSERT_EQ(bind(listener.get(), reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
  ASSERT_EQ(listen(listener.get(), 8), 0);
  // Root may open any; whoever runs this test otherwise is the stranger himself.
  ASSERT_EQ(chmod(path.c_str(), geteuid() == 0 ? 0600 : 0), 0);
  const pid_t child = fork();
  if (child == 0) {
    if (geteuid() == 0 && (setgid(65534) != 0 || setuid(65534) != 0)) _exit(3);
    ConnectFailure failure;
    const bool refused = Agent::Connect(path, &failure) == nullptr;
    _exit(refused && failure.code == ExitCode::kNotPermitted ? 0 : 1);
  }
  int status = 0;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  EXPECT_EQ(status, 0);
}

TEST(ExplainConnect, SaysWhoMay) {
  for (const int error : {EACCES, EPERM}) {
    const ConnectFailure failure = ExplainConnect(error, "/run/starling/starlingd.sock");
    EXPECT_EQ(failure.code, ExitCode::kNotPermitted);
    EXPECT_THAT(failure.message, HasSubstr("root or group starling"));
  }
  EXPECT_EQ(ExplainConnect(ECONNREFUSED, "s").code, ExitCode::kAgentUnreachable);
  EXPECT_EQ(ExplainConnect(ENOMEM, "s").code, ExitCode::kAgentUnreachable);
}

}  // namespace
}  // namespace starling::cli
