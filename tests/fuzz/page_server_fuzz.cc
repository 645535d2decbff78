#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <memory>
#include <vector>

#include "checkpoint/page_server.h"
#include "tests/fuzz/fuzz.h"

// What says it is CRIU at our page server: the first byte chooses the version, the rest is its
// stream.

using starling::fuzz::Require;
using namespace starling::checkpoint;

namespace {

// Takes pages and forgets them.
class Nowhere final : public PageSink {
 public:
  absl::StatusOr<std::span<std::byte>> Acquire(size_t pages) override {
    return std::span(room_.get(), std::min<size_t>(pages, kRoom) * kPageSize);
  }
  absl::Status Put(const PageRun& run) override {
    Require(run.pages > 0 && run.pages <= kRoom);
    return absl::OkStatus();
  }
  absl::Status PutAll(std::span<const PageRun>) override { return absl::OkStatus(); }
  void Discard() override {}
  absl::Status PutZero(const PageRun& run) override {
    Require(run.pages > 0);
    return absl::OkStatus();
  }
  std::span<PageLane* const> lanes() override { return lanes_; }
  absl::StatusOr<std::vector<PageRun>> Flush(starling::Deadline) override {
    return std::vector<PageRun>();
  }

 private:
  static constexpr size_t kRoom = 16;
  std::unique_ptr<std::byte[]> room_{new std::byte[kRoom * kPageSize]};
  std::vector<PageLane*> lanes_{this};
};

}  // namespace

int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  // What the socket takes without anybody reading.
  constexpr size_t kMost = 100 * 1024;
  if (size < 1 || size > kMost) return 0;
  int ends[2];
  Require(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) == 0);
  const int room = 1 << 20;
  ::setsockopt(ends[0], SOL_SOCKET, SO_SNDBUF, &room, sizeof(room));
  Require(::send(ends[0], data + 1, size - 1, MSG_NOSIGNAL | MSG_DONTWAIT) ==
          static_cast<ssize_t>(size - 1));
  ::shutdown(ends[0], SHUT_WR);
  PageServerJob job;
  job.socket = ends[1];
  job.version = data[0] % 2 == 0 ? CriuVersion{3, 17, 1} : CriuVersion{4, 0, 0};
  job.has_parent = [](const AddressSpace& space) { return space.id % 2 == 0; };
  job.distrusted = [](const AddressSpace& space) -> absl::StatusOr<std::vector<PageRun>> {
    return std::vector<PageRun>{{space, 0, 1}, {space, 0x3000, 1}, {space, 0x10000, 1}};
  };
  // Nobody reads the answers: a stream of many questions ends here.
  job.deadline = starling::Deadline::After(std::chrono::milliseconds(200));
  Nowhere sink;
  if (const auto result = ServePages(job, sink); result.ok()) {
    for (const auto& entry : result->list.entries) Require(entry.run.address % kPageSize == 0);
  }
  ::close(ends[0]);
  ::close(ends[1]);
  return 0;
}
