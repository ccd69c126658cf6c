// Small plots as SVG: lines, heat maps, bars. Own background, text labels, no scripts. Texts
// are UTF-8 and are escaped. NaN is a gap.
#pragma once

#include <cmath>
#include <string>
#include <utility>
#include <vector>

namespace winnow {

struct LineSeries {
  std::string name;
  std::vector<std::pair<double, double>> points;  // x ascending
  bool dashed = false;
};
struct LinePlot {
  std::string title;
  std::string x_label;
  std::string y_label;
  bool log_x = false;  // x > 0; ticks at the points of the first series
  std::vector<LineSeries> series;
  double y_from = NAN;  // the y axis begins here at the latest
};
std::string RenderLinePlot(const LinePlot& plot);
// Below each other.
std::string RenderLinePlots(const std::vector<LinePlot>& plots);

struct HeatPanel {
  std::string title;
  std::vector<std::vector<double>> values;  // [rows][columns] in [0, 1]
};
// Panels side by side, two in a row of the page, that share rows and columns.
struct HeatMap {
  std::string title;
  std::string row_label;
  std::string column_label;
  std::vector<std::string> rows;
  std::vector<std::string> columns;
  std::vector<HeatPanel> panels;
};
std::string RenderHeatMap(const HeatMap& map);

struct BarPanel {
  std::string title;
  std::vector<double> values;       // [bars], not negative
  std::vector<std::string> labels;  // [bars], what stands beside a bar
};
// Panels below each other that share the names of the bars.
struct BarChart {
  std::string title;
  std::vector<std::string> bars;
  std::vector<BarPanel> panels;
};
std::string RenderBarChart(const BarChart& chart);

}  // namespace winnow
