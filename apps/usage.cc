// winnow usage: what the ledger of a server has.
#include <fmt/format.h>

#include <memory>

#include "base/json.h"
#include "commands.h"
#include "terminal.h"
#include "winnow/ledger.h"

namespace winnow::apps {
namespace {

struct UsageOptions {
  std::string ledger;
  UsageQuery query;
  bool json = false;
};

void PrintUsageJson(const UsageRow& row) {
  const json::object line = {{"group", row.group},
                             {"requests", row.requests},
                             {"prompt_tokens", row.prompt_tokens},
                             {"cached_tokens", row.cached_tokens},
                             {"completion_tokens", row.completion_tokens},
                             {"attention_rows_read", row.attention_rows_read},
                             {"attention_rows_dense", row.attention_rows_dense},
                             {"seconds", row.seconds},
                             {"dense_seconds_modelled", row.dense_seconds_modelled},
                             {"dollars", row.dollars},
                             {"dense_dollars_modelled", row.dense_dollars_modelled}};
  fmt::print("{}\n", json::serialize(line));
}

void PrintTable(const std::vector<UsageRow>& rows, const std::string& by) {
  size_t width = by.size();
  for (const UsageRow& row : rows) width = std::max(width, row.group.size());
  fmt::print("{:<{}} {:>9} {:>13} {:>13} {:>11} {:>10} {:>10} {:>11} {:>11}\n", by, width,
             "requests", "prompt", "cached", "answer", "seconds", "if dense", "dollars",
             "if dense");
  for (const UsageRow& row : rows) {
    fmt::print("{:<{}} {:>9} {:>13} {:>13} {:>11} {:>10.1f} {:>10.1f} {:>11.6f} {:>11.6f}\n",
               row.group, width, Grouped(row.requests), Grouped(row.prompt_tokens),
               Grouped(row.cached_tokens), Grouped(row.completion_tokens), row.seconds,
               row.dense_seconds_modelled, row.dollars, row.dense_dollars_modelled);
  }
}

int Usage(const UsageOptions& options) {
  const auto rows = ReadUsage(options.ledger, options.query);
  if (!rows.ok()) return Report(rows.error());
  if (options.json) {
    for (const UsageRow& row : *rows) PrintUsageJson(row);
  } else {
    PrintTable(*rows, options.query.by);
  }
  return 0;
}

}  // namespace

void AddUsage(CLI::App& app, int* exit_code) {
  auto options = std::make_shared<UsageOptions>();
  CLI::App* command = app.add_subcommand(
      "usage", "What was served, by the ledger that `winnow serve --ledger FILE` writes");
  command->add_option("LEDGER", options->ledger, "The file")->required();
  command->add_option("--key", options->query.key, "Only requests of this API key, by its name");
  command->add_option("--since", options->query.since,
                      "Only from this time on, UTC: 2026-11-01 or 2026-11-01T12:00:00");
  command->add_option("--until", options->query.until, "Only before this time");
  command->add_option("--by", options->query.by, "key, model, day, month or request")
      ->capture_default_str();
  command->add_flag("--json", options->json, "One JSON object a line");
  command->footer(
      "\nTokens are those of prompts, of them those found in the cache, and of answers. Seconds "
      "are\n"
      "the machine's; \"if dense\" is what dense attention would have taken, modelled from rates "
      "that\n"
      "the server measured when it started.");
  command->callback([options, exit_code] { *exit_code = Usage(*options); });
}

}  // namespace winnow::apps
