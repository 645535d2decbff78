#include "checkpoint/criu_stream.h"

#include <sys/socket.h>

#include <memory>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/file.h"
#include "base/status.h"
#include "checkpoint/criu_images.h"

namespace starling::checkpoint {
namespace {

// Room between CRIU and us, so that neither waits for the other's every page.
constexpr int kSocketBytes = 4 << 20;

}  // namespace

CriuDumper Unstaged(CriuWorker dump) {
  auto staged = std::make_shared<CriuWork>();
  return {[staged](CriuWork work) {
            *staged = std::move(work);
            return absl::OkStatus();
          },
          [staged, dump = std::move(dump)] { return dump(std::move(*staged)); }};
}

absl::StatusOr<CriuWork> CriuStream::Open(const std::string& name, const std::string& parent) {
  const std::string images = absl::StrCat(folder_, "/", name);
  RETURN_IF_ERROR(RemoveTree(images));
  RETURN_IF_ERROR(MakeDirectories(images, 0700));
  int ends[2];
  if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) != 0) {
    return ErrnoStatus("make CRIU's page stream");
  }
  ours_.Reset(ends[0]);
  CriuWork work{UniqueFd(ends[1]), images, parent.empty() ? "" : absl::StrCat("../", parent)};
  // Larger than the system's limit where we may; else as large as it allows.
  if (::setsockopt(ends[1], SOL_SOCKET, SO_SNDBUFFORCE, &kSocketBytes, sizeof(kSocketBytes)) != 0) {
    (void)::setsockopt(ends[1], SOL_SOCKET, SO_SNDBUF, &kSocketBytes, sizeof(kSocketBytes));
  }
  return work;
}

absl::StatusOr<PageServerResult> CriuStream::Serve(
    const std::string& name, const std::function<absl::Status()>& worker,
    std::function<bool(const AddressSpace&)> has_parent, PageSink& sink, LateFrozenMemory* frozen,
    const std::function<absl::Status()>& before) {
  const TimePoint started = Clock::now();
  absl::Status worked;
  std::thread thread([&] {
    worked = worker();
    // Whoever still holds CRIU's end: nothing comes any more.
    if (!worked.ok()) ::shutdown(ours_.get(), SHUT_RDWR);
  });
  PageServerJob job;
  job.socket = ours_.get();
  job.version = version_;
  job.has_parent = std::move(has_parent);
  if (frozen != nullptr) {
    job.distrusted = [frozen](const AddressSpace& space) -> absl::StatusOr<std::vector<PageRun>> {
      ASSIGN_OR_RETURN(const FrozenMemory* memory, frozen->Get());
      if (memory == nullptr) return std::vector<PageRun>();
      return memory->CallPages(space);
    };
  }
  const absl::Status prepared = before ? before() : absl::OkStatus();
  absl::StatusOr<PageServerResult> served = absl::AbortedError("not begun");
  if (prepared.ok()) served = ServePages(job, sink);
  // A CRIU that is still writing to a server that has given up must come to an end.
  if (!served.ok()) ::shutdown(ours_.get(), SHUT_RDWR);
  thread.join();
  ours_.Reset();

  // Both fail together; the server's word counts where it decided (the sink, a malformed message),
  // CRIU's where the stream merely ended.
  RETURN_IF_ERROR(prepared);
  if (!served.ok() && !(absl::IsDataLoss(served.status()) && !worked.ok())) return served.status();
  RETURN_IF_ERROR(worked);
  served->report.elapsed = Clock::now() - started;
  if (const auto bytes = ReadFile(absl::StrCat(folder_, "/", name, "/stats-dump")); bytes.ok()) {
    if (const auto stats = DecodeDumpStats(*bytes); stats.ok()) {
      served->report.paused = stats->freezing + stats->frozen;
    }
  }
  return served;
}

}  // namespace starling::checkpoint
