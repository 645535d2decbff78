#pragma once

#include <map>
#include <string>
#include <vector>

#include "absl/status/statusor.h"

// The folder of traces, as docs/predictor.md ("Traces") describes it. Whatever part of it is
// missing is left out; what is there and cannot be read is an error that names file and line.

namespace starling::replay {

// Series of one kind, sampled at one interval.
struct Group {
  std::string name;
  int season = 1;                  // steps of the kind's natural season; 1: none
  double step_s = 0;               // sampling interval
  bool onset = false;              // CPU of machines: the onset of a shortage is scored too
  std::vector<std::string> units;  // the machine, function or user each series is of
  std::vector<std::vector<double>> series;
};

// A function that is activated now and then: one count a minute.
struct Function {
  std::string name;
  double memory_mb = 0;
  std::vector<double> counts;
};

// A second of a session in which there was input.
struct InputSecond {
  double t_s = 0;
  double moves = 0, drags = 0, clicks = 0, scrolls = 0, distance_px = 0;
};

struct Session {
  std::string user;
  std::string name;
  std::vector<InputSecond> seconds;
};

struct Traces {
  std::vector<Group> groups;
  std::vector<Function> functions;
  std::vector<Session> sessions;  // by user and name, in order
};

absl::StatusOr<Traces> LoadTraces(const std::string& folder);

// Leaves every other machine, function and user: the first, third ... for 1, the second, fourth ...
// for 2. What is chosen by one half is judged by the other.
void KeepHalf(int half, Traces& traces);

}  // namespace starling::replay
