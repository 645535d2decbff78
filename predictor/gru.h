#pragma once

#include <cstdint>

#include "predictor/history.h"
#include "predictor/horizons.h"

namespace starling::predictor {

// A gated recurrent unit (Cho et al., 2014) with kHidden cells, whose weights many components
// share. Inputs and outputs are relative to a series' centre and spread. Thread-compatible:
// forecasting is const; a trainer changes the weights between steps, beside the hot path.
class GruNet {
 public:
  static constexpr int kHidden = 8;
  static constexpr int kInputs = 4;
  static constexpr int kGates = 3;  // update, reset, candidate
  static constexpr int kParameters =
      kGates * kHidden * (kInputs + kHidden + 1) + kHorizonCount * (kHidden + 1);

  struct alignas(16) Cells {
    float values[kHidden] = {};
  };
  struct alignas(16) Input {
    float values[kInputs];
  };

  // Small weights, the same for the same seed: it forecasts the last value, nearly.
  explicit GruNet(uint32_t seed = 1);

  void Step(const Input& input, Cells& cells) const;
  // Changes from the last value, one a horizon.
  void Read(const Cells& cells, float (&ahead)[kHorizonCount]) const;

  // What a value looks like to the net: itself and its last changes, in units of the spread.
  static Input See(float value, float last, float older, float center, float scale);

  float* parameters() { return parameters_; }
  const float* parameters() const { return parameters_; }

 private:
  // Input weights [gate][input][cell], recurrent weights [gate][from][cell], biases [gate][cell],
  // output weights [horizon][cell], output biases [horizon]: cells last, as vectors want them.
  float parameters_[kParameters];
};

// Trains a net on windows of histories: Adam on the absolute error, through time.
class GruTrainer {
 public:
  explicit GruTrainer(GruNet* net) : net_(net) {}

  // One step of training on the newest values of a series. About 20 us.
  void Learn(const History& history, float center, float scale);

  uint64_t lessons() const { return lessons_; }

 private:
  GruNet* net_;
  uint64_t lessons_ = 0;
  float mean_[GruNet::kParameters] = {};
  float square_[GruNet::kParameters] = {};
};

}  // namespace starling::predictor
