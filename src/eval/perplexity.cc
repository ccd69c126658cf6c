#include "eval/perplexity.h"

#include <cmath>

#include "base/check.h"
#include "base/plot.h"
#include "base/text.h"
#include "eval/evaluation.h"

namespace winnow::eval {

int64_t BucketOf(int64_t position, int64_t topk) {
  int64_t bucket = 0;
  for (int64_t end = topk; position >= end; end *= 2) ++bucket;
  return bucket;
}

Bucket BucketAt(int64_t index, int64_t topk) {
  return index == 0 ? Bucket{0, topk} : Bucket{topk << (index - 1), topk << index};
}

void LossSum::Add(const LossSum& other) {
  tokens += other.tokens;
  dense += other.dense;
  sparse += other.sparse;
}

double Perplexity(double sum, int64_t tokens) {
  return tokens == 0 ? NAN : std::exp(sum / static_cast<double>(tokens));
}

double SparseRatio(const LossSum& sum) {
  return 100.0 * (Perplexity(sum.sparse, sum.tokens) / Perplexity(sum.dense, sum.tokens) - 1.0);
}

LossSum TextLosses::Total() const {
  LossSum total;
  for (const LossSum& bucket : buckets) total.Add(bucket);
  return total;
}

LossSum TextLosses::Beyond() const {
  LossSum total;
  for (size_t bucket = 1; bucket < buckets.size(); ++bucket) total.Add(buckets[bucket]);
  return total;
}

std::vector<std::vector<int32_t>> CutWindows(const std::vector<int32_t>& tokens, int64_t length,
                                             int32_t bos) {
  std::vector<std::vector<int32_t>> windows;
  const size_t step = static_cast<size_t>(length) - (bos >= 0 ? 1 : 0);
  for (size_t first = 0; first < tokens.size(); first += step) {
    std::vector<int32_t> window;
    if (bos >= 0) window.push_back(bos);
    const size_t end = std::min(tokens.size(), first + step);
    for (size_t at = first; at < end; ++at) window.push_back(tokens[at]);
    if (window.size() >= 2) windows.push_back(std::move(window));
  }
  return windows;
}

namespace {

using Windows = std::vector<std::vector<int32_t>>;

json::object SumJson(const LossSum& sum) {
  json::object object = {{"tokens", sum.tokens}};
  if (sum.tokens == 0) return object;
  object["dense_perplexity"] = Perplexity(sum.dense, sum.tokens);
  object["sparse_perplexity"] = Perplexity(sum.sparse, sum.tokens);
  object["sparse_above_dense_percent"] = SparseRatio(sum);
  return object;
}

std::string SumLine(const std::string& name, const LossSum& sum) {
  if (sum.tokens == 0) return fmt::format("{:<24} {:>9}\n", name, 0);
  return fmt::format("{:<24} {:>9} {:>11.4f} {:>11.4f} {:>+9.3f} %\n", name, sum.tokens,
                     Perplexity(sum.dense, sum.tokens), Perplexity(sum.sparse, sum.tokens),
                     SparseRatio(sum));
}

class PerplexityRun {
 public:
  PerplexityRun(const PerplexityOptions& options, ModelConfig config)
      : options_(options), config_(std::move(config)) {}

  Result<EvalReport> Run() {
    WINNOW_ASSIGN(const std::vector<Text> texts, ReadTexts(options_.eval.texts));
    WINNOW_TRY(CheckOutputs(options_.eval));
    WINNOW_TRY(Cut(texts));
    double cost = 0;
    for (const Windows& windows : windows_) {
      for (const auto& window : windows) {
        const int64_t end = static_cast<int64_t>(window.size()) - 1;
        cost += RunCost(config_, AttentionMode::kSparse, 0, end) +
                RunCost(config_, AttentionMode::kDense, 0, end);
      }
    }
    Meter meter(options_.eval, cost);
    WINNOW_TRY(RunMode(AttentionMode::kSparse, &LossSum::sparse, meter, &sparse_seconds_));
    WINNOW_TRY(RunMode(AttentionMode::kDense, &LossSum::dense, meter, &dense_seconds_));
    return Finish(options_.eval, {Table(), json::serialize(Json()), Svg()});
  }

 private:
  // The length of windows follows from the texts where it is not given.
  Status Cut(const std::vector<Text>& texts) {
    WINNOW_ASSIGN(const Reader reader, Reader::Load(options_.eval, config_));
    const int64_t bos = config_.bos_token_id >= 0 ? 1 : 0;
    std::vector<std::vector<int32_t>> tokens;
    int64_t longest = 0;
    std::string longest_path;
    for (const Text& text : texts) {
      WINNOW_ASSIGN(tokens.emplace_back(), reader.tokenizer().Encode(text.bytes));
      const int64_t size = static_cast<int64_t>(tokens.back().size()) + bos;
      if (size <= longest) continue;
      longest = size;
      longest_path = text.path;
    }
    if (longest <= config_.index_topk + 1) {
      return InvalidArgument(
          fmt::format("{}: {} tokens, expected more than index_topk of config.json and one more, "
                      "{}: within it sparse attention is dense",
                      longest_path, longest, config_.index_topk + 1));
    }
    length_ = options_.length > 0 ? std::min(options_.length, longest)
                                  : std::min(config_.max_position_embeddings, longest);
    for (size_t index = 0; index < texts.size(); ++index) {
      windows_.push_back(CutWindows(tokens[index], length_, config_.bos_token_id));
      texts_.push_back({texts[index].name,
                        static_cast<int64_t>(tokens[index].size()),
                        static_cast<int64_t>(windows_.back().size()),
                        {}});
      texts_.back().buckets.resize(static_cast<size_t>(BucketOf(length_ - 1, config_.index_topk)) +
                                   1);
      if (windows_.back().empty()) {
        return InvalidArgument(texts[index].path + ": fewer than two tokens, expected more");
      }
      shorter_.Add(texts[index].name, static_cast<int64_t>(tokens[index].size()) + bos,
                   options_.length);
    }
    return OkStatus();
  }

  Status RunMode(AttentionMode mode, double LossSum::*sum, Meter& meter, double* seconds) {
    WINNOW_ASSIGN(const auto subject,
                  Subject::Load(options_.eval, mode, length_, config_.vocab_size));
    const Clock::time_point start = Clock::now();
    for (size_t index = 0; index < windows_.size(); ++index) {
      std::vector<LossSum>& buckets = texts_[index].buckets;
      const auto add = [&](int64_t position, double loss) {
        LossSum& bucket = buckets[static_cast<size_t>(BucketOf(position, config_.index_topk))];
        bucket.*sum += loss;
        if (mode == AttentionMode::kSparse) ++bucket.tokens;
      };
      for (const auto& window : windows_[index]) {
        WINNOW_TRY(subject->Losses(window, add, nullptr, meter,
                                   fmt::format("{}, {}", Name(mode), texts_[index].name)));
      }
    }
    *seconds = SecondsSince(start);
    return OkStatus();
  }

  TextLosses Pooled() const {
    TextLosses pooled{"all texts", 0, 0, {}};
    pooled.buckets.resize(texts_.front().buckets.size());
    for (const TextLosses& text : texts_) {
      pooled.tokens += text.tokens;
      pooled.windows += text.windows;
      for (size_t bucket = 0; bucket < text.buckets.size(); ++bucket) {
        pooled.buckets[bucket].Add(text.buckets[bucket]);
      }
    }
    return pooled;
  }

  static std::string BucketName(const Bucket& bucket) {
    return fmt::format("{} to {}", bucket.first, bucket.end - 1);
  }

  std::string Table() const {
    const TextLosses pooled = Pooled();
    std::string table = fmt::format("Perplexity in windows of {} tokens; index_topk {}\n", length_,
                                    config_.index_topk);
    table += fmt::format("{:<24} {:>9} {:>11} {:>11} {:>11}\n", "position", "tokens", "dense",
                         "sparse", "difference");
    for (size_t index = 0; index < pooled.buckets.size(); ++index) {
      table += SumLine(BucketName(BucketAt(static_cast<int64_t>(index), config_.index_topk)),
                       pooled.buckets[index]);
    }
    table += SumLine("all", pooled.Total());
    table += SumLine("beyond index_topk", pooled.Beyond());
    table += fmt::format("\n{:<24} {:>9} {:>11} {:>11} {:>11}\n", "beyond it, by text", "tokens",
                         "dense", "sparse", "difference");
    for (const TextLosses& text : texts_) table += SumLine(text.name, text.Beyond());
    table += shorter_.Note();
    table += fmt::format("\ndense {:.1f} s, sparse {:.1f} s\n", dense_seconds_, sparse_seconds_);
    return table;
  }

  json::object LossesJson(const TextLosses& losses) const {
    json::array buckets;
    for (size_t index = 0; index < losses.buckets.size(); ++index) {
      const Bucket range = BucketAt(static_cast<int64_t>(index), config_.index_topk);
      json::object bucket = {{"first", range.first}, {"end", range.end}};
      for (const auto& member : SumJson(losses.buckets[index])) bucket.insert(member);
      buckets.push_back(std::move(bucket));
    }
    return {{"name", losses.name},
            {"tokens", losses.tokens},
            {"windows", losses.windows},
            {"positions", buckets},
            {"all", SumJson(losses.Total())},
            {"beyond_index_topk", SumJson(losses.Beyond())}};
  }

  json::object Json() const {
    json::object object = DescribeRun("perplexity", options_.eval, config_);
    object["length"] = length_;
    shorter_.AddTo(object);
    object["pooled"] = LossesJson(Pooled());
    json::array texts;
    for (const TextLosses& text : texts_) texts.push_back(LossesJson(text));
    object["texts"] = texts;
    object["seconds"] = {{"dense", dense_seconds_}, {"sparse", sparse_seconds_}};
    return object;
  }

  std::string Svg() const {
    const TextLosses pooled = Pooled();
    LinePlot plot;
    plot.title = fmt::format("Perplexity by position, index_topk {}", config_.index_topk);
    plot.x_label = "position up to";
    plot.y_label = "perplexity";
    plot.log_x = true;
    LinePlot difference = plot;  // the two lines are too close to be told apart
    difference.title = "Sparse perplexity above dense";
    difference.y_label = "percent";
    difference.y_from = 0;
    plot.series = {{"dense", {}, true}, {"sparse", {}, false}};
    difference.series = {{"all texts", {}, false}};
    for (const TextLosses& text : texts_) {
      if (texts_.size() > 1) difference.series.push_back({text.name, {}, true});
    }
    for (size_t index = 0; index < pooled.buckets.size(); ++index) {
      const LossSum& sum = pooled.buckets[index];
      const Bucket range = BucketAt(static_cast<int64_t>(index), config_.index_topk);
      const double x = static_cast<double>(std::min(range.end, length_));
      plot.series[0].points.emplace_back(x, Perplexity(sum.dense, sum.tokens));
      plot.series[1].points.emplace_back(x, Perplexity(sum.sparse, sum.tokens));
      difference.series[0].points.emplace_back(x, SparseRatio(sum));
      for (size_t text = 1; text < difference.series.size(); ++text) {
        difference.series[text].points.emplace_back(x,
                                                    SparseRatio(texts_[text - 1].buckets[index]));
      }
    }
    return RenderLinePlots({plot, difference});
  }

  const PerplexityOptions& options_;
  const ModelConfig config_;
  int64_t length_ = 0;
  std::vector<Windows> windows_;   // of each text
  std::vector<TextLosses> texts_;  // likewise
  ShorterTexts shorter_;
  double dense_seconds_ = 0;
  double sparse_seconds_ = 0;
};

}  // namespace
}  // namespace winnow::eval

namespace winnow {

Result<EvalReport> EvaluatePerplexity(const PerplexityOptions& options) {
  WINNOW_ASSIGN(ModelConfig config, eval::LoadConfig(options.eval, options.length, "length"));
  if (options.length != 0 && options.length <= config.index_topk + 1) {
    return InvalidArgument(
        fmt::format("length: {}, expected more than index_topk of config.json and one more, {}: "
                    "within it sparse attention is dense",
                    options.length, config.index_topk + 1));
  }
  return eval::PerplexityRun(options, std::move(config)).Run();
}

}  // namespace winnow
