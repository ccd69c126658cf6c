// The evaluation of policies: perplexity and facts found, each at the same budget.
#include <cmath>

#include "base/check.h"
#include "base/plot.h"
#include "base/text.h"
#include "eval/needle.h"
#include "eval/perplexity.h"
#include "eval/selection_policies.h"

namespace winnow::eval {
namespace {

struct Outcome {
  std::string name;
  bool full = false;   // reads everything: no equal budget
  double loss = 0;     // sum of -ln p beyond the budget
  int64_t tokens = 0;  // likewise
  int64_t correct = 0;
  int64_t facts = 0;
  double seconds = 0;
};

class PolicyRun {
 public:
  PolicyRun(const PoliciesOptions& options, ModelConfig config)
      : options_(options), config_(std::move(config)), pool_(options.eval.engine.num_threads) {}

  Result<EvalReport> Run() {
    WINNOW_TRY(Prepare());
    const std::vector<NamedPolicy> others = OtherPolicies(options_.eval.seed);
    double sparse = 0;
    double dense = 0;
    for (const auto& window : windows_) {
      const int64_t size = static_cast<int64_t>(window.size());
      sparse += RunCost(config_, AttentionMode::kSparse, 0, size);
      dense += RunCost(config_, AttentionMode::kDense, 0, size);
    }
    sparse += HaystackCost(AttentionMode::kSparse);
    dense += HaystackCost(AttentionMode::kDense);
    Meter meter(options_.eval, dense + sparse * static_cast<double>(others.size() + 1));

    WINNOW_TRY(RunDense(meter));
    WINNOW_ASSIGN(const auto subject,
                  Subject::Load(options_.eval, AttentionMode::kSparse, options_.length,
                                reader_->tokenizer().vocab_size()));
    WINNOW_TRY(RunPolicy(*subject, "DSA", nullptr, meter));
    for (const NamedPolicy& policy : others) {
      WINNOW_TRY(RunPolicy(*subject, policy.name, policy.make, meter));
    }
    return Finish(options_.eval, {Table(), json::serialize(Json()), Svg()});
  }

 private:
  Status Prepare() {
    WINNOW_ASSIGN(const std::vector<Text> texts, ReadTexts(options_.eval.texts));
    WINNOW_ASSIGN(const NeedleFile file, ReadNeedles(options_.needles, PoliciesOptions().needles));
    WINNOW_TRY(CheckOutputs(options_.eval, options_.needles));
    WINNOW_ASSIGN(reader_, Reader::Load(options_.eval, config_));
    for (const Text& text : texts) {
      WINNOW_ASSIGN(const std::vector<int32_t> tokens, reader_->tokenizer().Encode(text.bytes));
      auto windows = CutWindows(tokens, options_.length, config_.bos_token_id);
      const int64_t size = windows.empty() ? 0 : static_cast<int64_t>(windows.front().size());
      if (size <= config_.index_topk + 1) {
        return InvalidArgument(
            fmt::format("{}: {} tokens, expected more than index_topk of config.json and one more, "
                        "{}",
                        text.path, size, config_.index_topk + 1));
      }
      longest_ = std::max(longest_, size);
      shorter_.Add(text.name, size, options_.length);
      windows_.push_back(std::move(windows.front()));
    }
    WINNOW_ASSIGN(const int64_t room, RoomBesideDocument(file, *reader_));
    HaystackPlan plan;
    plan.lengths = {options_.length};
    plan.depths = options_.depths;
    plan.seed = options_.eval.seed;
    plan.kinds = {QuestionKind::kFact};
    WINNOW_ASSIGN(haystacks_, MakeHaystacks(plan, file, texts, room, config_, *reader_));
    return OkStatus();
  }

  double HaystackCost(AttentionMode mode) const {
    double cost = 0;
    for (const Haystack& haystack : haystacks_) {
      cost +=
          ReadingCost(config_, mode, haystack) +
          static_cast<double>(haystack.questions.size()) * QuestionCost(config_, mode, haystack);
    }
    return cost;
  }

  Status RunDense(Meter& meter) {
    WINNOW_ASSIGN(const auto subject,
                  Subject::Load(options_.eval, AttentionMode::kDense, options_.length,
                                reader_->tokenizer().vocab_size()));
    WINNOW_TRY(RunPolicy(*subject, "dense", nullptr, meter));
    outcomes_.back().full = true;
    return OkStatus();
  }

  // `make` may be empty: then the model chooses as it was made to.
  Status RunPolicy(Subject& subject, const std::string& name, const MakePolicy& make,
                   Meter& meter) {
    Outcome outcome;
    outcome.name = name;
    const Clock::time_point start = Clock::now();
    const auto fresh = [&] { return make ? make(pool_) : std::unique_ptr<SelectionPolicy>(); };
    for (const auto& window : windows_) {
      const auto policy = fresh();
      const auto add = [&](int64_t position, double loss) {
        if (position < config_.index_topk) return;
        outcome.loss += loss;
        ++outcome.tokens;
      };
      WINNOW_TRY(subject.Losses(window, add, policy.get(), meter, name + ", perplexity"));
    }
    for (const Haystack& haystack : haystacks_) {
      const auto policy = fresh();
      subject.runner().Clear();
      bool first = true;
      for (const Question& question : haystack.questions) {
        WINNOW_ASSIGN(const std::string answer,
                      Ask(subject, *reader_, haystack, question, policy.get(),
                          first ? &meter : nullptr, name + ", needles"));
        first = false;
        WINNOW_TRY(meter.Add(QuestionCost(config_, subject.runner().attention(), haystack),
                             name + ", needles"));
        outcome.correct += IsRight(question, answer) ? 1 : 0;
        ++outcome.facts;
      }
    }
    outcome.seconds = SecondsSince(start);
    outcomes_.push_back(std::move(outcome));
    return OkStatus();
  }

  std::string Table() const {
    std::string table = fmt::format(
        "Policies: every token reads at most {} tokens, in {} tokens of each text\n\n"
        "{:<16} {:>12} {:>11} {:>8} {:>9}\n",
        config_.index_topk, longest_, "", "perplexity", "over dense", "facts", "seconds");
    for (const Outcome& outcome : outcomes_) {
      table += fmt::format("{:<16} {:>12.4f} {:>+9.2f} % {:>8} {:>9.1f}\n",
                           outcome.full ? outcome.name + " (all)" : outcome.name, Of(outcome),
                           OverDense(outcome), fmt::format("{}/{}", outcome.correct, outcome.facts),
                           outcome.seconds);
    }
    if (haystacks_.front().document.repeats) {
      table += "\nnote: the texts are shorter than the document and begin anew in it\n";
    }
    return table + shorter_.Note();
  }

  static double Of(const Outcome& outcome) { return Perplexity(outcome.loss, outcome.tokens); }
  double OverDense(const Outcome& outcome) const {
    return 100 * (Of(outcome) / Of(outcomes_.front()) - 1);
  }

  json::object Json() const {
    json::object object = DescribeRun("policies", options_.eval, config_);
    json::object& options = object["options"].as_object();
    options["length"] = options_.length;
    options["depths"] = options_.depths;
    options["needles"] = Printable(options_.needles);
    object["length"] = longest_;
    shorter_.AddTo(object);
    object["budget"] = config_.index_topk;
    json::array policies;
    for (const Outcome& outcome : outcomes_) {
      policies.push_back(json::object{{"name", outcome.name},
                                      {"reads_everything", outcome.full},
                                      {"tokens", outcome.tokens},
                                      {"perplexity", Of(outcome)},
                                      {"above_dense_percent", OverDense(outcome)},
                                      {"facts_correct", outcome.correct},
                                      {"facts_total", outcome.facts},
                                      {"seconds", outcome.seconds}});
    }
    object["policies"] = std::move(policies);
    return object;
  }

  std::string Svg() const {
    BarChart chart;
    chart.title =
        fmt::format("{} tokens read of up to {}: who chooses them", config_.index_topk, longest_);
    // By its logarithm, the loss: a choice that fails altogether would leave no room for the rest.
    BarPanel perplexity{
        "perplexity beyond the budget, on a logarithmic scale (less is better)", {}, {}};
    BarPanel facts{"facts found", {}, {}};
    for (const Outcome& outcome : outcomes_) {
      chart.bars.push_back(outcome.full ? outcome.name + " (reads all)" : outcome.name);
      perplexity.values.push_back(std::max(0.0, std::log(Of(outcome))));
      perplexity.labels.push_back(fmt::format("{:.2f}", Of(outcome)));
      facts.values.push_back(static_cast<double>(outcome.correct));
      facts.labels.push_back(fmt::format("{} of {}", outcome.correct, outcome.facts));
    }
    chart.panels = {std::move(perplexity), std::move(facts)};
    return RenderBarChart(chart);
  }

  const PoliciesOptions& options_;
  const ModelConfig config_;
  ThreadPool pool_;
  std::optional<Reader> reader_;
  std::vector<std::vector<int32_t>> windows_;  // the first of each text
  int64_t longest_ = 0;                        // tokens of a window
  ShorterTexts shorter_;
  std::vector<Haystack> haystacks_;
  std::vector<Outcome> outcomes_;  // dense first
};

}  // namespace
}  // namespace winnow::eval

namespace winnow {

Result<EvalReport> EvaluatePolicies(const PoliciesOptions& options) {
  WINNOW_ASSIGN(ModelConfig config, eval::LoadConfig(options.eval, options.length, "length"));
  if (options.depths < 1 || options.depths > 1000) {
    return InvalidArgument(fmt::format("depths: {}, expected 1 to 1000", options.depths));
  }
  if (options.length <= config.index_topk + 1) {
    return InvalidArgument(
        fmt::format("length: {}, expected more than index_topk of config.json and one more, {}: "
                    "within it nothing has to be chosen",
                    options.length, config.index_topk + 1));
  }
  return eval::PolicyRun(options, std::move(config)).Run();
}

}  // namespace winnow
