#include "engine/logits_file.h"

#include <algorithm>

#include "base/check.h"
#include "base/text.h"
#include "model/safetensors.h"

namespace winnow {
namespace {

// Writes what each layer selects while the steps run. Tensor 0 is the logits; layers with an
// indexer follow in order.
class SelectionRecorder : public StepObserver {
 public:
  SelectionRecorder(ModelRunner& runner, SafetensorsWriter& writer)
      : config_(runner.config()), backend_(runner.backend()), writer_(writer) {}

  void BeginStep(int64_t first, int64_t count) {
    first_ = first;
    count_ = count;
    tensor_ = 0;
  }
  const Status& status() const { return status_; }

  void OnSelection(int64_t, const SelectionView& selection) override {
    ++tensor_;
    const int64_t topk = config_.index_topk;
    std::vector<int32_t> row(static_cast<size_t>(topk));
    for (int64_t token = 0; token < count_; ++token) {
      std::fill(row.begin(), row.end(), -1);
      FillRow(selection, token, row);
      const int64_t bytes = topk * 4;
      Status status = writer_.WriteAt(tensor_, (first_ + token) * bytes, row.data(), bytes);
      if (!status.ok() && status_.ok()) status_ = std::move(status);
    }
  }
  void OnHidden(int64_t, const TensorView&) override {}

 private:
  void FillRow(const SelectionView& selection, int64_t token, std::vector<int32_t>& row) const {
    if (!selection.positions) {  // everything up to the token itself
      const int64_t context = std::min<int64_t>(first_ + token + 1, config_.index_topk);
      for (int64_t place = 0; place < context; ++place) {
        row[static_cast<size_t>(place)] = static_cast<int32_t>(place);
      }
      return;
    }
    int32_t count = 0;
    backend_.CopyToHost(&count, selection.counts.Rows(token, 1).data, sizeof(count));
    backend_.CopyToHost(row.data(), selection.positions.Rows(token, 1).data, count * 4);
  }

  const ModelConfig& config_;
  Backend& backend_;
  SafetensorsWriter& writer_;
  int64_t first_ = 0;
  int64_t count_ = 0;
  int64_t tensor_ = 0;
  Status status_;
};

Status CheckTokens(const std::vector<int32_t>& tokens, const ModelRunner& runner) {
  const int64_t count = static_cast<int64_t>(tokens.size());
  if (count == 0 || count > runner.max_context()) {
    return InvalidArgument(fmt::format("tokens: {} of them, expected 1 to the context of {}", count,
                                       runner.max_context()));
  }
  for (size_t index = 0; index < tokens.size(); ++index) {
    if (tokens[index] < 0 || tokens[index] >= runner.config().vocab_size) {
      return InvalidArgument(fmt::format("tokens[{}]: {}, expected 0 to {}", index, tokens[index],
                                         runner.config().vocab_size - 1));
    }
  }
  return OkStatus();
}

std::vector<SafetensorsWriter::Announced> Announce(const ModelConfig& config, int64_t tokens,
                                                   bool selection) {
  std::vector<SafetensorsWriter::Announced> tensors = {
      {"logits", DType::kF32, {tokens, config.vocab_size}}};
  for (int64_t layer = 0; selection && layer < config.num_hidden_layers; ++layer) {
    if (config.indexer_types[static_cast<size_t>(layer)] != IndexerType::kFull) continue;
    tensors.push_back(
        {fmt::format("selected.{}", layer), DType::kI32, {tokens, config.index_topk}});
  }
  return tensors;
}

}  // namespace

Status WriteLogitsFile(const LogitsRequest& request, ModelRunner& runner,
                       const Progress& progress) {
  WINNOW_TRY(CheckTokens(request.token_ids, runner));
  if (request.selection && runner.attention() == AttentionMode::kDense) {
    return InvalidArgument("selection: dense attention selects nothing, expected sparse attention");
  }
  const ModelConfig& config = runner.config();
  const std::span<const int32_t> tokens = request.token_ids;
  const int64_t total = static_cast<int64_t>(tokens.size());
  WINNOW_ASSIGN(SafetensorsWriter writer,
                SafetensorsWriter::Create(request.out, Announce(config, total, request.selection),
                                          {{"producer", "winnow logits"}}));
  SelectionRecorder recorder(runner, writer);
  const int64_t step = std::min(runner.logit_rows(), total);
  std::vector<float> logits(static_cast<size_t>(step * config.vocab_size));
  runner.Resume(tokens.first(1));  // from an empty cache: every position is to be seen
  for (int64_t first = 0; first < total; first += step) {
    const int64_t count = std::min(step, total - first);
    recorder.BeginStep(first, count);
    auto counts =
        runner.Step(tokens.subspan(static_cast<size_t>(first), static_cast<size_t>(count)),
                    LogitRows::kAll, logits.data(), request.selection ? &recorder : nullptr);
    if (!counts.ok()) return counts.error();
    WINNOW_TRY(recorder.status());
    WINNOW_TRY(writer.WriteAt(0, first * config.vocab_size * 4, logits.data(),
                              count * config.vocab_size * 4));
    if (progress) progress(static_cast<double>(first + count) / static_cast<double>(total));
  }
  return writer.Finish();
}

}  // namespace winnow
