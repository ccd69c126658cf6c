#include "eval/evaluation.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <cstdio>
#include <cstring>

#include "base/check.h"
#include "base/file.h"
#include "base/text.h"
#include "engine/sampler.h"
#include "text/unicode.h"

namespace winnow::eval {
namespace {

constexpr int64_t kMaxTextBytes = int64_t{1} << 30;

// A new file beside the target, which must be a regular file or not exist. Links are followed.
struct Target {
  std::string path;
  std::string partial;
  int fd = -1;
};

Result<Target> OpenTarget(const std::string& path) {
  Target target;
  target.path = path;
  struct stat info;
  if (stat(path.c_str(), &info) == 0) {
    if (!S_ISREG(info.st_mode)) {
      return InvalidArgument(path + ": it exists and is no regular file, expected a file to write");
    }
    if (char* resolved = realpath(path.c_str(), nullptr)) {
      target.path = resolved;
      std::free(resolved);
    }
  }
  target.partial = fmt::format("{}.{}.partial", target.path, getpid());
  target.fd = open(target.partial.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
  if (target.fd < 0) {
    return NotFound(fmt::format("{}: {}, expected a writable file", path, std::strerror(errno)));
  }
  return target;
}

Status CheckWritable(const std::string& path) {
  if (path.empty()) return OkStatus();
  WINNOW_ASSIGN(const Target target, OpenTarget(path));
  close(target.fd);
  std::remove(target.partial.c_str());
  return OkStatus();
}

Status WriteError(const Target& target, const char* action) {
  const int error = errno;
  std::remove(target.partial.c_str());
  return ResourceExhausted(fmt::format("{}: {}: {}", target.path, action, std::strerror(error)));
}

Status WriteOutput(const std::string& path, std::string_view bytes) {
  if (path.empty()) return OkStatus();
  WINNOW_ASSIGN(const Target target, OpenTarget(path));
  while (!bytes.empty()) {
    const ssize_t count = write(target.fd, bytes.data(), bytes.size());
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) {
      const Status status = WriteError(target, "writing");
      close(target.fd);
      return status;
    }
    bytes.remove_prefix(static_cast<size_t>(count));
  }
  if (close(target.fd) != 0) return WriteError(target, "closing");
  if (std::rename(target.partial.c_str(), target.path.c_str()) != 0) {
    return WriteError(target, "renaming");
  }
  return OkStatus();
}

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

Result<std::vector<Text>> ReadTexts(const std::vector<std::string>& paths) {
  if (paths.empty()) return InvalidArgument("text: none is given, expected at least one file");
  std::vector<Text> texts;
  for (const std::string& path : paths) {
    WINNOW_ASSIGN(std::string bytes, ReadFile(path, kMaxTextBytes));
    if (bytes.empty()) return InvalidArgument(path + ": it is empty, expected text");
    texts.push_back({path, Printable(FileName(path)), std::move(bytes)});
  }
  return texts;
}

Status CheckOutputs(const EvalOptions& options) {
  if (!options.json.empty() && options.json == options.svg) {
    return InvalidArgument(options.json + ": json and svg name the same file, expected two");
  }
  WINNOW_TRY(CheckWritable(options.json));
  return CheckWritable(options.svg);
}

Result<EvalReport> Finish(const EvalOptions& options, EvalReport report) {
  WINNOW_TRY(WriteOutput(options.json, report.json + "\n"));
  WINNOW_TRY(WriteOutput(options.svg, report.svg));
  return report;
}

std::string Printable(std::string_view text) {
  Utf8Repair repair;
  std::string valid = repair.Append(text) + repair.Flush();
  std::erase_if(valid, [](char c) { return static_cast<unsigned char>(c) < 0x20 || c == 0x7f; });
  return valid;
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
            {"kv_cache", Name(options.engine.kv_cache)},
            {"index_keys", Name(options.engine.index_keys)},
            {"seed", options.seed},
            {"texts", texts}}}};
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
      meter->Add(RunCost(config(), runner_->attention(), static_cast<int64_t>(first),
                         static_cast<int64_t>(end)),
                 note);
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
  std::vector<float> logits(std::min(total, static_cast<size_t>(runner_->chunk())) * vocab);
  runner_->Clear();
  for (size_t first = 0; first < total;) {
    const size_t end = StepEnd(*runner_, first, total);
    auto counts = runner_->Step(tokens.subspan(first, end - first), LogitRows::kAll, logits.data(),
                                nullptr, policy);
    if (!counts.ok()) return counts.error();
    for (size_t row = first; row < end; ++row) {
      body(static_cast<int64_t>(row),
           Loss({logits.data() + (row - first) * vocab, vocab}, tokens[row + 1]));
    }
    meter.Add(RunCost(config(), runner_->attention(), static_cast<int64_t>(first),
                      static_cast<int64_t>(end)),
              note);
    first = end;
  }
  return OkStatus();
}

}  // namespace winnow::eval
