// A parser that builds the automaton as it reads (Thompson's construction).
#include "text/pattern_nfa.h"

#include <algorithm>
#include <optional>

#include "base/check.h"
#include "base/text.h"
#include "text/unicode.h"

namespace winnow {
namespace {

constexpr int64_t kMaxNfaStates = 1 << 14;
constexpr int kMaxGroupDepth = 64;  // of groups
constexpr int64_t kMaxRepeats = 1000;

struct Range {
  uint32_t first;
  uint32_t last;
};
using Class = std::vector<Range>;

const Class kDigit = {{'0', '9'}};
const Class kWord = {{'0', '9'}, {'A', 'Z'}, {'_', '_'}, {'a', 'z'}};
const Class kSpace = {{'\t', '\r'},     {' ', ' '},       {0xA0, 0xA0},     {0x1680, 0x1680},
                      {0x2000, 0x200A}, {0x2028, 0x2029}, {0x202F, 0x202F}, {0x205F, 0x205F},
                      {0x3000, 0x3000}, {0xFEFF, 0xFEFF}};
const Class kLineEnds = {{'\n', '\n'}, {'\r', '\r'}, {0x2028, 0x2029}};
const Class kAll = {{0, kLastCodePoint}};

Class Complement(Class ranges) {
  std::sort(ranges.begin(), ranges.end(),
            [](const Range& left, const Range& right) { return left.first < right.first; });
  Class rest;
  uint32_t next = 0;
  for (const Range& range : ranges) {
    if (next < range.first) rest.push_back({next, range.first - 1});
    next = std::max(next, range.last + 1);
  }
  if (next <= kLastCodePoint) rest.push_back({next, kLastCodePoint});
  return rest;
}

class Parser {
 public:
  Parser(std::string_view pattern, std::string_view what) : text_(pattern), what_(what) {}

  Result<PatternNfa> Run() {
    nfa_.start = AddState();
    int32_t from = nfa_.start;
    // Without ^ anything may come before. An expression of several alternatives needs them in a
    // group for ^ and $ to hold for all of them.
    const bool begins = Skip('^');
    if (!begins) from = AnyText(from);
    WINNOW_ASSIGN(from, Alternatives(from, 0));
    if (!AtEnd() && Peek() == ')') return Invalid("a ) that closes nothing");
    if (has_top_alternatives_ && (begins || ends_)) {
      return Lacks("^ or $ beside | outside a group");
    }
    nfa_.end = ends_ ? from : AnyText(from);
    return std::move(nfa_);
  }

 private:
  bool AtEnd() const { return position_ == text_.size(); }
  char Peek() const { return text_[position_]; }
  bool Skip(char byte) {
    if (AtEnd() || Peek() != byte) return false;
    ++position_;
    return true;
  }
  Status Invalid(std::string_view found) const {
    return InvalidArgument(
        fmt::format("{}: {} in {}, expected a regular expression", what_, found, Quoted(text_)));
  }
  Status Lacks(std::string_view found) const {
    return Unsupported(
        fmt::format("{}: {} in {}, expected only characters, classes, groups, | and repetition",
                    what_, found, Quoted(text_)));
  }

  int32_t AddState() {
    nfa_.states.emplace_back();
    return static_cast<int32_t>(nfa_.states.size() - 1);
  }
  void AddEmpty(int32_t from, int32_t to) { nfa_.states[from].empty.push_back(to); }
  int32_t AddClass(int32_t from, const Class& ranges) {
    const int32_t to = AddState();
    for (const Range& range : ranges)
      nfa_.states[from].edges.push_back({range.first, range.last, to});
    return to;
  }
  int32_t AnyText(int32_t from) {
    const int32_t to = AddState();
    AddEmpty(from, to);
    nfa_.states[to].edges.push_back({0, kLastCodePoint, to});
    return to;
  }
  Status CheckSize() const {
    if (std::ssize(nfa_.states) <= kMaxNfaStates) return OkStatus();
    return Unsupported(fmt::format("{}: {} needs more than {} states, expected a smaller pattern",
                                   what_, Quoted(text_), kMaxNfaStates));
  }

  Result<int32_t> Alternatives(int32_t from, int depth) {
    if (depth > kMaxGroupDepth) return Invalid("groups nested too deep");
    const int32_t to = AddState();
    do {
      const int32_t branch = AddState();
      AddEmpty(from, branch);
      WINNOW_ASSIGN(const int32_t branch_end, Sequence(branch, depth));
      AddEmpty(branch_end, to);
      if (depth == 0 && !AtEnd() && Peek() == '|') has_top_alternatives_ = true;
    } while (Skip('|'));
    return to;
  }

  Result<int32_t> Sequence(int32_t from, int depth) {
    while (!AtEnd() && Peek() != '|' && Peek() != ')') {
      if (Peek() == '$' && depth == 0 && position_ + 1 == text_.size()) {
        ++position_;
        ends_ = true;
        return from;
      }
      const size_t atom_begin = position_;
      WINNOW_ASSIGN(int32_t to, Atom(from, depth));
      WINNOW_ASSIGN(to, Repeat(from, to, atom_begin, depth));
      from = to;
      WINNOW_TRY(CheckSize());
    }
    return from;
  }

  // Reads * + ? {m,n} behind the atom from `from` to `to`, if one is there. Further copies of the
  // atom are made by reading it again.
  Result<int32_t> Repeat(int32_t from, int32_t to, size_t atom_begin, int depth) {
    const size_t atom_end = position_;
    int64_t min = 1;
    int64_t max = 1;
    if (Skip('*')) {
      min = 0;
      max = -1;
    } else if (Skip('+')) {
      max = -1;
    } else if (Skip('?')) {
      min = 0;
    } else if (!AtEnd() && Peek() == '{') {
      WINNOW_TRY(ReadCounts(min, max));
    } else {
      return to;
    }
    Skip('?');
    if (!AtEnd() && (Peek() == '*' || Peek() == '+' || Peek() == '?' || Peek() == '{')) {
      return Invalid("a repetition of a repetition");
    }
    const size_t behind = position_;
    const auto again = [&](int32_t start) {
      position_ = atom_begin;
      Result<int32_t> end = Atom(start, depth);
      WINNOW_CHECK(!end.ok() || position_ == atom_end, "an atom reads alike twice");
      position_ = behind;
      return end;
    };
    // The first copy is there already; `entry` is in front of it.
    const int32_t done = AddState();
    if (min == 0) AddEmpty(from, done);
    int32_t last_begin = from;
    for (int64_t copy = 1; copy < std::max(min, max); ++copy) {
      if (copy >= min) AddEmpty(to, done);
      last_begin = AddState();
      AddEmpty(to, last_begin);
      WINNOW_ASSIGN(to, again(last_begin));
      WINNOW_TRY(CheckSize());
    }
    if (max < 0) {
      // One more copy that may come any number of times, so that no edge leads back to `from`.
      const int32_t loop = AddState();
      AddEmpty(to, loop);
      WINNOW_ASSIGN(const int32_t loop_end, again(loop));
      AddEmpty(loop_end, loop);
      AddEmpty(loop, done);
    }
    if (max == 0) {
      const int32_t none = AddState();
      AddEmpty(from, none);
      return none;
    }
    AddEmpty(to, done);
    return done;
  }

  Status ReadCounts(int64_t& min, int64_t& max) {
    Skip('{');
    std::optional<int64_t> first = ReadNumber();
    if (!first) return Invalid("a { without a number");
    min = max = *first;
    if (Skip(',')) {
      max = -1;
      if (const std::optional<int64_t> second = ReadNumber()) {
        max = *second;
        if (max < min) return Invalid("a repetition that ends before it begins");
      }
    }
    if (!Skip('}')) return Invalid("a { without }");
    if (std::max(min, max) > kMaxRepeats) {
      return Unsupported(
          fmt::format("{}: more than {} repetitions in {}", what_, kMaxRepeats, Quoted(text_)));
    }
    return OkStatus();
  }

  std::optional<int64_t> ReadNumber() {
    std::optional<int64_t> number;
    while (!AtEnd() && Peek() >= '0' && Peek() <= '9') {
      number = std::min<int64_t>(number.value_or(0) * 10 + (Peek() - '0'), kMaxRepeats + 1);
      ++position_;
    }
    return number;
  }

  Result<int32_t> Atom(int32_t from, int depth) {
    const char byte = Peek();
    if (byte == '(') {
      ++position_;
      if (Skip('?')) {
        if (!Skip(':')) return Lacks("a group (? other than (?:");
      }
      WINNOW_ASSIGN(const int32_t to, Alternatives(from, depth + 1));
      if (!Skip(')')) return Invalid("a ( without )");
      return to;
    }
    if (byte == '^' || byte == '$') return Lacks("^ or $ within the expression");
    if (byte == '*' || byte == '+' || byte == '?' || byte == '{') {
      return Invalid("a repetition of nothing");
    }
    if (byte == '.') {
      ++position_;
      return AddClass(from, Complement(kLineEnds));
    }
    if (byte == '[') {
      WINNOW_ASSIGN(const Class ranges, ReadClass());
      return AddClass(from, ranges);
    }
    if (byte == '\\') {
      WINNOW_ASSIGN(const Class ranges, ReadEscape(/*in_class=*/false));
      return AddClass(from, ranges);
    }
    const uint32_t code_point = ReadCharacter();
    return AddClass(from, {{code_point, code_point}});
  }

  uint32_t ReadCharacter() {
    const Character character = CharacterAt(text_, position_);
    position_ += character.length;
    return character.code_point;
  }

  Result<Class> ReadClass() {
    ++position_;
    const bool is_negated = Skip('^');
    Class ranges;
    while (!AtEnd() && Peek() != ']') {
      WINNOW_ASSIGN(Class first, ReadClassAtom());
      const bool is_range =
          position_ + 1 < text_.size() && Peek() == '-' && text_[position_ + 1] != ']';
      if (is_range) {
        ++position_;
        WINNOW_ASSIGN(const Class second, ReadClassAtom());
        if (first.size() != 1 || first[0].first != first[0].last || second.size() != 1 ||
            second[0].first != second[0].last || first[0].first > second[0].first) {
          return Invalid("a range of a class that runs backwards or between classes");
        }
        first[0].last = second[0].last;
      }
      ranges.insert(ranges.end(), first.begin(), first.end());
      if (std::ssize(ranges) > kMaxNfaStates) return Invalid("a class too long");
    }
    if (!Skip(']')) return Invalid("a [ without ]");
    return is_negated ? Complement(std::move(ranges)) : ranges;
  }

  Result<Class> ReadClassAtom() {
    if (AtEnd()) return Invalid("a [ without ]");
    if (Peek() == '\\') return ReadEscape(/*in_class=*/true);
    const uint32_t code_point = ReadCharacter();
    return Class{{code_point, code_point}};
  }

  Result<Class> ReadEscape(bool in_class) {
    ++position_;
    if (AtEnd()) return Invalid("a \\ at the end");
    const auto one = [](uint32_t code_point) { return Class{{code_point, code_point}}; };
    const uint32_t letter = ReadCharacter();
    switch (letter) {
      case 'd':
        return kDigit;
      case 'D':
        return Complement(kDigit);
      case 'w':
        return kWord;
      case 'W':
        return Complement(kWord);
      case 's':
        return kSpace;
      case 'S':
        return Complement(kSpace);
      case 't':
        return one('\t');
      case 'n':
        return one('\n');
      case 'r':
        return one('\r');
      case 'v':
        return one('\v');
      case 'f':
        return one('\f');
      case 'x':
        return ReadHex(2);
      case 'u':
        return ReadHex(4);
      case 'b':
        if (in_class) return one('\b');
        break;
      default:
        break;
    }
    const bool is_word =
        letter < 0x80 && ((letter >= '0' && letter <= '9') || (letter >= 'A' && letter <= 'Z') ||
                          (letter >= 'a' && letter <= 'z'));
    if (is_word) return Lacks(fmt::format("\\{}", static_cast<char>(letter)));
    return one(letter);
  }

  Result<Class> ReadHex(int digits) {
    uint32_t code_point = 0;
    for (int index = 0; index < digits; ++index) {
      const char digit = AtEnd() ? 'x' : Peek();
      ++position_;
      if (digit >= '0' && digit <= '9') {
        code_point = code_point * 16 + (digit - '0');
      } else if ((digit | 0x20) >= 'a' && (digit | 0x20) <= 'f') {
        code_point = code_point * 16 + ((digit | 0x20) - 'a' + 10);
      } else {
        position_ = std::min(position_, text_.size());
        return Invalid("an escape without its digits");
      }
    }
    if (code_point >= 0xD800 && code_point <= 0xDFFF) return Lacks("half of a surrogate pair");
    return Class{{code_point, code_point}};
  }

  PatternNfa nfa_;
  std::string_view text_;
  std::string_view what_;
  size_t position_ = 0;
  bool ends_ = false;
  bool has_top_alternatives_ = false;
};

}  // namespace

Result<PatternNfa> ParsePattern(std::string_view pattern, std::string_view what) {
  return Parser(pattern, what).Run();
}

}  // namespace winnow
