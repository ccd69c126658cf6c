// winnow inspect: what a model is and what running it takes.
#include <fmt/format.h>

#include "base/json.h"
#include "commands.h"
#include "options.h"
#include "terminal.h"

namespace winnow::apps {
namespace {

void PrintTables(const ModelReport& report) {
  fmt::print("Architecture\n");
  for (const auto& fact : report.architecture) fmt::print("  {:<14}{}\n", fact.name, fact.value);
  fmt::print("  {:<14}{}, {} used by a token\n", "parameters",
             Scaled(static_cast<double>(report.parameters)),
             Scaled(static_cast<double>(report.active_parameters)));
  fmt::print("\nStorage\n");
  for (const auto& row : report.storage) {
    fmt::print("  {:<14}{:>7} tensors {:>12} parameters {:>12}\n", row.dtype, Grouped(row.tensors),
               Scaled(static_cast<double>(row.parameters)), Bytes(static_cast<double>(row.bytes)));
  }
  fmt::print("\nMemory\n");
  int64_t total = 0;
  for (const auto& row : report.memory) {
    fmt::print("  {:<52}{:>12}\n", row.what, Bytes(static_cast<double>(row.bytes)));
    total += row.bytes;
  }
  fmt::print("  {:<52}{:>12}\n", "total", Bytes(static_cast<double>(total)));
}

void PrintCosts(const ModelReport& report) {
  fmt::print("\nAttention of one token, by position (all layers; sparse includes the indexer)\n");
  fmt::print("  {:>10} {:>14} {:>14} {:>14} {:>7} {:>12} {:>12} {:>7}\n", "position", "dense FLOP",
             "sparse FLOP", "of it scoring", "ratio", "dense read", "sparse read", "ratio");
  for (const auto& cost : report.costs) {
    const double flops = cost.sparse_flops + cost.indexer_flops;
    const double bytes = cost.sparse_bytes + cost.indexer_bytes;
    fmt::print("  {:>10} {:>14} {:>14} {:>14} {:>7.2f} {:>12} {:>12} {:>7.2f}\n",
               Grouped(cost.position), Scaled(cost.dense_flops), Scaled(flops),
               Scaled(cost.indexer_flops), cost.dense_flops / flops, Bytes(cost.dense_bytes),
               Bytes(bytes), cost.dense_bytes / bytes);
  }
  fmt::print("  everything else of a token: {} FLOP\n", Scaled(report.linear_flops));
}

void PrintModelJson(const ModelReport& report) {
  json::object architecture;
  for (const auto& fact : report.architecture) architecture[fact.name] = fact.value;
  json::array storage, memory, costs;
  for (const auto& row : report.storage) {
    storage.push_back(json::object{{"dtype", row.dtype},
                                   {"tensors", row.tensors},
                                   {"parameters", row.parameters},
                                   {"bytes", row.bytes}});
  }
  for (const auto& row : report.memory) {
    memory.push_back(json::object{{"what", row.what}, {"bytes", row.bytes}});
  }
  for (const auto& cost : report.costs) {
    costs.push_back(json::object{{"position", cost.position},
                                 {"dense_flops", cost.dense_flops},
                                 {"sparse_flops", cost.sparse_flops},
                                 {"indexer_flops", cost.indexer_flops},
                                 {"dense_bytes", cost.dense_bytes},
                                 {"sparse_bytes", cost.sparse_bytes},
                                 {"indexer_bytes", cost.indexer_bytes}});
  }
  const json::object object = {{"architecture", architecture},
                               {"parameters", report.parameters},
                               {"active_parameters", report.active_parameters},
                               {"storage", storage},
                               {"memory", memory},
                               {"linear_flops", report.linear_flops},
                               {"costs", costs}};
  fmt::print("{}\n", json::serialize(object));
}

}  // namespace

void AddInspect(CLI::App& app, int* exit_code) {
  struct State {
    std::string model_dir;
    InspectOptions options;
    EngineOptions engine;
    bool json = false;
  };
  auto state = std::make_shared<State>();
  CLI::App* command = app.add_subcommand(
      "inspect",
      "Architecture, storage, memory plan, and cost by position, from the headers alone");
  AddModelArgument(*command, &state->model_dir);
  AddContextOption(*command, &state->options.context);
  command->add_option("--batch", state->options.batch, "Sequences at a time")
      ->type_name("N")
      ->capture_default_str();
  command->add_flag("--json", state->json, "Print one JSON object");
  AddEngineOptions(*command, &state->engine);
  command->callback([state, exit_code] {
    InspectOptions options = state->options;
    options.precision = state->engine.precision;
    options.weights = state->engine.weights;
    options.kv_cache = state->engine.kv_cache;
    options.index_keys = state->engine.index_keys;
    options.chunk = state->engine.chunk;
    options.workspace_bytes = state->engine.workspace_bytes;
    options.num_threads = state->engine.num_threads;
    options.backend = state->engine.backend;
    options.device = state->engine.device;
    auto report = Inspect(state->model_dir, options);
    if (!report.ok()) {
      *exit_code = Report(report.error());
    } else if (state->json) {
      PrintModelJson(*report);
    } else {
      PrintTables(*report);
      PrintCosts(*report);
    }
  });
}

}  // namespace winnow::apps
