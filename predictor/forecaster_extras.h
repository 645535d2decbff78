#pragma once

#include "predictor/experts.h"
#include "predictor/forecaster.h"
#include "predictor/gru.h"

namespace starling::predictor {

// Private to the room: the experts that are off by default, in memory of their own.
struct ForecasterExtras {
  OnlineArima arima;
  HoltWinters holt_winters;
  GruNet::Cells cells;
  DelayLine arima_past, holt_winters_past, recurrent_past;

  // Forecasts from the newest value, into the places of this step.
  void Predict(const ForecasterOptions& options, float value, float center, float scale,
               const int32_t (&place)[kHorizonCount], const History& history, bool arima_rests,
               bool holt_winters_rests, bool recurrent_rests);
  const DelayLine& Past(int expert) const {
    return expert == kArima         ? arima_past
           : expert == kHoltWinters ? holt_winters_past
                                    : recurrent_past;
  }
  bool Valid() const;
};

}  // namespace starling::predictor
