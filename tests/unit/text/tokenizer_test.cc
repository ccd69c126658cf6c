// Tokenizers made for one question each, and files that must be refused.
#include "text/tokenizer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>

#include "unit/text/small_tokenizer.h"

namespace winnow {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

Result<Tokenizer> Parse(const json::object& root) {
  return Tokenizer::Parse(json::serialize(root), "tokenizer.json");
}

Tokenizer Make(const std::vector<std::pair<std::string, std::string>>& merges,
               const std::vector<SmallAddedToken>& added) {
  Result<Tokenizer> tokenizer = Parse(SmallTokenizer(merges, added));
  EXPECT_TRUE(tokenizer.ok()) << tokenizer.status().message();
  return std::move(*tokenizer);
}

std::vector<int32_t> Encode(const Tokenizer& tokenizer, std::string_view text,
                            SpecialTokens special_tokens = SpecialTokens::kAsText) {
  return *tokenizer.Encode(text, special_tokens);
}

TEST(Tokenizer, MergesByRankWithinPieces) {
  const Tokenizer tokenizer = Make({{"a", "b"}, {"b", "c"}, {"ab", "c"}, {"Ġ", "abc"}}, {});
  // "bc" would merge, were "ab" not first.
  EXPECT_THAT(Encode(tokenizer, "abc"), ElementsAre(258));
  EXPECT_THAT(Encode(tokenizer, " abc"), ElementsAre(259));
  EXPECT_THAT(Encode(tokenizer, "bc"), ElementsAre(257));
  EXPECT_THAT(Encode(tokenizer, "a1b"), ElementsAre('a' - '!', '1' - '!', 'b' - '!'));
}

TEST(Tokenizer, TakesWholePiecesWhereTheModelIgnoresMerges) {
  json::object root = SmallTokenizer({{"a", "b"}, {"b", "c"}, {"a", "bc"}}, {});
  EXPECT_THAT(Encode(*Parse(root), "abc"), ElementsAre(256, 'c' - '!'));
  root["model"].as_object()["ignore_merges"] = true;
  EXPECT_THAT(Encode(*Parse(root), "abc"), ElementsAre(258));
}

TEST(Tokenizer, ReadsMergesAsPairsToo) {
  json::object root = SmallTokenizer({{"a", "b"}}, {});
  root["model"].as_object()["merges"] = json::array{json::array{"a", "b"}};
  EXPECT_THAT(Encode(*Parse(root), "ab"), ElementsAre(256));
}

TEST(Tokenizer, LeavesSpecialTokensOfATextAsTextUnlessAsked) {
  const Tokenizer tokenizer = Make({}, {{"<|u|>", true}, {"<t>", false}});
  EXPECT_THAT(Encode(tokenizer, "<t><|u|>", SpecialTokens::kRecognize), ElementsAre(257, 256));
  EXPECT_THAT(Encode(tokenizer, "<t>"), ElementsAre('<' - '!', 't' - '!', '>' - '!'));
  EXPECT_EQ(Encode(tokenizer, "<t><|u|>").size(), 8u);
}

TEST(Tokenizer, TakesTheLeftmostThenTheLongestAddedToken) {
  const Tokenizer tokenizer = Make({}, {{"<a"}, {"<a>"}, {"a><b"}});
  EXPECT_THAT(Encode(tokenizer, "<a><b", SpecialTokens::kRecognize),
              ElementsAre(257, '<' - '!', 'b' - '!'));
  EXPECT_THAT(Encode(tokenizer, "<a", SpecialTokens::kRecognize), ElementsAre(256));
}

TEST(Tokenizer, LooksForNormalizedTokensLast) {
  const Tokenizer tokenizer = Make({}, {{"<a>x>", true, true}, {"x>", true, false}});
  // The normalized token begins earlier, but the other is looked for first.
  EXPECT_EQ(Encode(tokenizer, "<a>x>", SpecialTokens::kRecognize).back(), 257);
  EXPECT_EQ(Encode(tokenizer, "<a>x>", SpecialTokens::kRecognize).size(), 4u);
}

TEST(Tokenizer, JoinsSegmentsBeforeMerging) {
  const Tokenizer tokenizer = Make({{"a", "b"}}, {{"<s>"}});
  const std::vector<PromptSegment> segments = {{"<s>a", SpecialTokens::kRecognize},
                                               {"b<s>", SpecialTokens::kAsText},
                                               {"<s>", SpecialTokens::kRecognize}};
  EXPECT_THAT(*tokenizer.Encode(segments),
              ElementsAre(257, 256, '<' - '!', 's' - '!', '>' - '!', 257));
}

TEST(Tokenizer, KeepsBytesThatAreNotUtf8) {
  const Tokenizer tokenizer = Make({}, {});
  const std::string text = "a\xFF\xC3 \xE4\xB8";
  std::string bytes;
  for (int32_t token : Encode(tokenizer, text)) bytes += tokenizer.TokenBytes(token);
  EXPECT_EQ(bytes, text);
  EXPECT_EQ(tokenizer.Decode(Encode(tokenizer, text), true), "a\uFFFD\uFFFD \uFFFD");
}

TEST(Tokenizer, DecodesSpecialTokensOnRequestAndUnknownOnesNever) {
  const Tokenizer tokenizer = Make({}, {{"<s>", true}, {"<t>", false}});
  const std::vector<int32_t> tokens = {256, 257, -1, 258, 1 << 30};
  EXPECT_EQ(tokenizer.Decode(tokens, true), "<s><t>");
  EXPECT_EQ(tokenizer.Decode(tokens, false), "<t>");
  EXPECT_EQ(tokenizer.FindToken("<t>"), 257);
  EXPECT_EQ(tokenizer.FindToken("a"), std::nullopt);
  EXPECT_TRUE(tokenizer.IsSpecial(256));
  EXPECT_FALSE(tokenizer.IsSpecial(257));
  EXPECT_EQ(tokenizer.vocab_size(), 258);
}

TEST(StreamDecoder, NeverShowsHalfACharacter) {
  const Tokenizer tokenizer = Make({}, {});
  StreamDecoder decoder(tokenizer, true);
  std::vector<std::string> shown;
  for (int32_t token : Encode(tokenizer, "é\U0001F600!")) shown.push_back(decoder.Append(token));
  EXPECT_THAT(shown, ElementsAre("", "é", "", "", "", "\U0001F600", "!"));
  EXPECT_THAT(decoder.Flush(), IsEmpty());
}

TEST(Tokenizer, GivesTheSameTokensForAPieceItRemembers) {
  const Tokenizer tokenizer = Make({{"a", "b"}}, {});
  // Long enough for pieces to be remembered.
  std::string text;
  std::vector<int32_t> expected;
  for (int round = 0; round < 3000; ++round) {
    text += "ab1c";
    expected.insert(expected.end(), {256, '1' - '!', 'c' - '!'});
  }
  EXPECT_EQ(Encode(tokenizer, text), expected);
}

struct Refusal {
  const char* name;
  std::function<void(json::object& root)> change;
  StatusCode code;
  const char* message;
};

class TokenizerRefuses : public testing::TestWithParam<Refusal> {};

TEST_P(TokenizerRefuses, NamingTheField) {
  json::object root = SmallTokenizer({{"a", "b"}}, {{"<s>"}});
  GetParam().change(root);
  const Result<Tokenizer> tokenizer = Parse(root);
  ASSERT_FALSE(tokenizer.ok());
  EXPECT_EQ(tokenizer.error().code(), GetParam().code) << tokenizer.error().message();
  EXPECT_THAT(tokenizer.error().message(), HasSubstr(GetParam().message));
}

json::object& Model(json::object& root) { return root["model"].as_object(); }
json::object& Vocab(json::object& root) { return Model(root)["vocab"].as_object(); }
json::object& Added(json::object& root) { return root["added_tokens"].as_array()[0].as_object(); }

INSTANTIATE_TEST_SUITE_P(
    Tokenizer, TokenizerRefuses,
    testing::Values(
        Refusal{"Normalizer",
                [](json::object& root) {
                  root["normalizer"] = {{"type", "NFC"}};
                },
                StatusCode::kUnsupported, "tokenizer.json: normalizer: "},
        Refusal{"NoPreTokenizer", [](json::object& root) { root.erase("pre_tokenizer"); },
                StatusCode::kUnsupported, "no pre_tokenizer"},
        Refusal{"Decoder",
                [](json::object& root) {
                  root["decoder"] = {{"type", "WordPiece"}};
                },
                StatusCode::kUnsupported, "tokenizer.json: decoder: "},
        Refusal{"NoModel", [](json::object& root) { root.erase("model"); }, StatusCode::kCorrupt,
                "no object model"},
        Refusal{"Unigram", [](json::object& root) { Model(root)["type"] = "Unigram"; },
                StatusCode::kUnsupported, "model.type"},
        Refusal{"ByteFallback", [](json::object& root) { Model(root)["byte_fallback"] = true; },
                StatusCode::kUnsupported, "model.byte_fallback: true, expected false"},
        Refusal{"Dropout", [](json::object& root) { Model(root)["dropout"] = 0.1; },
                StatusCode::kUnsupported, "model.dropout"},
        Refusal{"Suffix", [](json::object& root) { Model(root)["end_of_word_suffix"] = "</w>"; },
                StatusCode::kUnsupported, "model.end_of_word_suffix"},
        Refusal{"MissingByte", [](json::object& root) { Vocab(root).erase("Ġ"); },
                StatusCode::kUnsupported, "for byte 0x20"},
        Refusal{"NegativeId", [](json::object& root) { Vocab(root)["a"] = -1; },
                StatusCode::kCorrupt, "model.vocab: \"a\""},
        Refusal{"HugeId", [](json::object& root) { Vocab(root)["zz"] = 2000000000; },
                StatusCode::kUnsupported, "id 2000000000 of \"zz\", expected less than"},
        Refusal{"SharedId", [](json::object& root) { Vocab(root)["zz"] = 5; }, StatusCode::kCorrupt,
                "belongs to another token too"},
        Refusal{"UnknownHalf",
                [](json::object& root) { Model(root)["merges"] = json::array{"a qq"}; },
                StatusCode::kCorrupt, "model.merges[0]: \"qq\" is not in model.vocab"},
        Refusal{"UnknownWhole",
                [](json::object& root) { Model(root)["merges"] = json::array{"b a"}; },
                StatusCode::kCorrupt, "model.merges[0]: \"ba\" is not in model.vocab"},
        Refusal{"ThreeParts",
                [](json::object& root) { Model(root)["merges"] = json::array{"a b c"}; },
                StatusCode::kCorrupt, "model.merges[0]: "},
        Refusal{"EmptyHalf", [](json::object& root) { Model(root)["merges"] = json::array{"a "}; },
                StatusCode::kCorrupt, "model.merges[0]: \"\" is not in model.vocab"},
        Refusal{"SingleWord", [](json::object& root) { Added(root)["single_word"] = true; },
                StatusCode::kUnsupported, "added_tokens[0].single_word: true for \"<s>\""},
        Refusal{"EmptyAdded", [](json::object& root) { Added(root)["content"] = ""; },
                StatusCode::kCorrupt, "added_tokens[0].content"},
        Refusal{"AddedTakesAnId", [](json::object& root) { Added(root)["id"] = 3; },
                StatusCode::kCorrupt, "added_tokens[0]: id 3"},
        Refusal{"AddedContradictsVocab",
                [](json::object& root) {
                  Added(root)["content"] = "a";
                  Added(root)["id"] = 300;
                },
                StatusCode::kCorrupt, "as in model.vocab"},
        Refusal{"AddedTwice",
                [](json::object& root) {
                  const json::value again = root["added_tokens"].as_array()[0];
                  root["added_tokens"].as_array().push_back(again);
                },
                StatusCode::kCorrupt, "added_tokens[1]: "}),
    [](const testing::TestParamInfo<Refusal>& info) { return info.param.name; });

TEST(Tokenizer, RefusesWhatIsNotJson) {
  EXPECT_EQ(Tokenizer::Parse("{", "tokenizer.json").error().code(), StatusCode::kCorrupt);
  EXPECT_EQ(Tokenizer::Parse("[]", "tokenizer.json").error().code(), StatusCode::kCorrupt);
  EXPECT_EQ(Tokenizer::Load("/nonexistent/tokenizer.json").error().code(), StatusCode::kNotFound);
}

}  // namespace
}  // namespace winnow
