#pragma once

#include <string>
#include <utility>
#include <vector>

namespace starling::replay {

struct Line {
  std::string name;
  std::vector<std::pair<double, double>> points;
  bool connected = true;  // otherwise single marks
};

// A chart as SVG.
std::string Chart(const std::string& title, const std::string& x_name, const std::string& y_name,
                  const std::vector<Line>& lines);

}  // namespace starling::replay
