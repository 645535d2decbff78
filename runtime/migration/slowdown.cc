#include "runtime/migration/slowdown.h"

#include <unistd.h>

#include <algorithm>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "base/file.h"
#include "base/status.h"

namespace starling::migration {
namespace {

constexpr double kLess = 0.7;
constexpr double kMore = 1.1;
constexpr double kLeastShare = 0.01;
// As much is always read: a move has an end. A link that carries no more than this is never held
// back; to read for it takes a few hundredths of a processor, where that is not emulated.
constexpr double kLeastBytesPerS = 128e6;
// For how long what was used is averaged, roughly.
constexpr double kMemoryS = 0.3;
// So many processors less than before a component may always have. A scheduler gives those who want
// little what they want, if late; one that beats a thousand times a second then leaves some beats
// out.
constexpr double kLeastLoss = 0.05;
// A component that has less because less is asked of it does not wait. One that is held up does for
// a part of what it lacks; the rest it is idle, while those are held up that ask it.
constexpr double kWaitedOfLoss = 0.25;
constexpr auto kMostWork = std::chrono::milliseconds(5);
constexpr double kLeastProcessors = 0.05;
constexpr int64_t kPeriodUs = 100'000;

// "key N" of a cgroup's file.
absl::StatusOr<uint64_t> ReadCount(const std::string& path, absl::string_view key) {
  ASSIGN_OR_RETURN(const std::string text, ReadFile(path));
  for (absl::string_view line : absl::StrSplit(text, '\n')) {
    uint64_t count;
    if (absl::ConsumePrefix(&line, key) && absl::SimpleAtoi(line, &count)) return count;
  }
  return absl::NotFoundError(absl::StrCat(path, " has no ", key));
}

// "some avg10=0.00 avg60=0.00 avg300=0.00 total=N", N in microseconds.
absl::StatusOr<Duration> ReadStall(const std::string& cgroup) {
  const std::string path = absl::StrCat(cgroup, "/cpu.pressure");
  const absl::StatusOr<std::string> text = ReadFile(path);
  if (!text.ok()) return absl::NotFoundError(text.status().message());
  for (const absl::string_view line : absl::StrSplit(*text, '\n')) {
    if (!absl::StartsWith(line, "some ")) continue;
    const size_t at = line.find("total=");
    uint64_t us;
    if (at != absl::string_view::npos && absl::SimpleAtoi(line.substr(at + 6), &us)) {
      return Duration(std::chrono::microseconds(us));
    }
  }
  return absl::NotFoundError(absl::StrCat(path, " does not say for how long tasks waited"));
}

absl::StatusOr<Duration> ReadUsed(const std::string& cgroup) {
  ASSIGN_OR_RETURN(const uint64_t us, ReadCount(absl::StrCat(cgroup, "/cpu.stat"), "usage_usec "));
  return Duration(std::chrono::microseconds(us));
}

}  // namespace

absl::StatusOr<ProcessorTimes> ReadProcessorTimes(const std::string& cgroup) {
  ProcessorTimes times;
  ASSIGN_OR_RETURN(times.stalled, ReadStall(cgroup));
  ASSIGN_OR_RETURN(times.used, ReadUsed(cgroup));
  return times;
}

ProcessorShares SharesBetween(const ProcessorTimes& before, const ProcessorTimes& after,
                              Duration elapsed) {
  return {Seconds(after.stalled - before.stalled) / Seconds(elapsed),
          Seconds(after.used - before.used) / Seconds(elapsed)};
}

void SlowdownGovernor::Look(TimePoint now, const ProcessorTimes& times) {
  if (looked_ != TimePoint{} && now > looked_) {
    const Duration elapsed = now - looked_;
    const ProcessorShares shares = SharesBetween(times_, times, elapsed);
    const double weight = std::min(1.0, Seconds(elapsed) / kMemoryS);
    lately_.used += (shares.used - lately_.used) * weight;
    lately_.stalled += (shares.stalled - lately_.stalled) * weight;
    read_per_s_ += (static_cast<double>(read_) / Seconds(elapsed) - read_per_s_) * weight;
    const double lost = usual_.used - lately_.used;
    const bool slowed = lost > std::max(bound_ * usual_.used, kLeastLoss) &&
                        lately_.stalled - usual_.stalled > kWaitedOfLoss * lost;
    // Quickly down and slowly up, as with any resource that others need as well.
    if (!slowed) share_ = std::min(1.0, share_ * kMore);
    if (slowed && read_per_s_ >= kLeastBytesPerS) share_ = std::max(kLeastShare, share_ * kLess);
    lowest_ = std::min(lowest_, share_);
  }
  looked_ = now;
  times_ = times;
  read_ = 0;
}

Duration SlowdownGovernor::Rest(uint64_t bytes, Duration worked) {
  read_ += bytes;
  if (read_per_s_ < kLeastBytesPerS) return Duration::zero();
  // A thread that was itself kept from a processor has worked less than it seems.
  return std::chrono::duration_cast<Duration>(std::min<Duration>(worked, kMostWork) *
                                              ((1 - share_) / share_));
}

void Throttle::Look(TimePoint now) {
  const absl::StatusOr<Duration> used = ReadUsed(cgroup_);
  if (!used.ok()) return;
  looked_ = now;
  used_ = *used;
}

absl::StatusOr<double> Throttle::Tighten(TimePoint now) {
  const TimePoint before = looked_;
  const Duration used_before = used_;
  Look(now);
  double using_now = processors_;
  if (before != TimePoint{} && looked_ > before) {
    const double used = Seconds(used_ - used_before) / Seconds(looked_ - before);
    using_now = processors_ > 0 ? std::min(processors_, std::max(used, processors_ * kLess)) : used;
  }
  const double next = std::max(kLeastProcessors, using_now * kLess);
  const std::string path = absl::StrCat(cgroup_, "/cpu.max");
  if (::access(path.c_str(), W_OK) != 0) {
    return absl::FailedPreconditionError(
        absl::StrCat("the component cannot be slowed down: ", path,
                     " is not there, because its cgroup has no cpu controller"));
  }
  RETURN_IF_ERROR(
      WriteKnob(path, absl::StrCat(static_cast<int64_t>(next * kPeriodUs), " ", kPeriodUs)));
  processors_ = next;
  return next;
}

void Throttle::Lift(const std::string& cgroup) {
  const std::string path = absl::StrCat(cgroup, "/cpu.max");
  if (::access(path.c_str(), W_OK) == 0) (void)WriteKnob(path, "max");
}

}  // namespace starling::migration
