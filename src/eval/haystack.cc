// Making haystacks and asking about them.
#include <algorithm>
#include <numeric>
#include <random>

#include "base/check.h"
#include "base/text.h"
#include "eval/needle.h"

namespace winnow::eval {
namespace {

constexpr int64_t kSpareTokens = 16;  // a wrong answer may be longer than a right one

// Draws from 0 to n - 1 that are the same on every machine.
uint64_t Draw(std::mt19937_64& random, uint64_t n) { return random() % n; }

std::vector<size_t> Shuffled(size_t count, std::mt19937_64& random) {
  std::vector<size_t> order(count);
  std::iota(order.begin(), order.end(), 0);
  for (size_t left = count; left > 1; --left) std::swap(order[left - 1], order[Draw(random, left)]);
  return order;
}

std::string Joined(const std::vector<Text>& texts) {
  std::string joined;
  for (const Text& text : texts) {
    joined += text.bytes;
    while (!joined.empty() && joined.back() == '\n') joined.pop_back();
    joined += "\n\n";
  }
  return joined;
}

// A drawn byte, moved on to where a sentence ends so that the document does, too.
size_t DrawEnd(const std::string& source, std::mt19937_64& random) {
  const size_t start = Draw(random, source.size());
  for (size_t step = 0; step < std::min<size_t>(source.size(), 4000); ++step) {
    const size_t place = (start + step) % source.size();
    if (source[place] == '\n' && place > 0 && source[place - 1] != '\n') return place;
  }
  return source.size();
}

std::vector<Question> Questions(const HaystackPlan& plan, const NeedleFile& file,
                                const std::vector<size_t>& order, const Haystack& haystack,
                                const Reader& reader) {
  std::vector<Question> questions;
  for (const QuestionKind kind : plan.kinds) {
    for (int64_t depth = 0; depth < plan.depths; ++depth) {
      Question question{kind, depth, {}, {}};
      const size_t place = static_cast<size_t>(depth);
      if (kind == QuestionKind::kFact) {
        const Needle& needle = file.needles[order[place]];
        question.text = needle.question;
        question.expected = needle.answer;
      } else if (kind == QuestionKind::kAbsent) {
        const size_t others = file.needles.size() - static_cast<size_t>(plan.depths);
        if (place >= others) continue;
        question.text = file.needles[order[static_cast<size_t>(plan.depths) + place]].question;
        question.expected = file.absent_answer;
      } else {
        const Quotation quotation = QuoteAt(haystack.document, haystack.statements,
                                            DepthOf(depth, plan.depths), reader.tokenizer());
        if (quotation.passage.empty()) continue;
        question.text = file.QuoteQuestion(quotation.passage);
        question.expected = quotation.continuation;
      }
      questions.push_back(std::move(question));
    }
  }
  return questions;
}

}  // namespace

const char* Name(QuestionKind kind) {
  switch (kind) {
    case QuestionKind::kFact:
      return "fact";
    case QuestionKind::kAbsent:
      return "absent";
    case QuestionKind::kQuote:
      return "quote";
  }
  return "unknown";
}

Result<int64_t> RoomBesideDocument(const NeedleFile& file, const Reader& reader) {
  int64_t question = 0;
  int64_t answer = kContinuationTokens;
  const auto longest = [&](const std::string& text, int64_t* length, bool prompt) -> Status {
    WINNOW_ASSIGN(const std::vector<int32_t> tokens,
                  prompt ? reader.Prompt("x", text) : reader.tokenizer().Encode(text));
    *length = std::max(*length, static_cast<int64_t>(tokens.size()));
    return OkStatus();
  };
  for (const Needle& needle : file.needles) {
    WINNOW_TRY(longest(needle.question, &question, true));
    WINNOW_TRY(longest(needle.answer, &answer, false));
  }
  WINNOW_TRY(longest(file.absent_answer, &answer, false));
  int64_t quote = 0;
  WINNOW_TRY(longest(file.quote_question, &quote, true));
  return std::max(question, quote + 2 * kPassageTokens) + answer + kSpareTokens;
}

Result<std::vector<Haystack>> MakeHaystacks(const HaystackPlan& plan, const NeedleFile& file,
                                            const std::vector<Text>& texts, int64_t room,
                                            const ModelConfig& config, const Reader& reader) {
  if (static_cast<int64_t>(file.needles.size()) < plan.depths) {
    return InvalidArgument(fmt::format("depths: {}, expected at most {}, the needles of {}",
                                       plan.depths, file.needles.size(), file.name));
  }
  const std::string source = Joined(texts);
  std::vector<Haystack> haystacks;
  for (const int64_t length : plan.lengths) {
    if (length - room <= config.index_topk) {
      return InvalidArgument(fmt::format(
          "length: {}, of which question and answer take {}, expected a document longer than "
          "index_topk of config.json, {}: within it sparse attention is dense",
          length, room, config.index_topk));
    }
    for (int64_t trial = 0; trial < plan.trials; ++trial) {
      std::mt19937_64 random(plan.seed * 1'000'003 + static_cast<uint64_t>(length * 4099 + trial));
      const std::vector<size_t> order = Shuffled(file.needles.size(), random);
      Haystack haystack;
      haystack.length = length;
      haystack.trial = trial;
      for (int64_t depth = 0; depth < plan.depths; ++depth) {
        // Alternating, and the other way round in the next document.
        haystack.statements.push_back({file.needles[order[static_cast<size_t>(depth)]].statement,
                                       (depth + static_cast<int64_t>(haystacks.size())) % 2 == 1});
      }
      WINNOW_ASSIGN(haystack.document,
                    BuildDocument(source, DrawEnd(source, random), haystack.statements,
                                  length - room, reader.tokenizer()));
      haystack.questions = Questions(plan, file, order, haystack, reader);
      haystacks.push_back(std::move(haystack));
    }
  }
  return haystacks;
}

bool IsRight(const Question& question, const std::string& answer) {
  const std::string found = Trimmed(answer);
  const std::string expected = Trimmed(question.expected);
  return question.kind == QuestionKind::kQuote ? found.starts_with(expected) : found == expected;
}

Result<std::string> Ask(Subject& subject, const Reader& reader, const Haystack& haystack,
                        const Question& question, SelectionPolicy* policy, Meter* meter,
                        const std::string& note) {
  WINNOW_ASSIGN(const std::vector<int32_t> prompt,
                reader.Prompt(haystack.document.text, question.text));
  WINNOW_ASSIGN(const std::vector<int32_t> expected, reader.tokenizer().Encode(question.expected));
  const int64_t room = subject.runner().max_context() - static_cast<int64_t>(prompt.size());
  const int64_t max_tokens =
      std::min(room, static_cast<int64_t>(expected.size()) + kSpareTokens / 2);
  if (max_tokens < 1) {
    return InvalidArgument(fmt::format("length: a prompt of {} tokens, expected fewer than {}",
                                       prompt.size(), subject.runner().max_context()));
  }
  WINNOW_ASSIGN(const std::vector<int32_t> answer,
                subject.Answer(prompt, max_tokens, policy, meter, note));
  return reader.tokenizer().Decode(answer, /*keep_special=*/true);
}

double ReadingCost(const ModelConfig& config, AttentionMode mode, const Haystack& haystack) {
  return RunCost(config, mode, 0, static_cast<int64_t>(haystack.document.tokens.size()));
}

// A question is a short prompt and some single tokens, which are slow for their number.
double QuestionCost(const ModelConfig& config, AttentionMode mode, const Haystack& haystack) {
  const int64_t tokens = static_cast<int64_t>(haystack.document.tokens.size());
  return RunCost(config, mode, tokens, tokens + 64);
}

}  // namespace winnow::eval
