// What every evaluation begins and ends with: texts, a model that runs one sequence, output files.
#pragma once

#include <chrono>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/json.h"
#include "engine/model_runner.h"
#include "text/chat_template.h"
#include "text/tokenizer.h"
#include "winnow/eval.h"

namespace winnow::eval {

using Clock = std::chrono::steady_clock;
double SecondsSince(Clock::time_point start);

// A text and its tokens.
struct Text {
  std::string path;
  std::string name;  // the last part of the path, valid UTF-8
  std::string bytes;
};
// At least one file, none empty, at most 1 GiB each.
Result<std::vector<Text>> ReadTexts(const std::vector<std::string>& paths);

// Says now whether the files can be written, so that no hour of work ends in an error. Leaves
// nothing behind.
Status CheckOutputs(const EvalOptions& options);
// Writes report.json and report.svg where the options say, to a temporary file that takes the name
// when it is complete, and gives the report back.
Result<EvalReport> Finish(const EvalOptions& options, EvalReport report);

// `text` with broken UTF-8 replaced and control characters left out: for JSON and SVG.
std::string Printable(std::string_view text);

// The options, as the JSON of each evaluation begins.
json::object DescribeRun(const char* what, const EvalOptions& options, const ModelConfig& config);

// Tells options.progress how far it is; fractions are of `total` units.
class Meter {
 public:
  Meter(const EvalOptions& options, double total) : options_(options), total_(total) {}
  void Add(double units, const std::string& note) {
    done_ += units;
    if (options_.progress) options_.progress(std::min(1.0, done_ / total_), note);
  }

 private:
  const EvalOptions& options_;
  double total_;
  double done_ = 0;
};

// What running the tokens from `first` to `last` costs, in units that sparse and dense share: for
// progress only.
double RunCost(const ModelConfig& config, AttentionMode mode, int64_t first, int64_t last);

// config.json, with max_position_embeddings at least `length`, which errors call `what`.
Result<ModelConfig> LoadConfig(const EvalOptions& options, int64_t length, const char* what);

// How a model reads text: its tokens and the form of its prompts.
class Reader {
 public:
  // tokenizer.json is needed; a model without a chat format is asked plainly.
  static Result<Reader> Load(const EvalOptions& options, const ModelConfig& config);

  const Tokenizer& tokenizer() const { return *tokenizer_; }
  bool has_chat() const { return chat_.has_value(); }

  // The prompt that puts `question` to `document`: one user message, or plain text.
  Result<std::vector<int32_t>> Prompt(const std::string& document,
                                      const std::string& question) const;

 private:
  int32_t bos_ = -1;
  std::optional<Tokenizer> tokenizer_;
  std::optional<ChatTemplate> chat_;
};

// A loaded model that answers and predicts.
class Subject {
 public:
  // The cache holds `context` tokens. `vocab_limit`: ids from here on are never answered.
  static Result<std::unique_ptr<Subject>> Load(const EvalOptions& options, AttentionMode mode,
                                               int64_t context, int64_t vocab_limit);

  ModelRunner& runner() { return *runner_; }
  const ModelConfig& config() const { return runner_->config(); }

  // The likeliest tokens after `prompt`, at most `max_tokens`, without the end of the sentence.
  // Continues from the cache where it can. `policy` and `meter` may be null.
  Result<std::vector<int32_t>> Answer(std::span<const int32_t> prompt, int64_t max_tokens,
                                      SelectionPolicy* policy = nullptr, Meter* meter = nullptr,
                                      const std::string& note = {});

  // Runs at least two tokens from an empty cache and calls body(i, -ln p(tokens[i + 1])), where p
  // is what the model gives after tokens[0..i], for each i but the last. `policy` may be null.
  Status Losses(std::span<const int32_t> tokens, const std::function<void(int64_t, double)>& body,
                SelectionPolicy* policy, Meter& meter, const std::string& note);

 private:
  std::unique_ptr<ModelRunner> runner_;
  int64_t vocab_limit_ = 0;
  std::vector<int32_t> ends_;
};

}  // namespace winnow::eval
