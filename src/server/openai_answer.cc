#include "server/openai_answer.h"

#include <algorithm>

#include "base/text.h"
#include "server/append.h"
#include "server/json_text.h"
#include "server/receipt_json.h"

namespace winnow::server {
namespace {

constexpr double kLeastLogprob = -9999.0;  // JSON has no infinity

void AppendEvent(const json::object& event, std::string* events) {
  *events += "data: " + JsonText(event) + "\n\n";
}

const char* FinishName(FinishReason reason) {
  return reason == FinishReason::kCancelled ? "insufficient_system_resource" : Name(reason);
}

json::value FinishJson(FinishReason reason) {
  return reason == FinishReason::kNone ? json::value(nullptr) : json::value(FinishName(reason));
}

// vLLM's field: which of the request's `stop` ended the answer.
json::value StopJson(const std::string& stop) {
  return stop.empty() ? json::value(nullptr) : json::value(stop);
}

json::object TokenJson(const TokenLogprob& token) {
  json::array bytes;
  for (const unsigned char byte : token.bytes) bytes.push_back(static_cast<int64_t>(byte));
  return {{"token", TokenSpelling(token)},
          {"logprob", std::max(token.logprob, kLeastLogprob)},
          {"bytes", std::move(bytes)}};
}

json::array ContentLogprobs(const std::vector<TokenDetail>& details) {
  json::array content;
  for (const TokenDetail& detail : details) {
    json::object token = TokenJson(detail.chosen);
    json::array top;
    for (const TokenLogprob& rival : detail.top) top.push_back(TokenJson(rival));
    token["top_logprobs"] = std::move(top);
    content.push_back(std::move(token));
  }
  return content;
}

// What chat and text answers have in common.
class OpenAiWriter : public AnswerWriter {
 public:
  OpenAiWriter(AnswerShape shape, const char* whole_object, const char* chunk_object)
      : shape_(std::move(shape)), whole_object_(whole_object), chunk_object_(chunk_object) {}

  void End(const Receipt& total, std::string* events) override {
    if (shape_.include_usage) {
      json::object event = Envelope(chunk_object_);
      event["choices"] = json::array();
      event["usage"] = UsageJson(total, shape_.dollars_per_hour);
      AppendEvent(event, events);
    }
    *events += "data: [DONE]\n\n";
  }

  void Fail(const ApiError& error, std::string* events) override {
    *events += "data: " + ErrorBody(error, ErrorStyle::kOpenAi, {}) + "\n\ndata: [DONE]\n\n";
  }

  void KeepAlive(int64_t prefilled, int64_t prompt_tokens, std::string* events) override {
    *events += ProgressComment(prefilled, prompt_tokens);
  }

  ErrorStyle error_style() const override { return ErrorStyle::kOpenAi; }

 protected:
  json::object Envelope(const char* object) const {
    json::object envelope = {{"id", shape_.id},
                             {"object", object},
                             {"created", shape_.created},
                             {"model", shape_.model}};
    if (!shape_.system_fingerprint.empty()) {
      envelope["system_fingerprint"] = shape_.system_fingerprint;
    }
    return envelope;
  }

  void AppendChoice(json::object choice, std::string* events) const {
    json::object event = Envelope(chunk_object_);
    event["choices"] = json::array{std::move(choice)};
    if (shape_.include_usage) event["usage"] = nullptr;
    AppendEvent(event, events);
  }

  std::string WholeText(json::array choices, const Receipt& total) const {
    json::object whole = Envelope(whole_object_);
    whole["choices"] = std::move(choices);
    whole["usage"] = UsageJson(total, shape_.dollars_per_hour);
    return JsonText(whole);
  }

  const AnswerShape shape_;

 private:
  const char* whole_object_;
  const char* chunk_object_;
};

// --- Chat ---------------------------------------------------------------------------------------

class ChatWriter : public OpenAiWriter {
 public:
  explicit ChatWriter(AnswerShape shape)
      : OpenAiWriter(std::move(shape), "chat.completion", "chat.completion.chunk"),
        choices_(shape_.num_choices) {}

  void Add(size_t choice, Chunk chunk, std::string* events) override {
    Choice& state = choices_[choice];
    for (const ToolCallPiece& piece : chunk.tool_calls) {
      if (piece.index >= static_cast<int64_t>(state.calls.size())) {
        state.calls.resize(static_cast<size_t>(piece.index) + 1);
      }
      ToolCall& call = state.calls[static_cast<size_t>(piece.index)];
      if (call.id.empty()) call.id = RandomId("call_");
    }
    if (shape_.stream) {
      AddEvents(choice, chunk, events);
      return;
    }
    state.text += chunk.text;
    state.reasoning += chunk.reasoning;
    for (const ToolCallPiece& piece : chunk.tool_calls) {
      ToolCall& call = state.calls[static_cast<size_t>(piece.index)];
      call.name += piece.name;
      call.arguments += piece.arguments;
    }
    AppendAll(&state.details, std::move(chunk.details));
    AppendAll(&state.token_ids, std::move(chunk.token_ids));
    if (chunk.finish == FinishReason::kNone) return;
    state.finish = chunk.finish;
    state.stop = std::move(chunk.stop);
  }

  std::string Whole(const Receipt& total) override {
    json::array choices;
    for (size_t index = 0; index < choices_.size(); ++index) {
      const Choice& choice = choices_[index];
      json::object message = {{"role", "assistant"}};
      const bool silent = choice.text.empty() && !choice.calls.empty();
      message["content"] = silent ? json::value(nullptr) : json::value(choice.text);
      if (!choice.reasoning.empty()) message["reasoning_content"] = choice.reasoning;
      if (!choice.calls.empty()) {
        json::array calls;
        for (const ToolCall& call : choice.calls) {
          calls.push_back(json::object{
              {"id", call.id},
              {"type", "function"},
              {"function", json::object{{"name", call.name}, {"arguments", call.arguments}}}});
        }
        message["tool_calls"] = std::move(calls);
      }
      json::object object = {{"index", static_cast<int64_t>(index)},
                             {"message", std::move(message)},
                             {"logprobs", nullptr},
                             {"finish_reason", FinishJson(choice.finish)},
                             {"stop_reason", StopJson(choice.stop)}};
      if (shape_.logprobs) {
        object["logprobs"] = json::object{{"content", ContentLogprobs(choice.details)}};
      }
      if (shape_.return_token_ids) object["token_ids"] = json::value_from(choice.token_ids);
      choices.push_back(std::move(object));
    }
    return WholeText(std::move(choices), total);
  }

 private:
  struct Choice {
    std::string text;
    std::string reasoning;
    std::vector<ToolCall> calls;
    std::vector<TokenDetail> details;
    std::vector<int32_t> token_ids;
    FinishReason finish = FinishReason::kNone;
    std::string stop;
    bool begun = false;
    std::vector<bool> call_begun;
  };

  static json::object Delta(size_t choice, json::object delta) {
    return {{"index", static_cast<int64_t>(choice)},
            {"delta", std::move(delta)},
            {"logprobs", nullptr},
            {"finish_reason", nullptr}};
  }

  void AddEvents(size_t choice, const Chunk& chunk, std::string* events) {
    Choice& state = choices_[choice];
    const bool has_tokens = !chunk.token_ids.empty() || !chunk.text.empty() ||
                            !chunk.reasoning.empty() || !chunk.tool_calls.empty();
    if (!state.begun && (has_tokens || chunk.finish != FinishReason::kNone)) {
      state.begun = true;
      AppendChoice(Delta(choice, {{"role", "assistant"}, {"content", ""}}), events);
    }
    json::object delta;
    if (!chunk.reasoning.empty()) delta["reasoning_content"] = chunk.reasoning;
    if (!chunk.text.empty()) delta["content"] = chunk.text;
    if (!chunk.tool_calls.empty()) delta["tool_calls"] = CallPieces(&state, chunk.tool_calls);
    const bool details = shape_.logprobs && !chunk.details.empty();
    const bool tokens = shape_.return_token_ids && !chunk.token_ids.empty();
    if (!delta.empty() || details || tokens) {
      json::object object = Delta(choice, std::move(delta));
      if (details) object["logprobs"] = json::object{{"content", ContentLogprobs(chunk.details)}};
      if (shape_.return_token_ids) object["token_ids"] = json::value_from(chunk.token_ids);
      AppendChoice(std::move(object), events);
    }
    if (chunk.finish != FinishReason::kNone) {
      json::object object = Delta(choice, {});
      object["finish_reason"] = FinishJson(chunk.finish);
      object["stop_reason"] = StopJson(chunk.stop);
      AppendChoice(std::move(object), events);
    }
  }

  static json::array CallPieces(Choice* state, const std::vector<ToolCallPiece>& pieces) {
    json::array calls;
    state->call_begun.resize(state->calls.size());
    for (const ToolCallPiece& piece : pieces) {
      const size_t index = static_cast<size_t>(piece.index);
      json::object function = {{"arguments", piece.arguments}};
      json::object call = {{"index", piece.index}};
      if (!state->call_begun[index]) {
        state->call_begun[index] = true;
        call["id"] = state->calls[index].id;
        call["type"] = "function";
        function = {{"name", piece.name}, {"arguments", piece.arguments}};
      }
      call["function"] = std::move(function);
      calls.push_back(std::move(call));
    }
    return calls;
  }

  std::vector<Choice> choices_;
};

// --- Text ---------------------------------------------------------------------------------------

// The four parallel arrays of the older API.
struct TextLogprobs {
  json::array tokens;
  json::array token_logprobs;
  json::array top_logprobs;
  json::array text_offset;

  void Add(const TokenDetail& detail, int64_t* offset) {
    tokens.push_back(json::value(TokenSpelling(detail.chosen)));
    token_logprobs.push_back(std::max(detail.chosen.logprob, kLeastLogprob));
    json::object top;
    for (const TokenLogprob& rival : detail.top) {
      top[TokenSpelling(rival)] = std::max(rival.logprob, kLeastLogprob);
    }
    top_logprobs.push_back(std::move(top));
    text_offset.push_back(*offset);
    *offset += Characters(detail.chosen.bytes);
  }
  // The first token of a prompt, which nothing goes before.
  void AddFirst(const std::string& spelling) {
    tokens.push_back(json::value(spelling));
    token_logprobs.push_back(nullptr);
    top_logprobs.push_back(nullptr);
    text_offset.push_back(0);
  }
  static int64_t Characters(std::string_view bytes) {
    return std::count_if(bytes.begin(), bytes.end(),
                         [](unsigned char byte) { return (byte & 0xC0u) != 0x80u; });
  }
  json::object Json() {
    return {{"tokens", std::move(tokens)},
            {"token_logprobs", std::move(token_logprobs)},
            {"top_logprobs", std::move(top_logprobs)},
            {"text_offset", std::move(text_offset)}};
  }
};

class TextWriter : public OpenAiWriter {
 public:
  TextWriter(AnswerShape shape, std::vector<std::string> prompts)
      : OpenAiWriter(std::move(shape), "text_completion", "text_completion"),
        prompts_(std::move(prompts)),
        choices_(shape_.num_choices) {}

  void Add(size_t choice, Chunk chunk, std::string* events) override {
    Choice& state = choices_[choice];
    if (!prompts_.empty() && !state.begun) {
      // The details of the prompt may come in several chunks; its text goes before the first token.
      AppendAll(&state.prompt_details, std::move(chunk.prompt_details));
      const bool answering =
          !chunk.token_ids.empty() || !chunk.text.empty() || chunk.finish != FinishReason::kNone;
      if (!answering) return;
      Echo(choice, &chunk);
    }
    state.begun = true;
    if (shape_.stream) {
      AddEvents(choice, chunk, events);
      return;
    }
    state.text += chunk.text;
    AddLogprobs(&state, chunk, &state.logprobs);
    AppendAll(&state.token_ids, std::move(chunk.token_ids));
    if (chunk.finish == FinishReason::kNone) return;
    state.finish = chunk.finish;
    state.stop = std::move(chunk.stop);
  }

  std::string Whole(const Receipt& total) override {
    json::array choices;
    for (size_t index = 0; index < choices_.size(); ++index) {
      Choice& choice = choices_[index];
      json::object object = {{"index", static_cast<int64_t>(index)},
                             {"text", choice.text},
                             {"logprobs", nullptr},
                             {"finish_reason", FinishJson(choice.finish)},
                             {"stop_reason", StopJson(choice.stop)}};
      if (shape_.logprobs) object["logprobs"] = choice.logprobs.Json();
      if (shape_.return_token_ids) object["token_ids"] = json::value_from(choice.token_ids);
      choices.push_back(std::move(object));
    }
    return WholeText(std::move(choices), total);
  }

 private:
  struct Choice {
    std::string text;
    TextLogprobs logprobs;
    std::vector<TokenDetail> prompt_details;
    std::vector<int32_t> token_ids;
    FinishReason finish = FinishReason::kNone;
    std::string stop;
    int64_t offset = 0;  // characters before the next token
    bool begun = false;
    bool echo_first = false;
  };

  // Puts the prompt before the chunk, its details included.
  void Echo(size_t choice, Chunk* chunk) {
    Choice& state = choices_[choice];
    const std::string& prompt = prompts_[choice / static_cast<size_t>(shape_.n)];
    chunk->text = prompt + chunk->text;
    if (!shape_.logprobs) {
      state.offset = TextLogprobs::Characters(prompt);
      return;
    }
    state.echo_first = true;
    // What the details do not spell is the first token.
    int64_t spelled = 0;
    for (const TokenDetail& detail : state.prompt_details) {
      spelled += static_cast<int64_t>(detail.chosen.bytes.size());
    }
    const int64_t first = std::max<int64_t>(static_cast<int64_t>(prompt.size()) - spelled, 0);
    first_token_ = prompt.substr(0, static_cast<size_t>(first));
    AppendAll(&state.prompt_details, std::move(chunk->details));
    chunk->details = std::move(state.prompt_details);
  }

  void AddLogprobs(Choice* state, const Chunk& chunk, TextLogprobs* logprobs) {
    if (!shape_.logprobs) return;
    if (state->echo_first) {
      state->echo_first = false;
      logprobs->AddFirst(first_token_);
      state->offset = TextLogprobs::Characters(first_token_);
    }
    for (const TokenDetail& detail : chunk.details) logprobs->Add(detail, &state->offset);
  }

  void AddEvents(size_t choice, const Chunk& chunk, std::string* events) {
    const bool finished = chunk.finish != FinishReason::kNone;
    const bool tokens = shape_.return_token_ids && !chunk.token_ids.empty();
    const bool details = shape_.logprobs && !chunk.details.empty();
    if (chunk.text.empty() && !finished && !tokens && !details) return;
    json::object object = {{"index", static_cast<int64_t>(choice)},
                           {"text", chunk.text},
                           {"logprobs", nullptr},
                           {"finish_reason", FinishJson(chunk.finish)}};
    if (finished) object["stop_reason"] = StopJson(chunk.stop);
    if (details) {
      TextLogprobs logprobs;
      AddLogprobs(&choices_[choice], chunk, &logprobs);
      object["logprobs"] = logprobs.Json();
    }
    if (shape_.return_token_ids) object["token_ids"] = json::value_from(chunk.token_ids);
    AppendChoice(std::move(object), events);
  }

  const std::vector<std::string> prompts_;
  std::vector<Choice> choices_;
  std::string first_token_;
};

}  // namespace

std::string TokenSpelling(const TokenLogprob& token) {
  if (token.bytes.empty()) return fmt::format("token_id:{}", token.token_id);
  if (IsUtf8(token.bytes)) return token.bytes;
  std::string spelling = "bytes:";
  for (const unsigned char byte : token.bytes) spelling += fmt::format("\\x{:02x}", byte);
  return spelling;
}

std::unique_ptr<AnswerWriter> MakeChatWriter(AnswerShape shape) {
  return std::make_unique<ChatWriter>(std::move(shape));
}

std::unique_ptr<AnswerWriter> MakeTextWriter(AnswerShape shape, std::vector<std::string> prompts) {
  return std::make_unique<TextWriter>(std::move(shape), std::move(prompts));
}

}  // namespace winnow::server
