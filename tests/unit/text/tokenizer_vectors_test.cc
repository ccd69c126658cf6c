// Parity with Hugging Face tokenizers, on vectors that tools/make_tokenizer_vectors.py made.
#include <gtest/gtest.h>

#include <string>

#include "base/json.h"
#include "base/text.h"
#include "text/tokenizer.h"

namespace winnow {
namespace {

constexpr uint32_t kBlock = 4096;      // code points under one hash
constexpr uint32_t kTextPoints = 256;  // code points in one text

std::string Path(const std::string& path) { return WINNOW_SOURCE_DIR "/" + path; }

uint64_t Hash(const std::vector<int32_t>& tokens, uint64_t hash = 0xCBF29CE484222325) {
  for (int32_t token : tokens) {
    for (int shift = 0; shift < 32; shift += 8) {
      hash = (hash ^ (static_cast<uint32_t>(token) >> shift & 0xFF)) * 0x100000001B3;
    }
  }
  return hash;
}

std::string Hex(uint64_t hash) { return fmt::format("{:016x}", hash); }

struct VectorModel {
  const char* name;
  const char* tokenizer;
  const char* vectors;
};

class TokenizerVectors : public testing::TestWithParam<VectorModel> {
 protected:
  void SetUp() override {
    Result<Tokenizer> tokenizer = Tokenizer::Load(Path(GetParam().tokenizer));
    ASSERT_TRUE(tokenizer.ok()) << tokenizer.error().message();
    tokenizer_.emplace(std::move(*tokenizer));
    Result<json::value> vectors = ReadJsonFile(Path(GetParam().vectors), 1 << 20);
    ASSERT_TRUE(vectors.ok()) << vectors.error().message();
    vectors_ = std::move(*vectors);
  }

  // The vectors of one kind; never empty.
  const json::array& Vectors(const char* kind) {
    const json::array& vectors = vectors_.as_object().at(kind).as_array();
    EXPECT_FALSE(vectors.empty());
    return vectors;
  }

  std::vector<int32_t> Encode(std::string_view text, SpecialTokens special_tokens) {
    return *tokenizer_->Encode(text, special_tokens);
  }

  std::optional<Tokenizer> tokenizer_;
  json::value vectors_;
};

TEST_P(TokenizerVectors, EncodesTexts) {
  for (const json::value& vector : Vectors("cases")) {
    const std::string text(vector.at("text").as_string());
    EXPECT_EQ(Encode(text, SpecialTokens::kRecognize),
              json::value_to<std::vector<int32_t>>(vector.at("recognize")))
        << text;
    EXPECT_EQ(Encode(text, SpecialTokens::kAsText),
              json::value_to<std::vector<int32_t>>(vector.at("as_text")))
        << text;
  }
}

TEST_P(TokenizerVectors, EncodesEveryCodePoint) {
  for (const json::value& vector : Vectors("code_points")) {
    const std::string surrounding(vector.at("surrounding").as_string());
    const json::array& hashes = vector.at("hashes").as_array();
    ASSERT_EQ(hashes.size(), 0x110000 / kBlock);
    for (uint32_t block = 0; block < hashes.size(); ++block) {
      uint64_t hash = Hash({});
      for (uint32_t first = block * kBlock; first < (block + 1) * kBlock; first += kTextPoints) {
        std::string text;
        for (uint32_t code_point = first; code_point < first + kTextPoints; ++code_point) {
          if (code_point >= 0xD800 && code_point < 0xE000) continue;
          if (code_point > first) text += '\0';
          for (size_t at = 0; at < surrounding.size(); ++at) {
            if (surrounding.compare(at, 2, "{}") == 0) {
              AppendUtf8(code_point, text);
              ++at;
            } else {
              text += surrounding[at];
            }
          }
        }
        hash = Hash(Encode(text, SpecialTokens::kAsText), hash);
      }
      EXPECT_EQ(Hex(hash), hashes[block].as_string())
          << surrounding << " from code point " << block * kBlock;
    }
  }
}

TEST_P(TokenizerVectors, EncodesLongRuns) {
  for (const json::value& vector : Vectors("runs")) {
    std::string text;
    for (int64_t count = vector.at("count").as_int64(); count > 0; --count) {
      text += std::string_view(vector.at("unit").as_string());
    }
    const std::vector<int32_t> tokens = Encode(text, SpecialTokens::kAsText);
    EXPECT_EQ(static_cast<int64_t>(tokens.size()), vector.at("tokens").as_int64());
    EXPECT_EQ(Hex(Hash(tokens)), vector.at("hash").as_string()) << vector.at("unit").as_string();
    EXPECT_EQ(tokenizer_->Decode(tokens, true), text);
  }
}

TEST_P(TokenizerVectors, DecodesWholeAndInStreams) {
  for (const json::value& vector : Vectors("decodings")) {
    const auto tokens = json::value_to<std::vector<int32_t>>(vector.at("tokens"));
    EXPECT_EQ(tokenizer_->Decode(tokens, true), vector.at("kept").as_string());
    EXPECT_EQ(tokenizer_->Decode(tokens, false), vector.at("skipped").as_string());
  }
}

INSTANTIATE_TEST_SUITE_P(
    HuggingFace, TokenizerVectors,
    testing::Values(VectorModel{"Nano", "models/winnow-nano/tokenizer.json",
                                "tests/unit/text/data/nano_vectors.json"},
                    VectorModel{"Glm", "tests/unit/text/data/glm_tokenizer.json",
                                "tests/unit/text/data/glm_vectors.json"}),
    [](const testing::TestParamInfo<VectorModel>& info) { return info.param.name; });

}  // namespace
}  // namespace winnow
