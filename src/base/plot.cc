#include "base/plot.h"

#include <algorithm>
#include <array>
#include <cmath>

#include "base/text.h"

namespace winnow {
namespace {

constexpr const char* kBackground = "#ffffff";
constexpr double kLinePlotWidth = 820;
constexpr double kLinePlotHeight = 400;
constexpr const char* kInk = "#1f2933";
constexpr const char* kFaint = "#d5dbe1";
constexpr std::array<const char*, 8> kColors = {"#1d6fb8", "#d1601f", "#2f8f4e", "#8c4fb0",
                                                "#b8860b", "#c23b5a", "#3a8f93", "#5b6470"};

std::string Escaped(std::string_view text) {
  std::string out;
  for (const char c : text) {
    if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) continue;  // XML has no such characters
    switch (c) {
      case '&':
        out += "&amp;";
        break;
      case '<':
        out += "&lt;";
        break;
      case '>':
        out += "&gt;";
        break;
      case '"':
        out += "&quot;";
        break;
      case '\'':
        out += "&#39;";
        break;
      default:
        out += c;
    }
  }
  return out;
}

// Drawing in points of the page, y downward.
class Canvas {
 public:
  Canvas(double width, double height, const std::string& title) {
    out_ = fmt::format(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {0:.0f} {1:.0f}\" "
        "width=\"{0:.0f}\" height=\"{1:.0f}\" font-family=\"system-ui, sans-serif\" "
        "font-size=\"12\" role=\"img\">\n<title>{2}</title>\n"
        "<rect width=\"{0:.0f}\" height=\"{1:.0f}\" fill=\"{3}\"/>\n",
        width, height, Escaped(title), kBackground);
    Text(16, 26, title, "start", 16);
  }

  // `anchor`: start, middle or end.
  void Text(double x, double y, const std::string& text, const char* anchor, int size = 12,
            const char* color = kInk, double turn = 0) {
    const std::string transform =
        turn == 0 ? "" : fmt::format(" transform=\"rotate({:.0f} {:.1f} {:.1f})\"", turn, x, y);
    out_ += fmt::format(
        "<text x=\"{:.1f}\" y=\"{:.1f}\" text-anchor=\"{}\" font-size=\"{}\" fill=\"{}\"{}>{}"
        "</text>\n",
        x, y, anchor, size, color, transform, Escaped(text));
  }
  void Line(double x1, double y1, double x2, double y2, const char* color) {
    out_ += fmt::format(
        "<line x1=\"{:.1f}\" y1=\"{:.1f}\" x2=\"{:.1f}\" y2=\"{:.1f}\" stroke=\"{}\"/>\n", x1, y1,
        x2, y2, color);
  }
  void Rect(double x, double y, double width, double height, const std::string& fill) {
    out_ += fmt::format(
        "<rect x=\"{:.1f}\" y=\"{:.1f}\" width=\"{:.1f}\" height=\"{:.1f}\" fill=\"{}\"/>\n", x, y,
        width, height, fill);
  }
  void Dot(double x, double y, const char* color) {
    out_ += fmt::format("<circle cx=\"{:.1f}\" cy=\"{:.1f}\" r=\"3\" fill=\"{}\"/>\n", x, y, color);
  }
  void Path(const std::string& data, const char* color, bool dashed) {
    if (data.empty()) return;
    out_ += fmt::format("<path d=\"{}\" fill=\"none\" stroke=\"{}\" stroke-width=\"2\"{}/>\n", data,
                        color, dashed ? " stroke-dasharray=\"6 4\"" : "");
  }
  std::string Finish() { return out_ + "</svg>\n"; }

 private:
  std::string out_;
};

// Round numbers that span [low, high], about five of them.
std::vector<double> Ticks(double low, double high) {
  const double rough = (high - low) / 5;
  const double power = std::pow(10.0, std::floor(std::log10(rough)));
  double step = power;
  for (const double factor : {2.0, 5.0, 10.0}) {
    if (step < rough) step = factor * power;
  }
  std::vector<double> ticks;
  for (double tick = std::floor(low / step) * step; tick < high + step; tick += step) {
    ticks.push_back(std::fabs(tick) < step / 1000 ? 0.0 : tick);
  }
  return ticks;
}

struct Range {
  double low = INFINITY;
  double high = -INFINITY;

  void Add(double value) {
    if (!std::isfinite(value)) return;
    low = std::min(low, value);
    high = std::max(high, value);
  }
  // Never empty and never a point.
  Range Widened() const {
    if (!(low <= high)) return {0.0, 1.0};
    if (low == high) return {low - std::max(0.5, std::fabs(low) * 0.1), high + 0.5};
    return *this;
  }
};

// From a light to a deep tone; 1 is the good end.
std::string HeatColor(double value) {
  constexpr std::array<std::array<double, 3>, 3> kStops = {
      {{178, 60, 50}, {246, 226, 170}, {44, 127, 94}}};
  const double place = std::clamp(value, 0.0, 1.0) * 2;
  const size_t stop = place < 1 ? 0 : 1;
  const double part = place - static_cast<double>(stop);
  std::array<int, 3> rgb{};
  for (size_t channel = 0; channel < 3; ++channel) {
    rgb[channel] = static_cast<int>(
        std::lround(kStops[stop][channel] * (1 - part) + kStops[stop + 1][channel] * part));
  }
  return fmt::format("#{:02x}{:02x}{:02x}", rgb[0], rgb[1], rgb[2]);
}

// The frame of a line plot and where its numbers lie.
struct Frame {
  double left = 70, top = 44, width = 560, height = 300;
  Range x, y;
  bool log_x = false;

  double X(double value) const {
    const double low = log_x ? std::log2(x.low) : x.low;
    const double high = log_x ? std::log2(x.high) : x.high;
    return left + ((log_x ? std::log2(value) : value) - low) / (high - low) * width;
  }
  double Y(double value) const {
    return top + height - (value - y.low) / (y.high - y.low) * height;
  }
};

Frame FrameOf(const LinePlot& plot, std::vector<double>* y_ticks) {
  Frame frame;
  frame.log_x = plot.log_x;
  for (const LineSeries& series : plot.series) {
    for (const auto& [x, y] : series.points) {
      frame.x.Add(x);
      frame.y.Add(y);
    }
  }
  frame.y.Add(plot.y_from);
  if (frame.log_x && frame.x.low == frame.x.high) frame.x = {frame.x.low / 2, frame.x.high * 2};
  frame.x = frame.x.Widened();
  const Range y = frame.y.Widened();
  *y_ticks = Ticks(y.low, y.high);
  frame.y = {y_ticks->front(), y_ticks->back()};
  return frame;
}

void DrawAxes(const LinePlot& plot, const Frame& frame, const std::vector<double>& y_ticks,
              Canvas& canvas) {
  const double right = frame.left + frame.width;
  const double bottom = frame.top + frame.height;
  for (const double tick : y_ticks) {
    canvas.Line(frame.left, frame.Y(tick), right, frame.Y(tick), kFaint);
    canvas.Text(frame.left - 8, frame.Y(tick) + 4, fmt::format("{:g}", tick), "end");
  }
  std::vector<double> x_ticks;
  if (!plot.log_x) {
    x_ticks = Ticks(frame.x.low, frame.x.high);
  } else if (!plot.series.empty()) {
    for (const auto& [x, y] : plot.series.front().points) x_ticks.push_back(x);
  }
  for (const double tick : x_ticks) {
    if (tick < frame.x.low || tick > frame.x.high) continue;
    canvas.Line(frame.X(tick), bottom, frame.X(tick), bottom + 5, kInk);
    canvas.Text(frame.X(tick), bottom + 19, fmt::format("{:g}", tick), "middle");
  }
  canvas.Line(frame.left, bottom, right, bottom, kInk);
  canvas.Line(frame.left, frame.top, frame.left, bottom, kInk);
  canvas.Text(frame.left + frame.width / 2, bottom + 40, plot.x_label, "middle");
  canvas.Text(18, frame.top + frame.height / 2, plot.y_label, "middle", 12, kInk, -90);
}

}  // namespace

std::string RenderLinePlot(const LinePlot& plot) {
  std::vector<double> y_ticks;
  const Frame frame = FrameOf(plot, &y_ticks);
  Canvas canvas(kLinePlotWidth, kLinePlotHeight, plot.title);
  DrawAxes(plot, frame, y_ticks, canvas);
  for (size_t index = 0; index < plot.series.size(); ++index) {
    const LineSeries& series = plot.series[index];
    const char* color = kColors[index % kColors.size()];
    std::string path;
    bool pen_down = false;
    for (const auto& [x, y] : series.points) {
      if (!std::isfinite(y)) {
        pen_down = false;
        continue;
      }
      path += fmt::format("{}{:.1f} {:.1f}", pen_down ? " L" : " M", frame.X(x), frame.Y(y));
      pen_down = true;
      canvas.Dot(frame.X(x), frame.Y(y), color);
    }
    canvas.Path(path, color, series.dashed);
    const double y = frame.top + 12 + 20 * static_cast<double>(index);
    canvas.Path(fmt::format("M648 {0:.1f} L674 {0:.1f}", y), color, series.dashed);
    canvas.Text(680, y + 4, series.name, "start");
  }
  return canvas.Finish();
}

std::string RenderLinePlots(const std::vector<LinePlot>& plots) {
  const double height = kLinePlotHeight * static_cast<double>(plots.size());
  std::string out = fmt::format(
      "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {0:.0f} {1:.0f}\" "
      "width=\"{0:.0f}\" height=\"{1:.0f}\">\n",
      kLinePlotWidth, height);
  for (size_t index = 0; index < plots.size(); ++index) {
    const std::string plot = RenderLinePlot(plots[index]);
    out += fmt::format("<svg y=\"{:.0f}\"", kLinePlotHeight * static_cast<double>(index));
    out += plot.substr(4);  // behind its own "<svg"
  }
  return out + "</svg>\n";
}

std::string RenderHeatMap(const HeatMap& map) {
  constexpr double kCell = 22, kLeft = 86, kTop = 82, kGap = 46;
  const double cell_width =
      std::clamp(480.0 / static_cast<double>(std::max<size_t>(1, map.columns.size())), 34.0, 56.0);
  const double inner_width = cell_width * static_cast<double>(map.columns.size());
  const double inner_height = kCell * static_cast<double>(map.rows.size());
  const double panel_width = kLeft + inner_width + kGap;
  const double panel_height = kTop + inner_height;
  const size_t across = std::min<size_t>(2, std::max<size_t>(1, map.panels.size()));
  const size_t down = (map.panels.size() + across - 1) / across;
  Canvas canvas(std::max(420.0, panel_width * static_cast<double>(across)),
                30 + panel_height * static_cast<double>(down), map.title);
  for (size_t index = 0; index < map.panels.size(); ++index) {
    const HeatPanel& panel = map.panels[index];
    const double left = kLeft + panel_width * static_cast<double>(index % across);
    const double top = kTop + panel_height * static_cast<double>(index / across);
    canvas.Text(left + inner_width / 2, top - 34, panel.title, "middle", 13);
    for (size_t column = 0; column < map.columns.size(); ++column) {
      canvas.Text(left + cell_width * (static_cast<double>(column) + 0.5), top - 8,
                  map.columns[column], "middle", 11);
    }
    canvas.Text(left - 8, top - 8, map.row_label + " / " + map.column_label, "end", 10);
    for (size_t row = 0; row < map.rows.size(); ++row) {
      const double y = top + kCell * static_cast<double>(row);
      canvas.Text(left - 8, y + 15, map.rows[row], "end", 11);
      for (size_t column = 0; column < map.columns.size(); ++column) {
        const double value = panel.values[row][column];
        const double x = left + cell_width * static_cast<double>(column);
        const bool known = std::isfinite(value);
        canvas.Rect(x + 1, y + 1, cell_width - 2, kCell - 2, known ? HeatColor(value) : kFaint);
        if (!known) continue;
        const bool dark = value < 0.25 || value > 0.8;
        canvas.Text(x + cell_width / 2, y + 15, fmt::format("{:.0f}", value * 100), "middle", 11,
                    dark ? kBackground : kInk);
      }
    }
  }
  return canvas.Finish();
}

std::string RenderBarChart(const BarChart& chart) {
  constexpr double kBar = 22, kLeft = 190, kTop = 66, kWidth = 400;
  const double panel_height = kTop + kBar * static_cast<double>(chart.bars.size());
  Canvas canvas(760, 24 + panel_height * static_cast<double>(chart.panels.size()), chart.title);
  for (size_t index = 0; index < chart.panels.size(); ++index) {
    const BarPanel& panel = chart.panels[index];
    const double top = kTop + panel_height * static_cast<double>(index);
    canvas.Text(kLeft, top - 10, panel.title, "start", 13);
    double largest = 0;
    for (const double value : panel.values) {
      if (std::isfinite(value)) largest = std::max(largest, value);
    }
    for (size_t bar = 0; bar < chart.bars.size(); ++bar) {
      const double y = top + kBar * static_cast<double>(bar);
      const double value = panel.values[bar];
      const double width = std::isfinite(value) && largest > 0 ? value / largest * kWidth : 0;
      canvas.Text(kLeft - 8, y + 15, chart.bars[bar], "end");
      canvas.Rect(kLeft, y + 3, width, kBar - 6, kColors[bar % kColors.size()]);
      canvas.Text(kLeft + width + 6, y + 15, panel.labels[bar], "start");
    }
    canvas.Line(kLeft, top, kLeft, top + kBar * static_cast<double>(chart.bars.size()), kInk);
  }
  return canvas.Finish();
}

}  // namespace winnow
