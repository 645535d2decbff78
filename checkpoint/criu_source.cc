#include "checkpoint/criu_source.h"

#include <unistd.h>

#include <cerrno>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/file.h"
#include "base/status.h"

namespace starling::checkpoint {
namespace {

constexpr char kFinal[] = "final";

}  // namespace

CriuSource::CriuSource(const CriuVersion& version, std::string folder, CriuWorker pre_dump,
                       CriuDumper dumper, FrozenMemoryOpener memory)
    : stream_(version, std::move(folder)),
      pre_dump_(std::move(pre_dump)),
      dumper_(std::move(dumper)),
      memory_(std::move(memory)) {}

std::string CriuSource::final_images() const { return absl::StrCat(stream_.folder(), "/", kFinal); }

absl::StatusOr<PageServerResult> CriuSource::Serve(const std::function<absl::Status()>& worker,
                                                   const std::string& name, PageSink& sink,
                                                   LateFrozenMemory* frozen) {
  return stream_.Serve(
      name, worker, [this](const AddressSpace& space) { return known_.contains(space); }, sink,
      frozen);
}

void CriuSource::Forget() {
  parent_.clear();
  known_.clear();
  sent_.Clear();
}

void CriuSource::Remember(const FinalList& list) {
  for (const FinalList::Entry& entry : list.entries) {
    if (entry.in_arena_before || entry.run.pages == 0) continue;
    sent_.Add(entry.run);
  }
}

absl::StatusOr<RoundReport> CriuSource::Round(PageSink& sink) {
  const std::string name = absl::StrCat("round-", ++round_);
  ASSIGN_OR_RETURN(CriuWork work, stream_.Open(name, parent_));
  absl::StatusOr<PageServerResult> result =
      Serve([&] { return pre_dump_(std::move(work)); }, name, sink);
  if (!parent_.empty()) RETURN_IF_ERROR(RemoveTree(absl::StrCat(stream_.folder(), "/", parent_)));
  if (!result.ok()) {
    Forget();
    return Annotate(result.status(), absl::StrCat("pre-copy round ", round_));
  }
  parent_ = name;
  known_ = std::move(result->opened);
  Remember(result->list);
  return result->report;
}

// CRIU would not send them again by itself: they are read from the frozen component in the end.
void CriuSource::Resend(std::span<const PageRun> runs) {
  for (const PageRun& run : runs) sent_.Remove(run);
}

absl::Status CriuSource::Stage() {
  ASSIGN_OR_RETURN(CriuWork work, stream_.Open(kFinal, parent_));
  RETURN_IF_ERROR(Annotate(dumper_.stage(std::move(work)), "final dump"));
  staged_ = true;
  return absl::OkStatus();
}

absl::StatusOr<FinalList> CriuSource::Final(PageSink& sink, RoundReport& report) {
  if (!staged_) RETURN_IF_ERROR(Stage());
  staged_ = false;
  const TimePoint started = Clock::now();
  LateFrozenMemory memory(memory_);
  absl::StatusOr<PageServerResult> result = Serve(dumper_.dump, kFinal, sink, &memory);
  if (!result.ok()) {
    Forget();
    return Annotate(result.status(), "final dump");
  }
  report = result->report;
  Resend(result->distrusted);
  absl::StatusOr<FinalList> list = SettleHoles(result->list, sent_, memory, sink, report);
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
