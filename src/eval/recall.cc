// The recall evaluation: one audited sparse run for each text.
#include "eval/recall.h"

#include <cmath>

#include "base/check.h"
#include "base/plot.h"
#include "base/text.h"
#include "eval/evaluation.h"
#include "eval/perplexity.h"

namespace winnow::eval {
namespace {

class RecallRun {
 public:
  RecallRun(const RecallOptions& options, ModelConfig config)
      : options_(options), config_(std::move(config)) {}

  Result<EvalReport> Run() {
    WINNOW_ASSIGN(const std::vector<Text> texts, ReadTexts(options_.eval.texts));
    WINNOW_TRY(CheckOutputs(options_.eval));
    WINNOW_TRY(Cut(texts));
    layers_.resize(static_cast<size_t>(config_.num_hidden_layers));
    const Clock::time_point start = Clock::now();
    WINNOW_TRY(Audit());
    seconds_ = SecondsSince(start);
    for (const LayerRecall& layer : layers_) all_.Add(layer);
    return Finish(options_.eval, {Table(), json::serialize(Json()), Svg()});
  }

 private:
  // The first window of each text.
  Status Cut(const std::vector<Text>& texts) {
    WINNOW_ASSIGN(const Reader reader, Reader::Load(options_.eval, config_));
    for (const Text& text : texts) {
      WINNOW_ASSIGN(const std::vector<int32_t> tokens, reader.tokenizer().Encode(text.bytes));
      auto windows = CutWindows(tokens, options_.length, config_.bos_token_id);
      const int64_t size = windows.empty() ? 0 : static_cast<int64_t>(windows.front().size());
      if (size <= config_.index_topk) {
        return InvalidArgument(
            fmt::format("{}: {} tokens, expected more than index_topk of config.json, {}",
                        text.path, size, config_.index_topk));
      }
      longest_ = std::max(longest_, size);
      shorter_.Add(text.name, size, options_.length);
      windows_.push_back(std::move(windows.front()));
    }
    return OkStatus();
  }

  Status Audit() {
    WINNOW_ASSIGN(const auto subject, Subject::Load(options_.eval, AttentionMode::kSparse,
                                                    options_.length, config_.vocab_size));
    ModelRunner& runner = subject->runner();
    double cost = 0;
    for (const auto& window : windows_) {
      cost += RunCost(config_, AttentionMode::kSparse, 0, static_cast<int64_t>(window.size()));
    }
    Meter meter(options_.eval, cost);
    for (size_t text = 0; text < windows_.size(); ++text) {
      const std::span<const int32_t> window = windows_[text];
      const int64_t size = static_cast<int64_t>(window.size());
      WINNOW_ASSIGN(const auto audit,
                    RecallAudit::Create(runner,
                                        SamplePositions(config_.index_topk, size, options_.queries,
                                                        options_.eval.seed + text),
                                        options_.eval.engine.num_threads));
      runner.Clear();
      for (int64_t first = 0; first < size;) {
        const int64_t end = std::min(size, first + runner.chunk());
        auto counts = runner.Step(
            window.subspan(static_cast<size_t>(first), static_cast<size_t>(end - first)),
            LogitRows::kNone, nullptr, audit.get());
        if (!counts.ok()) return counts.error();
        WINNOW_TRY(meter.Add(RunCost(config_, AttentionMode::kSparse, first, end),
                             fmt::format("{} of {} tokens", end, size)));
        first = end;
      }
      for (size_t layer = 0; layer < layers_.size(); ++layer) {
        layers_[layer].Add(audit->layers()[layer]);
      }
    }
    return OkStatus();
  }

  static double Mean(double sum, const LayerRecall& recall) {
    return sum / static_cast<double>(recall.queries);
  }

  static std::string Line(const std::string& name, const LayerRecall& recall) {
    std::string line = fmt::format("{:<8}", name);
    for (const double mass : recall.mass) line += fmt::format(" {:>7.4f}", Mean(mass, recall));
    line += fmt::format(" {:>8.4f} ", Mean(recall.oracle_mass, recall));
    for (const double both : recall.overlap) line += fmt::format(" {:>7.4f}", Mean(both, recall));
    return line + "\n";
  }

  std::string Table() const {
    std::string table = fmt::format(
        "Recall: {} queries beyond index_topk {} in {} tokens of each text; index keys of the run: "
        "{}\n\n"
        "         share of the dense mass kept              overlap with the oracle\n",
        layers_.front().queries, config_.index_topk, longest_,
        winnow::Name(options_.eval.engine.index_keys));
    std::string names;
    for (const IndexKeyType type : kIndexKeyTypes) {
      names += fmt::format(" {:>7}", winnow::Name(type));
    }
    table += fmt::format("{:<8}{} {:>8} {}\n", "layer", names, "oracle", names);
    for (size_t layer = 0; layer < layers_.size(); ++layer) {
      const bool full = config_.indexer_types[layer] == IndexerType::kFull;
      table += Line(fmt::format("{}{}", layer, full ? "" : " *"), layers_[layer]);
    }
    table += Line("mean", all_);
    for (const IndexerType type : config_.indexer_types) {
      if (type == IndexerType::kFull) continue;
      table += "* without an indexer of its own\n";
      break;
    }
    return table + shorter_.Note() + fmt::format("\n{:.1f} s\n", seconds_);
  }

  static json::object RecallJson(const LayerRecall& recall) {
    json::object mass, overlap;
    for (size_t type = 0; type < kIndexKeyTypes.size(); ++type) {
      mass[winnow::Name(kIndexKeyTypes[type])] = Mean(recall.mass[type], recall);
      overlap[winnow::Name(kIndexKeyTypes[type])] = Mean(recall.overlap[type], recall);
    }
    return {{"queries", recall.queries},
            {"mass_kept", mass},
            {"oracle_mass", Mean(recall.oracle_mass, recall)},
            {"overlap", overlap}};
  }

  json::object Json() const {
    json::object object = DescribeRun("recall", options_.eval, config_);
    object["length"] = longest_;
    shorter_.AddTo(object);
    object["queries_of_each_text"] = options_.queries;
    json::array layers;
    for (size_t layer = 0; layer < layers_.size(); ++layer) {
      json::object entry = RecallJson(layers_[layer]);
      entry["layer"] = layer;
      entry["own_indexer"] = config_.indexer_types[layer] == IndexerType::kFull;
      layers.push_back(std::move(entry));
    }
    object["layers"] = std::move(layers);
    object["mean"] = RecallJson(all_);
    object["seconds"] = seconds_;
    return object;
  }

  std::string Svg() const {
    LinePlot plot;
    plot.title = fmt::format("Dense attention mass kept by {} of up to {} positions",
                             config_.index_topk, longest_);
    plot.x_label = "layer";
    plot.y_label = "share of the mass";
    plot.y_from = 0;
    LineSeries oracle{"oracle", {}, true};
    for (size_t layer = 0; layer < layers_.size(); ++layer) {
      oracle.points.emplace_back(layer, Mean(layers_[layer].oracle_mass, layers_[layer]));
    }
    for (size_t type = 0; type < kIndexKeyTypes.size(); ++type) {
      LineSeries series{
          fmt::format("index keys {}", winnow::Name(kIndexKeyTypes[type])), {}, false};
      for (size_t layer = 0; layer < layers_.size(); ++layer) {
        series.points.emplace_back(layer, Mean(layers_[layer].mass[type], layers_[layer]));
      }
      plot.series.push_back(std::move(series));
    }
    plot.series.push_back(std::move(oracle));
    return RenderLinePlot(plot);
  }

  const RecallOptions& options_;
  const ModelConfig config_;
  std::vector<std::vector<int32_t>> windows_;
  int64_t longest_ = 0;  // tokens of a window
  ShorterTexts shorter_;
  std::vector<LayerRecall> layers_;
  LayerRecall all_;
  double seconds_ = 0;
};

}  // namespace
}  // namespace winnow::eval

namespace winnow {

Result<EvalReport> EvaluateRecall(const RecallOptions& options) {
  WINNOW_ASSIGN(ModelConfig config, eval::LoadConfig(options.eval, options.length, "length"));
  if (options.length <= config.index_topk) {
    return InvalidArgument(
        fmt::format("length: {}, expected more than index_topk of config.json, {}: within it "
                    "everything is selected",
                    options.length, config.index_topk));
  }
  if (options.queries < 1) {
    return InvalidArgument(fmt::format("queries: {}, expected at least 1", options.queries));
  }
  return eval::RecallRun(options, std::move(config)).Run();
}

}  // namespace winnow
