// What it takes to ask for a reservation, as JSON on standard output: each answer with its write to
// the file of leases. Usage: reservations-bench FOLDER [--quick]

#include <time.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <iostream>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "nlohmann/json.hpp"
#include "runtime/reservations/reservations.h"

namespace {

using nlohmann::json;
using namespace starling;
using namespace starling::reservations;

double Now(clockid_t clock) {
  timespec now;
  clock_gettime(clock, &now);
  return 1e6 * static_cast<double>(now.tv_sec) + 1e-3 * static_cast<double>(now.tv_nsec);
}

json Summarize(std::vector<double> samples) {
  std::sort(samples.begin(), samples.end());
  const auto at = [&](double share) {
    return samples[static_cast<size_t>(share * static_cast<double>(samples.size() - 1))];
  };
  std::vector<double> off;
  for (const double sample : samples) off.push_back(std::abs(sample - at(0.5)));
  std::sort(off.begin(), off.end());
  return {{"n", samples.size()},    {"median", at(0.5)}, {"mad", off[off.size() / 2]},
          {"min", samples.front()}, {"p99", at(0.99)},   {"max", samples.back()}};
}

// Microseconds by the clock on the wall and of processor time.
struct Samples {
  std::vector<double> wall, cpu;
  template <typename Body>
  void Take(Body body) {
    const double wall_before = Now(CLOCK_MONOTONIC), cpu_before = Now(CLOCK_THREAD_CPUTIME_ID);
    body();
    cpu.push_back(Now(CLOCK_THREAD_CPUTIME_ID) - cpu_before);
    wall.push_back(Now(CLOCK_MONOTONIC) - wall_before);
  }
  json Show() const { return {{"wall_us", Summarize(wall)}, {"cpu_us", Summarize(cpu)}}; }
};

Ask AskFor(int number, int priority, Kind kind, int64_t cpu, int64_t memory) {
  Ask ask;
  ask.id = absl::StrCat("component-", number, "@node", number % 16);
  ask.holder = absl::StrCat("node", number % 16);
  ask.component = absl::StrCat("component-", number);
  ask.priority = priority;
  ask.kind = kind;
  ask.amount[Resource::kCpu] = cpu;
  ask.amount[Resource::kMemory] = memory;
  ask.amount[Resource::kNetwork] = 1 << 20;
  ask.length = std::chrono::minutes(15);
  return ask;
}

// A host with so many leases, on which one more is asked for again and again.
bool Measure(const std::string& folder, int leases, int rounds, json& out) {
  Amounts capacity;
  capacity[Resource::kCpu] = 1000 * (leases + 1);
  capacity[Resource::kMemory] = int64_t{1000} * (leases + 1);
  capacity[Resource::kNetwork] = int64_t{1} << 50;
  TimePoint now{std::chrono::seconds(1000)};
  auto all = Reservations::Open(folder, absl::StrCat("bench", leases), capacity, now);
  if (!all.ok()) {
    std::cerr << all.status() << "\n";
    return false;
  }
  Reservations& book = **all;
  bool sound = true;
  for (int i = 0; i < leases; ++i) {
    sound = sound && book.Grant(now, AskFor(i, i % 3, Kind::kSoft, 1000, 1000)).ok();
  }
  Samples grant, renew, claim, release, refuse, yield;
  for (int i = 0; i < rounds; ++i) {
    now += std::chrono::milliseconds(1);
    const Ask ask = AskFor(leases + i, 1, Kind::kSoft, 1000, 1000);
    grant.Take([&] { sound = book.Grant(now, ask).ok() && sound; });
    renew.Take(
        [&] { sound = book.Renew(now, ask.id, ask.holder, ask.length, ask.amount).ok() && sound; });
    claim.Take([&] { sound = book.Claim(now, ask.id, ask.holder).ok() && sound; });
    const Ask none = AskFor(leases + i + 1, 0, Kind::kSoft, 2000, 1000);
    refuse.Take([&] { sound = !book.Grant(now, none).ok() && sound; });
    release.Take([&] { sound = book.Release(now, ask.id, ask.holder).ok() && sound; });
    // One that somebody has to yield for, who then comes back.
    const Ask high = AskFor(leases + i, 5, Kind::kFirm, 1500, 1500);
    yield.Take([&] { sound = book.Grant(now, high).ok() && sound; });
    sound = book.Release(now, high.id, high.holder).ok() && sound;
    for (const Change& change : book.TakeNotices()) {
      if (change.what != What::kWithdrawn) continue;
      const Lease& lease = change.lease();
      sound = book.Grant(now, {lease.id, lease.holder, lease.component, lease.priority, lease.kind,
                               false, lease.amount, std::chrono::minutes(15)})
                  .ok() &&
              sound;
    }
  }
  if (!sound || !book.Check(now).empty()) {
    std::cerr << "with " << leases << " leases something was answered wrongly\n";
    return false;
  }
  out.push_back({{"leases", leases},
                 {"grant", grant.Show()},
                 {"renew", renew.Show()},
                 {"claim", claim.Show()},
                 {"refuse", refuse.Show()},
                 {"release", release.Show()},
                 {"grant_with_yield", yield.Show()}});
  return true;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 2) {
    std::cerr << "usage: reservations-bench FOLDER [--quick]\n";
    return 2;
  }
  const bool quick = argc > 2 && std::strcmp(argv[2], "--quick") == 0;
  json out = json::array();
  for (const int leases : {50, 200, 2000}) {
    if (!Measure(argv[1], leases, quick ? 100 : 3000, out)) return 1;
  }
  std::cout << out.dump(1) << "\n";
  return 0;
}
