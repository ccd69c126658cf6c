// Winnow: language models with DeepSeek Sparse Attention. The one header to include.
//
//   winnow::EngineOptions options;
//   options.model_dir = "models/winnow-nano";
//   winnow::Engine engine = winnow::Engine::Load(options).value();
//
//   winnow::Request request;
//   request.messages = {{.role = "user", .content = "What does winnowing separate?"}};
//   winnow::Stream stream = engine.Submit(request).value();
//   while (std::optional<winnow::Chunk> chunk = stream.Next().value()) std::cout << chunk->text;
//
// Everything that can fail returns a Status or a Result; Result::value() throws for those who
// prefer it.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "winnow/status.h"
#include "winnow/types.h"

namespace winnow {

// Called while a model loads, with the fraction done in [0, 1].
using Progress = std::function<void(double)>;

struct EngineOptions {
  std::string model_dir;  // a folder in the Hugging Face layout

  std::string backend = "cpu";  // or "cuda", where Winnow was built with it
  int device = 0;               // which GPU, as CUDA numbers them

  Precision precision = Precision::kBf16;
  // Quantizes while loading; Quantize does it once and for all. On the CPU only.
  WeightType weights = WeightType::kStored;
  LatentType kv_cache = LatentType::kBf16;
  IndexKeyType index_keys = IndexKeyType::kInt8;
  AttentionMode attention = AttentionMode::kSparse;

  int num_threads = 0;  // 0: one for each core this process may use
  // Keep threads on a core each, where there are as many as the process may use.
  bool pin_threads = true;
  int64_t max_context = 0;  // tokens of the longest request; 0: what the model was made for
  // Tokens that the cache holds, of all requests together; 0: as many as the longest request, -1:
  // four times as many, or less where memory is short.
  int64_t cache_tokens = 0;
  // Tokens of prompts processed at a time. Changes speed and memory, no result.
  int64_t chunk = 512;
  // Bytes that a step may hold beside weights, cache and rotary table, whatever the context: the
  // chunk is cut to what fits. 0: no limit. Load refuses less than it takes.
  int64_t workspace_bytes = 0;
  int64_t max_sequences = 16;  // requests that run together; others wait
  int64_t max_queue = 1024;    // requests that may wait; Submit refuses more
  // Whether requests that begin alike share what was computed for their beginning.
  bool prefix_cache = true;
  // Measure at load, in about a second, how long attention takes here by row read. From it receipts
  // say how long dense attention would have taken.
  bool measure_rates = false;

  // "portable", "avx2", "avx512", "avx512_bf16", "amx", or empty for the best the processor has.
  // Changes speed, and no result, except that "amx" has an order of its own for the sums of bf16
  // precision.
  std::string instruction_set;

  Progress progress;  // may be empty
};

struct Message {
  std::string role;  // "system", "developer", "user", "assistant" or "tool"
  std::string content;
  std::string reasoning_content;  // of an assistant; empty: none
  std::vector<ToolCall> tool_calls;
};

// How the next token is drawn. What is not given comes from the model's generation_config.json.
struct SamplingParams {
  std::optional<double> temperature;  // 0: greedy, the likeliest token
  std::optional<double> top_p;        // keep the likeliest tokens that hold this mass; (0, 1]
  std::optional<int64_t> top_k;       // keep this many of the likeliest; 0: all
  double min_p = 0.0;                 // drop what is less likely than this share of the likeliest
  std::optional<double>
      repetition_penalty;          // > 0; divides the logits of tokens seen, prompt included
  double presence_penalty = 0.0;   // taken from the logits of tokens generated before
  double frequency_penalty = 0.0;  // the same, times how often
  std::optional<uint64_t> seed;    // same seed, same text; none: a new one each time
  // Added to the logits of these tokens, in [-100, 100]; -100 bans a token.
  std::vector<std::pair<int32_t, double>> logit_bias;
};

// What an answer must look like, whatever the model would rather say.
enum class AnswerFormat { kText, kJsonObject, kJsonSchema };

// One generation. Exactly one of messages, prompt and token_ids is given.
struct Request {
  std::vector<Message> messages;   // a conversation, written in the model's own chat format
  std::string prompt;              // plain text to continue
  std::vector<int32_t> token_ids;  // the same as tokens

  // Markers such as <｜User｜> inside `prompt` or message text are plain text unless this is set.
  bool allow_special_tokens = false;
  bool thinking = false;  // let the model reason before it answers, where its chat format can
  std::string tools;      // a JSON array of functions in OpenAI's form; empty: none
  // "auto", "none", "required" (some tool must be called), or the name of the one to call after
  // "function:".
  std::string tool_choice = "auto";
  // Take the model's reasoning and its calls of tools out of the text: see Chunk.
  bool parse_answer = false;
  AnswerFormat answer_format = AnswerFormat::kText;
  std::string json_schema;  // for kJsonSchema

  // Requests of one key wait for each other and not for those of other keys, which get an equal
  // share of the machine.
  std::string key;
  // Only requests with the same salt share what was computed for a common beginning.
  std::string cache_salt;

  int64_t max_tokens = 256;
  std::vector<std::string> stop;  // texts that end the answer; not part of it
  std::vector<int32_t> stop_token_ids;
  bool ignore_eos = false;
  // Markers that the model itself says, such as <｜User｜>, are left out of the text, but for those
  // that parse_answer needs.
  bool skip_special_tokens = true;
  int64_t logprobs = -1;  // -1: none; n ≥ 0: of each token and its n likeliest rivals
  // Also of each token of the prompt but the first. `max_tokens` may then be 0.
  bool prompt_logprobs = false;
  SamplingParams sampling;
};

struct TokenLogprob {
  int32_t token_id = 0;
  std::string bytes;  // as the tokenizer spells it; may be part of a character
  double logprob = 0.0;
};

struct TokenDetail {
  TokenLogprob chosen;
  std::vector<TokenLogprob> top;  // likeliest first
};

// What one phase of a request cost, by the formulas of docs/dsa.md. A product and a sum are two
// operations; bytes are those of cache rows and index keys.
struct PhaseCost {
  double seconds = 0.0;      // of the machine: of a step shared with others, by share of the work
  double flops = 0.0;        // of the model, sparse attention and indexer included
  double bytes = 0.0;        // of latent rows and index keys read
  double dense_flops = 0.0;  // the same with dense attention and no indexer
  double dense_bytes = 0.0;
  double dense_seconds = 0.0;  // modelled from EngineOptions::measure_rates; 0 without
};

// What a request cost, and what dense attention would have read. Rows are counted over all layers.
struct Receipt {
  int64_t prompt_tokens = 0;
  int64_t cached_tokens = 0;    // of the prompt, found in the cache
  int64_t computed_tokens = 0;  // of the prompt, run through the model; all others unless cancelled
  int64_t recomputed_tokens = 0;  // run again because the request had to give up its cache pages
  int64_t completion_tokens = 0;
  int64_t reasoning_tokens = 0;      // of them, before the answer; counted if the answer is parsed
  int64_t attention_rows_read = 0;   // latent rows that attention gathered
  int64_t attention_rows_dense = 0;  // latent rows that dense attention gathers for the same tokens
  int64_t index_keys_scored = 0;     // index keys that the indexer compared
  int64_t last_rows_read = 0;        // of the last token, in one layer
  int64_t last_rows_dense = 0;
  double queue_seconds = 0.0;    // from Submit to the first step
  double prefill_seconds = 0.0;  // from the first step to the first token
  double decode_seconds = 0.0;   // from the first token to the last
  PhaseCost prefill;
  PhaseCost decode;
};

enum class FinishReason { kNone, kStop, kLength, kCancelled, kToolCalls };
const char* Name(FinishReason reason);  // "stop", "length", "cancelled", "tool_calls"

// The next piece of an answer.
struct Chunk {
  std::string text;       // whole characters; may be empty
  std::string reasoning;  // the same, said before the answer; if the answer is parsed
  std::vector<ToolCallPiece> tool_calls;    // if the answer is parsed
  std::vector<int32_t> token_ids;           // of the tokens since the last chunk
  std::vector<TokenDetail> details;         // for each of them, if asked for
  std::vector<TokenDetail> prompt_details;  // of the next tokens of the prompt, if asked for
  int64_t prefilled = 0;  // prompt tokens in the cache so far; equals prompt_tokens when done
  int64_t prompt_tokens = 0;
  FinishReason finish = FinishReason::kNone;  // of the last chunk
  std::string stop;  // of the last chunk: which text of Request::stop ended the answer, if one did
  Receipt receipt;   // so far; final in the last chunk
};

struct StreamState;

// A running generation. Next blocks until there is something to tell; after the chunk with a finish
// reason it returns an empty optional. Cancel may be called from any thread; destruction cancels.
class Stream {
 public:
  Stream(Stream&&) noexcept;
  Stream& operator=(Stream&&) noexcept;
  ~Stream();

  Result<std::optional<Chunk>> Next();
  // Whether Next would return at once.
  bool Ready() const;
  // Has `wake` called, from the engine's thread, whenever Next may have become ready, and once
  // before Notify returns. It must be quick and must not call the stream; an empty one ends it.
  void Notify(std::function<void()> wake);
  void Cancel();

 private:
  friend class Engine;
  explicit Stream(std::shared_ptr<StreamState> state);
  std::shared_ptr<StreamState> state_;
};

// What a loaded model is, in a few numbers.
struct ModelInfo {
  std::string model_type;
  std::string backend;  // "cpu avx2, 2 threads"
  int64_t num_hidden_layers = 0;
  int64_t vocab_size = 0;
  int64_t index_topk = 0;
  int64_t max_context = 0;  // tokens the cache holds
  int64_t parameters = 0;
  int64_t cache_bytes = 0;  // address space of a full cache; memory is taken as it fills
};

// What an engine is doing, for those who watch it. Totals are since it was loaded.
struct EngineStats {
  int64_t waiting = 0;  // requests
  int64_t running = 0;
  int64_t pages = 0;         // of the cache
  int64_t pages_used = 0;    // by running requests
  int64_t pages_cached = 0;  // kept for requests to come
  int64_t requests = 0;      // totals from here on
  int64_t cancelled = 0;
  int64_t preempted = 0;
  int64_t steps = 0;
  int64_t prompt_tokens = 0;    // of admitted requests
  int64_t cached_tokens = 0;    // of those, found in the cache
  int64_t computed_tokens = 0;  // run through the model: prompts and answers
  int64_t completion_tokens = 0;
  int64_t attention_rows_read = 0;
  int64_t attention_rows_dense = 0;
  int64_t index_keys_scored = 0;
  double busy_seconds = 0.0;  // in steps
};

// Which logits to compute, and how. See `winnow logits --help`.
struct LogitsRequest {
  std::vector<int32_t> token_ids;
  bool selection = false;  // also write what each layer selected
  std::string out;         // a safetensors file
};

// A model and the thread that runs it. Requests run together, up to max_sequences of them; none
// changes a bit of another's answer. Methods may be called from any thread.
class Engine {
 public:
  // Reads, checks and maps the model. Fails before memory is taken if something does not fit.
  static Result<Engine> Load(const EngineOptions& options);
  Engine(Engine&&) noexcept;
  Engine& operator=(Engine&&) noexcept;
  ~Engine();

  const ModelInfo& info() const;
  EngineStats stats() const;

  // Tokenizes and queues. kOutOfRange, with both numbers, if the prompt leaves no room for an
  // answer in the context; kResourceExhausted if max_queue requests wait.
  Result<Stream> Submit(const Request& request);

  // The tokens of a request's prompt, in the model's chat format if it has messages.
  Result<std::vector<int32_t>> PromptTokens(const Request& request) const;

  Result<std::vector<int32_t>> Tokenize(const std::string& text, bool allow_special_tokens) const;
  Result<std::string> Detokenize(const std::vector<int32_t>& token_ids) const;

  // Writes `logits` F32 [T, vocab_size] for every position and, on request, `selected.<layer>` I32
  // [T, index_topk] (ascending, padded with -1) for each layer with an indexer. `progress` may be
  // empty.
  Status WriteLogits(const LogitsRequest& request, const Progress& progress = {});

 private:
  struct State;
  explicit Engine(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

// How far an engine may deviate from a reference before Verify says so.
struct VerifyOptions {
  EngineOptions engine;            // model_dir is ignored: a case brings its own
  double logits_tolerance = 1e-4;  // largest difference, over the reference's standard deviation
  double hidden_tolerance = 1e-4;
};

// The outcome of one stage of one case, in the order of the forward pass.
struct VerifyStage {
  std::string name;      // "layer 3 selection"
  double deviation = 0;  // of the reference's standard deviation, or positions that differ
  double tolerance = 0;
  bool passed = true;
};

struct VerifyReport {
  std::string name;
  std::vector<VerifyStage> stages;
  bool passed = true;
  std::string first_failure;  // the first stage that deviates; empty when none does
  std::string note;           // a known flaw of the reference that was followed to agree with it
};

// Runs a folder that holds a checkpoint, case.json and expected.safetensors (docs/verify.md) and
// compares layer outputs, selections, logits and greedy tokens.
Result<VerifyReport> Verify(const std::string& case_dir, const VerifyOptions& options);

struct InspectOptions {
  int64_t context = 0;  // tokens; 0: what the model was made for
  int64_t batch = 1;    // sequences
  Precision precision = Precision::kBf16;
  WeightType weights = WeightType::kStored;
  LatentType kv_cache = LatentType::kBf16;
  IndexKeyType index_keys = IndexKeyType::kInt8;
  int64_t chunk = 512;
  int64_t workspace_bytes = 0;  // as EngineOptions has it
  int num_threads = 0;
  std::string backend = "cpu";  // as in EngineOptions
  int device = 0;
};

// What `winnow inspect` prints. Costs are those of one decoded token at a position, summed over
// layers.
struct ModelReport {
  struct Fact {
    std::string name;
    std::string value;
  };
  struct Storage {
    std::string dtype;
    int64_t tensors = 0;
    int64_t parameters = 0;
    int64_t bytes = 0;
  };
  struct Memory {
    std::string what;
    int64_t bytes = 0;
  };
  struct Cost {
    int64_t position = 0;  // tokens in context
    double dense_flops = 0;
    double sparse_flops = 0;   // attention over the selection
    double indexer_flops = 0;  // scoring the context
    double dense_bytes = 0;
    double sparse_bytes = 0;
    double indexer_bytes = 0;
  };
  std::vector<Fact> architecture;
  int64_t parameters = 0;
  int64_t active_parameters = 0;  // used by one token
  std::vector<Storage> storage;
  std::vector<Memory> memory;
  double linear_flops = 0;  // of one token, everything but attention and indexer scores
  std::vector<Cost> costs;
};

// Reads the headers of a model's files, not its weights.
Result<ModelReport> Inspect(const std::string& model_dir, const InspectOptions& options);

struct QuantizeOptions {
  std::string model_dir;
  std::string out_dir;                     // a folder that is not there yet
  WeightType weights = WeightType::kInt8;  // or kInt4
  int num_threads = 0;                     // 0: one for each core this process may use
  // Called with the fraction done in [0, 1]; false ends the work (kCancelled). May be empty.
  std::function<bool(double)> progress;
};

// Writes a model whose weights are quantized, with the bits that EngineOptions::weights gives, and
// its other files (docs/weights.md). The folder appears when it is complete; on an error nothing
// does.
Status Quantize(const QuantizeOptions& options);

}  // namespace winnow
