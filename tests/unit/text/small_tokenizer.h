// A tokenizer.json of the 256 bytes and whatever a test adds.
#pragma once

#include <string>
#include <vector>

#include "base/json.h"
#include "text/unicode.h"

namespace winnow {

struct SmallAddedToken {
  std::string content;
  bool special = true;
  bool normalized = false;
};

// Ids: bytes in the order of the alphabet (those that print first, '!' is 0), then the results of
// `merges`, then `added`.
inline json::object SmallTokenizer(const std::vector<std::pair<std::string, std::string>>& merges,
                                   const std::vector<SmallAddedToken>& added) {
  json::object vocab;
  const auto add = [&vocab](std::string_view content) { vocab[content] = vocab.size(); };
  for (uint32_t character = 0x21; character < 0x100; ++character) {
    if (character >= 0x7F && (character < 0xA1 || character == 0xAD)) continue;
    std::string text;
    AppendUtf8(character, text);
    add(text);
  }
  for (uint32_t character = 0x100; character < 0x144; ++character) {
    std::string text;
    AppendUtf8(character, text);
    add(text);
  }
  json::array merge_list;
  for (const auto& [left, right] : merges) {
    add(left + right);
    merge_list.emplace_back(left + " " + right);
  }
  json::array added_list;
  for (const SmallAddedToken& token : added) {
    added_list.emplace_back(json::object{{"id", vocab.size() + added_list.size()},
                                         {"content", token.content},
                                         {"special", token.special},
                                         {"normalized", token.normalized},
                                         {"lstrip", false},
                                         {"rstrip", false},
                                         {"single_word", false}});
  }
  constexpr std::string_view kSplits = R"({"type":"Sequence","pretokenizers":[
      {"type":"Split","pattern":{"Regex":"(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"},
       "behavior":"Isolated","invert":false},
      {"type":"ByteLevel","add_prefix_space":false,"trim_offsets":true,"use_regex":false}]})";
  json::object root;
  root["added_tokens"] = added_list;
  root["normalizer"] = nullptr;
  root["pre_tokenizer"] = json::parse({kSplits.data(), kSplits.size()});
  root["decoder"] = json::object{{"type", "ByteLevel"}};
  root["model"] =
      json::object{{"type", "BPE"},          {"dropout", nullptr}, {"byte_fallback", false},
                   {"ignore_merges", false}, {"vocab", vocab},     {"merges", merge_list}};
  return root;
}

}  // namespace winnow
