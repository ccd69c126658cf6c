#include "bench/report.h"

#include <gtest/gtest.h>

#include <sstream>

#include "base/json.h"

namespace winnow::bench {
namespace {

Session MakeSession() {
  Session session;
  session.machine = "a machine";
  session.backend = "cpu avx2, 2 threads";
  session.before = {.flops_f32 = 100e9, .ops_int8 = 200e9, .read_bytes_per_second = 20e9};
  session.after = {.flops_f32 = 80e9, .ops_int8 = 250e9, .read_bytes_per_second = 20e9};
  session.highest = {.flops_f32 = 125e9, .ops_int8 = 250e9, .read_bytes_per_second = 20e9};
  // A millisecond of 50 million operations: two fifths of the highest ceiling for f32.
  session.kernels = {{"v32/select/4K/bf16/t1",
                      {.ops = 50e6, .bytes = 1e6},
                      {1.0e-3, 1.1e-3, 0.9e-3, 1.2e-3, 0.8e-3}}};
  return session;
}

TEST(Report, IsOneObjectALine) {
  std::istringstream lines(MakeReport(MakeSession()).json);
  std::vector<json::object> objects;
  for (std::string line; std::getline(lines, line);) {
    objects.push_back(ParseJson(line, "report").value().as_object());
  }
  ASSERT_EQ(objects.size(), 4u);  // f32, int8, memory, and the kernel
  EXPECT_EQ(objects[0].at("name").as_string(), "roof/f32");
  EXPECT_EQ(objects[0].at("before").as_double(), 100e9);
  EXPECT_EQ(objects[0].at("after").as_double(), 80e9);
  EXPECT_EQ(objects[0].at("highest").as_double(), 125e9);
  const json::object& kernel = objects[3];
  EXPECT_EQ(kernel.at("name").as_string(), "v32/select/4K/bf16/t1");
  EXPECT_DOUBLE_EQ(kernel.at("microseconds").as_double(), 1000);
  EXPECT_DOUBLE_EQ(kernel.at("microseconds_p10").as_double(), 840);
  EXPECT_DOUBLE_EQ(kernel.at("microseconds_p90").as_double(), 1160);
  EXPECT_DOUBLE_EQ(kernel.at("ops_per_second").as_double(), 50e9);
  EXPECT_DOUBLE_EQ(kernel.at("bytes_per_second").as_double(), 1e9);
  EXPECT_DOUBLE_EQ(kernel.at("share").as_double(), 0.4);
  EXPECT_EQ(kernel.at("bound").as_string(), "f32");
  EXPECT_EQ(kernel.at("backend").as_string(), "cpu avx2, 2 threads");
  EXPECT_EQ(kernel.at("machine").as_string(), "a machine");
}

TEST(Report, ShowsTheDriftOfTheCeilings) {
  const std::string table = MakeReport(MakeSession()).table;
  EXPECT_NE(table.find("-20.0 %"), std::string::npos) << table;
  EXPECT_NE(table.find("+25.0 %"), std::string::npos) << table;
  EXPECT_NE(table.find("40.0 %"), std::string::npos) << table;
}

TEST(Higher, TakesEachCeilingFromTheRunThatHadMore) {
  const Session session = MakeSession();
  const Roofs roofs = Higher(session.before, session.after);
  EXPECT_EQ(roofs.flops_f32, 100e9);
  EXPECT_EQ(roofs.ops_int8, 250e9);
  EXPECT_EQ(roofs.read_bytes_per_second, 20e9);
  EXPECT_EQ(roofs.flops_bf16, 0);
}

TEST(ProcessorModel, IsThatOfTheFirst) {
  EXPECT_EQ(
      ProcessorModel("processor\t: 0\nmodel\t\t: 1\nmodel name\t: AMD EPYC 7763\nstepping: 1\n"
                     "model name\t: another\n"),
      "AMD EPYC 7763");
  EXPECT_EQ(ProcessorModel("model name\t: "), "unknown");
  EXPECT_EQ(ProcessorModel("model name\t:\nstepping: 1\n"), "unknown");
  EXPECT_EQ(ProcessorModel(""), "unknown");
}

}  // namespace
}  // namespace winnow::bench
