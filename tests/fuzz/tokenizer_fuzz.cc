// Fuzzing tokenizers. The input up to its first NUL is taken for a tokenizer.json; whatever is
// accepted, and two tokenizers made here, then encode the whole input and give its bytes back.
#include <cstdlib>
#include <string>

#include "base/check.h"
#include "base/json.h"
#include "text/tokenizer.h"

namespace {

using namespace winnow;

// A tokenizer of the 256 bytes, some merges, and two added tokens, with the split of `expressions`.
Tokenizer MakeTokenizer(const json::array& expressions) {
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
  json::array merges;
  for (const auto& [left, right] : {std::pair("a", "a"),
                                    {"aa", "a"},
                                    {"Ġ", "a"},
                                    {"aa", "aa"},
                                    {"Ã", "©"},
                                    {"a", "b"},
                                    {"ab", "aa"},
                                    {"Ċ", "Ċ"}}) {
    vocab[std::string(left) + right] = vocab.size();
    merges.emplace_back(json::array{left, right});
  }
  json::array added;
  for (const char* content : {"<s>", "<s><"}) {
    added.emplace_back(json::object{{"id", vocab.size() + added.size()},
                                    {"content", content},
                                    {"special", true},
                                    {"normalized", false},
                                    {"lstrip", false},
                                    {"rstrip", false},
                                    {"single_word", false}});
  }
  json::array steps;
  for (const json::value& expression : expressions) {
    steps.emplace_back(json::object{{"type", "Split"},
                                    {"pattern", {{"Regex", expression}}},
                                    {"behavior", "Isolated"},
                                    {"invert", false}});
  }
  steps.emplace_back(
      json::object{{"type", "ByteLevel"}, {"add_prefix_space", false}, {"use_regex", false}});
  const json::object root = {{"added_tokens", added},
                             {"pre_tokenizer", {{"type", "Sequence"}, {"pretokenizers", steps}}},
                             {"decoder", {{"type", "ByteLevel"}}},
                             {"model", {{"type", "BPE"}, {"vocab", vocab}, {"merges", merges}}}};
  Result<Tokenizer> tokenizer = Tokenizer::Parse(json::serialize(root), "fuzz");
  WINNOW_CHECK(tokenizer.ok(), tokenizer.status().message());
  return std::move(*tokenizer);
}

const char* const kEnd = R"(|\s*[\r\n]+|\s+(?!\S)|\s+)";

const Tokenizer& DeepSeekTokenizer() {
  static const Tokenizer tokenizer =
      MakeTokenizer({R"(\p{N}{1,3})", "[一-龥\u3040-ゟ゠-ヿ]+",
                     std::string(R"([!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|)"
                                 R"([^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*)") +
                         kEnd});
  return tokenizer;
}

const Tokenizer& GlmTokenizer() {
  static const Tokenizer tokenizer =
      MakeTokenizer({std::string("(?i:'s|'t|'re|'ve|'m|'ll|'d)") +
                     R"(|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*)" + kEnd});
  return tokenizer;
}

// Tokens spell the text they come from, and decode alike at once and one by one.
void CheckRoundTrip(const Tokenizer& tokenizer, std::string_view text, bool is_exact) {
  for (SpecialTokens policy : {SpecialTokens::kAsText, SpecialTokens::kRecognize}) {
    const Result<std::vector<int32_t>> tokens = tokenizer.Encode(text, policy);
    WINNOW_CHECK(tokens.ok(), "short texts encode");
    std::string bytes;
    std::string streamed;
    StreamDecoder decoder(tokenizer, /*keep_special=*/true);
    for (int32_t token : *tokens) {
      bytes += tokenizer.TokenBytes(token);
      streamed += decoder.Append(token);
    }
    streamed += decoder.Flush();
    // A hostile file may give an added token bytes that differ from how it is written.
    if (is_exact) WINNOW_CHECK(bytes == text, "tokens do not spell their text");
    WINNOW_CHECK(streamed == tokenizer.Decode(*tokens, true), "streams decode differently");
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view input(reinterpret_cast<const char*>(data), size);
  const Result<Tokenizer> parsed = Tokenizer::Parse(input.substr(0, input.find('\0')), "fuzz");
  if (parsed.ok()) CheckRoundTrip(*parsed, input, /*is_exact=*/false);
  CheckRoundTrip(DeepSeekTokenizer(), input, /*is_exact=*/true);
  CheckRoundTrip(GlmTokenizer(), input, /*is_exact=*/true);
  return 0;
}
