// What it costs to track and read a process, with the engine of a migration and no wire: pages go
// into slabs as they would on their way out, and are forgotten. One JSON object on standard output.
//
// usage: capture-bench rounds --cgroup FOLDER [--tracker NAME] [--threads N] [--max-slowdown SHARE]
//                      [--rounds N]
//        capture-bench precopy --cgroup FOLDER --seconds S --link BYTES/s [as above]
//        capture-bench memcpy --mib N [--threads N]
//        capture-bench faults --mib N

#include <linux/userfaultfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/resource.h>

#include <CLI/CLI.hpp>
#include <cstring>
#include <iostream>
#include <memory>
#include <mutex>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "base/fd.h"
#include "base/file.h"
#include "base/status.h"
#include "base/token_bucket.h"
#include "checkpoint/component_memory.h"
#include "checkpoint/page_stream.h"
#include "checkpoint/tracker.h"
#include "runtime/config.h"
#include "runtime/migration/make_source.h"
#include "runtime/migration/plan.h"
#include "runtime/migration/slowdown.h"

namespace {

using nlohmann::json;
using namespace starling;  // NOLINT(build/namespaces): this file only wires parts together
using checkpoint::PageLane;
using checkpoint::PageRun;

// Lets through what a link of this rate would; 0: everything.
class Link {
 public:
  explicit Link(double bytes_per_s) : rate_(bytes_per_s, bytes_per_s * kBurstSeconds) {}
  void Carry(uint64_t bytes) {
    std::unique_lock lock(mutex_);
    const Duration wait = rate_.Take(bytes, Clock::now());
    lock.unlock();
    std::this_thread::sleep_for(wait);
  }

 private:
  static constexpr double kBurstSeconds = 0.01;
  std::mutex mutex_;
  TokenBucket rate_;
};

// Slabs that are filled in turn, as a connection's are.
class SlabLane final : public PageLane {
 public:
  SlabLane(Link& link, uint64_t slab_bytes, size_t slabs)
      : link_(link),
        slab_bytes_(slab_bytes),
        slabs_(slabs),
        memory_(new std::byte[slab_bytes * slabs]) {
    std::memset(memory_.get(), 1, slab_bytes * slabs);
  }

  absl::StatusOr<std::span<std::byte>> Acquire(size_t pages) override {
    if (slab_bytes_ - used_ < checkpoint::kPageSize) {
      turn_ = (turn_ + 1) % slabs_;
      used_ = 0;
    }
    const size_t room = (slab_bytes_ - used_) / checkpoint::kPageSize;
    return std::span(memory_.get() + turn_ * slab_bytes_ + used_,
                     std::min(pages, room) * checkpoint::kPageSize);
  }
  absl::Status Put(const PageRun& run) override { return PutAll({&run, 1}); }
  absl::Status PutAll(std::span<const PageRun> runs) override {
    uint64_t bytes = 0;
    for (const PageRun& run : runs) bytes += run.pages * checkpoint::kPageSize;
    used_ += bytes;
    link_.Carry(bytes);
    return absl::OkStatus();
  }
  void Discard() override {}
  absl::Status PutZero(const PageRun&) override { return absl::OkStatus(); }

 private:
  Link& link_;
  const uint64_t slab_bytes_;
  const size_t slabs_;
  std::unique_ptr<std::byte[]> memory_;
  size_t turn_ = 0;
  size_t used_ = 0;
};

class SlabSink final : public checkpoint::PageSink {
 public:
  SlabSink(const Config::Data& data, int lanes, double link_bytes_per_s = 0)
      : link_(link_bytes_per_s) {
    for (int i = 0; i < lanes; ++i) {
      owned_.push_back(std::make_unique<SlabLane>(
          link_, data.slab_bytes, static_cast<size_t>(std::max(1, data.slabs / lanes))));
      lanes_.push_back(owned_.back().get());
    }
  }

  absl::StatusOr<std::span<std::byte>> Acquire(size_t pages) override {
    return lanes_[0]->Acquire(pages);
  }
  absl::Status Put(const PageRun& run) override { return lanes_[0]->Put(run); }
  absl::Status PutAll(std::span<const PageRun> runs) override { return lanes_[0]->PutAll(runs); }
  void Discard() override {}
  absl::Status PutZero(const PageRun& run) override { return lanes_[0]->PutZero(run); }
  std::span<PageLane* const> lanes() override { return lanes_; }
  absl::StatusOr<std::vector<PageRun>> Flush(Deadline) override { return std::vector<PageRun>(); }

 private:
  Link link_;
  std::vector<std::unique_ptr<SlabLane>> owned_;
  std::vector<PageLane*> lanes_;
};

double ProcessorSeconds() {
  rusage usage;
  ::getrusage(RUSAGE_SELF, &usage);
  const auto seconds = [](const timeval& t) {
    return static_cast<double>(t.tv_sec) + 1e-6 * static_cast<double>(t.tv_usec);
  };
  return seconds(usage.ru_utime) + seconds(usage.ru_stime);
}

struct Options {
  std::string cgroup;
  std::string tracker = "auto";
  int threads = Config::Migration().capture_threads;
  double max_slowdown = Config::Migration().max_slowdown;
  int rounds = 2;
  double seconds = 10;
  double link_bytes_per_s = 1.25e9;
  uint64_t mib = 0;
};

// The best that works here: CRIU, and with it what it needs of the kernel, takes no part.
absl::StatusOr<std::string> Tracker(const std::string& wanted) {
  const bool soft_dirty = checkpoint::HasSoftDirty();
  const bool protection = checkpoint::HasAsyncProtection();
  if (wanted == "auto") return soft_dirty ? "soft-dirty" : protection ? "pagemap-scan" : "hash";
  if ((wanted == "soft-dirty" && !soft_dirty) || (wanted == "pagemap-scan" && !protection)) {
    return absl::FailedPreconditionError("this kernel has nothing for tracker " + wanted);
  }
  return wanted;
}

absl::Status Freeze(const std::string& cgroup, bool frozen) {
  RETURN_IF_ERROR(WriteKnob(cgroup + "/cgroup.freeze", frozen ? "1" : "0"));
  const Deadline deadline = Deadline::After(std::chrono::seconds(10));
  while (!deadline.Passed()) {
    ASSIGN_OR_RETURN(const std::string events, ReadFile(cgroup + "/cgroup.events"));
    if ((events.find("frozen 1") != std::string::npos) == frozen) return absl::OkStatus();
  }
  return absl::DeadlineExceededError(cgroup + " does not freeze");
}

// The engine, as an agent makes it.
class Engine {
 public:
  static absl::StatusOr<std::unique_ptr<Engine>> Make(const Options& options) {
    auto engine = std::unique_ptr<Engine>(new Engine(options));
    ASSIGN_OR_RETURN(engine->tracker_, Tracker(options.tracker));
    // What its processes usually wait for processors, and use of them.
    const auto before = migration::ReadProcessorTimes(options.cgroup);
    const TimePoint since = Clock::now();
    engine->pressure_known_ = before.ok();
    migration::ProcessorShares usual;
    if (before.ok()) {
      std::this_thread::sleep_for(std::chrono::seconds(1));
      ASSIGN_OR_RETURN(const auto after, migration::ReadProcessorTimes(options.cgroup));
      usual = migration::SharesBetween(*before, after, Clock::now() - since);
    }
    engine->governor_.emplace(options.max_slowdown, usual);
    return engine;
  }

  std::unique_ptr<checkpoint::PageSource> Source() {
    migration::SourceParts parts;
    parts.tracker = tracker_;
    parts.criu = {3, 17, 1};
    parts.folder = "/nonexistent";  // nothing is dumped
    parts.cgroup = options_.cgroup;
    parts.threads = options_.threads;
    parts.freezer = [this](bool frozen) { return Freeze(options_.cgroup, frozen); };
    parts.hold_back = [this](uint64_t bytes, Duration worked) {
      const TimePoint now = Clock::now();
      if (pressure_known_ && governor_->Due(now)) {
        if (const auto times = migration::ReadProcessorTimes(options_.cgroup); times.ok()) {
          governor_->Look(now, *times);
        }
      }
      return governor_->Rest(bytes, worked);
    };
    // Alone it is refused nothing.
    return migration::MakeSource(std::move(parts)).value();
  }

  json Told() const {
    return {{"tracker", tracker_},
            {"threads", options_.threads},
            {"pressure_known", pressure_known_},
            {"lowest_share", governor_->lowest_share()}};
  }

 private:
  explicit Engine(const Options& options) : options_(options) {}

  const Options& options_;
  std::string tracker_;
  bool pressure_known_ = false;
  std::optional<migration::SlowdownGovernor> governor_;
};

absl::StatusOr<json> Rounds(const Options& options) {
  ASSIGN_OR_RETURN(const std::unique_ptr<Engine> engine, Engine::Make(options));
  const std::unique_ptr<checkpoint::PageSource> source = engine->Source();
  SlabSink sink(Config::Data(), options.threads);
  json told = engine->Told();
  told["rounds"] = json::array();
  for (int i = 0; i < options.rounds; ++i) {
    const double before = ProcessorSeconds();
    ASSIGN_OR_RETURN(const checkpoint::RoundReport round, source->Round(sink));
    told["rounds"].push_back({{"pages", round.pages_sent},
                              {"zero_pages", round.pages_zero},
                              {"unchanged_pages", round.pages_unchanged},
                              {"deferred_pages", round.pages_deferred},
                              {"listing_s", Seconds(round.listing)},
                              {"elapsed_s", Seconds(round.elapsed)},
                              {"paused_s", Seconds(round.paused)},
                              {"processor_s", ProcessorSeconds() - before}});
  }
  return told;
}

// Pre-copies one after another: each has as many rounds as a migration over such a link would have.
absl::StatusOr<json> PreCopies(const Options& options) {
  ASSIGN_OR_RETURN(const std::unique_ptr<Engine> engine, Engine::Make(options));
  SlabSink sink(Config::Data(), options.threads, options.link_bytes_per_s);
  const Config::Migration defaults;
  migration::PlanLimits limits;
  limits.max_blackout_s = Seconds(defaults.max_blackout);
  limits.max_rounds = static_cast<uint32_t>(defaults.max_rounds);
  const TimePoint began = Clock::now();
  const double before = ProcessorSeconds();
  uint64_t copies = 0;
  uint64_t rounds = 0;
  uint64_t pages = 0;
  for (; Seconds(Clock::now() - began) < options.seconds; ++copies) {
    const std::unique_ptr<checkpoint::PageSource> source = engine->Source();
    migration::RoundFacts facts;
    facts.link_bytes_per_s = options.link_bytes_per_s;
    while (migration::PlanNextRound(facts, limits).another_round) {
      ASSIGN_OR_RETURN(const checkpoint::RoundReport round, source->Round(sink));
      facts.previous_round_bytes = facts.last_round_bytes;
      facts.deferred_bytes = round.pages_deferred * checkpoint::kPageSize;
      facts.last_round_bytes = round.pages_sent * checkpoint::kPageSize + facts.deferred_bytes;
      if (facts.rounds_done > 0) {
        facts.dirty_bytes_per_s = static_cast<double>(facts.last_round_bytes) / facts.last_round_s;
      }
      facts.last_round_s = Seconds(round.elapsed);
      limits.resident_bytes = std::max(limits.resident_bytes, facts.last_round_bytes);
      ++facts.rounds_done;
      ++rounds;
      pages += round.pages_sent;
    }
  }
  json told = engine->Told();
  told["copies"] = copies;
  told["rounds"] = rounds;
  told["pages"] = pages;
  told["elapsed_s"] = Seconds(Clock::now() - began);
  told["processor_s"] = ProcessorSeconds() - before;
  return told;
}

// The same amount, copied within one process into the same slabs.
absl::StatusOr<json> Memcpy(const Options& options) {
  const uint64_t bytes = options.mib * kMiB;
  void* mapped = ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (mapped == MAP_FAILED) return ErrnoStatus("allocate what is to be copied");
  // Not with a page of zeros, which the kernel would share.
  auto* const from = static_cast<std::byte*>(mapped);
  std::memset(from, 1, bytes);
  const Config::Data data;
  SlabSink sink(data, options.threads);
  const TimePoint began = Clock::now();
  const double before = ProcessorSeconds();
  std::vector<std::thread> threads;
  const uint64_t each = bytes / static_cast<uint64_t>(options.threads) / data.slab_bytes;
  for (int i = 0; i < options.threads; ++i) {
    threads.emplace_back([&, i] {
      PageLane& lane = *sink.lanes()[static_cast<size_t>(i)];
      const std::byte* at = from + static_cast<uint64_t>(i) * each * data.slab_bytes;
      for (uint64_t done = 0; done < each; ++done, at += data.slab_bytes) {
        const std::span<std::byte> to = *lane.Acquire(data.slab_bytes / checkpoint::kPageSize);
        std::memcpy(to.data(), at, to.size());
        (void)lane.Put({{}, 0, to.size() / checkpoint::kPageSize});
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  const double elapsed_s = Seconds(Clock::now() - began);
  const double processor_s = ProcessorSeconds() - before;
  ::munmap(mapped, bytes);
  return json{{"bytes", each * data.slab_bytes * static_cast<uint64_t>(options.threads)},
              {"threads", options.threads},
              {"elapsed_s", elapsed_s},
              {"processor_s", processor_s}};
}

// What the first write to a write-protected page costs the writer, as it does a tracked component:
// much more where a hypervisor keeps this machine's page tables. Null where the kernel has no such
// protection.
absl::StatusOr<json> Faults(const Options& options) {
  if (!checkpoint::HasAsyncProtection()) return json{{"write_fault_s", nullptr}};
  const uint64_t bytes = options.mib * kMiB;
  void* mapped = ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (mapped == MAP_FAILED) return ErrnoStatus("allocate what is to be written");
  (void)::madvise(mapped, bytes, MADV_NOHUGEPAGE);
  auto* const pages = static_cast<volatile char*>(mapped);
  const auto write_s = [&] {
    const double before = ProcessorSeconds();
    for (uint64_t at = 0; at < bytes; at += checkpoint::kPageSize) pages[at] = 1;
    return (ProcessorSeconds() - before) / static_cast<double>(bytes / checkpoint::kPageSize);
  };
  write_s();
  ASSIGN_OR_RETURN(const UniqueFd userfault, checkpoint::OpenAsyncUserfault());
  const uffdio_range all = {reinterpret_cast<uint64_t>(mapped), bytes};
  uffdio_register known = {.range = all, .mode = UFFDIO_REGISTER_MODE_WP, .ioctls = 0};
  const uffdio_writeprotect protect = {.range = all, .mode = UFFDIO_WRITEPROTECT_MODE_WP};
  if (::ioctl(userfault.get(), UFFDIO_REGISTER, &known) != 0 ||
      ::ioctl(userfault.get(), UFFDIO_WRITEPROTECT, &protect) != 0) {
    return ErrnoStatus("write-protect pages");
  }
  const double fault_s = write_s();
  return json{{"write_fault_s", fault_s}, {"write_s", write_s()}};
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app("Measures what tracking and reading a process costs, and memcpy beside it.");
  app.require_subcommand(1);
  Options options;
  CLI::App* rounds = app.add_subcommand("rounds", "Rounds over the processes of a cgroup");
  rounds->add_option("--rounds", options.rounds)->check(CLI::Range(1, 100000));
  CLI::App* precopy = app.add_subcommand("precopy", "Pre-copies of them, one after another");
  precopy->add_option("--seconds", options.seconds)->required();
  precopy->add_option("--link", options.link_bytes_per_s, "Bytes per second of the link")
      ->required()
      ->check(CLI::PositiveNumber);
  for (CLI::App* command : {rounds, precopy}) {
    command->add_option("--cgroup", options.cgroup)->required()->check(CLI::ExistingDirectory);
    command->add_option("--tracker", options.tracker)->capture_default_str();
    command->add_option("--max-slowdown", options.max_slowdown)->capture_default_str();
  }
  CLI::App* copy = app.add_subcommand("memcpy", "As much, copied within one process");
  copy->add_option("--mib", options.mib)->required()->check(CLI::Range(1, 1 << 20));
  CLI::App* faults = app.add_subcommand("faults", "What first writes to protected pages cost");
  faults->add_option("--mib", options.mib)->required()->check(CLI::Range(1, 1 << 20));
  for (CLI::App* command : {rounds, precopy, copy}) {
    command->add_option("--threads", options.threads)->check(CLI::Range(1, 16));
  }
  CLI11_PARSE(app, argc, argv);
  const absl::StatusOr<json> result = *rounds    ? Rounds(options)
                                      : *precopy ? PreCopies(options)
                                      : *faults  ? Faults(options)
                                                 : Memcpy(options);
  if (!result.ok()) {
    std::cerr << "capture-bench: " << result.status().message() << "\n";
    return 1;
  }
  std::cout << result->dump() << std::endl;
  return 0;
}
