#include "tools/replay/traces.h"

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <iomanip>
#include <limits>
#include <set>
#include <sstream>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "base/status.h"
#include "tools/replay/csv.h"

namespace starling::replay {
namespace {

constexpr double kMissing = std::numeric_limits<double>::quiet_NaN();
constexpr size_t kNabSteps = 4000;
constexpr size_t kActiveMinutes = 200;
constexpr size_t kFunctionSeries = 120;
constexpr size_t kSessionSteps = 1000;
constexpr size_t kSpotHours = 1000;

// The CSV files of FOLDER/NAME, by name. A missing folder has none.
std::vector<std::string> Files(const std::string& folder, const std::string& name) {
  std::vector<std::string> files;
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator(folder + "/" + name, error)) {
    if (entry.path().extension() == ".csv") files.push_back(entry.path().string());
  }
  std::sort(files.begin(), files.end());
  return files;
}

std::string Stem(const std::string& path) { return std::filesystem::path(path).stem().string(); }

absl::StatusOr<std::vector<double>> Numbers(const Csv& csv, absl::string_view name) {
  ASSIGN_OR_RETURN(const size_t column, csv.Column(name));
  std::vector<double> values(csv.rows());
  for (size_t i = 0; i < values.size(); ++i) values[i] = csv.Number(i, column);
  return values;
}

// What is missing takes the last value before it, at the beginning the first after it.
void Fill(std::vector<double>& values) {
  double last = kMissing;
  for (double& value : values) {
    if (std::isnan(value)) value = last;
    last = value;
  }
  for (auto value = values.rbegin(); value != values.rend(); ++value) {
    if (std::isnan(*value)) *value = last;
    last = *value;
  }
}

// All series of a group are as long as its shortest.
void Trim(Group& group) {
  size_t least = std::numeric_limits<size_t>::max();
  for (const auto& series : group.series) least = std::min(least, series.size());
  for (auto& series : group.series) {
    Fill(series);
    series.resize(least);
  }
}

void Take(Group group, Traces& traces) {
  if (group.series.empty()) return;
  Trim(group);
  if (group.series[0].size() >= 2) traces.groups.push_back(std::move(group));
}

absl::Status LoadBitbrains(const std::string& folder, Traces& traces) {
  struct Column {
    const char* name;
    const char* group;
    bool onset;
  };
  constexpr Column kColumns[] = {{"cpu_pct", "bitbrains_cpu", true},
                                 {"mem_kb", "bitbrains_mem", false},
                                 {"net_rx_kbs", "bitbrains_netrx", false},
                                 {"disk_w_kbs", "bitbrains_diskw", false}};
  std::vector<Group> groups;
  for (const Column& column : kColumns) groups.push_back({column.group, 288, 300, column.onset});
  for (const std::string& file : Files(folder, "bitbrains")) {
    ASSIGN_OR_RETURN(const Csv csv, Csv::Read(file));
    for (size_t i = 0; i < groups.size(); ++i) {
      ASSIGN_OR_RETURN(std::vector<double> values, Numbers(csv, kColumns[i].name));
      groups[i].units.push_back(Stem(file));
      groups[i].series.push_back(std::move(values));
    }
  }
  for (Group& group : groups) Take(std::move(group), traces);
  return absl::OkStatus();
}

absl::Status LoadNab(const std::string& folder, Traces& traces) {
  std::map<size_t, Group> groups;
  for (const std::string& file : Files(folder, "nab")) {
    ASSIGN_OR_RETURN(const Csv csv, Csv::Read(file));
    ASSIGN_OR_RETURN(std::vector<double> values, Numbers(csv, "value"));
    if (values.size() > kNabSteps) values.resize(kNabSteps);
    Group& group = groups[values.size()];
    group.name = absl::StrCat("nab_", values.size());
    group.season = 288;
    group.step_s = 300;
    group.units.push_back(Stem(file));
    group.series.push_back(std::move(values));
  }
  for (auto& [steps, group] : groups) Take(std::move(group), traces);
  return absl::OkStatus();
}

absl::Status LoadPlanetlab(const std::string& folder, Traces& traces) {
  Group group{"planetlab_cpu", 1, 300, true};
  for (const std::string& file : Files(folder, "planetlab")) {
    ASSIGN_OR_RETURN(const Csv csv, Csv::Read(file));
    for (const std::string& name : csv.names()) {
      if (name == "step") continue;
      ASSIGN_OR_RETURN(std::vector<double> values, Numbers(csv, name));
      group.units.push_back(name);
      group.series.push_back(std::move(values));
    }
  }
  Take(std::move(group), traces);
  return absl::OkStatus();
}

absl::Status LoadFunctions(const std::string& folder, Traces& traces) {
  Group group{"azure_fn_inv_1min", 60, 60, false};
  for (const std::string& file : Files(folder, "azure_functions")) {
    ASSIGN_OR_RETURN(const Csv csv, Csv::Read(file));
    ASSIGN_OR_RETURN(const size_t memory, csv.Column("avg_mem_mb"));
    ASSIGN_OR_RETURN(const size_t name, csv.Column("fn"));
    std::vector<size_t> minutes;
    for (size_t i = 0; i < csv.names().size(); ++i) {
      if (absl::StartsWith(csv.names()[i], "minute_")) minutes.push_back(i);
    }
    for (size_t row = 0; row < csv.rows(); ++row) {
      Function function{std::string(csv.Text(row, name)), csv.Number(row, memory), {}};
      size_t active = 0;
      for (const size_t minute : minutes) {
        const double count = csv.Number(row, minute);
        function.counts.push_back(std::isfinite(count) ? count : 0);
        active += count > 0;
      }
      if (active >= kActiveMinutes && group.series.size() < kFunctionSeries) {
        group.units.push_back(function.name);
        group.series.push_back(function.counts);
      }
      traces.functions.push_back(std::move(function));
    }
  }
  Take(std::move(group), traces);
  return absl::OkStatus();
}

absl::Status LoadArrivals(const std::string& folder, Traces& traces) {
  Group group{"azure_llm_arrivals_10s", 1, 10, false};
  for (const std::string& file : Files(folder, "azure_llm")) {
    ASSIGN_OR_RETURN(const Csv csv, Csv::Read(file));
    ASSIGN_OR_RETURN(const std::vector<double> times, Numbers(csv, "t_s"));
    std::vector<double> counts;
    for (const double time : times) {
      if (!(time >= 0 && time < 1e9)) continue;
      const auto bin = static_cast<size_t>(time / 10);
      if (bin >= counts.size()) counts.resize(bin + 1);
      counts[bin] += 1;
    }
    if (counts.size() < 2) continue;
    counts.pop_back();  // not a whole interval
    group.units.push_back(Stem(file));
    group.series.push_back(std::move(counts));
  }
  Take(std::move(group), traces);
  return absl::OkStatus();
}

absl::Status LoadPods(const std::string& folder, Traces& traces) {
  const std::string file = folder + "/alibaba_genai/pods_60s.csv";
  std::error_code error;
  if (!std::filesystem::exists(file, error)) return absl::OkStatus();
  ASSIGN_OR_RETURN(const Csv csv, Csv::Read(file));
  ASSIGN_OR_RETURN(const size_t pod, csv.Column("pod"));
  ASSIGN_OR_RETURN(const std::vector<double> times, Numbers(csv, "t"));
  if (times.empty()) return absl::OkStatus();
  const double first = *std::min_element(times.begin(), times.end());
  const double last = *std::max_element(times.begin(), times.end());
  const auto steps = static_cast<size_t>((last - first) / 60) + 1;
  for (const char* column : {"gpu_duty", "mem_util", "gpu_mem_gb"}) {
    ASSIGN_OR_RETURN(const std::vector<double> values, Numbers(csv, column));
    std::map<std::string, std::vector<double>> sums, counts;
    for (size_t i = 0; i < values.size(); ++i) {
      const double at = (times[i] - first) / 60;
      if (std::isnan(values[i]) || at != std::floor(at)) continue;
      const std::string name(csv.Text(i, pod));
      auto& sum = sums[name];
      auto& count = counts[name];
      sum.resize(steps);
      count.resize(steps);
      sum[static_cast<size_t>(at)] += values[i];
      count[static_cast<size_t>(at)] += 1;
    }
    Group group{absl::StrCat("alibaba_", column), 60, 60, false};
    for (auto& [name, sum] : sums) {
      const std::vector<double>& count = counts[name];
      size_t known = 0;
      for (size_t i = 0; i < steps; ++i) {
        known += count[i] > 0;
        sum[i] = count[i] > 0 ? sum[i] / count[i] : kMissing;
      }
      if (!(static_cast<double>(known) > 0.9 * static_cast<double>(steps))) continue;
      group.units.push_back(name);
      group.series.push_back(sum);
    }
    Take(std::move(group), traces);
  }
  return absl::OkStatus();
}

absl::Status LoadSessions(const std::string& folder, Traces& traces) {
  Group group{"rdp_mouse_events_5s", 1, 5, false};
  for (const std::string& file : Files(folder, "rdp_mouse")) {
    ASSIGN_OR_RETURN(const Csv csv, Csv::Read(file));
    Session session;
    session.name = Stem(file);
    session.user = session.name.substr(0, session.name.find('_'));
    std::vector<double> columns[6];
    const char* names[] = {"t_s", "moves", "drags", "clicks", "scrolls", "dist_px"};
    for (int i = 0; i < 6; ++i) {
      ASSIGN_OR_RETURN(columns[i], Numbers(csv, names[i]));
    }
    std::vector<double> bins;
    for (size_t i = 0; i < csv.rows(); ++i) {
      const InputSecond second{columns[0][i], columns[1][i], columns[2][i],
                               columns[3][i], columns[4][i], columns[5][i]};
      if (!(second.t_s >= 0 && second.t_s < 1e9)) continue;
      session.seconds.push_back(second);
      const auto bin = static_cast<size_t>(second.t_s / 5);
      if (bin >= bins.size()) bins.resize(bin + 1);
      bins[bin] += second.moves + second.drags + second.clicks + second.scrolls;
    }
    std::stable_sort(session.seconds.begin(), session.seconds.end(),
                     [](const InputSecond& a, const InputSecond& b) { return a.t_s < b.t_s; });
    if (bins.size() >= kSessionSteps) {
      bins.resize(kSessionSteps);
      group.units.push_back(session.user);
      group.series.push_back(std::move(bins));
    }
    traces.sessions.push_back(std::move(session));
  }
  Take(std::move(group), traces);
  return absl::OkStatus();
}

// Seconds since 1970 of "2016-03-13T08:26:49.000Z"; not-a-number for anything else.
double ParseUtc(absl::string_view text) {
  std::tm tm = {};
  std::istringstream in{std::string(text.substr(0, std::min<size_t>(text.size(), 19)))};
  in >> std::get_time(&tm, "%Y-%m-%dT%H:%M:%S");
  return in.fail() ? kMissing : static_cast<double>(timegm(&tm));
}

absl::Status LoadSpot(const std::string& folder, Traces& traces) {
  Group group{"spot_price_1h", 24, 3600, false};
  std::vector<std::vector<double>> all;
  size_t least = kSpotHours;
  for (const std::string& file : Files(folder, "spot")) {
    ASSIGN_OR_RETURN(const Csv csv, Csv::Read(file));
    ASSIGN_OR_RETURN(const size_t time, csv.Column("timestamp_utc"));
    ASSIGN_OR_RETURN(const std::vector<double> prices, Numbers(csv, "price_usd_h"));
    std::vector<std::pair<double, double>> changes;
    for (size_t i = 0; i < prices.size(); ++i) {
      const double at = ParseUtc(csv.Text(i, time));
      if (!std::isnan(at) && !std::isnan(prices[i])) changes.push_back({at, prices[i]});
    }
    if (changes.empty()) continue;
    std::stable_sort(changes.begin(), changes.end(),
                     [](const auto& a, const auto& b) { return a.first < b.first; });
    const double start = std::floor(changes.front().first / 3600);
    std::vector<double> hours(
        static_cast<size_t>(std::floor(changes.back().first / 3600) - start) + 1, kMissing);
    for (const auto& [at, price] : changes) {
      hours[static_cast<size_t>(std::floor(at / 3600) - start)] = price;
    }
    Fill(hours);
    if (hours.size() > kSpotHours) hours.erase(hours.begin(), hours.end() - kSpotHours);
    least = std::min(least, hours.size());
    group.units.push_back(Stem(file));
    all.push_back(std::move(hours));
  }
  for (auto& hours : all) group.series.emplace_back(hours.end() - least, hours.end());
  Take(std::move(group), traces);
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<Traces> LoadTraces(const std::string& folder) {
  std::error_code error;
  if (!std::filesystem::is_directory(folder, error)) {
    return absl::NotFoundError(absl::StrCat(folder, ": is not a folder"));
  }
  Traces traces;
  for (const auto load : {LoadBitbrains, LoadNab, LoadPlanetlab, LoadFunctions, LoadArrivals,
                          LoadPods, LoadSessions, LoadSpot}) {
    RETURN_IF_ERROR(load(folder, traces));
  }
  if (traces.groups.empty() && traces.functions.empty() && traces.sessions.empty()) {
    return absl::NotFoundError(
        absl::StrCat(folder, ": holds no traces; docs/predictor.md names the folders looked for"));
  }
  return traces;
}

void KeepHalf(int half, Traces& traces) {
  const size_t first = half == 1 ? 0 : 1;
  const auto keep = [first](auto& list) {
    size_t kept = 0;
    for (size_t i = first; i < list.size(); i += 2) std::swap(list[kept++], list[i]);
    list.resize(kept);
  };
  for (Group& group : traces.groups) {
    keep(group.units);
    keep(group.series);
  }
  std::erase_if(traces.groups, [](const Group& group) { return group.series.empty(); });
  keep(traces.functions);
  std::vector<std::string> users;
  for (const Session& session : traces.sessions) {
    if (users.empty() || users.back() != session.user) users.push_back(session.user);
  }
  keep(users);
  std::erase_if(traces.sessions, [&](const Session& session) {
    return std::find(users.begin(), users.end(), session.user) == users.end();
  });
}

}  // namespace starling::replay
