// From messages to the prompt that a model was trained on.
//
// Three families: the template of DeepSeek V3.1 (also V3.2-Exp), the encoder of DeepSeek V3.2, and
// the templates of GLM-5. A prompt is a list of segments: what the format itself writes, in which
// role tokens and tags are recognised, and what users, tools and models wrote, in which they are
// plain text.
#pragma once

#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "text/tokenizer.h"
#include "winnow/status.h"
#include "winnow/types.h"

namespace winnow {

struct ChatMessage {
  std::string role;  // system, user, assistant, tool; developer in V3.2 only
  std::string content;
  std::optional<std::string> reasoning_content;  // of an assistant
  std::vector<ToolCall> tool_calls;              // of an assistant
  std::string tool_call_id;                      // of a tool; not rendered
  bool prefix = false;  // V3.1: an assistant message that begins in thinking
  // V3.2, of a system or developer message: an array of tools in the form of the OpenAI API, and
  // the JSON of the schema that the answer must follow. Empty for none.
  std::string tools_json;
  std::string response_format_json;
};

struct ChatOptions {
  bool thinking = false;
  // V3.2: leave out reasoning and developer messages before the last user or developer message.
  bool drop_thinking = true;
  // Ends the prompt where the assistant's answer begins. In V3.2 every user message ends so anyway.
  bool add_generation_prompt = true;
  // An array of tools in the form of the OpenAI API, empty for none. In V3.2 they go to the first
  // system message, which is made if missing. V3.1 has no place for tools: kUnsupported.
  std::string tools_json;
  std::string reasoning_effort;        // GLM-5.2: "high", or anything else for the most
  std::optional<bool> clear_thinking;  // GLM: false keeps the reasoning of earlier turns
};

enum class ChatFormat { kDeepSeekV31, kDeepSeekV32, kGlm, kGlmWithEffort };

// The fixed prose of a format. It is not part of Winnow: it is read from the checkpoint's own files
// and recognised by its digest. An error is reported when a prompt needs the text.
struct ChatProse {
  Result<std::string> tools_before = Unsupported("no text");  // in front of the list of tools
  Result<std::string> tools_after = Unsupported("no text");
  Result<std::string> response_format = Unsupported("no text");  // "{schema}" stands for the schema
};

// Immutable after loading.
class ChatTemplate {
 public:
  // Chooses the format for the checkpoint in the folder `model_dir`: by `model_type` of its
  // config.json (deepseek_v32 or glm_moe_dsa, else kUnsupported), by the tokens of its tokenizer,
  // and by the files encoding/encoding_dsv32.py and chat_template.jinja. kUnsupported if the
  // tokenizer lacks a token that every prompt of the format needs.
  static Result<ChatTemplate> Load(const std::string& model_dir, std::string_view model_type,
                                   const Tokenizer& tokenizer);

  ChatTemplate(ChatFormat format, ChatProse prose) : format_(format), prose_(std::move(prose)) {}

  ChatFormat format() const { return format_; }

  // The prompt. kInvalidArgument for conversations that the format cannot say.
  Result<std::vector<PromptSegment>> Render(std::span<const ChatMessage> messages,
                                            const ChatOptions& options) const;

  // The prompt's tokens.
  Result<std::vector<int32_t>> Encode(const Tokenizer& tokenizer,
                                      std::span<const ChatMessage> messages,
                                      const ChatOptions& options) const;

 private:
  ChatFormat format_;
  ChatProse prose_;
};

}  // namespace winnow
