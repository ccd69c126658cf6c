// winnow bench context: speed at growing context, sparse beside dense.
#include <fmt/format.h>
#include <sys/resource.h>

#include "base/check.h"
#include "base/json.h"
#include "base/output_file.h"
#include "base/plot.h"
#include "bench_commands.h"
#include "options.h"
#include "terminal.h"

namespace winnow::apps {
namespace {

struct BenchOptions {
  EngineOptions engine;
  std::vector<int64_t> frontiers = {1024, 2048, 4096, 8192, 16384, 32768};
  int64_t decode = 32;
  int64_t prefill = 0;  // tokens before each context that are timed; 0: all since the one before
  bool sparse = true;
  bool dense = true;
  double price = 0;  // dollars a machine-hour; 0: not known
  bool json = false;
  std::string csv;
  std::string svg;
};

struct Measurement {
  double prefill = 0.0;  // tokens a second
  double decode = 0.0;
  int64_t memory = 0;  // the most that the process, with all contenders, has held so far; bytes
};

// At one context: what each contender reached, in their order.
struct Row {
  int64_t context = 0;
  std::vector<Measurement> measured;
};

int64_t PeakMemory() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return int64_t{usage.ru_maxrss} * 1024;
}

// Tokens that look like nothing in particular, the same in every run; others for another seed.
std::vector<int32_t> MakePrompt(int64_t length, int64_t vocab_size, uint64_t seed = 1) {
  std::vector<int32_t> tokens;
  uint64_t state = seed;
  for (int64_t token = 0; token < length; ++token) {
    state = state * 6364136223846793005u + 1442695040888963407u;
    tokens.push_back(static_cast<int32_t>((state >> 33) % static_cast<uint64_t>(vocab_size)));
  }
  return tokens;
}

// Runs the prompt up to the frontier, of which all but the last stretch is in the cache, and
// decodes.
Result<Measurement> Measure(Engine& engine, std::vector<int32_t> prompt, int64_t decode) {
  Request request;
  request.token_ids = std::move(prompt);
  request.max_tokens = decode;
  request.ignore_eos = true;
  request.sampling.temperature = 0.0;
  auto stream = engine.Submit(request);
  if (!stream.ok()) return stream.error();
  CancelOnInterrupt interrupt(*stream);
  Receipt receipt;
  FinishReason finish = FinishReason::kNone;
  for (;;) {
    auto next = stream->Next();
    if (!next.ok()) return next.error();
    if (!*next) break;
    receipt = (*next)->receipt;
    finish = (*next)->finish;
  }
  if (finish == FinishReason::kCancelled) return Status(StatusCode::kCancelled, "interrupted");
  // The first token comes from the prompt's last step: one token fewer was decoded.
  return Measurement{static_cast<double>(receipt.computed_tokens) / receipt.prefill_seconds,
                     static_cast<double>(receipt.completion_tokens - 1) / receipt.decode_seconds,
                     PeakMemory()};
}

struct Contender {
  AttentionMode mode;
  Engine engine;
};

double DollarsPerMillion(double price, double tokens_per_second) {
  return price / 3600 / tokens_per_second * 1e6;
}

// Times the tokens before `context` and those after it.
Result<Measurement> MeasureAt(Engine& engine, int64_t context, const BenchOptions& options) {
  const std::vector<int32_t> prompt = MakePrompt(context, engine.info().vocab_size);
  if (options.prefill > 0 && options.prefill < context) {
    const std::vector<int32_t> before(prompt.begin(), prompt.end() - options.prefill);
    if (const auto cached = Measure(engine, before, 1); !cached.ok()) return cached.error();
  }
  return Measure(engine, prompt, options.decode);
}

json::object Describe(const Contender& contender, int64_t context, const Measurement& measured,
                      double price) {
  json::object line = {{"name", fmt::format("context/s{}/{}", context, Name(contender.mode))},
                       {"prefill_tokens_per_second", measured.prefill},
                       {"decode_tokens_per_second", measured.decode},
                       {"peak_memory_bytes", measured.memory},
                       {"backend", contender.engine.info().backend}};
  if (price > 0) {
    line["prefill_dollars_per_million"] = DollarsPerMillion(price, measured.prefill);
    line["decode_dollars_per_million"] = DollarsPerMillion(price, measured.decode);
  }
  return line;
}

void PrintHeader(const std::vector<Contender>& contenders, const BenchOptions& options) {
  fmt::print("{} on {}; tokens a second\n{:>9}", options.engine.model_dir,
             contenders[0].engine.info().backend, "context");
  for (const char* phase : {"prefill", "decode"}) {
    for (const Contender& each : contenders) {
      fmt::print(" {:>14}", fmt::format("{} {}", phase, Name(each.mode)));
    }
    if (contenders.size() == 2) fmt::print(" {:>6}", "ratio");
  }
  fmt::print(" {:>12}", "peak memory");
  fmt::print("\n");
}

void Print(const Row& row) {
  fmt::print("{:>9}", Grouped(row.context));
  for (double Measurement::*phase : {&Measurement::prefill, &Measurement::decode}) {
    for (const Measurement& each : row.measured) fmt::print(" {:>14.1f}", each.*phase);
    if (row.measured.size() == 2) {
      fmt::print(" {:>6.2f}", row.measured[0].*phase / row.measured[1].*phase);
    }
  }
  fmt::print(" {:>12}", Bytes(static_cast<double>(row.measured.back().memory)));
  fmt::print("\n");
}

std::string Csv(const std::vector<Contender>& contenders, const std::vector<Row>& rows,
                double price) {
  std::string csv =
      "context,attention,prefill_tokens_per_second,decode_tokens_per_second,peak_memory_bytes";
  csv += price > 0 ? ",prefill_dollars_per_million,decode_dollars_per_million\n" : "\n";
  for (const Row& row : rows) {
    for (size_t i = 0; i < contenders.size(); ++i) {
      const Measurement& each = row.measured[i];
      csv += fmt::format("{},{},{:.2f},{:.2f},{}", row.context, Name(contenders[i].mode),
                         each.prefill, each.decode, each.memory);
      if (price > 0) {
        csv += fmt::format(",{:.4f},{:.4f}", DollarsPerMillion(price, each.prefill),
                           DollarsPerMillion(price, each.decode));
      }
      csv += "\n";
    }
  }
  return csv;
}

// The cost of a token by context: dollars where there is a price, otherwise time.
std::string Plot(const std::vector<Contender>& contenders, const std::vector<Row>& rows,
                 double price) {
  LinePlot plot;
  plot.title = "What a token costs, by context";
  plot.x_label = "context, tokens";
  plot.y_label = price > 0 ? "dollars per million tokens" : "milliseconds a token";
  plot.log_x = true;
  for (double Measurement::*phase : {&Measurement::prefill, &Measurement::decode}) {
    for (size_t i = 0; i < contenders.size(); ++i) {
      LineSeries series;
      series.name = fmt::format("{} {}", phase == &Measurement::prefill ? "prefill" : "decode",
                                Name(contenders[i].mode));
      series.dashed = phase == &Measurement::prefill;
      for (const Row& row : rows) {
        const double rate = row.measured[i].*phase;
        series.points.emplace_back(static_cast<double>(row.context),
                                   price > 0 ? DollarsPerMillion(price, rate) : 1000 / rate);
      }
      plot.series.push_back(std::move(series));
    }
  }
  return RenderLinePlot(plot);
}

Result<std::vector<Contender>> LoadContenders(const BenchOptions& options) {
  std::vector<Contender> contenders;
  for (const AttentionMode mode : {AttentionMode::kSparse, AttentionMode::kDense}) {
    if (mode == AttentionMode::kSparse ? !options.sparse : !options.dense) continue;
    EngineOptions engine = options.engine;
    engine.attention = mode;
    auto loaded = LoadEngine(engine);
    if (!loaded.ok()) return loaded.error();
    contenders.push_back({mode, std::move(*loaded)});
  }
  return contenders;
}

Status CheckOptions(const BenchOptions& options) {
  for (size_t i = 1; i < options.frontiers.size(); ++i) {
    if (options.frontiers[i] <= options.frontiers[i - 1]) {
      return InvalidArgument(fmt::format("at: {} after {}, expected contexts that grow",
                                         options.frontiers[i], options.frontiers[i - 1]));
    }
  }
  if (!options.csv.empty() && !options.svg.empty() && SameFile(options.csv, options.svg)) {
    return InvalidArgument(options.svg + ": csv and svg name the same file, expected two");
  }
  for (const std::string& path : {options.csv, options.svg}) {
    if (path.empty()) continue;
    for (const std::string& input : FilesIn(options.engine.model_dir)) {
      if (SameFile(path, input)) {
        return InvalidArgument(path + ": it would replace a file of the model");
      }
    }
    WINNOW_TRY(CheckWritable(path));
  }
  return OkStatus();
}

Status BenchContext(const BenchOptions& options) {
  WINNOW_TRY(CheckOptions(options));
  WINNOW_ASSIGN(std::vector<Contender> contenders, LoadContenders(options));
  if (!options.json) PrintHeader(contenders, options);
  const int64_t longest = contenders[0].engine.info().max_context - options.decode;
  if (longest < 1) {
    return InvalidArgument(fmt::format("decode: {} tokens, expected fewer than the context of {}",
                                       options.decode, longest + options.decode));
  }
  for (Contender& contender : contenders) {  // memory and weights are touched for the first time
    const std::vector<int32_t> prompt =
        MakePrompt(std::min<int64_t>(512, longest), contender.engine.info().vocab_size, 2);
    if (const auto warm = Measure(contender.engine, prompt, 2); !warm.ok()) return warm.error();
  }
  std::vector<Row> rows;
  for (const int64_t frontier : options.frontiers) {
    Row row{.context = std::min(frontier, longest)};
    if (!rows.empty() && rows.back().context == row.context) break;  // no room for more
    for (Contender& contender : contenders) {
      WINNOW_ASSIGN(const Measurement measured, MeasureAt(contender.engine, row.context, options));
      row.measured.push_back(measured);
      if (options.json) {
        fmt::print("{}\n",
                   json::serialize(Describe(contender, row.context, measured, options.price)));
      }
    }
    if (!options.json) Print(row);
    std::fflush(stdout);
    rows.push_back(std::move(row));
  }
  if (!options.csv.empty()) {
    WINNOW_TRY(WriteFile(options.csv, Csv(contenders, rows, options.price)));
  }
  if (!options.svg.empty()) {
    WINNOW_TRY(WriteFile(options.svg, Plot(contenders, rows, options.price)));
  }
  return OkStatus();
}

}  // namespace

void AddBenchContext(CLI::App& bench, int* exit_code) {
  auto options = std::make_shared<BenchOptions>();
  CLI::App* command = bench.add_subcommand(
      "context",
      "Prefill and decode at growing context, sparse beside dense: tokens a second, and the cost\n"
      "curve with --svg.");
  AddModelArgument(*command, &options->engine.model_dir);
  AddSizesOption(*command, "--at", &options->frontiers, "Contexts to measure at, ascending");
  command->get_option("--at")->allow_extra_args(false);  // what follows may be MODEL
  AddSizeOption(*command, "--prefill", &options->prefill,
                "Time this many tokens before each context; default: all since the one before");
  command->add_option("--decode", options->decode, "Tokens decoded at each")
      ->type_name("N")
      ->check(CLI::Range(2, 100000))
      ->capture_default_str();
  auto attention = std::make_shared<std::string>("both");
  command->add_option("--attention", *attention, "What each token reads: sparse, dense, both")
      ->type_name("")
      ->check(CLI::IsMember({"sparse", "dense", "both"}).description(""))
      ->capture_default_str();
  command
      ->add_option("--price", options->price,
                   "Dollars a machine-hour: the outputs then say what a million tokens cost")
      ->type_name("DOLLARS")
      ->check(CLI::Range(1e-6, 1e6).description(""));
  command->add_flag("--json", options->json, "One JSON object a line");
  command->add_option("--csv", options->csv, "Write the numbers here")->type_name("FILE");
  command->add_option("--svg", options->svg, "Write the cost curve here")->type_name("FILE");
  AddContextOption(*command, &options->engine.max_context);
  AddEngineOptions(*command, &options->engine, /*attention=*/false);
  command->callback([options, attention, exit_code] {
    options->sparse = *attention != "dense";
    options->dense = *attention != "sparse";
    const Status status = BenchContext(*options);
    *exit_code = status.ok() ? 0 : Report(status);
  });
}

}  // namespace winnow::apps
