#include "predictor/forecaster_extras.h"

#include <cmath>

namespace starling::predictor {

void ForecasterExtras::Predict(const ForecasterOptions& options, float value, float center,
                               float scale, const int32_t (&place)[kHorizonCount],
                               const History& history, bool arima_rests, bool holt_winters_rests,
                               bool recurrent_rests) {
  float ahead[kHorizonCount] = {};
  if ((options.experts & Only(kArima)) != 0 && !arima_rests) {
    arima.Predict(ahead);
    for (int i = 0; i < kHorizonCount; ++i) arima_past.at(i, place[i]) = value + ahead[i] * scale;
  }
  if ((options.experts & Only(kHoltWinters)) != 0 && !holt_winters_rests) {
    holt_winters.Predict(ahead);
    for (int i = 0; i < kHorizonCount; ++i) holt_winters_past.at(i, place[i]) = ahead[i];
  }
  if ((options.experts & Only(kRecurrent)) != 0 && !recurrent_rests) {
    const float last = history.Has(1) ? history.Recent(1) : value;
    const float older = history.Has(2) ? history.Recent(2) : last;
    options.net->Step(GruNet::See(value, last, older, center, scale), cells);
    options.net->Read(cells, ahead);
    for (int i = 0; i < kHorizonCount; ++i) {
      recurrent_past.at(i, place[i]) = value + ahead[i] * scale;
    }
  }
}

bool ForecasterExtras::Valid() const {
  for (int i = 0; i < kHorizonCount; ++i) {
    for (int place = 0; place < kHorizons[i]; ++place) {
      for (const DelayLine* line : {&arima_past, &holt_winters_past, &recurrent_past}) {
        if (!std::isfinite(line->at(i, place))) return false;
      }
    }
  }
  for (const float value : cells.values) {
    if (!std::isfinite(value)) return false;
  }
  return arima.Valid() && holt_winters.Valid();
}

}  // namespace starling::predictor
