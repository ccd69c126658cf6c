// Engine and Stream: what winnow.h promises, on top of one thread that owns the model.
#include <sys/stat.h>

#include "base/check.h"
#include "base/text.h"
#include "engine/engine_thread.h"
#include "engine/logits_file.h"
#include "engine/model_runner.h"
#include "engine/prepare.h"
#include "winnow/winnow.h"

namespace winnow {
namespace {

bool Exists(const std::string& path) {
  struct stat info;
  return stat(path.c_str(), &info) == 0;
}

}  // namespace

const char* Name(FinishReason reason) {
  switch (reason) {
    case FinishReason::kNone:
      return "none";
    case FinishReason::kStop:
      return "stop";
    case FinishReason::kLength:
      return "length";
    case FinishReason::kCancelled:
      return "cancelled";
    case FinishReason::kToolCalls:
      return "tool_calls";
  }
  return "unknown";
}

Stream::Stream(std::shared_ptr<StreamState> state) : state_(std::move(state)) {}
Stream::Stream(Stream&&) noexcept = default;
Stream& Stream::operator=(Stream&& other) noexcept {
  Cancel();
  state_ = std::move(other.state_);
  return *this;
}
Stream::~Stream() { Cancel(); }

void Stream::Cancel() {
  if (state_) state_->cancelled.store(true);
}

bool Stream::Ready() const {
  std::lock_guard<std::mutex> lock(state_->mutex);
  return state_->finished || !state_->chunks.empty();
}

void Stream::Notify(std::function<void()> wake) {
  std::lock_guard<std::mutex> lock(state_->mutex);
  state_->wake = std::move(wake);
  if (state_->wake) state_->wake();
}

Result<std::optional<Chunk>> Stream::Next() {
  std::unique_lock<std::mutex> lock(state_->mutex);
  state_->changed.wait(lock, [this] { return state_->finished || !state_->chunks.empty(); });
  if (!state_->chunks.empty()) {
    Chunk chunk = std::move(state_->chunks.front());
    state_->chunks.pop_front();
    return std::optional<Chunk>(std::move(chunk));
  }
  if (!state_->error.ok()) return state_->error;
  return std::optional<Chunk>();
}

struct Engine::State {
  // Fixed after Load; read by any thread.
  std::optional<Tokenizer> tokenizer;
  std::shared_ptr<const TokenTrie> token_trie;
  std::optional<ChatTemplate> chat_template;
  Status chat_error;  // why there is no chat_template; plain prompts work without
  GenerationConfig generation;
  ModelInfo info;

  // The engine thread's, once there is one.
  std::unique_ptr<ModelRunner> runner;
  std::unique_ptr<EngineThread> thread;  // last: it uses what stands above

  Status LoadText(const std::string& model_dir);
  void FillInfo();
  PrepareContext Context() const;
};

PrepareContext Engine::State::Context() const {
  return {.config = runner->config(),
          .generation = generation,
          .tokenizer = tokenizer ? &*tokenizer : nullptr,
          .chat_template = chat_template ? &*chat_template : nullptr,
          .chat_error = chat_error,
          .token_trie = token_trie,
          .max_context = info.max_context};
}

Status Engine::State::LoadText(const std::string& model_dir) {
  const std::string path = model_dir + "/tokenizer.json";
  if (!Exists(path)) return OkStatus();
  WINNOW_ASSIGN(tokenizer, Tokenizer::Load(path));
  token_trie = std::make_shared<const TokenTrie>(*tokenizer);
  const ModelConfig& config = runner->config();
  auto loaded = ChatTemplate::Load(model_dir, config.model_type, *tokenizer);
  if (loaded.ok()) {
    chat_template = std::move(*loaded);
  } else {
    chat_error = loaded.error();
  }
  return OkStatus();
}

void Engine::State::FillInfo() {
  const ModelConfig& config = runner->config();
  info.model_type = config.model_type;
  info.backend = runner->backend().Describe();
  info.num_hidden_layers = config.num_hidden_layers;
  info.vocab_size = config.vocab_size;
  info.index_topk = config.index_topk;
  info.max_context = runner->max_context();
  info.cache_bytes = runner->cache_bytes();
  for (const StorageSummary::Row& row : runner->weights().storage().rows) {
    info.parameters += row.parameters;
  }
}

Engine::Engine(std::unique_ptr<State> state) : state_(std::move(state)) {}
Engine::Engine(Engine&&) noexcept = default;
Engine& Engine::operator=(Engine&&) noexcept = default;
Engine::~Engine() = default;

Result<Engine> Engine::Load(const EngineOptions& options) {
  auto state = std::make_unique<State>();
  WINNOW_ASSIGN(state->runner, ModelRunner::Load(options));
  WINNOW_ASSIGN(state->generation, LoadGenerationConfig(options.model_dir));
  WINNOW_TRY(state->LoadText(options.model_dir));
  state->FillInfo();
  AttentionRates rates;
  if (options.measure_rates) {
    WINNOW_ASSIGN(rates, AttentionRates::Measure(*state->runner));
  }
  state->thread = std::make_unique<EngineThread>(
      options, *state->runner, state->tokenizer ? &*state->tokenizer : nullptr, rates);
  return Engine(std::move(state));
}

const ModelInfo& Engine::info() const { return state_->info; }

EngineStats Engine::stats() const { return state_->thread->stats(); }

Result<std::vector<int32_t>> Engine::PromptTokens(const Request& request) const {
  WINNOW_ASSIGN(GenerationTask task, PrepareGeneration(request, state_->Context()));
  return std::move(task.prompt);
}

// One token, step 2 of 9. From generate.cc; next: PrepareGeneration() in prepare.cc.
Result<Stream> Engine::Submit(const Request& request) {
  WINNOW_ASSIGN(GenerationTask task, PrepareGeneration(request, state_->Context()));
  auto stream = std::make_shared<StreamState>();
  WINNOW_TRY(state_->thread->Submit(std::move(task), stream));
  return Stream(std::move(stream));
}

Result<std::vector<int32_t>> Engine::Tokenize(const std::string& text,
                                              bool allow_special_tokens) const {
  if (!state_->tokenizer) return Unsupported("tokenizer.json: the model folder has none");
  return state_->tokenizer->Encode(
      text, allow_special_tokens ? SpecialTokens::kRecognize : SpecialTokens::kAsText);
}

Result<std::string> Engine::Detokenize(const std::vector<int32_t>& token_ids) const {
  if (!state_->tokenizer) return Unsupported("tokenizer.json: the model folder has none");
  return state_->tokenizer->Decode(token_ids, /*keep_special=*/true);
}

Status Engine::WriteLogits(const LogitsRequest& request, const Progress& progress) {
  return state_->thread->RunAlone(
      [&] { return WriteLogitsFile(request, *state_->runner, progress); });
}

}  // namespace winnow
