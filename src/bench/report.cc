#include "bench/report.h"

#include <algorithm>

#include "base/json.h"
#include "base/text.h"
#include "bench/statistics.h"

namespace winnow::bench {
namespace {

struct Ceiling {
  const char* name;
  double Roofs::*rate;
  const char* field;  // of a JSON object
  const char* unit;
};
constexpr Ceiling kCeilings[] = {
    {"f32", &Roofs::flops_f32, "ops_per_second", "Gop/s"},
    {"bf16", &Roofs::flops_bf16, "ops_per_second", "Gop/s"},
    {"int8", &Roofs::ops_int8, "ops_per_second", "Gop/s"},
    {"memory", &Roofs::read_bytes_per_second, "bytes_per_second", "GB/s"},
};

void AddCeiling(const Session& session, const Ceiling& ceiling, KernelBenchReport* report) {
  const double before = session.before.*ceiling.rate;
  const double after = session.after.*ceiling.rate;
  if (before == 0 && after == 0) return;
  const double highest = session.highest.*ceiling.rate;
  report->table += fmt::format("{:<40} {:>10.1f} {:>10.1f} {:>+8.1f} % {:>7.1f}  {}\n",
                               ceiling.name, before / 1e9, after / 1e9, 100 * (after / before - 1),
                               highest / 1e9, ceiling.unit);
  report->json += json::serialize(json::object{{"name", fmt::format("roof/{}", ceiling.name)},
                                               {"unit", ceiling.field},
                                               {"before", before},
                                               {"after", after},
                                               {"highest", highest},
                                               {"backend", session.backend},
                                               {"machine", session.machine}}) +
                  "\n";
}

void AddKernel(const Session& session, const Timed& kernel, KernelBenchReport* report) {
  const Summary time = Summarize(kernel.seconds);
  const Bound bound = HoldAgainst(kernel.cost, session.highest, time.median);
  const double ops = kernel.cost.ops / time.median;
  const double bytes = kernel.cost.bytes / time.median;
  report->table +=
      fmt::format("{:<40} {:>10.1f} {:>10.1f} {:>10.1f} {:>8.1f} {:>7.2f}  {:<6} {:>5.1f} %\n",
                  kernel.name, time.median * 1e6, time.p10 * 1e6, time.p90 * 1e6, ops / 1e9,
                  bytes / 1e9, bound.name, bound.share * 100);
  report->json += json::serialize(json::object{{"name", kernel.name},
                                               {"microseconds", time.median * 1e6},
                                               {"microseconds_p10", time.p10 * 1e6},
                                               {"microseconds_p90", time.p90 * 1e6},
                                               {"runs", kernel.seconds.size()},
                                               {"ops_per_second", ops},
                                               {"bytes_per_second", bytes},
                                               {"bound", bound.name},
                                               {"share", bound.share},
                                               {"backend", session.backend},
                                               {"machine", session.machine}}) +
                  "\n";
}

}  // namespace

Roofs Higher(const Roofs& a, const Roofs& b) {
  Roofs roofs = a;
  for (const Ceiling& ceiling : kCeilings) {
    roofs.*ceiling.rate = std::max(a.*ceiling.rate, b.*ceiling.rate);
  }
  return roofs;
}

std::string ProcessorModel(std::string_view cpuinfo) {
  const std::string_view field = "model name";
  size_t at = cpuinfo.find(field);
  if (at == std::string_view::npos) return "unknown";
  at = cpuinfo.find_first_not_of(" \t:", at + field.size());
  if (at == std::string_view::npos || cpuinfo[at] == '\n') return "unknown";
  return std::string(cpuinfo.substr(at, cpuinfo.find('\n', at) - at));
}

KernelBenchReport MakeReport(const Session& session) {
  KernelBenchReport report;
  report.table = fmt::format("{}; {}\n\n{:<40} {:>10} {:>10} {:>10} {:>7}\n", session.machine,
                             session.backend, "ceiling", "before", "after", "drift", "highest");
  for (const Ceiling& ceiling : kCeilings) AddCeiling(session, ceiling, &report);
  report.table += fmt::format("\n{:<40} {:>10} {:>10} {:>10} {:>8} {:>7}  {:<6} {:>7}\n", "kernel",
                              "median, us", "p10", "p90", "Gop/s", "GB/s", "bound", "share");
  for (const Timed& kernel : session.kernels) AddKernel(session, kernel, &report);
  return report;
}

}  // namespace winnow::bench
