#include "eval/evaluation.h"

#include <algorithm>
#include <cmath>

#include "base/check.h"
#include "base/file.h"
#include "base/text.h"
#include "engine/sampler.h"
#include "text/unicode.h"

namespace winnow::eval {
namespace {

// Where the step that begins at token `first` of `total` ends.
size_t StepEnd(const ModelRunner& runner, size_t first, size_t total) {
  return std::min(total, first + static_cast<size_t>(runner.chunk()));
}

double Loss(std::span<const float> logits, int32_t target) {
  const double largest = *std::max_element(logits.begin(), logits.end());
  double sum = 0;
  for (const float logit : logits) sum += std::exp(logit - largest);
  return largest + std::log(sum) - logits[static_cast<size_t>(target)];
}

}  // namespace

double SecondsSince(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

std::string Printable(std::string_view text) {
  Utf8Repair repair;
  std::string valid = repair.Append(text) + repair.Flush();
  std::erase_if(valid, [](char c) { return static_cast<unsigned char>(c) < 0x20 || c == 0x7f; });
  return valid;
}

void ShorterTexts::Add(const std::string& name, int64_t tokens, int64_t asked) {
  if (tokens < asked) texts_.push_back({name, tokens, asked});
}

std::string ShorterTexts::Note() const {
  std::string note;
  for (const Shorter& text : texts_) {
    note +=
        fmt::format("{}note: {} has {} tokens, fewer than the {} asked for: all of it is used\n",
                    note.empty() ? "\n" : "", text.name, text.tokens, text.asked);
  }
  return note;
}

void ShorterTexts::AddTo(json::object& report) const {
  if (texts_.empty()) return;
  json::array texts;
  for (const Shorter& text : texts_) {
    texts.push_back(json::object{{"name", text.name}, {"tokens", text.tokens}});
  }
  report["shorter_texts"] = std::move(texts);
}

json::object DescribeRun(const char* what, const EvalOptions& options, const ModelConfig& config) {
  std::string folder = options.engine.model_dir;
  while (folder.size() > 1 && folder.back() == '/') folder.pop_back();
  json::array texts;
  for (const std::string& path : options.texts) texts.emplace_back(Printable(FileName(path)));
  return {{"evaluation", what},
          {"model",
           {{"name", Printable(FileName(folder))},
            {"model_type", config.model_type},
            {"num_hidden_layers", config.num_hidden_layers},
            {"num_attention_heads", config.num_attention_heads},
            {"vocab_size", config.vocab_size},
            {"index_topk", config.index_topk},
            {"max_position_embeddings", config.max_position_embeddings}}},
          {"options",
           {{"precision", Name(options.engine.precision)},
            {"weights", Name(options.engine.weights)},
            {"kv_cache", Name(options.engine.kv_cache)},
            {"index_keys", Name(options.engine.index_keys)},
            {"seed", options.seed},
            {"texts", texts}}}};
}

std::string LongRest(double seconds, double done, double total) {
  constexpr double kTooEarly = 5;  // seconds
  constexpr double kLong = 120;
  if (seconds < kTooEarly || done <= 0) return {};
  const double rest = seconds / done * (total - done);
  if (rest < kLong) return {};
  const double minutes = rest / 60;
  return minutes < 100 ? fmt::format("about {:.0f} minutes", minutes)
                       : fmt::format("about {:.0f} hours", minutes / 60);
}

Status Meter::Add(double units, const std::string& note) {
  done_ += units;
  if (watch_) {
    const std::string rest =
        LongRest(SecondsSince(watch_->start), done_ - watch_->first, watch_->units);
    if (!rest.empty()) {
      options_.notice(fmt::format("{} will take {} more", watch_->what, rest));
      watch_.reset();
    }
  }
  if (options_.progress && !options_.progress(std::min(1.0, done_ / total_), note)) {
    return Status(StatusCode::kCancelled, "interrupted");
  }
  return OkStatus();
}

void Meter::WarnIfLong(double units, std::string what) {
  if (options_.notice) watch_ = {Clock::now(), done_, units, std::move(what)};
}

double RunCost(const ModelConfig& config, AttentionMode mode, int64_t first, int64_t last) {
  // Linear layers cost about as much as attention to this many rows.
  const double row = static_cast<double>(config.num_attention_heads *
                                         (2 * config.kv_lora_rank + config.qk_rope_head_dim));
  const double linear = 16.0 * static_cast<double>(config.hidden_size * config.hidden_size) / row;
  const double n = static_cast<double>(last - first);
  const double mean = static_cast<double>(first + last) / 2;
  const double topk = static_cast<double>(config.index_topk);
  return n * (linear + (mode == AttentionMode::kDense ? mean : std::min(mean, topk)));
}

Result<ModelConfig> LoadConfig(const EvalOptions& options, int64_t length, const char* what) {
  WINNOW_ASSIGN(ModelConfig config, LoadModelConfig(options.engine.model_dir));
  if (length > config.max_position_embeddings) {
    return InvalidArgument(
        fmt::format("{}: {}, expected at most {}, the max_position_embeddings of config.json", what,
                    length, config.max_position_embeddings));
  }
  return config;
}

Result<Reader> Reader::Load(const EvalOptions& options, const ModelConfig& config) {
  Reader reader;
  const std::string& folder = options.engine.model_dir;
  reader.bos_ = config.bos_token_id;
  WINNOW_ASSIGN(reader.tokenizer_, Tokenizer::Load(folder + "/tokenizer.json"));
  if (reader.tokenizer_->vocab_size() > config.vocab_size) {
    return Corrupt(
        fmt::format("tokenizer.json: {} tokens, expected at most {}, the vocab_size of "
                    "config.json",
                    reader.tokenizer_->vocab_size(), config.vocab_size));
  }
  auto chat = ChatTemplate::Load(folder, config.model_type, *reader.tokenizer_);
  if (chat.ok()) reader.chat_ = std::move(*chat);
  return reader;
}

Result<std::vector<int32_t>> Reader::Prompt(const std::string& document,
                                            const std::string& question) const {
  const std::string text = document + "\n\n" + question;
  if (!chat_) {
    WINNOW_ASSIGN(std::vector<int32_t> tokens, tokenizer_->Encode(text + "\n"));
    if (bos_ >= 0) tokens.insert(tokens.begin(), bos_);
    return tokens;
  }
  ChatMessage message;
  message.role = "user";
  message.content = text;
  return chat_->Encode(*tokenizer_, {&message, 1}, {});
}

Result<std::unique_ptr<Subject>> Subject::Load(const EvalOptions& options, AttentionMode mode,
                                               int64_t context, int64_t vocab_limit) {
  auto subject = std::make_unique<Subject>();
  EngineOptions engine = options.engine;
  engine.attention = mode;
  engine.max_context = context;
  if (engine.backend != "cpu") {
    return Unsupported(
        fmt::format("backend: {}, expected cpu: evaluation looks into attention, in "
                    "memory of the host",
                    Quoted(engine.backend)));
  }
  WINNOW_ASSIGN(subject->runner_, ModelRunner::Load(engine));
  subject->vocab_limit_ = vocab_limit;
  WINNOW_ASSIGN(const GenerationConfig generation, LoadGenerationConfig(engine.model_dir));
  subject->ends_ =
      generation.eos_token_ids.empty() ? subject->config().eos_token_ids : generation.eos_token_ids;
  return subject;
}

Result<std::vector<int32_t>> Subject::Answer(std::span<const int32_t> prompt, int64_t max_tokens,
                                             SelectionPolicy* policy, Meter* meter,
                                             const std::string& note) {
  std::vector<float> logits(static_cast<size_t>(config().vocab_size));
  const size_t kept = static_cast<size_t>(runner_->Resume(prompt));
  for (size_t first = kept; first < prompt.size();) {
    const size_t end = StepEnd(*runner_, first, prompt.size());
    const LogitRows rows = end == prompt.size() ? LogitRows::kLast : LogitRows::kNone;
    auto counts =
        runner_->Step(prompt.subspan(first, end - first), rows, logits.data(), nullptr, policy);
    if (!counts.ok()) return counts.error();
    if (meter != nullptr) {
      WINNOW_TRY(meter->Add(RunCost(config(), runner_->attention(), static_cast<int64_t>(first),
                                    static_cast<int64_t>(end)),
                            note));
    }
    first = end;
  }
  SamplerOptions greedy;
  greedy.vocab_limit = vocab_limit_;
  Sampler sampler(greedy, prompt);
  std::vector<int32_t> answer;
  while (static_cast<int64_t>(answer.size()) < max_tokens) {
    WINNOW_ASSIGN(const Sample sample, sampler.Next(logits));
    const int32_t token = sample.chosen.token_id;
    if (std::find(ends_.begin(), ends_.end(), token) != ends_.end()) break;
    answer.push_back(token);
    if (runner_->cached_tokens() == runner_->max_context()) break;
    if (static_cast<int64_t>(answer.size()) == max_tokens) break;
    auto counts = runner_->Step({&token, 1}, LogitRows::kLast, logits.data(), nullptr, policy);
    if (!counts.ok()) return counts.error();
  }
  return answer;
}

Status Subject::Losses(std::span<const int32_t> tokens,
                       const std::function<void(int64_t, double)>& body, SelectionPolicy* policy,
                       Meter& meter, const std::string& note) {
  const size_t vocab = static_cast<size_t>(config().vocab_size);
  const size_t total = tokens.size() - 1;  // the last token's logits say nothing about the text
  const size_t step = std::min(total, static_cast<size_t>(runner_->logit_rows()));
  std::vector<float> logits(step * vocab);
  runner_->Clear();
  for (size_t first = 0; first < total;) {
    const size_t end = std::min(total, first + step);
    auto counts = runner_->Step(tokens.subspan(first, end - first), LogitRows::kAll, logits.data(),
                                nullptr, policy);
    if (!counts.ok()) return counts.error();
    for (size_t row = first; row < end; ++row) {
      body(static_cast<int64_t>(row),
           Loss({logits.data() + (row - first) * vocab, vocab}, tokens[row + 1]));
    }
    WINNOW_TRY(meter.Add(RunCost(config(), runner_->attention(), static_cast<int64_t>(first),
                                 static_cast<int64_t>(end)),
                         note));
    first = end;
  }
  return OkStatus();
}

}  // namespace winnow::eval
