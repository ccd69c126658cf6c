#include <vector>

#include "base/text.h"
#include "server/anthropic.h"
#include "server/json_text.h"
#include "server/receipt_json.h"

namespace winnow::server {
namespace {

void AppendNamedEvent(const char* name, const json::object& event, std::string* events) {
  *events += fmt::format("event: {}\ndata: {}\n\n", name, JsonText(event));
}

json::object MessagesUsage(const Receipt& receipt, std::optional<double> dollars_per_hour) {
  // What was found in the cache is not part of input_tokens there.
  return {{"input_tokens", receipt.prompt_tokens - receipt.cached_tokens},
          {"cache_creation_input_tokens", 0},
          {"cache_read_input_tokens", receipt.cached_tokens},
          {"output_tokens", receipt.completion_tokens},
          {"winnow", ReceiptJson(receipt, dollars_per_hour)}};
}

// A message is a list of blocks: reasoning, text, calls. In a stream one is open at a time.
class MessagesWriter : public AnswerWriter {
 public:
  explicit MessagesWriter(AnswerShape shape) : shape_(std::move(shape)) {}

  void Add(size_t, Chunk chunk, std::string* events) override {
    if (shape_.stream && !begun_ && chunk.prompt_tokens > 0) Begin(chunk, events);
    AddText(Kind::kThinking, chunk.reasoning, events);
    AddText(Kind::kText, chunk.text, events);
    for (const ToolCallPiece& piece : chunk.tool_calls) AddCall(piece, events);
    if (chunk.finish == FinishReason::kNone) return;
    finish_ = chunk.finish;
    stop_ = std::move(chunk.stop);
  }

  void End(const Receipt& total, std::string* events) override {
    if (!begun_) Begin(Chunk{.prompt_tokens = total.prompt_tokens, .receipt = total}, events);
    CloseBlock(events);
    AppendNamedEvent(
        "message_delta",
        {{"type", "message_delta"},
         {"delta", json::object{{"stop_reason", StopReason()}, {"stop_sequence", StopSequence()}}},
         {"usage", MessagesUsage(total, shape_.dollars_per_hour)}},
        events);
    AppendNamedEvent("message_stop", TypeOnly("message_stop"), events);
  }

  std::string Whole(const Receipt& total) override {
    json::object message = Envelope();
    json::array content;
    for (const Block& block : blocks_) content.push_back(BlockJson(block));
    message["content"] = std::move(content);
    message["stop_reason"] = StopReason();
    message["stop_sequence"] = StopSequence();
    message["usage"] = MessagesUsage(total, shape_.dollars_per_hour);
    return JsonText(message);
  }

  void Fail(const ApiError& error, std::string* events) override {
    *events +=
        fmt::format("event: error\ndata: {}\n\n", ErrorBody(error, ErrorStyle::kAnthropic, {}));
  }

  void KeepAlive(int64_t prefilled, int64_t prompt_tokens, std::string* events) override {
    *events += ProgressComment(prefilled, prompt_tokens);
    if (begun_) AppendNamedEvent("ping", TypeOnly("ping"), events);
  }

  ErrorStyle error_style() const override { return ErrorStyle::kAnthropic; }

 private:
  enum class Kind { kThinking, kText, kCall };
  struct Block {
    Kind kind = Kind::kText;
    std::string text;  // or the arguments of a call
    std::string id;
    std::string name;
    int64_t call = -1;
  };

  static json::object TypeOnly(const char* type) {
    json::object object;
    object["type"] = type;
    return object;
  }

  json::object Envelope() const {
    return {{"id", shape_.id},         {"type", "message"},        {"role", "assistant"},
            {"model", shape_.model},   {"content", json::array()}, {"stop_reason", nullptr},
            {"stop_sequence", nullptr}};
  }

  const char* StopReason() const {
    switch (finish_) {
      case FinishReason::kLength:
        return "max_tokens";
      case FinishReason::kToolCalls:
        return "tool_use";
      default:
        return stop_.empty() ? "end_turn" : "stop_sequence";
    }
  }

  json::value StopSequence() const {
    return finish_ == FinishReason::kStop && !stop_.empty() ? json::value(stop_)
                                                            : json::value(nullptr);
  }

  static json::object BlockJson(const Block& block) {
    switch (block.kind) {
      case Kind::kThinking:
        return {{"type", "thinking"}, {"thinking", block.text}, {"signature", ""}};
      case Kind::kText:
        return {{"type", "text"}, {"text", block.text}};
      case Kind::kCall:
        break;
    }
    const auto input = ParseJson(block.text.empty() ? "{}" : block.text, "arguments");
    return {{"type", "tool_use"},
            {"id", block.id},
            {"name", block.name},
            {"input", input.ok() && input->is_object() ? *input : json::value(json::object())}};
  }

  void Begin(const Chunk& chunk, std::string* events) {
    begun_ = true;
    Receipt receipt = chunk.receipt;
    receipt.prompt_tokens = chunk.prompt_tokens;
    receipt.completion_tokens = 0;
    json::object message = Envelope();
    message["usage"] = json::object{{"input_tokens", receipt.prompt_tokens - receipt.cached_tokens},
                                    {"cache_creation_input_tokens", 0},
                                    {"cache_read_input_tokens", receipt.cached_tokens},
                                    {"output_tokens", 0}};
    AppendNamedEvent("message_start", {{"type", "message_start"}, {"message", std::move(message)}},
                     events);
  }

  // The block that pieces of this kind go to.
  Block& Open(Kind kind, int64_t call, const std::string& name, std::string* events) {
    if (open_ && blocks_.back().kind == kind && blocks_.back().call == call) return blocks_.back();
    CloseBlock(events);
    Block block{.kind = kind, .name = name, .call = call};
    if (kind == Kind::kCall) block.id = RandomId("toolu_");
    blocks_.push_back(std::move(block));
    open_ = true;
    if (shape_.stream) {
      AppendNamedEvent("content_block_start",
                       {{"type", "content_block_start"},
                        {"index", Index()},
                        {"content_block", BlockJson(blocks_.back())}},
                       events);
    }
    return blocks_.back();
  }

  void CloseBlock(std::string* events) {
    if (!open_) return;
    open_ = false;
    if (!shape_.stream) return;
    if (blocks_.back().kind == Kind::kThinking) {
      // SDKs wait for one; nobody can check it.
      AppendDelta({{"type", "signature_delta"}, {"signature", ""}}, events);
    }
    AppendNamedEvent("content_block_stop", {{"type", "content_block_stop"}, {"index", Index()}},
                     events);
  }

  int64_t Index() const { return static_cast<int64_t>(blocks_.size()) - 1; }

  void AppendDelta(json::object delta, std::string* events) const {
    AppendNamedEvent(
        "content_block_delta",
        {{"type", "content_block_delta"}, {"index", Index()}, {"delta", std::move(delta)}}, events);
  }

  void AddText(Kind kind, const std::string& text, std::string* events) {
    if (text.empty()) return;
    Block& block = Open(kind, -1, {}, events);
    if (!shape_.stream) {
      block.text += text;
    } else if (kind == Kind::kThinking) {
      AppendDelta({{"type", "thinking_delta"}, {"thinking", text}}, events);
    } else {
      AppendDelta({{"type", "text_delta"}, {"text", text}}, events);
    }
  }

  void AddCall(const ToolCallPiece& piece, std::string* events) {
    Block& block = Open(Kind::kCall, piece.index, piece.name, events);
    if (!shape_.stream) {
      block.text += piece.arguments;
    } else if (!piece.arguments.empty()) {
      AppendDelta({{"type", "input_json_delta"}, {"partial_json", piece.arguments}}, events);
    }
  }

  const AnswerShape shape_;
  std::vector<Block> blocks_;
  bool open_ = false;  // the last block
  bool begun_ = false;
  FinishReason finish_ = FinishReason::kNone;
  std::string stop_;  // the text of stop_sequences that was met
};

}  // namespace

std::unique_ptr<AnswerWriter> MakeMessagesWriter(AnswerShape shape) {
  return std::make_unique<MessagesWriter>(std::move(shape));
}

}  // namespace winnow::server
