#include "predictor/gru.h"

#include <Eigen/Dense>
#include <algorithm>
#include <cmath>
#include <random>

namespace starling::predictor {
namespace {

constexpr int H = GruNet::kHidden;
constexpr int I = GruNet::kInputs;
constexpr int kInputAt = 0;
constexpr int kRecurrentAt = kInputAt + GruNet::kGates * I * H;
constexpr int kBiasAt = kRecurrentAt + GruNet::kGates * H * H;
constexpr int kOutputAt = kBiasAt + GruNet::kGates * H;
constexpr int kOutputBiasAt = kOutputAt + kHorizonCount * H;
static_assert(kOutputBiasAt + kHorizonCount == GruNet::kParameters);

constexpr float kInputBound = 6;

// Of training.
constexpr int kUnrolled = History::kRecent - kLongest - 2;  // steps whose outcomes are all known
constexpr float kRate = 2e-3f;
constexpr float kMeanKeep = 0.9f, kSquareKeep = 0.999f;
constexpr float kClip = 1;  // length of a gradient

using Vector = Eigen::Matrix<float, H, 1>;
using Inputs = Eigen::Matrix<float, I, 1>;
// Column-major: a column is what one input does to all cells.
using InputMap = Eigen::Map<const Eigen::Matrix<float, H, I>>;
using CellMap = Eigen::Map<const Eigen::Matrix<float, H, H>>;
using VectorMap = Eigen::Map<const Vector>;
using InputGrad = Eigen::Map<Eigen::Matrix<float, H, I>>;
using CellGrad = Eigen::Map<Eigen::Matrix<float, H, H>>;
using VectorGrad = Eigen::Map<Vector>;

InputMap InputWeights(const float* p, int gate) { return InputMap(p + kInputAt + gate * I * H); }
CellMap CellWeights(const float* p, int gate) { return CellMap(p + kRecurrentAt + gate * H * H); }
VectorMap Bias(const float* p, int gate) { return VectorMap(p + kBiasAt + gate * H); }
VectorMap Output(const float* p, int horizon) { return VectorMap(p + kOutputAt + horizon * H); }

// tanh as a quotient of polynomials, within 2e-4 on the bound and saturated beyond.
inline float FastTanh(float x) {
  x = std::clamp(x, -4.97f, 4.97f);
  const float x2 = x * x;
  const float above = x * (135135.0f + x2 * (17325.0f + x2 * (378.0f + x2)));
  const float below = 135135.0f + x2 * (62370.0f + x2 * (3150.0f + x2 * 28.0f));
  return above / below;
}
Vector Tanh(const Vector& x) {
  return x.unaryExpr([](float v) { return FastTanh(v); });
}
Vector Sigmoid(const Vector& x) {
  return x.unaryExpr([](float v) { return 0.5f + 0.5f * FastTanh(0.5f * v); });
}

struct Trace {
  Inputs input;
  Vector before, update, reset, candidate, after;
};

void Forward(const float* p, const Inputs& input, const Vector& before, Trace& trace) {
  trace.input = input;
  trace.before = before;
  trace.update = Sigmoid(InputWeights(p, 0) * input + CellWeights(p, 0) * before + Bias(p, 0));
  trace.reset = Sigmoid(InputWeights(p, 1) * input + CellWeights(p, 1) * before + Bias(p, 1));
  const Vector kept = trace.reset.cwiseProduct(before);
  trace.candidate = Tanh(InputWeights(p, 2) * input + CellWeights(p, 2) * kept + Bias(p, 2));
  trace.after = before + trace.update.cwiseProduct(trace.candidate - before);
}

}  // namespace

GruNet::GruNet(uint32_t seed) {
  std::minstd_rand random(seed);
  const auto uniform = [&random](float bound) {
    return bound * (2 * static_cast<float>(random() - 1) / 2147483645.0f - 1);
  };
  for (int i = 0; i < kParameters; ++i) {
    parameters_[i] = i < kBiasAt ? uniform(0.3f) : i < kOutputAt ? 0 : uniform(0.02f);
  }
  for (int i = 0; i < H; ++i) parameters_[kBiasAt + i] = -1;  // to remember, at first
  for (int i = 0; i < kHorizonCount; ++i) parameters_[kOutputBiasAt + i] = 0;
}

GruNet::Input GruNet::See(float value, float last, float older, float center, float scale) {
  const float unit = 1 / scale;
  const auto bounded = [unit](float x) { return std::clamp(x * unit, -kInputBound, kInputBound); };
  return {{bounded(value - center), bounded(value - last), bounded(last - older),
           std::min(std::abs(value - last) * unit, kInputBound)}};
}

void GruNet::Step(const Input& input, Cells& cells) const {
  Eigen::Map<Vector> state(cells.values);
  Trace trace;
  Forward(parameters_, Eigen::Map<const Inputs>(input.values), state, trace);
  state = trace.after;
}

void GruNet::Read(const Cells& cells, float (&ahead)[kHorizonCount]) const {
  const VectorMap state(cells.values);
  for (int i = 0; i < kHorizonCount; ++i) {
    ahead[i] = Output(parameters_, i).dot(state) + parameters_[kOutputBiasAt + i];
  }
}

void GruTrainer::Learn(const History& history, float center, float scale) {
  if (!history.Has(History::kRecent - 1)) return;
  float* p = net_->parameters();
  Trace traces[kUnrolled];
  float signs[kUnrolled][kHorizonCount];  // slope of each forecast's error
  Vector state = Vector::Zero();
  for (int i = 0; i < kUnrolled; ++i) {
    const int back = History::kRecent - 3 - i;
    const float value = history.Recent(back);
    const GruNet::Input input =
        GruNet::See(value, history.Recent(back + 1), history.Recent(back + 2), center, scale);
    Forward(p, Eigen::Map<const Inputs>(input.values), state, traces[i]);
    state = traces[i].after;
    for (int horizon = 0; horizon < kHorizonCount; ++horizon) {
      const float target = std::clamp((history.Recent(back - kHorizons[horizon]) - value) / scale,
                                      -kInputBound, kInputBound);
      const float output = Output(p, horizon).dot(state) + p[kOutputBiasAt + horizon];
      // The absolute error's slope, made round about nought.
      signs[i][horizon] = std::clamp((output - target) * 10, -1.0f, 1.0f) / kUnrolled;
    }
  }

  float gradient[GruNet::kParameters] = {};
  Vector later = Vector::Zero();  // what the later steps want of this one's cells
  for (int i = kUnrolled - 1; i >= 0; --i) {
    const Trace& t = traces[i];
    Vector wish = later;
    for (int horizon = 0; horizon < kHorizonCount; ++horizon) {
      wish += signs[i][horizon] * Output(p, horizon);
      VectorGrad(gradient + kOutputAt + horizon * H) += signs[i][horizon] * t.after;
      gradient[kOutputBiasAt + horizon] += signs[i][horizon];
    }
    const Vector candidate = wish.cwiseProduct(t.update).cwiseProduct(
        (Vector::Ones() - t.candidate.cwiseProduct(t.candidate)));
    const Vector update = wish.cwiseProduct(t.candidate - t.before)
                              .cwiseProduct(t.update)
                              .cwiseProduct(Vector::Ones() - t.update);
    const Vector kept = CellWeights(p, 2).transpose() * candidate;
    const Vector reset =
        kept.cwiseProduct(t.before).cwiseProduct(t.reset).cwiseProduct(Vector::Ones() - t.reset);
    const Vector kept_before = t.reset.cwiseProduct(t.before);
    const Vector* gates[] = {&update, &reset, &candidate};
    for (int gate = 0; gate < GruNet::kGates; ++gate) {
      InputGrad(gradient + kInputAt + gate * I * H) += *gates[gate] * t.input.transpose();
      CellGrad(gradient + kRecurrentAt + gate * H * H) +=
          *gates[gate] * (gate == 2 ? kept_before : t.before).transpose();
      VectorGrad(gradient + kBiasAt + gate * H) += *gates[gate];
    }
    later = wish.cwiseProduct(Vector::Ones() - t.update) + kept.cwiseProduct(t.reset) +
            CellWeights(p, 0).transpose() * update + CellWeights(p, 1).transpose() * reset;
  }

  float length = 0;
  for (const float value : gradient) length += value * value;
  length = std::sqrt(length);
  if (!std::isfinite(length)) return;
  const float shorten = length > kClip ? kClip / length : 1;
  ++lessons_;
  const float mean_due = 1 - std::pow(kMeanKeep, static_cast<float>(lessons_));
  const float square_due = 1 - std::pow(kSquareKeep, static_cast<float>(lessons_));
  for (int i = 0; i < GruNet::kParameters; ++i) {
    const float g = gradient[i] * shorten;
    mean_[i] += (1 - kMeanKeep) * (g - mean_[i]);
    square_[i] += (1 - kSquareKeep) * (g * g - square_[i]);
    p[i] -= kRate * (mean_[i] / mean_due) / (std::sqrt(square_[i] / square_due) + 1e-8f);
  }
}

}  // namespace starling::predictor
