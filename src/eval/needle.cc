// The needle evaluation: all haystacks with sparse and with dense attention.
#include "eval/needle.h"

#include <cmath>
#include <map>
#include <set>
#include <tuple>

#include "base/check.h"
#include "base/plot.h"
#include "base/text.h"

namespace winnow::eval {
namespace {

struct Score {
  int64_t correct = 0;
  int64_t total = 0;

  void Add(bool right) {
    correct += right ? 1 : 0;
    ++total;
  }
  void Add(const Score& other) {
    correct += other.correct;
    total += other.total;
  }
  double share() const {
    return total == 0 ? NAN : static_cast<double>(correct) / static_cast<double>(total);
  }
  std::string ToString() const { return total == 0 ? "-" : fmt::format("{}/{}", correct, total); }
};

class NeedleRun {
 public:
  NeedleRun(const NeedleOptions& options, ModelConfig config)
      : options_(options), config_(std::move(config)) {}

  Result<EvalReport> Run() {
    WINNOW_ASSIGN(const std::vector<Text> texts, ReadTexts(options_.eval.texts));
    WINNOW_ASSIGN(const NeedleFile file, ReadNeedles(options_.needles, NeedleOptions().needles));
    WINNOW_TRY(CheckOutputs(options_.eval, options_.needles));
    WINNOW_ASSIGN(const Reader reader, Reader::Load(options_.eval, config_));
    WINNOW_ASSIGN(room_, RoomBesideDocument(file, reader));
    HaystackPlan plan;
    plan.lengths = options_.lengths;
    plan.depths = options_.depths;
    plan.trials = options_.trials;
    plan.seed = options_.eval.seed;
    plan.kinds.assign(std::begin(kQuestionKinds), std::end(kQuestionKinds));
    WINNOW_ASSIGN(haystacks_, MakeHaystacks(plan, file, texts, room_, config_, reader));
    chat_ = reader.has_chat();
    if (options_.sparse) modes_.push_back(AttentionMode::kSparse);
    if (options_.dense) modes_.push_back(AttentionMode::kDense);
    double cost = 0;
    for (const AttentionMode mode : modes_) cost += Cost(mode);
    Meter meter(options_.eval, cost);
    for (const AttentionMode mode : modes_) WINNOW_TRY(RunMode(mode, reader, meter));
    return Finish(options_.eval, {Table(), json::serialize(Json()), Svg()});
  }

 private:
  using Key = std::tuple<AttentionMode, QuestionKind, int64_t, int64_t>;  // …, length, depth

  double Cost(AttentionMode mode) const {
    double cost = 0;
    for (const Haystack& haystack : haystacks_) {
      cost +=
          ReadingCost(config_, mode, haystack) +
          static_cast<double>(haystack.questions.size()) * QuestionCost(config_, mode, haystack);
    }
    return cost;
  }

  Status RunMode(AttentionMode mode, const Reader& reader, Meter& meter) {
    const int64_t longest = *std::max_element(options_.lengths.begin(), options_.lengths.end());
    WINNOW_ASSIGN(const auto subject,
                  Subject::Load(options_.eval, mode, longest, reader.tokenizer().vocab_size()));
    if (mode == AttentionMode::kDense) meter.WarnIfLong(Cost(mode), "dense attention");
    for (const Haystack& haystack : haystacks_) {
      const Clock::time_point start = Clock::now();
      const std::string note = fmt::format("{}, {} tokens", winnow::Name(mode), haystack.length);
      subject->runner().Clear();
      bool first = true;
      for (const Question& question : haystack.questions) {
        WINNOW_ASSIGN(const std::string answer, Ask(*subject, reader, haystack, question, nullptr,
                                                    first ? &meter : nullptr, note));
        first = false;
        WINNOW_TRY(meter.Add(QuestionCost(config_, mode, haystack), note));
        Grade(mode, haystack, question, answer);
      }
      seconds_[{mode, haystack.length}] += SecondsSince(start);
    }
    return OkStatus();
  }

  void Grade(AttentionMode mode, const Haystack& haystack, const Question& question,
             const std::string& answer) {
    const bool right = IsRight(question, answer);
    scores_[{mode, question.kind, haystack.length, question.depth}].Add(right);
    json::object entry = {{"attention", winnow::Name(mode)},
                          {"kind", Name(question.kind)},
                          {"length", haystack.length},
                          {"trial", haystack.trial},
                          {"depth", DepthOf(question.depth, options_.depths)},
                          {"question", Printable(question.text)},
                          {"expected", Printable(question.expected)},
                          {"answer", Printable(answer)},
                          {"correct", right}};
    if (question.kind == QuestionKind::kFact) {
      const bool own_line = haystack.statements[static_cast<size_t>(question.depth)].own_line;
      entry["form"] = own_line ? "line" : "inline";
    }
    answers_.push_back(std::move(entry));
  }

  Score At(AttentionMode mode, QuestionKind kind, int64_t length, int64_t depth) const {
    const auto found = scores_.find({mode, kind, length, depth});
    return found == scores_.end() ? Score() : found->second;
  }
  Score Over(AttentionMode mode, QuestionKind kind, int64_t length) const {
    Score score;
    for (int64_t depth = 0; depth < options_.depths; ++depth) {
      score.Add(At(mode, kind, length, depth));
    }
    return score;
  }
  std::string DepthName(int64_t depth) const {
    return fmt::format("{:.0f} %", 100 * DepthOf(depth, options_.depths));
  }

  std::string Header(const char* first, const std::vector<std::string>& groups) const {
    std::string line = fmt::format("{:<10}", first);
    std::string below = fmt::format("{:<10}", "");
    for (const std::string& group : groups) {
      line += fmt::format(" {:>{}}", group, 9 * modes_.size() - 1);
      for (const AttentionMode mode : modes_) below += fmt::format(" {:>8}", winnow::Name(mode));
    }
    return line + "\n" + below + "\n";
  }

  std::string Table() const {
    std::string table = fmt::format(
        "Needles: {} depths, {} document{} of each length, {} prompts; index_topk {}\n\n",
        options_.depths, options_.trials, options_.trials == 1 ? "" : "s", chat_ ? "chat" : "plain",
        config_.index_topk);
    table += Header("length", {"facts", "absent", "quotes", "seconds"});
    for (const int64_t length : options_.lengths) {
      table += fmt::format("{:<10}", length);
      for (const QuestionKind kind : kQuestionKinds) {
        for (const AttentionMode mode : modes_) {
          table += fmt::format(" {:>8}", Over(mode, kind, length).ToString());
        }
      }
      for (const AttentionMode mode : modes_) {
        table += fmt::format(" {:>8.1f}", seconds_.at({mode, length}));
      }
      table += "\n";
    }
    std::vector<std::string> groups;
    for (const int64_t length : options_.lengths) groups.push_back(fmt::format("{}", length));
    table += "\nFacts by depth\n" + Header("depth", groups);
    for (int64_t depth = 0; depth < options_.depths; ++depth) {
      table += fmt::format("{:<10}", DepthName(depth));
      for (const int64_t length : options_.lengths) {
        for (const AttentionMode mode : modes_) {
          table += fmt::format(" {:>8}", At(mode, QuestionKind::kFact, length, depth).ToString());
        }
      }
      table += "\n";
    }
    if (Repeats()) table += "\nnote: the texts are shorter than a document and begin anew in it\n";
    return table;
  }

  bool Repeats() const {
    for (const Haystack& haystack : haystacks_) {
      if (haystack.document.repeats) return true;
    }
    return false;
  }

  json::object Json() const {
    json::object object = DescribeRun("needle", options_.eval, config_);
    json::object& options = object["options"].as_object();
    options["depths"] = options_.depths;
    options["trials"] = options_.trials;
    options["lengths"] = json::value_from(options_.lengths);
    options["needles"] = Printable(options_.needles);
    object["prompt"] = chat_ ? "chat" : "plain";
    object["tokens_beside_document"] = room_;
    json::array scores;
    for (const auto& [key, score] : scores_) {
      const auto& [mode, kind, length, depth] = key;
      scores.push_back(json::object{{"attention", winnow::Name(mode)},
                                    {"kind", Name(kind)},
                                    {"length", length},
                                    {"depth", DepthOf(depth, options_.depths)},
                                    {"correct", score.correct},
                                    {"total", score.total}});
    }
    object["scores"] = std::move(scores);
    json::array documents;
    for (const Haystack& haystack : haystacks_) {
      json::array statements;
      for (const Hidden& statement : haystack.statements) {
        statements.push_back(json::object{{"text", Printable(statement.text)},
                                          {"form", statement.own_line ? "line" : "inline"}});
      }
      documents.push_back(json::object{{"length", haystack.length},
                                       {"trial", haystack.trial},
                                       {"tokens", haystack.document.tokens.size()},
                                       {"repeats", haystack.document.repeats},
                                       {"statements", statements}});
    }
    object["documents"] = std::move(documents);
    object["answers"] = answers_;
    json::array seconds;
    for (const auto& [key, value] : seconds_) {
      seconds.push_back(json::object{
          {"attention", winnow::Name(key.first)}, {"length", key.second}, {"seconds", value}});
    }
    object["seconds"] = std::move(seconds);
    return object;
  }

  std::string Svg() const {
    HeatMap map;
    map.title = fmt::format("Needles found, percent; index_topk {}", config_.index_topk);
    map.row_label = "depth";
    map.column_label = "length";
    for (int64_t depth = 0; depth < options_.depths; ++depth) map.rows.push_back(DepthName(depth));
    for (const int64_t length : options_.lengths) {
      map.columns.push_back(length % 1024 == 0 ? fmt::format("{}K", length / 1024)
                                               : fmt::format("{}", length));
    }
    for (const QuestionKind kind : kQuestionKinds) {
      for (const AttentionMode mode : modes_) {
        HeatPanel panel;
        panel.title = fmt::format("{}, {}", PluralName(kind), winnow::Name(mode));
        for (int64_t depth = 0; depth < options_.depths; ++depth) {
          std::vector<double> row;
          for (const int64_t length : options_.lengths) {
            row.push_back(At(mode, kind, length, depth).share());
          }
          panel.values.push_back(std::move(row));
        }
        map.panels.push_back(std::move(panel));
      }
    }
    return RenderHeatMap(map);
  }

  static const char* PluralName(QuestionKind kind) {
    if (kind == QuestionKind::kFact) return "facts";
    return kind == QuestionKind::kAbsent ? "absences, by number" : "quotes";
  }

  const NeedleOptions& options_;
  const ModelConfig config_;
  int64_t room_ = 0;
  bool chat_ = false;
  std::vector<AttentionMode> modes_;
  std::vector<Haystack> haystacks_;
  std::map<Key, Score> scores_;
  std::map<std::pair<AttentionMode, int64_t>, double> seconds_;
  json::array answers_;
};

Status CheckOptions(const NeedleOptions& options) {
  if (options.lengths.empty()) return InvalidArgument("lengths: none, expected at least one");
  std::set<int64_t> lengths;
  for (const int64_t length : options.lengths) {
    if (lengths.insert(length).second) continue;
    return InvalidArgument(fmt::format("lengths: {} is given twice, expected it once", length),
                           "trials are documents of the same length");
  }
  if (options.depths < 1 || options.depths > 1000) {
    return InvalidArgument(fmt::format("depths: {}, expected 1 to 1000", options.depths));
  }
  if (options.trials < 1 || options.trials > 100'000) {
    return InvalidArgument(fmt::format("trials: {}, expected 1 to 100000", options.trials));
  }
  if (!options.sparse && !options.dense) {
    return InvalidArgument("attention: neither, expected sparse, dense or both");
  }
  return OkStatus();
}

}  // namespace
}  // namespace winnow::eval

namespace winnow {

Result<EvalReport> EvaluateNeedle(const NeedleOptions& options) {
  WINNOW_TRY(eval::CheckOptions(options));
  const int64_t longest = *std::max_element(options.lengths.begin(), options.lengths.end());
  WINNOW_ASSIGN(ModelConfig config, eval::LoadConfig(options.eval, longest, "lengths"));
  return eval::NeedleRun(options, std::move(config)).Run();
}

}  // namespace winnow
