// Writes to standard output what an agent keeps of what it learned of its host
// (state_dir/loop/host.models), of users whose pauses are always long: a test has no weeks to have
// an agent see them.

#include <iostream>
#include <random>

#include "predictor/idleness.h"
#include "runtime/proto/starling.pb.h"

int main() {
  using namespace starling;
  constexpr int kPauses = 2000;
  predictor::IdleModel model;
  std::mt19937 random(7);
  std::uniform_real_distribution<double> pause_s(600, 3600);
  for (int i = 0; i < kPauses; ++i) {
    // As a user's that came back once, and pressed a key or two.
    predictor::InputActivity input;
    predictor::Activity keys;
    keys.keys = 1 + i % 3;
    input.Step(1, keys);
    predictor::IdleFeatures features;
    input.Features(features);
    model.Learn(features, pause_s(random), 1);
  }
  v1::ShadowModels models;
  models.add_models();  // nothing of processors
  models.add_models();  // and memory
  models.add_models(model.Save());
  return models.SerializeToOstream(&std::cout) ? 0 : 1;
}
