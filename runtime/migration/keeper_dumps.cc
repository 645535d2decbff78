#include "runtime/migration/keeper_dumps.h"

#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status.h"

namespace starling::migration {
namespace {

// A call to the component's own keeper that starts nothing slow.
constexpr auto kKeeperTimeout = std::chrono::seconds(10);
// Between two looks at how far the memory of the last move has come.
constexpr auto kLookAgain = std::chrono::milliseconds(20);

template <typename Request>
void Fill(const checkpoint::CriuWork& work, Duration timeout, Request* request) {
  request->set_images_dir(work.images_dir);
  request->set_parent_dir(work.parent_images);
  request->set_timeout_s(Seconds(timeout));
}

}  // namespace

checkpoint::CriuWorker KeeperDumps::PreDumper() {
  return [this](checkpoint::CriuWork work) { return PreDump(std::move(work)); };
}

checkpoint::CriuDumper KeeperDumps::Dumper() {
  return {[this](checkpoint::CriuWork work) { return StageDump(std::move(work)); },
          [this] { return Dump(); }};
}

absl::Status KeeperDumps::PreDump(checkpoint::CriuWork work) {
  keeper::v1::Request request;
  Fill(work, timeout_, request.mutable_pre_dump());
  return copy_->Call(request, Deadline::After(timeout_ + kKeeperTimeout), {work.page_server.get()})
      .status();
}

absl::Status KeeperDumps::StageDump(checkpoint::CriuWork work) {
  keeper::v1::Request request;
  Fill(work, timeout_, request.mutable_stage_dump());
  return copy_->Call(request, Deadline::After(timeout_ + kKeeperTimeout), {work.page_server.get()})
      .status();
}

absl::Status KeeperDumps::Dump() {
  keeper::v1::Request request;
  request.mutable_dump();
  ASSIGN_OR_RETURN(keeper::v1::Reply reply,
                   copy_->Call(request, Deadline::After(timeout_ + kKeeperTimeout)));
  phases_ = std::move(*reply.mutable_phases());
  return absl::OkStatus();
}

absl::Status WaitUntilWhole(const agent::Copy& copy, Deadline deadline,
                            const std::function<absl::Status()>& wanted) {
  while (true) {
    ASSIGN_OR_RETURN(const keeper::v1::Status status, copy.Status(Deadline::After(kKeeperTimeout)));
    if (status.pages_waiting() == 0) return absl::OkStatus();
    RETURN_IF_ERROR(wanted());
    if (deadline.Passed()) {
      return absl::DeadlineExceededError(
          absl::StrCat(status.pages_waiting(),
                       " pages of the component's last move are still being put in place"));
    }
    std::this_thread::sleep_for(kLookAgain);
  }
}

}  // namespace starling::migration
