// Needles: statements hidden in documents, and the questions that look for them.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "eval/document.h"
#include "eval/evaluation.h"
#include "eval/needle_file.h"

namespace winnow::eval {

enum class QuestionKind { kFact, kAbsent, kQuote };
inline constexpr QuestionKind kQuestionKinds[] = {QuestionKind::kFact, QuestionKind::kAbsent,
                                                  QuestionKind::kQuote};
const char* Name(QuestionKind kind);  // "fact", "absent", "quote"

struct Question {
  QuestionKind kind = QuestionKind::kFact;
  int64_t depth = 0;  // of the statement or passage; of an absent one only a number
  std::string text;
  std::string expected;
};

// One document and what is asked about it.
struct Haystack {
  int64_t length = 0;  // tokens of prompt and answer together
  int64_t trial = 0;
  Document document;
  std::vector<Hidden> statements;  // by depth
  std::vector<Question> questions;
};

struct HaystackPlan {
  std::vector<int64_t> lengths;
  int64_t depths = 10;
  int64_t trials = 1;
  uint64_t seed = 1;
  std::vector<QuestionKind> kinds;
};

// Tokens of a length that question, answer and chat format may need; the document has the rest.
Result<int64_t> RoomBesideDocument(const NeedleFile& file, const Reader& reader);

// Documents for all lengths and trials. `room` as above. Errors name the length or the file.
Result<std::vector<Haystack>> MakeHaystacks(const HaystackPlan& plan, const NeedleFile& file,
                                            const std::vector<Text>& texts, int64_t room,
                                            const ModelConfig& config, const Reader& reader);

// Whether `answer` is what was expected: equal after trimming; a quotation must begin with it.
bool IsRight(const Question& question, const std::string& answer);

// Asks one question and returns the answer's text. `policy` may be null.
Result<std::string> Ask(Subject& subject, const Reader& reader, const Haystack& haystack,
                        const Question& question, SelectionPolicy* policy, Meter* meter,
                        const std::string& note);

// What reading a haystack's document costs, and what a question costs, for progress.
double ReadingCost(const ModelConfig& config, AttentionMode mode, const Haystack& haystack);
double QuestionCost(const ModelConfig& config, AttentionMode mode, const Haystack& haystack);

}  // namespace winnow::eval
