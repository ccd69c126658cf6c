// Verify: the engine beside a reference, stage by stage in the order of the forward pass.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>
#include <map>

#include "base/check.h"
#include "base/json.h"
#include "base/text.h"
#include "engine/model_runner.h"
#include "model/safetensors.h"
#include "winnow/winnow.h"

namespace winnow {
namespace {

constexpr int64_t kMaxCaseBytes = 1 << 20;

// expected.safetensors, as vectors.
class Expected {
 public:
  static Result<Expected> Open(const std::string& case_dir) {
    Expected expected;
    WINNOW_ASSIGN(expected.directory_, TensorDirectory::Open(case_dir + "/expected.safetensors"));
    return expected;
  }

  bool Has(const std::string& name) const { return directory_.Find(name) != nullptr; }

  // The elements of `name`, which must be of type T and rank `rank`.
  template <typename T>
  Result<std::vector<T>> Read(const std::string& name, DType dtype, size_t rank) const {
    const StoredTensor* tensor = directory_.Find(name);
    if (tensor == nullptr) {
      return NotFound(fmt::format("expected.safetensors: no tensor {}", Quoted(name)));
    }
    if (!tensor->supported || tensor->dtype != dtype || tensor->shape.size() != rank) {
      return InvalidArgument(fmt::format(
          "expected.safetensors: {} is {} of rank {}, expected {} of rank {}", Quoted(name),
          tensor->dtype_name, tensor->shape.size(), DTypeName(dtype), rank));
    }
    std::vector<T> values(static_cast<size_t>(tensor->bytes) / sizeof(T));
    std::memcpy(values.data(), tensor->data, values.size() * sizeof(T));
    return values;
  }

 private:
  TensorDirectory directory_;
};

// The largest difference, in standard deviations of the reference; infinite for NaN or another
// size.
double Deviation(std::span<const float> found, std::span<const float> reference) {
  if (found.size() != reference.size() || reference.empty()) return INFINITY;
  double sum = 0.0;
  double squares = 0.0;
  double largest = 0.0;
  for (size_t index = 0; index < reference.size(); ++index) {
    sum += reference[index];
    squares += double{reference[index]} * reference[index];
    const double difference = std::fabs(double{found[index]} - reference[index]);
    if (!(difference <= largest)) largest = std::isnan(difference) ? INFINITY : difference;
  }
  const double count = static_cast<double>(reference.size());
  const double variance = squares / count - sum / count * (sum / count);
  return largest / std::sqrt(std::max(variance, 1e-30));
}

// How many positions one list has and the other lacks. Both ascend.
double SetDifference(const std::vector<int32_t>& a, const std::vector<int32_t>& b) {
  std::vector<int32_t> difference;
  std::set_symmetric_difference(a.begin(), a.end(), b.begin(), b.end(),
                                std::back_inserter(difference));
  return static_cast<double>(difference.size());
}

// Keeps what the last token of the last step selected and became, layer by layer.
class LastTokenObserver : public StepObserver {
 public:
  explicit LastTokenObserver(Backend& backend) : backend_(backend) {}

  void OnSelection(int64_t layer, const SelectionView& selection) override {
    std::vector<int32_t>& kept = selected[layer];
    kept.clear();
    if (!selection.positions) return;  // everything: filled in by Positions()
    const int64_t last = selection.positions.dims[0] - 1;
    int32_t count = 0;
    backend_.CopyToHost(&count, selection.counts.Rows(last, 1).data, sizeof(count));
    kept.resize(static_cast<size_t>(count));
    backend_.CopyToHost(kept.data(), selection.positions.Rows(last, 1).data, count * 4);
  }
  void OnHidden(int64_t layer, const TensorView& view) override {
    const TensorView row = view.Rows(view.dims[0] - 1, 1);
    hidden[layer].resize(static_cast<size_t>(view.dims[1]));
    backend_.CopyToHost(hidden[layer].data(), row.data, row.bytes());
  }

  std::map<int64_t, std::vector<int32_t>> selected;
  std::map<int64_t, std::vector<float>> hidden;

 private:
  Backend& backend_;
};

class Verification {
 public:
  Verification(ModelRunner& runner, const Expected& expected, const VerifyOptions& options,
               VerifyReport& report)
      : runner_(runner),
        expected_(expected),
        options_(options),
        report_(report),
        observer_(runner.backend()) {}

  Status Run() {
    WINNOW_ASSIGN(prompt_, expected_.Read<int32_t>("prompt_ids", DType::kI32, 1));
    WINNOW_TRY(CheckPrompt());
    WINNOW_TRY(RunPrompt());
    WINNOW_TRY(CompareLayers());
    WINNOW_TRY(CompareLogits());
    return CompareGreedy();
  }

 private:
  Status CheckPrompt() const {
    for (const int32_t id : prompt_) {
      if (id < 0 || id >= runner_.config().vocab_size) {
        return InvalidArgument(
            fmt::format("expected.safetensors: prompt_ids holds {}, expected 0 to {}", id,
                        runner_.config().vocab_size - 1));
      }
    }
    const int64_t length = static_cast<int64_t>(prompt_.size());
    if (length == 0 || length > runner_.max_context()) {
      return InvalidArgument(fmt::format("expected.safetensors: {} prompt_ids, expected 1 to {}",
                                         length, runner_.max_context()));
    }
    return OkStatus();
  }

  Status RunPrompt() {
    const size_t vocab = static_cast<size_t>(runner_.config().vocab_size);
    logits_.resize(prompt_.size() * vocab);
    const std::span<const int32_t> prompt = prompt_;
    const size_t step = static_cast<size_t>(runner_.logit_rows());
    for (size_t first = 0; first < prompt.size(); first += step) {
      const size_t count = std::min(step, prompt.size() - first);
      auto counts = runner_.Step(prompt.subspan(first, count), LogitRows::kAll,
                                 logits_.data() + first * vocab, &observer_);
      if (!counts.ok()) return counts.error();
    }
    return OkStatus();
  }

  void Add(std::string name, double deviation, double tolerance) {
    const bool passed = deviation <= tolerance;
    if (!passed && report_.passed) {
      report_.passed = false;
      report_.first_failure = name;
    }
    report_.stages.push_back({std::move(name), deviation, tolerance, passed});
  }

  // Within a layer the selection comes before the output that it makes.
  Status CompareLayers() {
    for (int64_t layer = 0; layer < runner_.config().num_hidden_layers; ++layer) {
      const std::string selection = fmt::format("topk_last.{}", layer);
      if (expected_.Has(selection)) {
        WINNOW_ASSIGN(const auto reference, expected_.Read<int32_t>(selection, DType::kI32, 1));
        Add(fmt::format("layer {} selection", layer), SetDifference(Selected(layer), reference),
            0.0);
      }
      const std::string hidden = fmt::format("hidden_last.{}", layer);
      if (expected_.Has(hidden)) {
        WINNOW_ASSIGN(const auto reference, expected_.Read<float>(hidden, DType::kF32, 1));
        Add(fmt::format("layer {} output", layer), Deviation(observer_.hidden[layer], reference),
            options_.hidden_tolerance);
      }
    }
    return OkStatus();
  }

  std::vector<int32_t> Selected(int64_t layer) const {
    const auto found = observer_.selected.find(layer);
    if (found != observer_.selected.end() && !found->second.empty()) return found->second;
    if (static_cast<int64_t>(prompt_.size()) > runner_.config().index_topk) return {};
    std::vector<int32_t> all(prompt_.size());
    for (size_t position = 0; position < all.size(); ++position) {
      all[position] = static_cast<int32_t>(position);
    }
    return all;
  }

  Status CompareLogits() {
    const size_t vocab = static_cast<size_t>(runner_.config().vocab_size);
    WINNOW_ASSIGN(const auto positions, expected_.Read<int32_t>("logit_positions", DType::kI32, 1));
    WINNOW_ASSIGN(const auto reference, expected_.Read<float>("logits", DType::kF32, 2));
    std::vector<float> found;
    for (const int32_t position : positions) {
      if (position < 0 || static_cast<size_t>(position) >= prompt_.size()) {
        return InvalidArgument(
            fmt::format("expected.safetensors: logit_positions holds {}, expected 0 to {}",
                        position, prompt_.size() - 1));
      }
      const float* row = logits_.data() + static_cast<size_t>(position) * vocab;
      found.insert(found.end(), row, row + vocab);
    }
    Add("logits", Deviation(found, reference), options_.logits_tolerance);
    return OkStatus();
  }

  // Continues the prompt with the reference's tokens, so that one slip does not hide the rest.
  Status CompareGreedy() {
    if (!expected_.Has("greedy_ids")) return OkStatus();
    const size_t vocab = static_cast<size_t>(runner_.config().vocab_size);
    WINNOW_ASSIGN(const auto reference, expected_.Read<int32_t>("greedy_ids", DType::kI32, 1));
    std::vector<float> row(logits_.end() - static_cast<int64_t>(vocab), logits_.end());
    std::vector<float> rows;
    double wrong = 0.0;
    for (const int32_t token : reference) {
      const auto best = std::max_element(row.begin(), row.end());  // the first of equal ones
      wrong += best - row.begin() == token ? 0.0 : 1.0;
      rows.insert(rows.end(), row.begin(), row.end());
      if (runner_.cached_tokens() == runner_.max_context()) break;
      if (token < 0 || static_cast<size_t>(token) >= vocab) break;
      auto counts = runner_.Step({&token, 1}, LogitRows::kLast, row.data());
      if (!counts.ok()) return counts.error();
    }
    Add("greedy tokens", wrong, 0.0);
    if (expected_.Has("greedy_logits")) {
      WINNOW_ASSIGN(const auto logits, expected_.Read<float>("greedy_logits", DType::kF32, 2));
      Add("greedy logits", Deviation(rows, logits), options_.logits_tolerance);
    }
    return OkStatus();
  }

  ModelRunner& runner_;
  const Expected& expected_;
  const VerifyOptions& options_;
  VerifyReport& report_;
  std::vector<int32_t> prompt_;
  std::vector<float> logits_;  // [prompt, vocab_size]
  LastTokenObserver observer_;
};

// case.json may name a model elsewhere: "model", relative to the case.
Result<std::string> ModelFolder(const std::string& case_dir, std::string* name) {
  *name = FileName(case_dir);
  auto parsed = ReadJsonFile(case_dir + "/case.json", kMaxCaseBytes);
  if (!parsed.ok()) {
    if (parsed.error().code() == StatusCode::kNotFound) return case_dir;
    return parsed.error();
  }
  const json::object* fields = parsed->if_object();
  if (fields == nullptr) return Corrupt("case.json: it is not an object");
  if (const json::value* value = fields->if_contains("name")) {
    if (const json::string* text = value->if_string()) *name = std::string(*text);
  }
  const json::value* model = fields->if_contains("model");
  if (model == nullptr) return case_dir;
  if (!model->is_string()) {
    return Corrupt(fmt::format("case.json: model is {}, expected a string", JsonKindName(*model)));
  }
  return case_dir + "/" + std::string(model->as_string());
}

}  // namespace

namespace {

Result<VerifyReport> RunCase(const EngineOptions& engine, const Expected& expected,
                             const VerifyOptions& options,
                             const std::function<void(ModelConfig&)>& adjust = {}) {
  VerifyReport report;
  WINNOW_ASSIGN(const std::unique_ptr<ModelRunner> runner, ModelRunner::Load(engine, adjust));
  WINNOW_TRY(Verification(*runner, expected, options, report).Run());
  return report;
}

}  // namespace

Result<VerifyReport> Verify(const std::string& case_dir, const VerifyOptions& options) {
  std::string folder = case_dir;
  while (folder.size() > 1 && folder.back() == '/') folder.pop_back();
  std::string name;
  WINNOW_ASSIGN(const Expected expected, Expected::Open(folder));
  EngineOptions engine = options.engine;
  WINNOW_ASSIGN(engine.model_dir, ModelFolder(folder, &name));
  WINNOW_ASSIGN(VerifyReport report, RunCase(engine, expected, options));
  // A reference that is cast to a short type as a whole has its rotary frequencies rounded too,
  // which the model is not meant to have. If that alone explains the deviation, the reference is
  // named as its cause; nothing else is forgiven.
  for (const DType type : {DType::kBF16, DType::kF16}) {
    if (report.passed) break;
    WINNOW_ASSIGN(VerifyReport rounded,
                  RunCase(engine, expected, options,
                          [type](ModelConfig& config) { config.rope.frequency_type = type; }));
    if (!rounded.passed) continue;
    rounded.note = fmt::format("the reference's rotary frequencies are rounded to {}; so were ours",
                               DTypeName(type));
    report = std::move(rounded);
  }
  report.name = name;
  return report;
}

}  // namespace winnow
