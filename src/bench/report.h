// Measurements, for people and for programs.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "backend/backend.h"
#include "bench/kernel_cost.h"
#include "winnow/bench.h"

namespace winnow::bench {

struct Timed {
  std::string name;
  KernelCost cost;
  std::vector<double> seconds;  // of each run
};

struct Session {
  std::string machine;  // the processor's model
  std::string backend;
  Roofs before;   // the first round
  Roofs after;    // the last
  Roofs highest;  // each ceiling at its highest, between the rounds included
  std::vector<Timed> kernels;
};

// The higher of each ceiling.
Roofs Higher(const Roofs& a, const Roofs& b);

// What /proc/cpuinfo calls the first processor; "unknown" where it says nothing.
std::string ProcessorModel(std::string_view cpuinfo);

// Shares are of the highest ceilings.
KernelBenchReport MakeReport(const Session& session);

}  // namespace winnow::bench
