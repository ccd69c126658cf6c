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
// At least one file, each with words in it, UTF-8, at most 1 GiB.
Result<std::vector<Text>> ReadTexts(const std::vector<std::string>& paths);

// Says now whether the files can be written, so that no hour of work ends in an error. Refuses two
// names of one file and names of what is read: the texts, the model's files, `needles` where it is
// not empty. Leaves nothing behind.
Status CheckOutputs(const EvalOptions& options, const std::string& needles = {});
// Writes report.json and report.svg where the options say, to a temporary file that takes the name
// when it is complete, and gives the report back.
Result<EvalReport> Finish(const EvalOptions& options, EvalReport report);

// `text` with broken UTF-8 replaced and control characters left out: for JSON and SVG.
std::string Printable(std::string_view text);

// Texts with fewer tokens than are asked for, all of which are used: what every evaluation but that
// of needles says of them, whose documents begin a short text anew.
class ShorterTexts {
 public:
  // A text of `tokens`, of which `asked` were asked for (0: as many as there are).
  void Add(const std::string& name, int64_t tokens, int64_t asked);
  // Lines for a table, the first empty; nothing where no text is shorter.
  std::string Note() const;
  // The field "shorter_texts", where there are any.
  void AddTo(json::object& report) const;

 private:
  struct Shorter {
    std::string name;
    int64_t tokens = 0;
    int64_t asked = 0;
  };
  std::vector<Shorter> texts_;
};

// The options, as the JSON of each evaluation begins.
json::object DescribeRun(const char* what, const EvalOptions& options, const ModelConfig& config);

// When `done` of `total` units of work took `seconds`: how long the rest will take ("about 31
// minutes"), if that is worth a warning. Empty while it is too early to tell, and for a rest of
// less than two minutes.
std::string LongRest(double seconds, double done, double total);

// Tells the caller of an evaluation how far it is; fractions are of `total` units.
class Meter {
 public:
  Meter(const EvalOptions& options, double total) : options_(options), total_(total) {}
  // kCancelled when options.progress ends the evaluation.
  Status Add(double units, const std::string& note);

  // Watches the next `units`. If they are seen to take minutes, options.notice hears once how many:
  // "dense attention will take about 31 minutes more", where `what` is "dense attention".
  void WarnIfLong(double units, std::string what);

 private:
  struct Watch {
    Clock::time_point start;
    double first = 0;  // done_ at the start
    double units = 0;
    std::string what;
  };

  const EvalOptions& options_;
  double total_;
  double done_ = 0;
  std::optional<Watch> watch_;
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
