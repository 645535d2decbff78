#include "predictor/summary.h"

#include <algorithm>
#include <bit>
#include <cmath>

namespace starling::predictor {
namespace {

constexpr int kFields = Summary::kFields;
constexpr uint16_t kKnown = (1u << kFields) - 1;
constexpr int kPreciseShift = kFields;  // bit 10: medians and value in single precision
constexpr uint16_t kPrecise = 1u << kPreciseShift;

bool IsBound(int field) { return field > 0 && (field - 1) % 3 != 0; }

float Rounded(float value) {
  const auto bits = std::bit_cast<uint32_t>(value);
  return std::bit_cast<float>((bits + 0x7fff + ((bits >> 16) & 1)) & 0xffff0000u);
}

}  // namespace

size_t SummaryWriter::Write(const Forecaster& forecaster, double value, uint8_t* message) {
  Summary now;
  now.fields[0] = static_cast<float>(value);
  float errors[kHorizonCount];
  for (int horizon = 0; horizon < kHorizonCount; ++horizon) {
    const Forecast forecast = forecaster.At(horizon);
    float* f = now.fields + 1 + 3 * horizon;
    f[0] = static_cast<float>(forecast.median);
    f[1] = static_cast<float>(forecast.low);
    f[2] = static_cast<float>(forecast.high);
    errors[horizon] = forecaster.interval(horizon).scale();
  }
  float allowed[kFields];
  Allow(now, errors, allowed);
  return Write(now, allowed, message);
}

void SummaryWriter::Allow(const Summary& now, const float (&errors)[kHorizonCount],
                          float (&allowed)[kFields]) const {
  allowed[0] = tolerance_ * errors[0];
  for (int horizon = 0; horizon < kHorizonCount; ++horizon) {
    const float* f = now.fields + 1 + 3 * horizon;
    float* a = allowed + 1 + 3 * horizon;
    a[0] = tolerance_ * errors[horizon];
    a[1] = a[2] = kBound * (f[2] - f[1]);
  }
}

size_t SummaryWriter::Write(const Summary& now, const float (&allowed)[kFields], uint8_t* message) {
  uint16_t mask = 0;
  bool precise = false;
  for (int i = 0; i < kFields; ++i) {
    if (!std::isfinite(now.fields[i])) continue;
    if (any_ && std::abs(now.fields[i] - told_.fields[i]) <= allowed[i]) continue;
    mask |= static_cast<uint16_t>(1u << i);
    precise |= !IsBound(i) && std::abs(Rounded(now.fields[i]) - now.fields[i]) > 0.5f * allowed[i];
  }
  if (mask == 0) return 0;
  any_ = true;
  size_t size = 2;
  const auto put = [message, &size](uint32_t bits) {
    message[size++] = static_cast<uint8_t>(bits);
    message[size++] = static_cast<uint8_t>(bits >> 8);
  };
  for (int i = 0; i < kFields; ++i) {
    if ((mask & (1u << i)) == 0) continue;
    const bool whole = precise && !IsBound(i);
    // A bound is rounded outwards by what rounding may take away.
    float field = told_.fields[i] = now.fields[i];
    if (IsBound(i)) field += std::abs(field) * ((i - 1) % 3 == 1 ? -1.0f : 1.0f) / 256;
    sent_.fields[i] = whole ? field : Rounded(field);
    const auto bits = std::bit_cast<uint32_t>(sent_.fields[i]);
    put(bits >> 16);
    if (whole) put(bits & 0xffff);
  }
  if (precise) mask |= kPrecise;
  message[0] = static_cast<uint8_t>(mask);
  message[1] = static_cast<uint8_t>(mask >> 8);
  return size;
}

bool ReadSummary(const uint8_t* message, size_t size, Summary& summary) {
  if (size < 2) return false;
  const auto mask = static_cast<uint16_t>(message[0] | (message[1] << 8));
  const bool precise = (mask & kPrecise) != 0;
  if ((mask & ~(kKnown | kPrecise)) != 0) return false;
  Summary read = summary;
  size_t at = 2;
  const auto get = [message, size, &at](uint32_t& part) {
    if (size - at < 2) return false;
    part = message[at] | (static_cast<uint32_t>(message[at + 1]) << 8);
    at += 2;
    return true;
  };
  for (int i = 0; i < kFields; ++i) {
    if ((mask & (1u << i)) == 0) continue;
    uint32_t high = 0, low = 0;
    if (!get(high)) return false;
    if (precise && !IsBound(i) && !get(low)) return false;
    read.fields[i] = std::bit_cast<float>((high << 16) | low);
    if (!std::isfinite(read.fields[i])) return false;
  }
  if (at != size) return false;
  summary = read;
  return true;
}

}  // namespace starling::predictor
