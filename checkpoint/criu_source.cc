#include "checkpoint/criu_source.h"

#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <memory>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/file.h"
#include "base/status.h"
#include "checkpoint/criu_images.h"
#include "checkpoint/zero_page.h"

namespace starling::checkpoint {
namespace {

// Room between CRIU and us, so that neither waits for the other's every page.
constexpr int kSocketBytes = 4 << 20;
constexpr char kFinal[] = "final";

}  // namespace

CriuDumper Unstaged(CriuWorker dump) {
  auto staged = std::make_shared<CriuWork>();
  return {[staged](CriuWork work) {
            *staged = std::move(work);
            return absl::OkStatus();
          },
          [staged, dump = std::move(dump)] { return dump(std::move(*staged)); }};
}

CriuSource::CriuSource(const CriuVersion& version, std::string folder, CriuWorker pre_dump,
                       CriuDumper dumper, FrozenMemoryOpener memory)
    : version_(version),
      folder_(std::move(folder)),
      pre_dump_(std::move(pre_dump)),
      dumper_(std::move(dumper)),
      memory_(std::move(memory)) {}

std::string CriuSource::final_images() const { return absl::StrCat(folder_, "/", kFinal); }

absl::StatusOr<CriuWork> CriuSource::Open(const std::string& name) {
  const std::string images = absl::StrCat(folder_, "/", name);
  RETURN_IF_ERROR(RemoveTree(images));
  RETURN_IF_ERROR(MakeDirectories(images, 0700));
  int ends[2];
  if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) != 0) {
    return ErrnoStatus("make CRIU's page stream");
  }
  ours_.Reset(ends[0]);
  CriuWork work{UniqueFd(ends[1]), images, parent_.empty() ? "" : absl::StrCat("../", parent_)};
  // Larger than the system's limit where we may; else as large as it allows.
  if (::setsockopt(ends[1], SOL_SOCKET, SO_SNDBUFFORCE, &kSocketBytes, sizeof(kSocketBytes)) != 0) {
    (void)::setsockopt(ends[1], SOL_SOCKET, SO_SNDBUF, &kSocketBytes, sizeof(kSocketBytes));
  }
  return work;
}

absl::StatusOr<PageServerResult> CriuSource::Serve(const std::function<absl::Status()>& worker,
                                                   const std::string& name, PageSink& sink) {
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
  job.has_parent = [this](const AddressSpace& space) { return known_.contains(space); };
  absl::StatusOr<PageServerResult> served = ServePages(job, sink);
  // A CRIU that is still writing to a server that has given up must come to an end.
  if (!served.ok()) ::shutdown(ours_.get(), SHUT_RDWR);
  thread.join();
  ours_.Reset();

  // Both fail together; the server's word counts where it decided (the sink, a malformed message),
  // CRIU's where the stream merely ended.
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

void CriuSource::Forget() {
  parent_.clear();
  known_.clear();
  sent_.clear();
}

void CriuSource::Remember(const FinalList& list) {
  for (const FinalList::Entry& entry : list.entries) {
    if (entry.in_arena_before || entry.run.pages == 0) continue;
    sent_[entry.run.space].Assign(entry.run.address / kPageSize, entry.run.pages, {});
  }
}

absl::StatusOr<RoundReport> CriuSource::Round(PageSink& sink) {
  const std::string name = absl::StrCat("round-", ++round_);
  ASSIGN_OR_RETURN(CriuWork work, Open(name));
  absl::StatusOr<PageServerResult> result =
      Serve([&] { return pre_dump_(std::move(work)); }, name, sink);
  if (!parent_.empty()) RETURN_IF_ERROR(RemoveTree(absl::StrCat(folder_, "/", parent_)));
  if (!result.ok()) {
    Forget();
    return Annotate(result.status(), absl::StrCat("pre-copy round ", round_));
  }
  parent_ = name;
  known_ = std::move(result->opened);
  Remember(result->list);
  return result->report;
}

absl::Status CriuSource::SendUnsent(const FrozenMemory& memory, const PageRun& run, PageSink& sink,
                                    RoundReport& report) {
  for (uint64_t done = 0; done < run.pages;) {
    ASSIGN_OR_RETURN(const std::span<std::byte> room, sink.Acquire(run.pages - done));
    const PageRun part{run.space, run.address + done * kPageSize, room.size() / kPageSize};
    if (absl::Status status = memory.Read(run.space, part.address, room); !status.ok()) {
      sink.Discard();
      return Annotate(status, "a page that is mapped but was never sent");
    }
    if (AllZero(room)) {
      sink.Discard();
      RETURN_IF_ERROR(sink.PutZero(part));
      report.pages_zero += part.pages;
    } else {
      RETURN_IF_ERROR(sink.Put(part));
      report.pages_sent += part.pages;
    }
    done += part.pages;
  }
  report.pages_unchanged -= run.pages;
  return absl::OkStatus();
}

absl::StatusOr<FinalList> CriuSource::Settle(const FinalList& list, PageSink& sink,
                                             RoundReport& report) {
  std::unique_ptr<FrozenMemory> memory;
  if (memory_) {
    ASSIGN_OR_RETURN(memory, memory_());
  }
  FinalList settled;
  for (const FinalList::Entry& entry : list.entries) {
    if (!entry.in_arena_before) {
      settled.entries.push_back(entry);
      continue;
    }
    std::vector<FinalList::Entry> parts;
    sent_[entry.run.space].ForEachPiece(
        entry.run.address / kPageSize, entry.run.pages,
        [&](uint64_t first, uint64_t count, const Sent* sent) {
          parts.push_back({{entry.run.space, first * kPageSize, count}, sent != nullptr});
        });
    for (const FinalList::Entry& part : parts) {
      settled.entries.push_back(part);
      if (!memory) {
        if (part.in_arena_before) continue;
        return absl::FailedPreconditionError(absl::StrFormat(
            "%u pages from %#x on of process %u are mapped but were never sent, and the "
            "component's memory cannot be looked at",
            part.run.pages, part.run.address, part.run.space.id));
      }
      if (!part.in_arena_before) {
        RETURN_IF_ERROR(SendUnsent(*memory, part.run, sink, report));
        continue;
      }
      ASSIGN_OR_RETURN(const std::vector<PageRun> zero, memory->HugeZeroPages(part.run));
      for (const PageRun& run : zero) {
        RETURN_IF_ERROR(sink.PutZero(run));
        report.pages_zero += run.pages;
        report.pages_unchanged -= run.pages;
      }
    }
  }
  return settled;
}

absl::Status CriuSource::Stage() {
  ASSIGN_OR_RETURN(CriuWork work, Open(kFinal));
  RETURN_IF_ERROR(Annotate(dumper_.stage(std::move(work)), "final dump"));
  staged_ = true;
  return absl::OkStatus();
}

absl::StatusOr<FinalList> CriuSource::Final(PageSink& sink, RoundReport& report) {
  if (!staged_) RETURN_IF_ERROR(Stage());
  staged_ = false;
  const TimePoint started = Clock::now();
  absl::StatusOr<PageServerResult> result = Serve(dumper_.dump, kFinal, sink);
  if (!result.ok()) {
    Forget();
    return Annotate(result.status(), "final dump");
  }
  report = result->report;
  absl::StatusOr<FinalList> list = Settle(result->list, sink, report);
  // CRIU has cleared what it tracked: should the component go on here, all is to be sent again.
  Forget();
  RETURN_IF_ERROR(Annotate(list.status(), "final dump"));
  report.elapsed = Clock::now() - started;
  if (::unlink(absl::StrCat(final_images(), "/parent").c_str()) != 0 && errno != ENOENT) {
    return ErrnoStatus("remove the skeleton's link to its parent");
  }
  return list;
}

}  // namespace starling::checkpoint
