// Reading a tokenizer.json: what each field may say, and the tables made from it.

#include "base/check.h"
#include "base/file.h"
#include "base/json.h"
#include "base/text.h"
#include "text/tokenizer.h"

namespace winnow {
namespace {

constexpr int64_t kLargestFile = int64_t{128} << 20;
constexpr int32_t kMostTokens = 1 << 20;  // bounds what one huge id can allocate

// The byte-level alphabet writes each byte as one character: those that print in Latin-1 as
// themselves, the other 68 as U+0100, U+0101, …
constexpr int kAlphabetEnd = 256 + 68;

struct ByteAlphabet {
  std::array<uint32_t, 256> character_of;
  std::array<int, kAlphabetEnd> byte_of;

  ByteAlphabet() {
    byte_of.fill(-1);
    uint32_t next = 256;
    for (int byte = 0; byte < 256; ++byte) {
      const bool prints =
          (byte >= 0x21 && byte <= 0x7E) || (byte >= 0xA1 && byte <= 0xAC) || byte >= 0xAE;
      character_of[byte] = prints ? byte : next++;
      byte_of[character_of[byte]] = byte;
    }
  }
};

const ByteAlphabet& Alphabet() {
  static const ByteAlphabet alphabet;
  return alphabet;
}

// The bytes that `content` spells in the alphabet; its own bytes if it has other characters.
std::string BytesOf(std::string_view content) {
  std::string bytes;
  size_t position = 0;
  while (position < content.size()) {
    const Character character = CharacterAt(content, position);
    if (character.code_point >= kAlphabetEnd) return std::string(content);
    const int byte = Alphabet().byte_of[character.code_point];
    if (byte < 0) return std::string(content);
    bytes += static_cast<char>(byte);
    position += character.length;
  }
  return bytes;
}

bool IsTrue(const json::object& object, std::string_view name) {
  const json::value* value = object.if_contains(name);
  return value != nullptr && value->is_bool() && value->get_bool();
}

bool HasType(const json::object& object, std::string_view type) {
  const json::value* value = object.if_contains("type");
  return value != nullptr && value->is_string() && value->get_string() == type;
}

bool IsNullOrAbsent(const json::value* value) { return value == nullptr || value->is_null(); }

}  // namespace

// The steps of Tokenizer::Parse, in order.
class TokenizerParser {
 public:
  explicit TokenizerParser(std::string_view what) : what_(what) {}

  Result<Tokenizer> Parse(std::string_view json_text);

 private:
  Status CheckNormalizer(const json::object& root) const;
  Status CheckDecoder(const json::object& root) const;
  Status CheckModel(const json::object& model) const;
  Status ReadVocab(const json::object& model);
  Status ReadByteTokens();
  Status ReadMerges(const json::object& model);
  Result<std::pair<std::string, std::string>> ReadPair(const json::value& merge,
                                                       size_t index) const;
  Status ReadAddedTokens(const json::object& root);
  Status AddToken(int32_t id, std::string_view content, const std::string& field);

  std::string what_;
  Tokenizer tokenizer_;
  std::unordered_map<std::string, int32_t> vocab_;
};

Result<Tokenizer> TokenizerParser::Parse(std::string_view json_text) {
  WINNOW_ASSIGN(const json::value root_value, ParseJson(json_text, what_));
  const json::object* root = root_value.if_object();
  if (root == nullptr) {
    return Corrupt(fmt::format("{}: {}, expected an object", what_, JsonKindName(root_value)));
  }
  WINNOW_TRY(CheckNormalizer(*root));
  WINNOW_TRY(CheckDecoder(*root));
  const json::value* pre_tokenizer = root->if_contains("pre_tokenizer");
  if (pre_tokenizer == nullptr) {
    return Unsupported(fmt::format("{}: no pre_tokenizer, expected one", what_));
  }
  WINNOW_ASSIGN(tokenizer_.split_pattern_, ParsePreTokenizer(*pre_tokenizer, what_));

  const json::value* model = root->if_contains("model");
  if (model == nullptr || !model->is_object()) {
    return Corrupt(fmt::format("{}: no object model, expected one", what_));
  }
  WINNOW_TRY(CheckModel(model->get_object()));
  WINNOW_TRY(ReadVocab(model->get_object()));
  WINNOW_TRY(ReadByteTokens());
  WINNOW_TRY(ReadMerges(model->get_object()));
  if (IsTrue(model->get_object(), "ignore_merges")) {
    for (const auto& [content, id] : vocab_) tokenizer_.whole_pieces_[BytesOf(content)] = id;
  }
  WINNOW_TRY(ReadAddedTokens(*root));
  for (const Tokenizer::Token& token : tokenizer_.tokens_) {
    tokenizer_.longest_token_ = std::max(tokenizer_.longest_token_, token.bytes.size());
  }
  return std::move(tokenizer_);
}

Status TokenizerParser::CheckNormalizer(const json::object& root) const {
  const json::value* normalizer = root.if_contains("normalizer");
  if (IsNullOrAbsent(normalizer)) return OkStatus();
  if (normalizer->is_object() && HasType(normalizer->get_object(), "Sequence")) {
    const json::value* steps = normalizer->get_object().if_contains("normalizers");
    if (steps != nullptr && steps->is_array() && steps->get_array().empty()) return OkStatus();
  }
  return Unsupported(fmt::format("{}: normalizer: {}, expected null or an empty Sequence", what_,
                                 Quoted(json::serialize(*normalizer))));
}

Status TokenizerParser::CheckDecoder(const json::object& root) const {
  const json::value* decoder = root.if_contains("decoder");
  if (decoder != nullptr && decoder->is_object() && HasType(decoder->get_object(), "ByteLevel")) {
    return OkStatus();
  }
  return Unsupported(
      fmt::format("{}: decoder: {}, expected a ByteLevel", what_,
                  decoder == nullptr ? "nothing" : Quoted(json::serialize(*decoder))));
}

Status TokenizerParser::CheckModel(const json::object& model) const {
  if (!HasType(model, "BPE")) {
    return Unsupported(fmt::format("{}: model.type: expected \"BPE\"", what_));
  }
  if (IsTrue(model, "byte_fallback")) {
    return Unsupported(fmt::format("{}: model.byte_fallback: true, expected false", what_));
  }
  const json::value* dropout = model.if_contains("dropout");
  if (!IsNullOrAbsent(dropout) && *dropout != 0) {
    return Unsupported(fmt::format("{}: model.dropout: {}, expected null", what_,
                                   Quoted(json::serialize(*dropout))));
  }
  for (const char* name : {"continuing_subword_prefix", "end_of_word_suffix"}) {
    const json::value* affix = model.if_contains(name);
    if (!IsNullOrAbsent(affix) && *affix != "") {
      return Unsupported(fmt::format("{}: model.{}: {}, expected null", what_, name,
                                     Quoted(json::serialize(*affix))));
    }
  }
  return OkStatus();
}

Status TokenizerParser::AddToken(int32_t id, std::string_view content, const std::string& field) {
  if (id >= kMostTokens) {
    return Unsupported(fmt::format("{}: id {} of {}, expected less than {}", field, id,
                                   Quoted(content), kMostTokens));
  }
  if (id >= tokenizer_.vocab_size()) tokenizer_.tokens_.resize(id + 1);
  Tokenizer::Token& token = tokenizer_.tokens_[id];
  if (token.known) {
    return Corrupt(
        fmt::format("{}: id {} of {} belongs to another token too", field, id, Quoted(content)));
  }
  token = {BytesOf(content), true, false};
  return OkStatus();
}

Status TokenizerParser::ReadVocab(const json::object& model) {
  const std::string field = what_ + ": model.vocab";
  const json::value* vocab = model.if_contains("vocab");
  if (vocab == nullptr || !vocab->is_object()) {
    return Corrupt(fmt::format("{}: expected an object of ids", field));
  }
  vocab_.reserve(vocab->get_object().size());
  for (const auto& member : vocab->get_object()) {
    const int64_t* id = member.value().if_int64();
    if (id == nullptr || *id < 0 || *id > INT32_MAX) {
      return Corrupt(fmt::format("{}: {}: expected an integer from 0 to {}", field,
                                 Quoted(member.key()), INT32_MAX));
    }
    WINNOW_TRY(AddToken(static_cast<int32_t>(*id), member.key(), field));
    vocab_.emplace(member.key(), static_cast<int32_t>(*id));
  }
  return OkStatus();
}

Status TokenizerParser::ReadByteTokens() {
  for (int byte = 0; byte < 256; ++byte) {
    std::string character;
    AppendUtf8(Alphabet().character_of[byte], character);
    const auto token = vocab_.find(character);
    if (token == vocab_.end()) {
      return Unsupported(
          fmt::format("{}: model.vocab: no token {} for byte 0x{:02x}, expected all 256 bytes",
                      what_, Quoted(character), byte));
    }
    tokenizer_.byte_tokens_[byte] = token->second;
  }
  return OkStatus();
}

// The two halves of one merge: "a b" or ["a", "b"].
Result<std::pair<std::string, std::string>> TokenizerParser::ReadPair(const json::value& merge,
                                                                      size_t index) const {
  if (const json::string* joined = merge.if_string()) {
    const std::string_view text(joined->data(), joined->size());
    const size_t space = text.find(' ');
    if (space != std::string_view::npos && text.find(' ', space + 1) == std::string_view::npos) {
      return std::pair(std::string(text.substr(0, space)), std::string(text.substr(space + 1)));
    }
  } else if (const json::array* pair = merge.if_array()) {
    if (pair->size() == 2 && (*pair)[0].is_string() && (*pair)[1].is_string()) {
      return std::pair(std::string((*pair)[0].get_string()), std::string((*pair)[1].get_string()));
    }
  }
  return Corrupt(fmt::format("{}: model.merges[{}]: {}, expected \"a b\" or [\"a\", \"b\"]", what_,
                             index, Quoted(json::serialize(merge))));
}

Status TokenizerParser::ReadMerges(const json::object& model) {
  const json::value* merges = model.if_contains("merges");
  if (merges == nullptr || !merges->is_array() || merges->get_array().size() > INT32_MAX) {
    return Corrupt(fmt::format("{}: model.merges: expected an array", what_));
  }
  const json::array& array = merges->get_array();
  tokenizer_.merges_ = MergeTable(array.size());
  for (size_t index = 0; index < array.size(); ++index) {
    WINNOW_ASSIGN(const auto pair, ReadPair(array[index], index));
    const auto find = [&](const std::string& content) -> Result<int32_t> {
      const auto token = vocab_.find(content);
      if (content.empty() || token == vocab_.end()) {
        return Corrupt(fmt::format("{}: model.merges[{}]: {} is not in model.vocab", what_, index,
                                   Quoted(content)));
      }
      return token->second;
    };
    WINNOW_ASSIGN(const int32_t left, find(pair.first));
    WINNOW_ASSIGN(const int32_t right, find(pair.second));
    WINNOW_ASSIGN(const int32_t joined, find(pair.first + pair.second));
    tokenizer_.merges_.Insert(left, right, {static_cast<int32_t>(index), joined});
  }
  return OkStatus();
}

Status TokenizerParser::ReadAddedTokens(const json::object& root) {
  const json::value* added = root.if_contains("added_tokens");
  if (IsNullOrAbsent(added)) return OkStatus();
  if (!added->is_array()) return Corrupt(fmt::format("{}: added_tokens: expected an array", what_));
  std::vector<AddedToken> plain;
  std::vector<AddedToken> normalized;
  const json::array& array = added->get_array();
  for (size_t index = 0; index < array.size(); ++index) {
    const std::string field = fmt::format("{}: added_tokens[{}]", what_, index);
    WINNOW_ASSIGN(AddedToken token, ParseAddedToken(array[index], field));
    const auto in_vocab = vocab_.find(token.content);
    if (in_vocab == vocab_.end()) {
      WINNOW_TRY(AddToken(token.id, token.content, field));
    } else if (in_vocab->second != token.id) {
      return Corrupt(fmt::format("{}: id {} of {}, expected {} as in model.vocab", field, token.id,
                                 Quoted(token.content), in_vocab->second));
    }
    if (!tokenizer_.added_tokens_.emplace(token.content, token.id).second) {
      return Corrupt(fmt::format("{}: {} appears twice", field, Quoted(token.content)));
    }
    tokenizer_.tokens_[token.id].special = token.special;
    (token.normalized ? normalized : plain).push_back(std::move(token));
  }
  tokenizer_.matchers_ = {AddedTokenMatcher(std::move(plain)),
                          AddedTokenMatcher(std::move(normalized))};
  return OkStatus();
}

Result<Tokenizer> Tokenizer::Parse(std::string_view json_text, std::string_view what) {
  return TokenizerParser(what).Parse(json_text);
}

Result<Tokenizer> Tokenizer::Load(const std::string& path) {
  WINNOW_ASSIGN(const std::string text, ReadFile(path, kLargestFile));
  return Parse(text, FileName(path));
}

}  // namespace winnow
