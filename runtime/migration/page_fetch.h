#pragma once

#include <atomic>
#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <thread>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/clock.h"
#include "base/fd.h"
#include "checkpoint/lazy_index.h"
#include "runtime/proto/starling.pb.h"
#include "transport/fabric.h"

namespace starling::migration {

// Brings what an offer has into the arena of a component that was restored without it: reads over
// the fabric, checks, and tells who serves the component's faults. Runs on threads of its own from
// the beginning, and ends by itself when nothing is missing any more, when nothing is needed any
// more, or when it is certain that the rest will never come: then the component is ended.
class PageFetch {
 public:
  // The component's keeper. Errors: kUnavailable when it is gone, and the component with it.
  struct Keeper {
    struct Missing {
      UniqueFd arena;
      std::vector<checkpoint::SlotRange> slots;
    };
    std::function<absl::StatusOr<Missing>()> find_missing;
    struct Wanted {
      std::vector<checkpoint::SlotRange> slots;
      bool over = false;  // no page of the component waits any more
    };
    std::function<absl::StatusOr<Wanted>(Duration wait)> take_wanted;
    std::function<absl::Status(std::span<const checkpoint::SlotRange>)> arrived;
    std::function<absl::Status(const std::string& why)> lose;
  };
  // The agent that has the offer. Errors as PeerClient's.
  struct Source {
    std::string name;
    std::function<absl::StatusOr<v1::OpenOfferResponse>()> open;
    std::function<absl::Status(uint64_t pages_left, const std::string& lost)> drain;
  };
  struct Parts {
    // The transport of that name.
    std::function<absl::StatusOr<transport::Fabric*>(const std::string& provider)> fabric;
    Keeper keeper;
    Source source;
    Duration patience{};  // with a source that is not heard
    // How it ended; called once, on a thread of its own. Not when it was stopped.
    std::function<void(const absl::Status&, uint64_t pages)> ended;
  };

  explicit PageFetch(Parts parts);
  // Stops it, wherever it is. The keeper has to answer, or be gone.
  ~PageFetch();

  bool done() const { return done_; }

 private:
  struct Session;

  void Run();
  absl::Status Fetch();
  // Pieces until nothing is left, or something fails.
  absl::Status Read(Session& session);
  void Listen();
  void TellSource();

  const Parts parts_;
  // Of the thread that reads.
  checkpoint::RunMap<checkpoint::Missing> missing_;
  std::vector<checkpoint::SlotRange> asked_;  // all that was wanted, for the next connection
  std::span<std::byte> arena_;
  std::span<std::byte> buffer_;
  std::unique_ptr<transport::MemoryRegion> region_;

  std::mutex mutex_;  // guards what follows
  std::condition_variable changed_;
  std::vector<checkpoint::SlotRange> wanted_;
  transport::Connection* connection_ = nullptr;  // to be shut down
  bool over_ = false;                            // nothing is needed any more
  bool gone_ = false;                            // nor is the keeper there

  std::atomic<uint64_t> pages_left_{0};
  std::atomic<uint64_t> pages_read_{0};
  std::atomic<bool> stopping_{false};
  std::atomic<bool> reading_over_{false};
  std::atomic<bool> done_{false};
  TimePoint heard_{};
  std::thread running_;
};

}  // namespace starling::migration
