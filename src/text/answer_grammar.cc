// JSON alone, and JSON of a schema. Calls of tools are in call_grammar.cc.
#include "text/answer_grammar.h"

#include "base/check.h"
#include "base/text.h"
#include "text/json_rules.h"
#include "text/schema_rules.h"

namespace winnow {
namespace {

constexpr size_t kLargestSchema = size_t{1} << 16;  // bytes
constexpr const char* kSchema = "json_schema";

Result<std::shared_ptr<const AnswerGrammar>> Finished(GrammarBuilder& builder) {
  WINNOW_ASSIGN(ByteGrammar grammar, builder.Finish(kSchema));
  return std::make_shared<const AnswerGrammar>(std::move(grammar));
}

Result<std::shared_ptr<const AnswerGrammar>> CompileJsonObject() {
  GrammarBuilder builder;
  const int32_t root = builder.AddRule();
  JsonRules json(builder, JsonStyle::kPlain);
  ByteNfa nfa;
  const int32_t start = nfa.AddState();
  const int32_t end = nfa.AddState();
  nfa.AddCall(start, json.Object(), end);
  builder.Define(root, nfa, start, end);
  return Finished(builder);
}

}  // namespace

Result<std::shared_ptr<const AnswerGrammar>> AnswerGrammar::ForJsonObject() {
  static const Result<std::shared_ptr<const AnswerGrammar>> grammar = CompileJsonObject();
  return grammar;
}

Result<std::shared_ptr<const AnswerGrammar>> AnswerGrammar::ForJsonSchema(
    std::string_view schema_json) {
  if (schema_json.size() > kLargestSchema) {
    return InvalidArgument(fmt::format("{}: {} bytes, expected at most {}", kSchema,
                                       schema_json.size(), kLargestSchema));
  }
  const Result<json::value> schema = ParseJson(schema_json, kSchema);
  if (!schema.ok()) return InvalidArgument(schema.error().message());
  GrammarBuilder builder;
  const int32_t root = builder.AddRule();
  JsonRules json(builder, JsonStyle::kPlain);
  SchemaRules rules(builder, json, *schema, kSchema);
  ByteNfa nfa;
  const int32_t start = nfa.AddState();
  const int32_t end = nfa.AddState();
  WINNOW_TRY(rules.AddCall(nfa, start, &*schema, kAnyType, kSchema, end));
  builder.Define(root, nfa, start, end);
  WINNOW_TRY(rules.DefineCalled());
  return Finished(builder);
}

}  // namespace winnow
