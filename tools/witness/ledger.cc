#include "tools/witness/ledger.h"

#include "tools/witness/values.h"

namespace starling::witness {

Ledger::Ledger(uint64_t seed, uint32_t keys, size_t value_size)
    : seed_(seed),
      value_size_(value_size),
      newest_(keys, 0),
      previous_(1, 0),
      acknowledged_(1, false),
      lost_(1, false) {}

uint64_t Ledger::BeginWrite(uint32_t key) {
  const uint64_t number = previous_.size();
  previous_.push_back(newest_[key]);
  acknowledged_.push_back(false);
  lost_.push_back(false);
  newest_[key] = number;
  return number;
}

std::string Ledger::Value(uint32_t key, uint64_t number) const {
  return MakeValue(seed_, key, number, value_size_);
}

void Ledger::Acknowledge(uint64_t number) {
  if (acknowledged_[number]) return;
  acknowledged_[number] = true;
  ++acknowledged_count_;
}

Ledger::Verdict Ledger::JudgeNumber(uint64_t newest_sent, uint64_t found) {
  Verdict verdict = Verdict::kRight;
  for (uint64_t number = newest_sent; number > found; number = previous_[number]) {
    if (!acknowledged_[number]) continue;
    verdict = Verdict::kLost;
    if (lost_[number]) continue;
    lost_[number] = true;
    ++lost_count_;
  }
  return verdict;
}

Ledger::Verdict Ledger::Judge(uint32_t key, uint64_t newest_sent,
                              std::optional<absl::string_view> value) {
  if (!value.has_value()) return JudgeNumber(newest_sent, 0);
  const std::optional<uint64_t> number = NumberIn(*value);
  uint64_t candidate = number.has_value() ? newest_sent : 0;
  while (candidate > number.value_or(0)) candidate = previous_[candidate];
  if (candidate == 0 || candidate != *number || *value != Value(key, candidate)) {
    ++wrong_count_;
    return Verdict::kWrong;
  }
  return JudgeNumber(newest_sent, candidate);
}

}  // namespace starling::witness
