#include "base/plot.h"

#include <gtest/gtest.h>

#include <cmath>

#include "xml.h"

namespace winnow {
namespace {

// A name that a file may have.
const std::string kNasty = "<script>\"a\" & 'b'</script>\x7f\x01";

int Count(const std::string& text, const std::string& part) {
  int count = 0;
  for (size_t at = text.find(part); at != std::string::npos; at = text.find(part, at + 1)) ++count;
  return count;
}

void ExpectClean(const std::string& svg) {
  EXPECT_EQ(XmlProblem(svg), "") << svg;
  EXPECT_EQ(svg.find("<script"), std::string::npos);
  EXPECT_EQ(svg.find('\x7f'), std::string::npos);
  EXPECT_EQ(svg.find("nan"), std::string::npos);
  EXPECT_EQ(svg.find("inf"), std::string::npos);
  EXPECT_NE(svg.find("&lt;script&gt;"), std::string::npos);
}

TEST(XmlProblem, SeesWhatIsNotWellFormed) {
  EXPECT_EQ(XmlProblem("<a b=\"1\"><c/>x &amp; y</a>\n"), "");
  for (const char* bad : {"<a>", "<a></b>", "<a b=1/>", "<a>&x;</a>", "<a/><b/>", "x", "<a", ""}) {
    EXPECT_NE(XmlProblem(bad), "") << bad;
  }
}

TEST(LinePlot, IsWellFormedAndBreaksLinesAtGaps) {
  LinePlot plot{kNasty, kNasty, kNasty, true, {}};
  plot.series.push_back({kNasty, {{256, 20.5}, {512, NAN}, {1024, 19}, {2048, 18}}, false});
  plot.series.push_back({"flat", {{256, 3}, {2048, 3}}, true});
  const std::string svg = RenderLinePlot(plot);
  ExpectClean(svg);
  EXPECT_EQ(Count(svg, "<circle"), 5);
  EXPECT_NE(svg.find(">1024</text>"), std::string::npos);
}

TEST(LinePlot, BeginsWhereItIsTold) {
  LinePlot plot{"", "", "", false, {{"kept", {{0, 0.95}, {7, 0.99}}, false}}};
  EXPECT_EQ(RenderLinePlot(plot).find(">0.4</text>"), std::string::npos);
  plot.y_from = 0;
  EXPECT_NE(RenderLinePlot(plot).find(">0.4</text>"), std::string::npos);
}

TEST(LinePlots, StandBelowEachOther) {
  const LinePlot plot{kNasty, kNasty, "", false, {{"line", {{0, 1}, {1, 2}}, false}}};
  const std::string svg = RenderLinePlots({plot, plot});
  ExpectClean(svg);
  EXPECT_EQ(Count(svg, "<svg"), 3);
  EXPECT_NE(svg.find("<svg y=\"400\""), std::string::npos);
}

TEST(LinePlot, BearsNothingAndOnePoint) {
  LinePlot plot;
  EXPECT_EQ(XmlProblem(RenderLinePlot(plot)), "");
  plot.series.push_back({"one", {{0, 0}}, false});
  EXPECT_EQ(XmlProblem(RenderLinePlot(plot)), "");
  plot.log_x = true;
  plot.series[0].points = {{256, 7}};
  EXPECT_EQ(XmlProblem(RenderLinePlot(plot)), "");
  EXPECT_EQ(RenderLinePlot(plot).find("nan"), std::string::npos);
}

TEST(HeatMap, WritesEveryKnownCell) {
  HeatMap map{kNasty, "depth", "length", {"0 %", "100 %"}, {"2K", kNasty}, {}};
  map.panels.push_back({kNasty, {{1.0, 0.25}, {NAN, 0.0}}});
  map.panels.push_back({"dense", {{0.5, 0.5}, {0.5, 0.5}}});
  const std::string svg = RenderHeatMap(map);
  ExpectClean(svg);
  EXPECT_EQ(Count(svg, ">100</text>"), 1);
  EXPECT_EQ(Count(svg, ">25</text>"), 1);
  EXPECT_EQ(Count(svg, ">50</text>"), 4);
}

TEST(BarChart, DrawsBarsInProportion) {
  BarChart chart{kNasty, {"all", kNasty, "none"}, {}};
  chart.panels.push_back({kNasty, {2, 1, 0}, {"two", "one", kNasty}});
  const std::string svg = RenderBarChart(chart);
  ExpectClean(svg);
  EXPECT_NE(svg.find("width=\"400.0\""), std::string::npos);
  EXPECT_NE(svg.find("width=\"200.0\""), std::string::npos);
  chart.panels[0].values = {0, NAN, 0};
  EXPECT_EQ(RenderBarChart(chart).find("nan"), std::string::npos);
}

}  // namespace
}  // namespace winnow
