#pragma once

#include "runtime/decisions/policy.h"

namespace starling::decisions {

// How far the thresholds of the rules are from what the policy says: down when a shortage came that
// nobody foresaw, up when what was prepared for did not come, and slowly back. Within the policy's
// bounds. The higher the load, the dearer a shortage, and the less it is allowed to move up.
class Thresholds {
 public:
  // A shortage came unforeseen. `cost` in units of an ordinary one: its seconds over 10, say.
  void Missed(const Policy::Thresholds& bounds, double cost);
  // A reservation or a move was for a shortage that did not come.
  void InVain(const Policy::Thresholds& bounds, double cost);
  // Time without either passes.
  void Calm(double seconds);
  // To be added to the rules' shares. `load`: demand over capacity of the scarcest resource.
  double Shift(const Policy::Thresholds& bounds, double load) const;

 private:
  double shift_ = 0;
};

}  // namespace starling::decisions
