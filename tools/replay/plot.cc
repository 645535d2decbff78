#include "tools/replay/plot.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace starling::replay {
namespace {

constexpr double kWidth = 720, kHeight = 440, kLeft = 80, kRight = 190, kTop = 40, kBottom = 56;
constexpr const char* kColours[] = {"#1f5fa8", "#c9581a", "#3a8f3a", "#7a4fa3", "#8a8a8a"};

}  // namespace

std::string Chart(const std::string& title, const std::string& x_name, const std::string& y_name,
                  const std::vector<Line>& lines) {
  double x0 = INFINITY, x1 = -INFINITY, y0 = INFINITY, y1 = -INFINITY;
  for (const Line& line : lines) {
    for (const auto& [x, y] : line.points) {
      x0 = std::min(x0, x);
      x1 = std::max(x1, x);
      y0 = std::min(y0, y);
      y1 = std::max(y1, y);
    }
  }
  if (!(x1 > x0)) x1 = x0 + 1;
  if (!(y1 > y0)) y1 = y0 + 1;
  const auto at_x = [&](double x) {
    return kLeft + (x - x0) / (x1 - x0) * (kWidth - kLeft - kRight);
  };
  const auto at_y = [&](double y) {
    return kHeight - kBottom - (y - y0) / (y1 - y0) * (kHeight - kTop - kBottom);
  };
  std::string out = absl::StrFormat(
      "<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 %g %g' font-family='sans-serif' "
      "font-size='12'>\n<rect width='100%%' height='100%%' fill='white'/>\n"
      "<text x='%g' y='22' font-size='15'>%s</text>\n",
      kWidth, kHeight, kLeft, title);
  for (int i = 0; i <= 5; ++i) {
    const double x = x0 + (x1 - x0) * i / 5, y = y0 + (y1 - y0) * i / 5;
    absl::StrAppendFormat(&out,
                          "<line x1='%.1f' x2='%.1f' y1='%.1f' y2='%.1f' stroke='#ddd'/>\n"
                          "<text x='%.1f' y='%.1f' text-anchor='end'>%.4g</text>\n"
                          "<text x='%.1f' y='%.1f' text-anchor='middle'>%.4g</text>\n",
                          kLeft, kWidth - kRight, at_y(y), at_y(y), kLeft - 6, at_y(y) + 4, y,
                          at_x(x), kHeight - kBottom + 18, x);
  }
  absl::StrAppendFormat(&out,
                        "<text x='%.1f' y='%.1f' text-anchor='middle'>%s</text>\n"
                        "<text transform='translate(18 %.1f) rotate(-90)' text-anchor='middle'>%s"
                        "</text>\n",
                        (kLeft + kWidth - kRight) / 2, kHeight - 14, x_name,
                        (kTop + kHeight - kBottom) / 2, y_name);
  for (size_t i = 0; i < lines.size(); ++i) {
    const char* colour = kColours[i % std::size(kColours)];
    if (lines[i].connected) {
      std::string path;
      for (const auto& [x, y] : lines[i].points) {
        absl::StrAppendFormat(&path, "%.1f,%.1f ", at_x(x), at_y(y));
      }
      absl::StrAppendFormat(
          &out, "<polyline points='%s' fill='none' stroke='%s' stroke-width='2'/>\n", path, colour);
    } else {
      for (const auto& [x, y] : lines[i].points) {
        absl::StrAppendFormat(&out, "<circle cx='%.1f' cy='%.1f' r='4' fill='%s'/>\n", at_x(x),
                              at_y(y), colour);
      }
    }
    const double y = kTop + 18 * static_cast<double>(i);
    absl::StrAppendFormat(&out,
                          "<rect x='%.1f' y='%.1f' width='12' height='12' fill='%s'/>"
                          "<text x='%.1f' y='%.1f'>%s</text>\n",
                          kWidth - kRight + 14, y, colour, kWidth - kRight + 32, y + 11,
                          lines[i].name);
  }
  absl::StrAppend(&out, "</svg>\n");
  return out;
}

}  // namespace starling::replay
