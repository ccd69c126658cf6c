// Engine and Stream: what winnow.h promises, on top of one thread that owns the model.
#include <sys/stat.h>

#include <future>

#include "base/check.h"
#include "base/text.h"
#include "engine/logits_file.h"
#include "engine/model_runner.h"
#include "engine/prepare.h"
#include "engine/task_queue.h"
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
  std::optional<ChatTemplate> chat_template;
  Status chat_error;  // why there is no chat_template; plain prompts work without
  GenerationConfig generation;
  ModelInfo info;

  // Touched by the engine thread only, once it runs.
  std::unique_ptr<ModelRunner> runner;

  // Streams that have not ended, so that an engine that goes away can end them.
  std::mutex mutex;
  std::vector<std::weak_ptr<StreamState>> streams;

  TaskQueue queue;  // last: its thread ends before what it uses

  Status LoadText(const std::string& model_dir);
  void FillInfo();
  void Track(const std::shared_ptr<StreamState>& stream);
  PrepareContext Context() const;
};

PrepareContext Engine::State::Context() const {
  return {.config = runner->config(),
          .generation = generation,
          .tokenizer = tokenizer ? &*tokenizer : nullptr,
          .chat_template = chat_template ? &*chat_template : nullptr,
          .chat_error = chat_error,
          .max_context = info.max_context};
}

Status Engine::State::LoadText(const std::string& model_dir) {
  const std::string path = model_dir + "/tokenizer.json";
  if (!Exists(path)) return OkStatus();
  WINNOW_ASSIGN(tokenizer, Tokenizer::Load(path));
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

void Engine::State::Track(const std::shared_ptr<StreamState>& stream) {
  std::lock_guard<std::mutex> lock(mutex);
  std::erase_if(streams, [](const std::weak_ptr<StreamState>& other) { return other.expired(); });
  streams.push_back(stream);
}

Engine::Engine(std::unique_ptr<State> state) : state_(std::move(state)) {}
Engine::Engine(Engine&&) noexcept = default;
Engine& Engine::operator=(Engine&& other) noexcept {
  if (this != &other) {
    const Engine old(std::move(state_));  // ends its streams as a destroyed engine does
    state_ = std::move(other.state_);
  }
  return *this;
}

Engine::~Engine() {
  if (!state_) return;
  // The running generation stops at its next token; those that wait never begin and are told so.
  std::vector<std::shared_ptr<StreamState>> open;
  {
    std::lock_guard<std::mutex> lock(state_->mutex);
    for (const auto& weak : state_->streams) {
      if (auto stream = weak.lock()) open.push_back(std::move(stream));
    }
  }
  for (const auto& stream : open) stream->cancelled.store(true);
  state_.reset();
  for (const auto& stream : open) {
    std::unique_lock<std::mutex> lock(stream->mutex);
    const bool finished = stream->finished;
    lock.unlock();
    if (!finished) stream->Fail(Unavailable("engine: it was shut down"));
  }
}

Result<Engine> Engine::Load(const EngineOptions& options) {
  auto state = std::make_unique<State>();
  WINNOW_ASSIGN(state->runner, ModelRunner::Load(options));
  WINNOW_ASSIGN(state->generation, LoadGenerationConfig(options.model_dir));
  WINNOW_TRY(state->LoadText(options.model_dir));
  state->FillInfo();
  return Engine(std::move(state));
}

const ModelInfo& Engine::info() const { return state_->info; }

EngineStats Engine::stats() const { return {}; }

Result<std::vector<int32_t>> Engine::PromptTokens(const Request& request) const {
  WINNOW_ASSIGN(GenerationTask task, PrepareGeneration(request, state_->Context()));
  return std::move(task.prompt);
}

// One token, step 2 of 9. From generate.cc; next: PrepareGeneration() in prepare.cc.
Result<Stream> Engine::Submit(const Request& request) {
  State& state = *state_;
  const PrepareContext context = state.Context();
  WINNOW_ASSIGN(GenerationTask task, PrepareGeneration(request, context));
  auto stream = std::make_shared<StreamState>();
  state.Track(stream);
  state.queue.Post([&state, stream, tokenizer = context.tokenizer,
                    task = std::make_shared<GenerationTask>(std::move(task))] {
    Generation(std::move(*task), *state.runner, tokenizer, stream).Run();
  });
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
  std::promise<Status> done;
  std::future<Status> result = done.get_future();
  state_->queue.Post([&] { done.set_value(WriteLogitsFile(request, *state_->runner, progress)); });
  return result.get();
}

}  // namespace winnow
