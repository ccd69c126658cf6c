// Takes an answer apart as it comes: reasoning, content, calls of tools.
//
// Families write calls like this:
//   V3.1  <｜tool▁calls▁begin｜><｜tool▁call▁begin｜>NAME<｜tool▁sep｜>JSON<｜tool▁call▁end｜>…
//         <｜tool▁calls▁end｜>
//   V3.2  two line ends, then <｜DSML｜function_calls>, and on lines of their own
//         <｜DSML｜invoke name="NAME">, for each argument
//         <｜DSML｜parameter name="KEY" string="true|false">VALUE</｜DSML｜parameter>,
//         </｜DSML｜invoke> and, behind the last call, </｜DSML｜function_calls>
//   GLM   <tool_call>NAME<arg_key>KEY</arg_key><arg_value>VALUE</arg_value>…</tool_call>
#pragma once

#include <set>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "text/argument_kinds.h"
#include "text/call_tags.h"
#include "text/chat_template.h"
#include "winnow/types.h"

namespace winnow {

// Whether prompts of the format can list tools.
bool RendersTools(ChatFormat format);

// Whether an answer to `prompt` begins with reasoning: the prompt ends in <think>.
bool BeginsInReasoning(std::span<const PromptSegment> prompt);

struct AnswerPiece {
  std::string text;
  std::string reasoning;
  std::vector<ToolCallPiece> tool_calls;
};

struct AnswerParserOptions {
  ChatFormat format = ChatFormat::kDeepSeekV31;
  bool in_reasoning = false;    // the answer begins with reasoning and ends it with </think>
  bool tool_calls = false;      // look for calls; otherwise they are text
  std::string_view tools_json;  // says which arguments of GLM are strings; need not live on
};

// One for each stream. However the answer is cut into pieces, what comes out is the same once it is
// joined. Text that may yet turn out to be a tag is held back; memory is bounded by 1 MiB for a
// value and 1024 names of arguments.
//
// A call is told as soon as its first argument, or its end, is in sight. A V3.1 call is told when
// it is whole. Arguments marked as strings come as they are spoken, other values when they are
// whole; a value that should be JSON and is not becomes a string, and so does an argument of GLM
// unless the tool's schema knows it under another type. What breaks the form before a call is told
// is text, to the letter; what breaks it later closes the arguments, and the rest is text.
class AnswerParser {
 public:
  explicit AnswerParser(const AnswerParserOptions& options);

  // The next piece of the decoded answer, tokens such as </think> kept as text, without the token
  // that ends it.
  AnswerPiece Append(std::string_view text);

  // The end of the answer. What was held back comes out. If a call is under way, its arguments
  // stay without an end, and what is cut off of its tags is dropped.
  AnswerPiece Flush();

  bool in_reasoning() const { return state_ == State::kReasoning; }
  int64_t num_calls() const { return num_calls_; }  // told so far

 private:
  enum class State {
    kReasoning,
    kContent,
    kOpening,    // pending_ begins with what may be the first call
    kBlock,      // behind a call, within the tags around all
    kArguments,  // behind an argument
    kText,       // in an argument that is a string
    kValue,      // in an argument that may be something else, kept in value_
    kWholeCall,  // in the arguments of V3.1, kept in value_
  };

  bool Advance(AnswerPiece& piece);
  bool ScanReasoning(AnswerPiece& piece);
  bool ScanContent(AnswerPiece& piece);
  bool ReadOpening(AnswerPiece& piece);
  bool ReadBlock(AnswerPiece& piece);
  bool ReadArguments(AnswerPiece& piece);
  bool ScanText(AnswerPiece& piece);
  bool ScanValue(AnswerPiece& piece);
  bool ScanWholeCall(AnswerPiece& piece);
  void BeginCall(const CallHead& head, AnswerPiece& piece);
  bool BeginArgument(const CallHead& head, AnswerPiece& piece);
  void EndCall(AnswerPiece& piece);
  void TellCall(std::string_view arguments, AnswerPiece& piece);
  void TellArguments(std::string_view arguments, AnswerPiece& piece);
  std::string Take(size_t length);
  size_t DecidedLength(std::string_view tag, size_t& found) const;

  ChatFormat format_;
  bool finds_calls_;
  ArgumentKinds kinds_;
  State state_;
  std::string pending_;  // not decided on
  int64_t num_calls_ = 0;
  bool told_in_block_ = false;  // a call within the tags around all
  std::string name_;            // of the call under way
  std::set<std::string> keys_;  // of its arguments
  std::string key_;             // of the argument under way
  ArgumentKind kind_ = ArgumentKind::kString;
  std::string value_;
  std::string verbatim_;  // of V3.1: the call up to value_
};

}  // namespace winnow
