#include "tools/replay/inactivity_replay.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <memory>
#include <string>

#include "absl/strings/str_cat.h"
#include "predictor/idleness.h"
#include "tools/replay/statistics.h"

namespace starling::replay {
namespace {

using nlohmann::json;

constexpr double kNeed = predictor::IdleModel::kAhead;
constexpr double kPrecision = 0.70;
constexpr int kRounds = 6;            // over what is there to fit; more only learn it by heart
constexpr double kFollowRate = 0.05;  // of a fit's step, when following a user
constexpr int kLastMoment = 300;      // seconds; whoever was not idle by then is never declared so

struct Gap {
  predictor::IdleFeatures x;
  double gap_s = 0;
};
struct User {
  std::string name;
  std::vector<std::vector<Gap>> sessions;
  double active_hours = 0;  // of the scored sessions
};

std::vector<User> GapsOf(const std::vector<Session>& sessions) {
  std::map<std::string, User> users;
  std::map<std::string, size_t> count, seen;
  for (const Session& session : sessions) ++count[session.user];
  for (const Session& session : sessions) {
    User& user = users[session.user];
    user.name = session.user;
    std::vector<Gap>& gaps = user.sessions.emplace_back();
    predictor::InputActivity input;
    Gap gap;
    for (const InputSecond& second : session.seconds) {
      predictor::Activity activity;
      activity.moves = second.moves;
      activity.drags = second.drags;
      activity.clicks = second.clicks;
      activity.scrolls = second.scrolls;
      activity.distance_px = second.distance_px;
      input.Features(gap.x);  // as they were before the gap, if there is one
      if (input.Step(second.t_s, activity)) {
        gap.gap_s = input.last_gap_s();
        gaps.push_back(gap);
      }
    }
    if (seen[session.user]++ >= count[session.user] / 2) {
      user.active_hours += static_cast<double>(session.seconds.size()) / 3600;
    }
  }
  std::vector<User> all;
  for (auto& [name, user] : users) all.push_back(std::move(user));
  return all;
}

struct Tally {
  size_t triggers = 0, right = 0;
  double captured_s = 0;
  void Add(const Tally& other) {
    triggers += other.triggers;
    right += other.right;
    captured_s += other.captured_s;
  }
  double precision() const {
    return triggers > 0 ? static_cast<double>(right) / static_cast<double>(triggers) : 1;
  }
};

void Trigger(double gap_s, double at_s, Tally& tally) {
  if (gap_s <= at_s) return;
  ++tally.triggers;
  if (gap_s - at_s < kNeed) return;
  ++tally.right;
  tally.captured_s += gap_s - at_s;
}

json TallyJson(const Tally& tally, double idle_s, double active_hours) {
  const auto wrong = static_cast<double>(tally.triggers - tally.right);
  return {{"triggers", tally.triggers},
          {"precision", tally.precision()},
          {"captured", idle_s > 0 ? tally.captured_s / idle_s : 0},
          {"false_per_active_hour", active_hours > 0 ? wrong / active_hours : 0}};
}

// Captured at the precision asked for, between the two neighbours on the curve.
double CapturedAt(const std::vector<Tally>& curve, double idle_s) {
  double best = 0;
  for (size_t i = 0; i < curve.size(); ++i) {
    if (curve[i].precision() >= kPrecision) best = std::max(best, curve[i].captured_s / idle_s);
  }
  return best;
}

}  // namespace

json ReplayInactivity(const std::vector<Session>& sessions) {
  json out;
  const std::vector<User> users = GapsOf(sessions);
  std::vector<const Gap*> known;
  double idle_s = 0, active_hours = 0;
  for (const User& user : users) {
    for (size_t i = 0; i < user.sessions.size(); ++i) {
      for (const Gap& gap : user.sessions[i]) {
        if (i < user.sessions.size() / 2) {
          known.push_back(&gap);
        } else if (gap.gap_s >= kNeed) {
          idle_s += gap.gap_s;
        }
      }
    }
    active_hours += user.active_hours;
  }
  if (known.empty() || idle_s <= 0) return out;

  const auto fitted = std::make_unique<predictor::IdleModel>();
  Random random(5);
  for (int round = 0; round < kRounds; ++round) {
    const double rate = round < kRounds / 2 ? 1 : round < kRounds * 3 / 4 ? 0.4 : 0.1;
    for (size_t i = 0; i < known.size(); ++i) {
      const Gap& gap = *known[random.Below(known.size())];
      fitted->Learn(gap.x, gap.gap_s, rate);
    }
  }

  std::vector<double> thresholds;
  for (double threshold = 0.3; threshold < 0.965; threshold += 0.01) {
    thresholds.push_back(threshold);
  }
  std::vector<int> timeouts;
  for (int timeout = 2; timeout <= 120; timeout += timeout < 60 ? 1 : 5)
    timeouts.push_back(timeout);

  // By user, for the bootstrap.
  std::vector<std::vector<Tally>> ours(users.size()), fixed(users.size());
  std::vector<double> idle_of(users.size());
  for (size_t u = 0; u < users.size(); ++u) {
    const User& user = users[u];
    ours[u].resize(thresholds.size());
    fixed[u].resize(timeouts.size());
    const auto model = std::make_unique<predictor::IdleModel>(*fitted);
    for (size_t i = user.sessions.size() / 2; i < user.sessions.size(); ++i) {
      for (const Gap& gap : user.sessions[i]) {
        if (gap.gap_s >= kNeed) idle_of[u] += gap.gap_s;
        std::vector<bool> declared(thresholds.size());
        for (int second = 1; second <= kLastMoment && gap.gap_s > second; ++second) {
          const double probability = model->Probability(gap.x, second);
          for (size_t k = 0; k < thresholds.size(); ++k) {
            if (declared[k] || probability < thresholds[k]) continue;
            declared[k] = true;
            Trigger(gap.gap_s, second, ours[u][k]);
          }
        }
        for (size_t k = 0; k < timeouts.size(); ++k) {
          Trigger(gap.gap_s, timeouts[k], fixed[u][k]);
        }
        model->Learn(gap.x, gap.gap_s, kFollowRate);
      }
    }
  }
  const auto total = [&users](const std::vector<std::vector<Tally>>& of) {
    std::vector<Tally> sum(of[0].size());
    for (size_t u = 0; u < users.size(); ++u) {
      for (size_t k = 0; k < sum.size(); ++k) sum[k].Add(of[u][k]);
    }
    return sum;
  };
  const std::vector<Tally> our_curve = total(ours), fixed_curve = total(fixed);
  out["captured_at_precision_70"] = CapturedAt(our_curve, idle_s);
  out["captured_at_precision_70_fixed_timeouts"] = CapturedAt(fixed_curve, idle_s);
  out["idle_s"] = idle_s;
  out["active_hours"] = active_hours;
  for (size_t k = 0; k < thresholds.size(); ++k) {
    json point = TallyJson(our_curve[k], idle_s, active_hours);
    point["threshold"] = thresholds[k];
    out["curve"].push_back(std::move(point));
    if (!out.contains("at_precision_70") && our_curve[k].precision() >= kPrecision) {
      out["at_precision_70"] = out["curve"].back();
    }
  }
  for (size_t k = 0; k < timeouts.size(); ++k) {
    json point = TallyJson(fixed_curve[k], idle_s, active_hours);
    point["timeout_s"] = timeouts[k];
    out["fixed_timeouts"].push_back(std::move(point));
  }
  std::vector<double> captured;
  for (int i = 0; i < kResamples; ++i) {
    std::vector<Tally> sum(thresholds.size());
    double idle = 0;
    for (size_t u = 0; u < users.size(); ++u) {
      const size_t drawn = random.Below(users.size());
      idle += idle_of[drawn];
      for (size_t k = 0; k < sum.size(); ++k) sum[k].Add(ours[drawn][k]);
    }
    if (idle > 0) captured.push_back(CapturedAt(sum, idle));
  }
  const Interval interval = Middle95(std::move(captured));
  out["captured_95"] = {interval.low, interval.high};
  return out;
}

}  // namespace starling::replay
