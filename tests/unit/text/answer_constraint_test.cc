// Constrained answers, against a checker of schemas that knows nothing of grammars
// (schema_checker.h) and against Boost.JSON's parser. Tokens are those of the model in models/, and
// small vocabularies made here.
#include "text/answer_constraint.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "text/answer_parser.h"
#include "unit/text/schema_checker.h"
#include "unit/text/small_tokenizer.h"

namespace winnow {
namespace {

using testing::HasSubstr;

using Grammar = std::shared_ptr<const AnswerGrammar>;
using Trie = std::shared_ptr<const TokenTrie>;

constexpr int32_t kEnd = 1;  // of the nano model
constexpr float kNever = -std::numeric_limits<float>::infinity();

const Trie& Nano() {
  static const Trie trie = std::make_shared<const TokenTrie>(
      Tokenizer::Load(WINNOW_SOURCE_DIR "/models/winnow-nano/tokenizer.json").value());
  return trie;
}

// Bytes, pieces of JSON that cross its parts, and what calls are marked with; ids 0 to 255 are
// bytes.
const Trie& Small() {
  static const Trie trie = [] {
    const std::vector<std::pair<std::string, std::string>> merges = {
        {"\"", ","}, {"\",", "\""}, {"\"", ":"},  {"{", "\""}, {"}", "}"},  {"a", "b"}, {"\"", "}"},
        {"1", "2"},  {"12", ","},   {"\\", "\""}, {"\\", "n"}, {"Ġ", "Ġ"},  {"Ċ", "Ġ"}, {"[", "["},
        {"]", ","},  {"Ã", "¼"},    {"¼", "\""},  {"t", "r"},  {"\"", "]"}, {"a", "Ã"}};
    const std::vector<SmallAddedToken> added = {
        {"<end>"},        {"<think>"},   {"</think>"},   {"｜DSML｜"},    {"<tool_call>"},
        {"</tool_call>"}, {"<arg_key>"}, {"</arg_key>"}, {"<arg_value>"}, {"</arg_value>"}};
    const json::object tokenizer = SmallTokenizer(merges, added);
    return std::make_shared<const TokenTrie>(
        Tokenizer::Parse(json::serialize(tokenizer), "small").value());
  }();
  return trie;
}

Grammar Schema(std::string_view schema) { return AnswerGrammar::ForJsonSchema(schema).value(); }
Grammar JsonObject() { return AnswerGrammar::ForJsonObject().value(); }

// The tokens that spell a beginning of `text`. Markers are spelled kMarkerByte and their content.
std::vector<int32_t> TokensOf(const TokenTrie& trie, std::string_view text) {
  std::vector<int32_t> tokens;
  int32_t node = 0;
  for (char byte : text) {
    int32_t child = node + 1;
    while (child < trie.nodes()[node].end &&
           trie.nodes()[child].byte != static_cast<uint8_t>(byte)) {
      child = trie.nodes()[child].end;
    }
    if (child >= trie.nodes()[node].end) break;
    node = child;
    for (int32_t token : trie.TokensAt(node)) tokens.push_back(token);
  }
  return tokens;
}

bool MayCome(AnswerConstraint& constraint, const TokenTrie& trie, int32_t token) {
  std::vector<float> logits(trie.vocab_size(), 0.0f);
  constraint.Mask(logits, {});
  return logits[token] == 0.0f;
}

// Whether the grammar allows `text` as a whole, cut into tokens at random.
bool Allows(const Grammar& grammar, const Trie& trie, std::string_view text, Random& random) {
  AnswerConstraint constraint(grammar, trie);
  while (!text.empty()) {
    const std::vector<int32_t> tokens = TokensOf(*trie, text);
    const int32_t token = tokens.at(random() % tokens.size());
    const bool may_come = random() % 8 == 0 ? MayCome(constraint, *trie, token) : true;
    const bool came = constraint.Accept(token);
    EXPECT_TRUE(may_come || !came);
    if (!came) return false;
    text.remove_prefix(trie->Spelling(token).size());
  }
  return constraint.complete();
}
bool Allows(const Grammar& grammar, std::string_view text) {
  Random random(1);
  bool allows = Allows(grammar, Nano(), text, random);
  EXPECT_EQ(Allows(grammar, Small(), text, random), allows) << text;
  return allows;
}

// An answer of tokens drawn at random from those that may come. Towards the end what closes things
// is preferred. Empty if it was not complete in time.
std::string Walk(const Grammar& grammar, const Trie& trie, int seed, int32_t end = kEnd) {
  Random random(seed);
  AnswerConstraint constraint(grammar, trie);
  std::string text;
  std::vector<float> logits(trie->vocab_size() + 7);
  for (int step = 0; step < 600; ++step) {
    for (float& logit : logits) logit = static_cast<float>(random() % 1024) / 1024;
    if (step > 30) {
      for (char byte : std::string_view("\"}]<")) {
        for (int32_t token : TokensOf(*trie, std::string(1, byte))) logits[token] += 1.0f;
      }
    }
    constraint.Mask(logits, std::span(&end, 1));
    EXPECT_EQ(logits[end] > kNever, constraint.complete());
    EXPECT_EQ(logits.back(), kNever);
    const auto best = std::max_element(logits.begin(), logits.end());
    if (*best == kNever) {
      ADD_FAILURE() << "no token may follow " << text;
      return {};
    }
    const int32_t token = static_cast<int32_t>(best - logits.begin());
    if (token == end) {
      EXPECT_TRUE(constraint.complete());
      return text;
    }
    EXPECT_FALSE(constraint.finished()) << text;
    EXPECT_TRUE(constraint.Accept(token)) << text;
    std::string_view spelling = trie->Spelling(token);
    if (spelling[0] == kMarkerByte) spelling.remove_prefix(1);
    text += spelling;
  }
  return {};
}

// Schemas whose objects say what other members they have, so that grammar and checker agree on all
// values in the order of `properties`.
const std::vector<std::string> kSchemas = {
    R"({})",
    R"({"type":"string"})",
    R"({"type":["integer","null"]})",
    R"({"type":"number"})",
    R"({"enum":["a","ab","a/b",1,null,[1],{"a":1}]})",
    R"({"const":"ü"})",
    R"({"type":"string","minLength":1,"maxLength":2})",
    R"({"type":"string","minLength":2})",
    R"({"type":"string","maxLength":0})",
    R"({"type":"integer","minimum":-7,"maximum":12})",
    R"({"type":"integer","exclusiveMinimum":0.5,"exclusiveMaximum":9})",
    R"({"type":"number","minimum":-3,"maximum":2})",
    R"({"type":"number","exclusiveMinimum":-2,"exclusiveMaximum":0})",
    R"({"type":"number","exclusiveMinimum":0})",
    R"({"type":"array","items":{"type":"integer"}})",
    R"({"type":"array","items":{"type":"integer"},"minItems":1,"maxItems":2})",
    R"({"type":"array","minItems":2})",
    R"({"type":"array","items":{"type":"string"},"maxItems":0})",
    R"({"type":"array","prefixItems":[{"type":"integer"},{"type":"string"}],"items":false})",
    R"({"type":"array","prefixItems":[{"type":"integer"}],"items":{"type":"null"},"minItems":1})",
    R"({"type":"array","prefixItems":[{},{}],"items":{"type":"string"},"minItems":1,"maxItems":3})",
    R"({"type":"object","additionalProperties":true})",
    R"({"type":"object","additionalProperties":{"type":"integer"}})",
    R"({"type":"object","properties":{"a":{"type":"integer"},"b":{"type":"string"},"c":{}},
        "required":["b"],"additionalProperties":false})",
    R"({"type":"object","properties":{"a":{"type":"integer"},"b":{"type":"string"}},
        "required":["a","b"],"additionalProperties":{"type":"null"}})",
    R"({"type":"object","properties":{"a":{"const":1},"c":{"enum":["ab",2]}},
        "additionalProperties":true})",
    R"({"type":"object","properties":{},"additionalProperties":false})",
    R"({"anyOf":[{"type":"integer","maximum":3},{"type":"string","maxLength":1},{"enum":["ab"]}]})",
    R"({"anyOf":[{"type":"object","properties":{"a":{"const":1},"b":{"type":"string"}},
                  "required":["a","b"],"additionalProperties":false},
                 {"type":"object","properties":{"a":{"type":"integer"},"b":{"type":"integer"}},
                  "required":["a"],"additionalProperties":false}]})",
    R"({"oneOf":[{"type":"array","items":{"type":"integer"}},{"type":"array","items":{"type":"null"},
        "maxItems":2}]})",
    R"({"allOf":[{"$ref":"#/$defs/n"}],"description":"d","$defs":{"n":{"type":"integer"}}})",
    R"({"type":"object","allOf":[{"properties":{"a":{"type":"integer"}},"required":["a"]},
        {"properties":{"b":{"type":"null"}},"required":["b"]}],
        "additionalProperties":true})",
    R"({"$ref":"#/$defs/t","$defs":{"t":{"type":"object","properties":{"a":{"type":"integer"},
        "b":{"anyOf":[{"$ref":"#/$defs/t"},{"type":"null"}]}},"required":["a","b"],
        "additionalProperties":false}}})",
    R"({"type":"array","items":{"anyOf":[{"$ref":"#"},{"type":"integer"}]}})",
    R"({"type":"string","pattern":"^a?b*$"})",
    R"({"type":"string","pattern":"b","maxLength":2})",
    R"({"type":["string","object"],"minLength":3,"properties":{"a":{"type":"null"}},
        "additionalProperties":false})"};

TEST(AnswerConstraint, AllowsWhatSatisfiesTheSchemaAndNothingElse) {
  Random random(3);
  int64_t num_satisfied = 0;
  int64_t num_refused = 0;
  for (const std::string& text : kSchemas) {
    const json::value schema = json::parse(text);
    const Result<Grammar> grammar = AnswerGrammar::ForJsonSchema(text);
    ASSERT_TRUE(grammar.ok()) << grammar.error().message();
    for (int round = 0; round < 250; ++round) {
      const json::value value =
          round % 3 == 0 ? RandomValue(random, 3) : LikelyValue(random, schema, schema, 6);
      const bool satisfies = Satisfies(value, schema, schema);
      (satisfies ? num_satisfied : num_refused) += 1;
      const Trie& trie = round % 2 == 0 ? Nano() : Small();
      EXPECT_EQ(Allows(*grammar, trie, Spelled(value), random), satisfies) << text << "\n"
                                                                           << Spelled(value);
    }
  }
  EXPECT_GT(num_satisfied, 3000);
  EXPECT_GT(num_refused, 2000);
}

TEST(AnswerConstraint, LeadsRandomTokensToValuesThatSatisfyTheSchema) {
  std::vector<std::string> schemas = kSchemas;
  schemas.insert(
      schemas.end(),
      {R"({"type":"string","pattern":"^[a-c]{2,3}-\\d+(x|yz)$"})",
       R"({"type":"string","pattern":"[0-9]{3}","maxLength":5})",
       R"({"type":"object","properties":{"n\"<\\":{"type":"boolean"},"ü":{"type":"string"}},
           "required":["ü"],"additionalProperties":false})"});
  int64_t num_complete = 0;
  int64_t num_walks = 0;
  for (const std::string& text : schemas) {
    const json::value schema = json::parse(text);
    const Grammar grammar = Schema(text);
    for (int seed = 0; seed < 8; ++seed) {
      const std::string answer = Walk(grammar, Nano(), seed);
      ++num_walks;
      if (answer.empty()) continue;
      ++num_complete;
      boost::json::error_code error;
      const json::value value = json::parse(answer, error);
      ASSERT_FALSE(error) << answer;
      EXPECT_TRUE(Satisfies(value, schema, schema)) << text << "\n" << answer;
    }
  }
  EXPECT_GT(num_complete, num_walks * 3 / 4);
}

TEST(AnswerConstraint, LeadsRandomTokensToObjects) {
  for (int seed = 0; seed < 30; ++seed) {
    const std::string answer = Walk(JsonObject(), Nano(), seed);
    if (answer.empty()) continue;
    boost::json::error_code error;
    EXPECT_TRUE(json::parse(answer, error).is_object()) << answer;
  }
}

// For each token of a vocabulary, at each step of a document.
TEST(AnswerConstraint, MasksExactlyTheTokensItDoesNotTake) {
  const Grammar grammars[] = {
      JsonObject(), Schema(R"({"type":"object","properties":{"a":{"type":"string","maxLength":3},
              "b":{"type":"array","items":{"anyOf":[{"type":"string","pattern":"^a?ü"},
              {"type":"number"}]},"maxItems":2}},"additionalProperties":{"type":"integer"}})"),
      Schema(R"({"anyOf":[{"type":"array","items":{"type":"string","maxLength":2}},
              {"type":"array","items":{"type":"string","minLength":1}}]})")};
  const char* const documents[] = {R"({"a":"aü\n", "b":["üa", 12 ],"ab":12})", "[\"ab\",\"aü\"]"};
  Random random(5);
  int64_t num_allowed = 0;
  for (const Grammar& grammar : grammars) {
    for (const char* document : documents) {
      AnswerConstraint constraint(grammar, Small());
      for (std::string_view rest = document; !rest.empty();) {
        std::vector<float> logits(Small()->vocab_size());
        constraint.Mask(logits, {});
        for (int32_t token = 0; token < Small()->vocab_size(); ++token) {
          AnswerConstraint copy = constraint;
          const bool takes = copy.Accept(token);
          EXPECT_EQ(logits[token] == 0.0f, takes) << rest << " token " << Small()->Spelling(token);
          num_allowed += takes;
        }
        const std::vector<int32_t> tokens = TokensOf(*Small(), rest);
        const int32_t token = tokens[random() % tokens.size()];
        if (!constraint.Accept(token)) break;
        rest.remove_prefix(Small()->Spelling(token).size());
      }
    }
  }
  EXPECT_GT(num_allowed, 1000);
}

TEST(AnswerConstraint, AllowsTheCharactersOfUnicodeAndNoOtherBytes) {
  const Grammar grammar = Schema(R"({"type":"string"})");
  Random random(1);
  const auto allows = [&](const std::string& text) { return Allows(grammar, "\"" + text + "\""); };
  for (uint32_t code_point :
       {0x20u, 0x7Fu, 0x80u, 0x7FFu, 0x800u, 0xFFFu, 0x1000u, 0xD7FFu, 0xE000u, 0xFFFFu, 0x10000u,
        0x3FFFFu, 0x40000u, 0xFFFFFu, 0x100000u, 0x10FFFFu}) {
    std::string text;
    AppendUtf8(code_point, text);
    EXPECT_TRUE(allows(text)) << code_point;
  }
  for (const char* bytes : {"\x80", "\xC0\x80", "\xC1\xBF", "\xC3", "\xE0\x9F\xBF", "\xED\xA0\x80",
                            "\xED\xBF\xBF", "\xF0\x8F\xBF\xBF", "\xF4\x90\x80\x80", "\x1F", "\n"}) {
    // Bytes that no UTF-8 has are no tokens of a constraint, those of others are.
    AnswerConstraint constraint(grammar, Nano());
    bool takes = constraint.Accept(TokensOf(*Nano(), "\"").front());
    for (const char* byte = bytes; *byte != 0 && takes; ++byte) {
      const std::vector<int32_t> tokens = TokensOf(*Nano(), std::string(1, *byte));
      takes = !tokens.empty() && constraint.Accept(tokens.front());
    }
    EXPECT_FALSE(takes && constraint.Accept(TokensOf(*Nano(), "\"").front())) << bytes;
  }
  for (const char* escape : {"\\n", "\\/", "\\u0000", "\\uD7ff", "\\uE000", "\\ud83D\\uDE00"}) {
    EXPECT_TRUE(allows(escape)) << escape;
  }
  for (const char* escape : {"\\x", "\\u12", "\\u123g", "\\uD800", "\\uDC00", "\\uD83D\\uD83D",
                             "\\uD83D\\n", "\\uD83Dx"}) {
    EXPECT_FALSE(allows(escape)) << escape;
  }
}

TEST(AnswerConstraint, CountsCharactersAndNotBytes) {
  const Grammar grammar = Schema(R"({"type":"string","minLength":2,"maxLength":3})");
  EXPECT_FALSE(Allows(grammar, "\"ü\""));
  EXPECT_TRUE(Allows(grammar, "\"ü😀\\n\""));
  EXPECT_TRUE(Allows(grammar, "\"\\ud83d\\ude00ab\""));
  EXPECT_FALSE(Allows(grammar, "\"\\ud83d\\ude00abc\""));
}

TEST(AnswerConstraint, KeepsToDaysThatThereAre) {
  const Grammar grammar = Schema(R"({"type":"string","format":"date"})");
  const int days[] = {31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31};
  for (int year : {0, 1, 4, 96, 100, 400, 1900, 1970, 2000, 2023, 2024, 2100, 6699, 9996, 9999}) {
    const bool leap = (year % 4 == 0 && year % 100 != 0) || year % 400 == 0;
    for (int month = 0; month <= 13; ++month) {
      for (int day : {0, 1, 9, 10, 28, 29, 30, 31, 32}) {
        const bool is_there = year > 0 && month >= 1 && month <= 12 && day >= 1 &&
                              day <= days[month - 1] + (month == 2 && leap ? 1 : 0);
        const std::string date = fmt::format("\"{:04}-{:02}-{:02}\"", year, month, day);
        EXPECT_EQ(Allows(grammar, date), is_there) << date;
      }
    }
  }
}

TEST(AnswerConstraint, ExcludesBoundsAsDoublesReadThem) {
  struct Case {
    const char* schema;
    const char* number;
    bool allowed;
  };
  const Case cases[] = {
      {R"({"type":"number","minimum":-8,"exclusiveMaximum":-7})", "-7.0000000000000000001", false},
      {R"({"type":"number","minimum":-8,"exclusiveMaximum":-7})", "-7.0000000000000001", false},
      {R"({"type":"number","minimum":-8,"exclusiveMaximum":-7})", "-7.00000000000001", true},
      {R"({"type":"number","minimum":0,"exclusiveMaximum":7})", "6.9999999999999999", false},
      {R"({"type":"number","minimum":0,"exclusiveMaximum":7})", "6.99999999999999", true},
      {R"({"type":"number","minimum":0,"exclusiveMaximum":7})", "5.999999999999999999", true},
      {R"({"type":"number","exclusiveMinimum":0})", "0.000000000000000001", true},
      {R"({"type":"number","exclusiveMinimum":6,"exclusiveMaximum":7})", "6.0000000000000001",
       false},
      {R"({"type":"number","exclusiveMinimum":6,"exclusiveMaximum":7})", "6.5", true},
      {R"({"type":"number","exclusiveMinimum":123456789012345678})", "123456789012345678.1",
       false}};
  for (const Case& one : cases) {
    EXPECT_EQ(Allows(Schema(one.schema), one.number), one.allowed) << one.schema << one.number;
  }
}

TEST(AnswerConstraint, RefusesWhatItCannotKeep) {
  for (const char* schema : {R"({"type":"string","format":"date","pattern":"^2"})",
                             R"({"allOf":[{"type":"string","format":"uuid"},{"pattern":"^a"}]})",
                             R"({"type":"integer","minimum":1000000000000000000})",
                             R"({"type":"integer","exclusiveMaximum":-1000000000000000000})"}) {
    const Result<Grammar> grammar = AnswerGrammar::ForJsonSchema(schema);
    ASSERT_FALSE(grammar.ok()) << schema;
    EXPECT_EQ(grammar.error().message().find("contradicts"), std::string::npos) << schema;
  }
  EXPECT_TRUE(
      AnswerGrammar::ForJsonSchema(R"({"type":"string","format":"email","pattern":"^2"})").ok());
}

// Each item has an outer frame of its own count; those left behind are forgotten.
TEST(AnswerConstraint, CountsFarIntoLongArrays) {
  const Grammar grammar = Schema(
      R"({"type":"array","items":{"type":"array","items":{"enum":[[],12]}},"maxItems":6000})");
  for (int64_t count : {5999, 6000, 6001}) {
    std::string text;
    for (int64_t item = 0; item < count; ++item) text += item % 3 == 0 ? ",[12, []]" : ",[[],12]";
    text[0] = '[';
    Random random(static_cast<uint32_t>(count));
    EXPECT_EQ(Allows(grammar, Small(), text + "]", random), count <= 6000);
  }
}

TEST(AnswerConstraint, BoundsSpace) {
  EXPECT_TRUE(Allows(JsonObject(), "{\n  \"a\": [\n    1,\n    2\n  ], \"b\":{}\n}"));
  EXPECT_TRUE(Allows(JsonObject(), "{\n\t\"a\": 1\n}"));
  for (const char* text : {" {}", "{} ", "{\n\n}", "{  \"a\":1}", "{\"a\" :1}", "{\"a\":\n1}",
                           "{\"a\":  1}", "{\"a\":1 ,\"b\":1}", "[]", ""}) {
    EXPECT_FALSE(Allows(JsonObject(), text)) << text;
  }
  // Whoever says nothing but space gets nowhere.
  AnswerConstraint constraint(JsonObject(), Nano());
  ASSERT_TRUE(constraint.Accept(TokensOf(*Nano(), "{").front()));
  int64_t num_spaces = 0;
  for (bool takes = true; takes && num_spaces < 100;) {
    takes = false;
    for (char space : std::string_view(" \n\t\r")) {
      if (takes) break;
      takes = constraint.Accept(TokensOf(*Nano(), std::string(1, space)).front());
    }
    num_spaces += takes;
  }
  EXPECT_LE(num_spaces, 33);
}

TEST(AnswerConstraint, BoundsNumbers) {
  const Grammar grammar = Schema(R"({"type":"number"})");
  const std::string digits = "123456789012345678";
  EXPECT_TRUE(Allows(grammar, "-" + digits + "." + digits + "e-99"));
  EXPECT_FALSE(Allows(grammar, digits + "9"));
  EXPECT_FALSE(Allows(grammar, "0." + digits + "9"));
  for (const char* text : {"01", "+1", ".5", "1.", "1e", "1e999", "-", "1.e1", "0x1", "NaN"}) {
    EXPECT_FALSE(Allows(grammar, text)) << text;
  }
}

// Every integer in reach against every pair of bounds.
TEST(AnswerConstraint, KeepsIntegersWithinBounds) {
  for (const auto& [min, max] : {std::pair(0, 0),
                                 {-1, 1},
                                 {5, 105},
                                 {-120, -9},
                                 {98, 101},
                                 {-3, 1000},
                                 {10, 99},
                                 {-10, 10}}) {
    const Grammar grammar =
        Schema(fmt::format(R"({{"type":"integer","minimum":{},"maximum":{}}})", min, max));
    Random random(2);
    for (int number = -130; number <= 1010; ++number) {
      EXPECT_EQ(Allows(grammar, Small(), fmt::format("{}", number), random),
                min <= number && number <= max)
          << number << " in " << min << " " << max;
    }
    EXPECT_FALSE(Allows(grammar, Small(), "-0", random));
  }
}

TEST(AnswerConstraint, HasNoMembersTwice) {
  const Grammar grammar =
      Schema(R"({"properties":{"a":{},"b":{}},"required":["a"],"additionalProperties":true})");
  EXPECT_TRUE(Allows(grammar, R"({"a":1,"b":2,"c":3})"));
  EXPECT_TRUE(Allows(grammar, R"({"a":1,"aa":3,"":2})"));
  EXPECT_FALSE(Allows(grammar, R"({"a":1,"a":2})"));
  EXPECT_FALSE(Allows(grammar, R"({"a":1,"\u0061":2})"));
  EXPECT_FALSE(Allows(grammar, R"({"a":1,"c":1,"b":2})"));
  EXPECT_FALSE(Allows(grammar, R"({"b":1})"));
}

TEST(AnswerConstraint, EndsWhereTheAnswerIsComplete) {
  AnswerConstraint constraint(Schema(R"({"type":"integer"})"), Nano());
  std::vector<float> logits(Nano()->vocab_size());
  constraint.Mask(logits, std::span(&kEnd, 1));
  EXPECT_EQ(logits[kEnd], kNever);
  EXPECT_FALSE(constraint.complete());
  ASSERT_TRUE(constraint.Accept(TokensOf(*Nano(), "1").front()));
  logits.assign(logits.size(), 2.0f);
  constraint.Mask(logits, std::span(&kEnd, 1));
  EXPECT_EQ(logits[kEnd], 2.0f);
  EXPECT_TRUE(constraint.complete());
  EXPECT_FALSE(constraint.finished());  // more digits
  EXPECT_FALSE(constraint.Accept(kEnd));
  EXPECT_TRUE(constraint.complete());

  AnswerConstraint object(JsonObject(), Nano());
  ASSERT_TRUE(object.Accept(TokensOf(*Nano(), "{").front()));
  ASSERT_TRUE(object.Accept(TokensOf(*Nano(), "}").front()));
  EXPECT_TRUE(object.finished());
  logits.assign(logits.size(), 2.0f);
  object.Mask(logits, std::span(&kEnd, 1));
  EXPECT_EQ(std::count(logits.begin(), logits.end(), kNever), std::ssize(logits) - 1);
}

TEST(AnswerConstraint, LetsReasoningBe) {
  AnswerConstraint constraint(JsonObject(), Small(), /*in_reasoning=*/true);
  const int32_t end = *Small()->FindMarker("<end>");
  std::vector<float> logits(Small()->vocab_size());
  constraint.Mask(logits, std::span(&end, 1));
  EXPECT_EQ(std::count(logits.begin(), logits.end(), kNever), 1);
  EXPECT_EQ(logits[end], kNever);
  ASSERT_TRUE(constraint.Accept(TokensOf(*Small(), "x").front()));
  EXPECT_FALSE(constraint.complete());
  ASSERT_TRUE(constraint.Accept(*Small()->FindMarker("</think>")));
  EXPECT_FALSE(constraint.Accept(TokensOf(*Small(), "x").front()));
  EXPECT_TRUE(constraint.Accept(TokensOf(*Small(), "{").front()));
}

TEST(AnswerConstraint, HasNoMarkersInStrings) {
  AnswerConstraint constraint(Schema(R"({"type":"string"})"), Small());
  ASSERT_TRUE(constraint.Accept(TokensOf(*Small(), "\"").front()));
  EXPECT_FALSE(constraint.Accept(*Small()->FindMarker("<tool_call>")));
  EXPECT_TRUE(constraint.Accept(TokensOf(*Small(), "<").front()));
}

TEST(AnswerGrammar, TakesNamesOfPropertiesThatMayBeAny) {
  for (const char* names : {"true", "{}", R"({"type":"string"})", R"({"title":"a name"})"}) {
    const std::string schema = R"({"type":"object","propertyNames":)" + std::string(names) + "}";
    EXPECT_TRUE(AnswerGrammar::ForJsonSchema(schema).ok()) << schema;
  }
  for (const char* names : {"false", R"({"maxLength":3})", R"({"type":"integer"})"}) {
    const std::string schema = R"({"type":"object","propertyNames":)" + std::string(names) + "}";
    EXPECT_EQ(AnswerGrammar::ForJsonSchema(schema).status().code(), StatusCode::kUnsupported);
  }
}

TEST(AnswerGrammar, RefusesWhatItDoesNotSupportByName) {
  const auto error = [](std::string_view schema) {
    const Result<Grammar> grammar = AnswerGrammar::ForJsonSchema(schema);
    return grammar.ok() ? "no error" : grammar.error().message();
  };
  const auto code = [](std::string_view schema) {
    return AnswerGrammar::ForJsonSchema(schema).status().code();
  };
  const std::pair<const char*, const char*> kUnsupportedSchemas[] = {
      {R"({"properties":{"a":{"not":{}}}})", "json_schema.properties.a.not: a keyword"},
      {R"({"patternProperties":{}})", "json_schema.patternProperties: a keyword"},
      {R"({"items":{"uniqueItems":true}})", "json_schema.items.uniqueItems: a keyword"},
      {R"({"type":"integer","multipleOf":2})", "json_schema.multipleOf"},
      {R"({"type":"number","minimum":0.5})", "json_schema.minimum: 0.5"},
      {R"j({"pattern":"(?=a)"})j", "json_schema.pattern: a group (? other than (?:"},
      {R"({"pattern":"\\bx"})", "json_schema.pattern: \\b in"},
      {R"j({"pattern":"(a)\\1"})j", "json_schema.pattern: \\1 in"},
      {R"({"pattern":"a|^b"})", "json_schema.pattern: ^ or $"},
      {R"({"$ref":"https://example.com/x"})", "json_schema.$ref: \"https://example.com/x\""},
      {R"({"enum":["a"],"maxLength":3})", "json_schema.maxLength: beside enum"},
      {R"({"anyOf":[{}],"oneOf":[{}]})", "json_schema: anyOf and oneOf"},
      {R"({"allOf":[{"maximum":3},{"maximum":4}]})",
       "json_schema.allOf: two different \"maximum\""}};
  for (const auto& [schema, message] : kUnsupportedSchemas) {
    EXPECT_THAT(error(schema), HasSubstr(message)) << schema;
    EXPECT_EQ(code(schema), StatusCode::kUnsupported) << schema;
  }
  const std::pair<const char*, const char*> kInvalidSchemas[] = {
      {"[", "json_schema: "},
      {"[]", "json_schema: an array, expected a schema"},
      {R"({"type":"text"})", "json_schema.type: \"text\", expected"},
      {R"({"$ref":"#/$defs/x"})", "json_schema.$ref: \"#/$defs/x\""},
      {R"({"$ref":"#"})", "json_schema: "},
      {R"({"$defs":{"a":{"anyOf":[{"$ref":"#/$defs/a"}]}},"$ref":"#/$defs/a"})", "json_schema: "},
      {R"({"minLength":-1})", "json_schema.minLength: -1"},
      {R"j({"pattern":"("})j", "json_schema.pattern: a ( without )"},
      {R"({"pattern":"a**"})", "json_schema.pattern: a repetition of a repetition"},
      {R"({"required":["a"],"additionalProperties":false})", "json_schema.required: \"a\""},
      {"false", "json_schema: contradicts itself"},
      {R"({"type":"integer","minimum":3,"maximum":2})", "json_schema: contradicts itself"},
      {R"({"type":"object","properties":{"a":{"$ref":"#"}},"required":["a"]})",
       "json_schema: contradicts itself"}};
  for (const auto& [schema, message] : kInvalidSchemas) {
    EXPECT_THAT(error(schema), HasSubstr(message)) << schema;
    EXPECT_EQ(code(schema), StatusCode::kInvalidArgument) << schema;
  }
}

TEST(AnswerGrammar, RefusesSchemasThatGrowBeyondBounds) {
  const auto repeated = [](std::string part, int count) {
    std::string text = part;
    while (--count > 0) text += "," + part;
    return text;
  };
  std::string doubling = R"({"$ref":"#/$defs/a0","$defs":{"a30":{"type":"string"})";
  for (int level = 0; level < 30; ++level) {
    doubling += fmt::format(R"(,"a{}":{{"anyOf":[{}]}})", level,
                            repeated(fmt::format(R"({{"$ref":"#/$defs/a{}"}})", level + 1), 2));
  }
  doubling += "}}";
  std::string different;
  for (int length = 0; length < 40; ++length) {
    different +=
        fmt::format(R"({}{{"type":"string","maxLength":{}}})", length > 0 ? "," : "", length + 1);
  }
  const std::string schemas[] = {
      doubling, R"({"description":")" + std::string(1 << 16, 'x') + "\"}",
      R"j({"pattern":"((((a{999}){999}){999}){999})"})j", R"j({"pattern":"(a|b)*a(a|b){20}"})j",
      R"({"pattern":"^a{5000}$"})", R"({"anyOf":[)" + different + "]}",
      R"({"anyOf":[)" + repeated(R"({"$ref":"#/$defs/x"})", 900) + R"(],"$defs":{"x":{"enum":[")" +
          std::string(30000, 'x') + "\"]}}}",
      R"({"$defs":{"A":{"allOf":[{"properties":{"x":{"allOf":[{"$ref":"#/$defs/A"},
          {"required":["x"]}]}}}]}},"$ref":"#/$defs/A"})",
      // Two readings for each bracket.
      R"({"type":"array","items":{"anyOf":[{"$ref":"#"},{"type":"array","maxItems":2,
          "items":{"$ref":"#"}}]}})"};
  for (const std::string& schema : schemas) {
    EXPECT_FALSE(AnswerGrammar::ForJsonSchema(schema).ok()) << schema.substr(0, 200);
  }
}

TEST(AnswerGrammar, KnowsFormats) {
  const auto allows = [](std::string format, std::string text) {
    return Allows(Schema(R"({"type":"string","format":")" + format + "\"}"), "\"" + text + "\"");
  };
  EXPECT_TRUE(allows("date", "2026-11-23"));
  EXPECT_FALSE(allows("date", "2026-13-01"));
  EXPECT_TRUE(allows("date-time", "2026-11-23T02:20:00.5+01:00"));
  EXPECT_FALSE(allows("date-time", "2026-11-23"));
  EXPECT_TRUE(allows("time", "23:59:59Z"));
  EXPECT_TRUE(allows("uuid", "123e4567-e89b-12d3-a456-426614174000"));
  EXPECT_FALSE(allows("uuid", "123e4567"));
  EXPECT_TRUE(allows("email", "anything"));
}

constexpr std::string_view kTwoTools =
    R"([{"type":"function","function":{"name":"weather","parameters":{"type":"object","properties":{
          "city":{"type":"string"},"days":{"type":"array","items":{"type":"integer"}},
          "unit":{"enum":["C","F"]},"note":{"anyOf":[{"type":"string","maxLength":4},
          {"type":"null"}]}},"required":["city"],"additionalProperties":false}}},
        {"type":"function","function":{"name":"stop"}}])";

// `text` in tokens, as a call must be written: the markers that the vocabulary has as tokens, the
// rest at random.
bool AllowsCall(const Grammar& grammar, const Trie& trie, std::string_view text,
                std::span<const char* const> markers) {
  Random random(11);
  AnswerConstraint constraint(grammar, trie);
  while (!text.empty()) {
    std::optional<int32_t> token;
    size_t length = 0;
    size_t next_marker = text.size();
    for (const char* marker : markers) {
      if (!trie->FindMarker(marker)) continue;
      next_marker = std::min(next_marker, text.find(marker));
      if (!text.starts_with(marker)) continue;
      token = trie->FindMarker(marker);
      length = std::string_view(marker).size();
    }
    if (!token) {
      const std::vector<int32_t> tokens = TokensOf(*trie, text.substr(0, next_marker));
      token = tokens.at(random() % tokens.size());
      length = trie->Spelling(*token).size();
    }
    if (!constraint.Accept(*token)) return false;
    text.remove_prefix(length);
  }
  return constraint.complete();
}

constexpr const char* kMarkers[] = {"｜DSML｜",
                                    "<tool_call>",
                                    "</tool_call>",
                                    "<arg_key>",
                                    "</arg_key>",
                                    "<arg_value>",
                                    "</arg_value>",
                                    "<｜tool▁calls▁begin｜>",
                                    "<｜tool▁calls▁end｜>",
                                    "<｜tool▁call▁begin｜>",
                                    "<｜tool▁call▁end｜>",
                                    "<｜tool▁sep｜>"};

bool AllowsCall(ChatFormat format, std::string_view text, std::string_view name = "") {
  bool allows[2];
  for (int index = 0; index < 2; ++index) {
    const Trie& trie = index == 0 ? Nano() : Small();
    allows[index] = AllowsCall(AnswerGrammar::ForToolCalls(format, kTwoTools, name, *trie).value(),
                               trie, text, kMarkers);
  }
  EXPECT_EQ(allows[0], allows[1]) << text;
  return allows[0];
}

TEST(ToolCallGrammar, IsTheFormOfDeepSeekV32) {
  const auto allows = [](std::string calls, std::string_view name = "") {
    return AllowsCall(ChatFormat::kDeepSeekV32,
                      "\n\n<｜DSML｜function_calls>\n" + calls + "\n</｜DSML｜function_calls>",
                      name);
  };
  const std::string stop = "<｜DSML｜invoke name=\"stop\">\n\n</｜DSML｜invoke>";
  const std::string city =
      "<｜DSML｜parameter name=\"city\" string=\"true\">Köln <3 </b></｜DSML｜parameter>";
  const std::string days =
      "<｜DSML｜parameter name=\"days\" string=\"false\">[1, 2]</｜DSML｜parameter>";
  const std::string note =
      "<｜DSML｜parameter name=\"note\" string=\"false\">null</｜DSML｜parameter>";
  const auto weather = [](std::string parameters) {
    return "<｜DSML｜invoke name=\"weather\">\n" + parameters + "\n</｜DSML｜invoke>";
  };
  EXPECT_TRUE(allows(stop));
  EXPECT_TRUE(allows(weather(city)));
  EXPECT_TRUE(allows(weather(city + "\n" + days + "\n" + note)));
  EXPECT_TRUE(allows(stop + "\n" + weather(city)));
  EXPECT_FALSE(allows(""));
  EXPECT_FALSE(allows(stop + stop));
  EXPECT_FALSE(allows(weather(days)));
  EXPECT_FALSE(allows(weather(city + "\n" + city)));
  EXPECT_FALSE(allows(
      weather("<｜DSML｜parameter name=\"city\" string=\"false\">\"Köln\"</｜DSML｜parameter>")));
  EXPECT_FALSE(allows(weather(
      city + "\n<｜DSML｜parameter name=\"note\" string=\"true\">12345</｜DSML｜parameter>")));
  EXPECT_TRUE(allows(
      weather(city + "\n<｜DSML｜parameter name=\"unit\" string=\"true\">C</｜DSML｜parameter>")));
  EXPECT_FALSE(allows("<｜DSML｜invoke name=\"other\">\n\n</｜DSML｜invoke>"));
  EXPECT_TRUE(allows(stop, "stop"));
  EXPECT_FALSE(allows(stop + "\n" + stop, "stop"));
  EXPECT_FALSE(allows(weather(city), "stop"));
}

TEST(ToolCallGrammar, IsTheFormOfGlm) {
  const auto allows = [](std::string calls, std::string_view name = "") {
    EXPECT_EQ(AllowsCall(ChatFormat::kGlm, calls, name),
              AllowsCall(ChatFormat::kGlmWithEffort, calls, name));
    return AllowsCall(ChatFormat::kGlm, calls, name);
  };
  const std::string stop = "<tool_call>stop</tool_call>";
  const std::string city = "<arg_key>city</arg_key><arg_value>Köln \"a\" </b></arg_value>";
  EXPECT_TRUE(allows(stop));
  EXPECT_TRUE(allows(stop + stop));
  EXPECT_TRUE(allows("<tool_call>weather" + city + "</tool_call>"));
  EXPECT_TRUE(allows("<tool_call>weather" + city +
                     "<arg_key>days</arg_key><arg_value>[1,2]</arg_value>"
                     "<arg_key>note</arg_key><arg_value>null</arg_value></tool_call>"));
  EXPECT_FALSE(allows("<tool_call>weather</tool_call>"));
  EXPECT_FALSE(allows("<tool_call>weather" + city +
                      "<arg_key>days</arg_key><arg_value>[1,</arg_value></tool_call>"));
  EXPECT_FALSE(allows(stop + stop, "stop"));
  EXPECT_FALSE(allows("a" + stop));
  EXPECT_FALSE(allows(""));
}

TEST(ToolCallGrammar, IsTheFormOfDeepSeekV31) {
  const auto allows = [](std::string calls, std::string_view name = "") {
    return AllowsCall(ChatFormat::kDeepSeekV31,
                      "<｜tool▁calls▁begin｜>" + calls + "<｜tool▁calls▁end｜>", name);
  };
  const std::string stop = "<｜tool▁call▁begin｜>stop<｜tool▁sep｜>{}<｜tool▁call▁end｜>";
  const std::string weather =
      "<｜tool▁call▁begin｜>weather<｜tool▁sep｜>{\"city\": \"Köln\"}<｜tool▁call▁end｜>";
  EXPECT_TRUE(allows(stop));
  EXPECT_TRUE(allows(weather + stop));
  EXPECT_TRUE(allows(weather, "weather"));
  EXPECT_FALSE(allows(weather, "stop"));
  EXPECT_FALSE(allows(""));
  EXPECT_FALSE(allows("<｜tool▁call▁begin｜>weather<｜tool▁sep｜>{}<｜tool▁call▁end｜>"));
}

// What a vocabulary has as one token is not to be spelled.
TEST(ToolCallGrammar, WantsMarkersAsTokens) {
  const Grammar grammar =
      AnswerGrammar::ForToolCalls(ChatFormat::kGlm, kTwoTools, "stop", *Small()).value();
  AnswerConstraint constraint(grammar, Small());
  EXPECT_FALSE(constraint.Accept(TokensOf(*Small(), "<").front()));
  EXPECT_TRUE(constraint.Accept(*Small()->FindMarker("<tool_call>")));
}

// The end of an argument in letters would end it for whoever reads the text.
TEST(ToolCallGrammar, KeepsEndsOutOfStrings) {
  const Grammar grammar =
      AnswerGrammar::ForToolCalls(ChatFormat::kGlm, kTwoTools, "weather", *Small()).value();
  AnswerConstraint constraint(grammar, Small());
  const auto accept = [&](std::string_view text) {
    for (char byte : text) {
      if (!constraint.Accept(TokensOf(*Small(), std::string(1, byte)).front())) return false;
    }
    return true;
  };
  ASSERT_TRUE(constraint.Accept(*Small()->FindMarker("<tool_call>")));
  ASSERT_TRUE(accept("weather"));
  ASSERT_TRUE(constraint.Accept(*Small()->FindMarker("<arg_key>")));
  ASSERT_TRUE(accept("city"));
  ASSERT_TRUE(constraint.Accept(*Small()->FindMarker("</arg_key>")));
  ASSERT_TRUE(constraint.Accept(*Small()->FindMarker("<arg_value>")));
  EXPECT_TRUE(accept("a</arg_value"));
  EXPECT_FALSE(accept(">"));
  EXPECT_TRUE(accept(" </arg_valu"));
  EXPECT_TRUE(constraint.Accept(*Small()->FindMarker("</arg_value>")));
}

// Random tokens make calls that the parser understands and whose arguments satisfy the tool.
TEST(ToolCallGrammar, LeadsRandomTokensToCallsThatAreUnderstood) {
  const json::value tools = json::parse(json::string_view(kTwoTools.data(), kTwoTools.size()));
  int64_t num_calls = 0;
  for (ChatFormat format : {ChatFormat::kDeepSeekV31, ChatFormat::kDeepSeekV32, ChatFormat::kGlm}) {
    for (const Trie& trie : {Nano(), Small()}) {
      const int32_t end = trie == Nano() ? kEnd : *trie->FindMarker("<end>");
      const Grammar grammar = AnswerGrammar::ForToolCalls(format, kTwoTools, "", *trie).value();
      for (int seed = 0; seed < 12; ++seed) {
        const std::string answer = Walk(grammar, trie, seed, end);
        if (answer.empty()) continue;
        AnswerParser parser({.format = format, .tool_calls = true, .tools_json = kTwoTools});
        AnswerPiece piece = parser.Append(answer);
        EXPECT_EQ(piece.text + parser.Flush().text, "") << answer;
        EXPECT_FALSE(piece.tool_calls.empty()) << answer;
        for (const ToolCallPiece& call : piece.tool_calls) {
          ++num_calls;
          const Result<json::value> arguments = ParseJson(call.arguments, "arguments");
          ASSERT_TRUE(arguments.ok()) << call.arguments;
          if (call.name == "stop") {
            EXPECT_EQ(*arguments, json::object());
            continue;
          }
          ASSERT_EQ(call.name, "weather");
          const json::value& schema = tools.at(0).at("function").at("parameters");
          EXPECT_TRUE(Satisfies(*arguments, schema, schema)) << call.arguments;
        }
      }
    }
  }
  EXPECT_GT(num_calls, 50);
}

TEST(ToolCallGrammar, RefusesToolsThatCannotBeCalled) {
  const auto error = [](std::string_view tools, std::string_view name = "",
                        ChatFormat format = ChatFormat::kDeepSeekV32) {
    const Result<Grammar> grammar = AnswerGrammar::ForToolCalls(format, tools, name, *Small());
    return grammar.ok() ? "no error" : grammar.error().message();
  };
  EXPECT_THAT(error("[]"), HasSubstr("tools: none"));
  EXPECT_THAT(error("{}"), HasSubstr("tools: an object"));
  EXPECT_THAT(error(kTwoTools, "fly"), HasSubstr("tool_choice: \"fly\""));
  EXPECT_THAT(error(R"([{"function":{"name":"a\"b"}}])"), HasSubstr("tools[0].function.name"));
  EXPECT_THAT(error(R"([{"function":{"name":"a"}},{"function":{"name":"a"}}])"),
              HasSubstr("tools[1].function.name: \"a\" again"));
  EXPECT_THAT(error(R"([{"function":{"name":"a","parameters":{"type":"string"}}}])"),
              HasSubstr("tools[0].function.parameters: no object"));
  EXPECT_THAT(error(R"([{"function":{"name":"a","parameters":{"properties":{"<":{}}}}}])"),
              HasSubstr("tools[0].function.parameters.properties.<"));
  EXPECT_THAT(error(R"([{"function":{"name":"a","parameters":{"properties":{"x":{"if":{}}}}}}])"),
              HasSubstr("tools[0].function.parameters.properties.x.if: a keyword"));
}

}  // namespace
}  // namespace winnow
