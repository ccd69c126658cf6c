// Fuzzing constrained answers. The input up to its first NUL is a schema, and a list of tools, and
// a pattern; what follows chooses the tokens of an answer. No answer may run into a dead end, and a
// complete one is JSON.
#include <string>
#include <vector>

#include "base/check.h"
#include "base/json.h"
#include "text/answer_constraint.h"
#include "text/answer_parser.h"

namespace {

using namespace winnow;

// The 256 bytes, pieces that cross the parts of JSON, and markers.
const std::shared_ptr<const TokenTrie>& Tokens() {
  static const std::shared_ptr<const TokenTrie> trie = [] {
    json::object vocab;
    const auto add = [&vocab](uint32_t character) {
      std::string text;
      AppendUtf8(character, text);
      vocab[text] = vocab.size();
    };
    for (uint32_t character = 0x21; character < 0x100; ++character) {
      if (character < 0x7F || (character > 0xA0 && character != 0xAD)) add(character);
    }
    for (uint32_t character = 0x100; character < 0x144; ++character) add(character);
    for (const char* piece :
         {"\",\"", "\":", "{\"", "}}", "]}", "\\\"", "12", "true", "aÃ", "¼\""}) {
      vocab[piece] = vocab.size();
    }
    json::array added;
    for (const char* content : {"<end>", "｜DSML｜", "<tool_call>", "</tool_call>", "<arg_key>",
                                "</arg_key>", "<arg_value>", "</arg_value>"}) {
      added.emplace_back(json::object{{"id", vocab.size() + added.size()},
                                      {"content", content},
                                      {"special", true},
                                      {"normalized", false},
                                      {"lstrip", false},
                                      {"rstrip", false},
                                      {"single_word", false}});
    }
    const char* kSplits =
        R"([{"type":"Split","pattern":{"Regex":"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"},"behavior":"Isolated","invert":false},{"type":"ByteLevel","add_prefix_space":false,"use_regex":false}])";
    const json::object root = {
        {"added_tokens", added},
        {"pre_tokenizer", {{"type", "Sequence"}, {"pretokenizers", json::parse(kSplits)}}},
        {"decoder", {{"type", "ByteLevel"}}},
        {"model", {{"type", "BPE"}, {"vocab", vocab}, {"merges", json::array()}}}};
    const Result<Tokenizer> tokenizer = Tokenizer::Parse(json::serialize(root), "fuzz");
    WINNOW_CHECK(tokenizer.ok(), tokenizer.status().message());
    return std::make_shared<const TokenTrie>(*tokenizer);
  }();
  return trie;
}

// Follows `choices`; the text of the answer if it became complete.
std::optional<std::string> Answer(const std::shared_ptr<const AnswerGrammar>& grammar,
                                  std::string_view choices) {
  AnswerConstraint constraint(grammar, Tokens());
  std::vector<float> logits;
  std::string text;
  for (uint8_t choice : choices.substr(0, 80)) {
    logits.assign(Tokens()->vocab_size(), 0.0f);
    constraint.Mask(logits, {});
    std::vector<int32_t> allowed;
    for (size_t token = 0; token < logits.size(); ++token) {
      if (logits[token] == 0.0f) allowed.push_back(static_cast<int32_t>(token));
    }
    WINNOW_CHECK(constraint.finished() == (allowed.empty() && constraint.complete()), "finished");
    WINNOW_CHECK(!allowed.empty() || constraint.complete(), "a dead end");
    if (allowed.empty()) return text;
    const int32_t token = allowed[choice * allowed.size() / 256];
    WINNOW_CHECK(constraint.Accept(token), "a token that was allowed is not taken");
    std::string_view spelling = Tokens()->Spelling(token);
    if (spelling[0] == kMarkerByte) spelling.remove_prefix(1);
    text += spelling;
  }
  if (!constraint.complete()) return std::nullopt;
  return text;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view input(reinterpret_cast<const char*>(data), size);
  const std::string source(input.substr(0, input.find('\0')));
  const std::string_view choices = input.substr(std::min(input.size(), source.size() + 1));
  const std::string pattern = json::serialize(json::object{{"pattern", json::string(source)}});
  for (const std::string& schema : {source, pattern}) {
    const Result<std::shared_ptr<const AnswerGrammar>> grammar =
        AnswerGrammar::ForJsonSchema(schema);
    if (!grammar.ok()) continue;
    const std::optional<std::string> answer = Answer(*grammar, choices);
    boost::json::error_code error;
    if (answer) json::parse(*answer, error);
    WINNOW_CHECK(!error, "an answer that is no JSON");
  }
  for (ChatFormat format : {ChatFormat::kDeepSeekV31, ChatFormat::kDeepSeekV32, ChatFormat::kGlm}) {
    const Result<std::shared_ptr<const AnswerGrammar>> grammar =
        AnswerGrammar::ForToolCalls(format, source, "", *Tokens());
    if (!grammar.ok()) continue;
    const std::optional<std::string> answer = Answer(*grammar, choices);
    if (!answer) continue;
    AnswerParser parser({.format = format, .tool_calls = true, .tools_json = source});
    AnswerPiece piece = parser.Append(*answer);
    WINNOW_CHECK(piece.text.empty() && parser.Flush().text.empty(), "a call that is not read");
    WINNOW_CHECK(!piece.tool_calls.empty(), "a call that is not read");
  }
  return 0;
}
