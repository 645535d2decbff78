#include "tools/replay/baselines.h"

#include <Eigen/Dense>
#include <algorithm>
#include <cmath>
#include <deque>
#include <numeric>

namespace starling::replay {
namespace {

using Series = std::vector<double>;
constexpr int kWindow = 200;

double Mean(const double* begin, const double* end) {
  return std::accumulate(begin, end, 0.0) / static_cast<double>(end - begin);
}

double Deviation(const double* begin, const double* end) {
  const double mean = Mean(begin, end);
  double sum = 0;
  for (const double* p = begin; p != end; ++p) sum += (*p - mean) * (*p - mean);
  return std::sqrt(sum / static_cast<double>(end - begin));
}

Points Same(const Series& y) { return {y, y, y}; }

void Clip(const Series& y, Points& points) {
  for (Series& f : points) {
    double top = -INFINITY;
    for (size_t t = 0; t < y.size(); ++t) {
      top = std::max(top, y[t]);
      const double value = std::isnan(f[t]) ? 0 : f[t];
      f[t] = std::min(std::max(value, 0.0), 3 * top + 1e-12);
    }
  }
}

Points SeasonalNaive(const Series& y, int season) {
  Points points = Same(y);
  for (size_t i = 0; i < kHorizons.size(); ++i) {
    const int back = season * ((kHorizons[i] + season - 1) / season) - kHorizons[i];
    for (size_t t = back; t < y.size(); ++t) points[i][t] = y[t - back];
  }
  return points;
}

Points Smoothing(const Series& y) {
  constexpr double kAlphas[] = {.02, .05, .1, .15, .2, .3, .4, .5, .6, .7, .8, .9, .97};
  const size_t half = y.size() / 2;
  double best = 0, least = INFINITY;
  for (const double alpha : kAlphas) {
    double level = y[0], error = 0;
    for (size_t t = 1; t < half; ++t) {
      error += std::abs(y[t] - level);
      level += alpha * (y[t] - level);
    }
    if (error < least) least = error, best = alpha;
  }
  Series f(y.size());
  double level = y[0];
  for (size_t t = 0; t < y.size(); ++t) f[t] = level += best * (y[t] - level);
  return Same(f);
}

constexpr double kPhi = .95;

double HoltWintersRun(const Series& y, int m, double alpha, double beta, double gamma, size_t steps,
                      Points* points) {
  const double y0 = Mean(y.data(), y.data() + m);
  double level = y0, trend = 0, error = 0;
  Series s(m, 0.0);
  if (m > 1) {
    for (int i = 0; i < m; ++i) s[i] = y[i] - y0;
  }
  for (size_t t = 0; t < steps; ++t) {
    double& season = s[t % m];
    const double p = level + kPhi * trend + season;
    if (t >= static_cast<size_t>(m)) error += std::abs(y[t] - p);
    const double next = alpha * (y[t] - season) + (1 - alpha) * (level + kPhi * trend);
    trend = beta * (next - level) + (1 - beta) * kPhi * trend;
    if (m > 1) season = gamma * (y[t] - next) + (1 - gamma) * season;
    level = next;
    if (points == nullptr) continue;
    double sum = 0, power = 1;
    int k = 0;
    for (size_t i = 0; i < kHorizons.size(); ++i) {
      for (; k < kHorizons[i]; ++k) sum += power *= kPhi;
      (*points)[i][t] = level + trend * sum + s[(t + kHorizons[i]) % m];
    }
  }
  return error;
}

Points HoltWinters(const Series& y, int m) {
  double least = INFINITY, best[3] = {};
  for (const double alpha : {.02, .1, .3, .6, .9}) {
    for (const double beta : {0.0, .05}) {
      for (const double gamma : {m > 1 ? .05 : 0, .2}) {
        if (m <= 1 && gamma > 0) continue;
        const double error = HoltWintersRun(y, m, alpha, beta, gamma, y.size() / 2, nullptr);
        if (error < least) least = error, best[0] = alpha, best[1] = beta, best[2] = gamma;
      }
    }
  }
  Points points = Same(y);
  HoltWintersRun(y, m, best[0], best[1], best[2], y.size(), &points);
  return points;
}

Points Autoregression(const Series& y) {
  constexpr int p = 12, window = 500, every = 24;
  Points points = Same(y);
  const int steps = static_cast<int>(y.size());
  Eigen::VectorXd beta;
  double mu = 0, sd = 1;
  for (int t = std::max(3 * p, 40); t < steps; ++t) {
    if (beta.size() == 0 || t % every == 0) {
      const int begin = std::max(0, t + 1 - window), n = t + 1 - begin;
      mu = Mean(&y[begin], &y[begin] + n);
      sd = Deviation(&y[begin], &y[begin] + n) + 1e-9;
      Eigen::MatrixXd x(n - p, p + 1);
      Eigen::VectorXd target(n - p);
      for (int i = 0; i < n - p; ++i) {
        for (int j = 0; j < p; ++j) x(i, j) = (y[begin + i + j] - mu) / sd;
        x(i, p) = 1;
        target(i) = (y[begin + i + p] - mu) / sd;
      }
      const Eigen::MatrixXd a = x.transpose() * x + 0.1 * Eigen::MatrixXd::Identity(p + 1, p + 1);
      beta = a.partialPivLu().solve(x.transpose() * target);
    }
    double buffer[p + 12];
    for (int j = 0; j < p; ++j) buffer[j] = (y[t - p + 1 + j] - mu) / sd;
    for (int k = 1; k <= 12; ++k) {
      double next = beta(p);
      for (int j = 0; j < p; ++j) next += buffer[k - 1 + j] * beta(j);
      buffer[p + k - 1] = std::clamp(next, -8.0, 8.0);
    }
    for (size_t i = 0; i < kHorizons.size(); ++i) {
      points[i][t] = buffer[p + kHorizons[i] - 1] * sd + mu;
    }
  }
  return points;
}

Points LeastSquares(const Series& y, int m) {
  constexpr int p = 6, d = p + 3;
  constexpr double forget = .998;
  const int steps = static_cast<int>(y.size()), half = steps / 2;
  const double mu = Mean(y.data(), y.data() + half);
  const double sd = Deviation(y.data(), y.data() + half) + 1e-9;
  Series z(y);
  for (double& value : z) value = (value - mu) / sd;
  Points points = Same(y);
  using Vector = Eigen::Matrix<double, d, 1>;
  for (size_t i = 0; i < kHorizons.size(); ++i) {
    const int h = kHorizons[i];
    Vector w = Vector::Zero();
    w(p - 1) = 1;
    Eigen::Matrix<double, d, d> cov = Eigen::Matrix<double, d, d>::Identity();
    std::deque<Vector> past;
    double smooth = z[0];
    for (int t = 0; t < steps; ++t) {
      smooth = .95 * smooth + .05 * z[t];
      if (t < p) continue;
      Vector x;
      for (int j = 0; j < p; ++j) x(j) = z[t - p + 1 + j];
      x(p) = smooth;
      x(p + 1) = m >= h && m > 1 && t + h - m >= 0 ? z[t + h - m] : smooth;
      x(p + 2) = 1;
      past.push_back(x);
      if (static_cast<int>(past.size()) > h) {
        const Vector old = past.front();
        past.pop_front();
        const double e = std::clamp(z[t] - w.dot(old), -4.0, 4.0);
        const Vector px = cov * old;
        const Vector gain = px / (forget + old.dot(px));
        w += gain * e;
        cov = (cov - gain * px.transpose()) / forget;
        if (cov.trace() > 1e4) cov *= .1;
      }
      points[i][t] = w.dot(x) * sd + mu;
    }
  }
  return points;
}

Points Blend(const std::vector<const Points*>& experts, const Series& y) {
  constexpr double keep = .98, power = 8;
  Points points = Same(y);
  const size_t n = experts.size();
  for (size_t i = 0; i < kHorizons.size(); ++i) {
    const size_t h = kHorizons[i];
    Series loss(n, 0.0);
    for (size_t t = 0; t < y.size(); ++t) {
      if (t >= h) {
        for (size_t k = 0; k < n; ++k) {
          loss[k] = keep * loss[k] + (1 - keep) * std::abs(y[t] - (*experts[k])[i][t - h]);
        }
      }
      const double least = *std::min_element(loss.begin(), loss.end());
      double sum = 0, weights = 0;
      for (size_t k = 0; k < n; ++k) {
        const double weight = std::pow((least + 1e-12) / (loss[k] + 1e-12), power);
        sum += weight * (*experts[k])[i][t];
        weights += weight;
      }
      points[i][t] = sum / weights;
    }
  }
  return points;
}

// The last kWindow errors that are known at an origin, sorted.
class ErrorWindow {
 public:
  ErrorWindow(const Series& y, const Series& f, int h) : y_(y), f_(f), h_(h) {}

  // Known at `t`: the errors of the origins up to t - h.
  void AdvanceTo(int t) {
    for (; next_ <= t - h_; ++next_) {
      Insert(y_[next_ + h_] - f_[next_]);
      if (next_ >= kWindow) Erase(y_[next_ - kWindow + h_] - f_[next_ - kWindow]);
    }
  }
  const Series& sorted() const { return sorted_; }

 private:
  void Insert(double e) { sorted_.insert(std::upper_bound(sorted_.begin(), sorted_.end(), e), e); }
  void Erase(double e) { sorted_.erase(std::lower_bound(sorted_.begin(), sorted_.end(), e)); }

  const Series& y_;
  const Series& f_;
  int h_;
  int next_ = 0;
  Series sorted_;
};

Bands WindowBands(const Series& y, const Points& points, bool adaptive) {
  Bands bands{Same(y), Same(y)};
  const int steps = static_cast<int>(y.size()), half = steps / 2;
  for (size_t i = 0; i < kHorizons.size(); ++i) {
    const int h = kHorizons[i];
    ErrorWindow window(y, points[i], h);
    std::deque<bool> pending;
    double alpha = .1;
    for (int t = half; t < steps - h; ++t) {
      window.AdvanceTo(t);
      const Series& w = window.sorted();
      const double n = static_cast<double>(w.size()) - 1;
      if (n < 0) continue;
      const double k = std::clamp(alpha / 2, 0.0, .5);
      double low = w[static_cast<size_t>(std::floor(k * n))];
      double high = w[static_cast<size_t>(std::ceil((1 - k) * n))];
      const double span = w.back() - w.front();
      if (alpha <= 0) low -= span, high += span;
      bands.low[i][t] = points[i][t] + low;
      bands.high[i][t] = points[i][t] + high;
      if (!adaptive) continue;
      const double e = y[t + h] - points[i][t];
      pending.push_back(!(e >= low - 1e-12 && e <= high + 1e-12));
      if (static_cast<int>(pending.size()) > h) {
        alpha = std::clamp(alpha + .02 * (.1 - (pending.front() ? 1 : 0)), -.05, .6);
        pending.pop_front();
      }
    }
  }
  return bands;
}

double Pinball(double error, double level) { return std::max(level * error, (level - 1) * error); }

}  // namespace

double MaseScale(const std::vector<double>& y) {
  const size_t half = y.size() / 2;
  if (half < 2) return 0;
  double sum = 0;
  for (size_t t = 1; t < half; ++t) sum += std::abs(y[t] - y[t - 1]);
  const double scale = sum / static_cast<double>(half - 1);
  const bool varies = scale > 1e-9 && Deviation(y.data() + half, y.data() + y.size()) > 1e-9 &&
                      Deviation(y.data(), y.data() + half) > 1e-9;
  return varies ? scale : 0;
}

std::map<std::string, Points> BaselineForecasts(const std::vector<double>& y, int season) {
  std::map<std::string, Points> all;
  all["naive"] = Same(y);
  if (season > 1) all["snaive"] = SeasonalNaive(y, season);
  all["ses"] = Smoothing(y);
  all["hw"] = HoltWinters(y, std::max(season, 1));
  all["ar12"] = Autoregression(y);
  all["rls"] = LeastSquares(y, season);
  for (auto& [name, points] : all) Clip(y, points);
  Points mean = Same(y);
  for (size_t i = 0; i < kHorizons.size(); ++i) {
    for (size_t t = 0; t < y.size(); ++t) {
      mean[i][t] = (all["ses"][i][t] + all["ar12"][i][t] + all["rls"][i][t]) / 3;
    }
  }
  std::vector<const Points*> experts;
  for (const char* name : {"naive", "snaive", "ses", "rls"}) {
    if (const auto found = all.find(name); found != all.end()) experts.push_back(&found->second);
  }
  Points blend = Blend(experts, y);
  all["mean3"] = std::move(mean);
  all["blend"] = std::move(blend);
  return all;
}

Scores ScoreForecast(const std::vector<double>& y, const Points& points, const Bands& bands) {
  Scores scores;
  const double scale = MaseScale(y);
  const size_t half = y.size() / 2;
  for (size_t i = 0; i < kHorizons.size(); ++i) {
    const size_t h = kHorizons[i];
    double error = 0, covered = 0, width = 0, pinball = 0;
    for (size_t t = half; t + h < y.size(); ++t) {
      const double e = y[t + h] - points[i][t];
      const double low = bands.low[i][t], high = bands.high[i][t];
      // The protocol's slack, for bounds that lie on the value but for rounding.
      const double slack = 1e-12 + 1e-9 * std::abs(y[t + h]);
      error += std::abs(e);
      covered += y[t + h] >= low - slack && y[t + h] <= high + slack;
      width += high - low;
      pinball +=
          (Pinball(y[t + h] - low, .05) + Pinball(e, .5) + Pinball(y[t + h] - high, .95)) / 3;
    }
    const auto n = static_cast<double>(y.size() - h - half);
    scores[i] = {error / n / scale, covered / n, width / n / scale, pinball / n / scale};
  }
  return scores;
}

Bands RollBands(const std::vector<double>& y, const Points& points) {
  return WindowBands(y, points, false);
}

Bands AciBands(const std::vector<double>& y, const Points& points) {
  return WindowBands(y, points, true);
}

Points UpperQuantile(const std::vector<double>& y, const Points& points, double level) {
  Points upper = Same(y);
  const int steps = static_cast<int>(y.size());
  for (size_t i = 0; i < kHorizons.size(); ++i) {
    const int h = kHorizons[i];
    ErrorWindow window(y, points[i], h);
    for (int t = steps / 2; t < steps - h; ++t) {
      window.AdvanceTo(t);
      const Series& w = window.sorted();
      if (w.empty()) continue;
      const double n = static_cast<double>(w.size()) - 1;
      upper[i][t] = points[i][t] + w[static_cast<size_t>(std::ceil(level * n))];
    }
  }
  return upper;
}

}  // namespace starling::replay
