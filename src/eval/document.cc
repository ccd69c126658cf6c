#include "eval/document.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <optional>
#include <set>

#include "base/check.h"
#include "base/text.h"

namespace winnow::eval {
namespace {

bool IsSpace(char c) { return c == ' ' || c == '\n' || c == '\t' || c == '\r'; }
bool IsContinuationByte(char c) { return (static_cast<unsigned char>(c) & 0xC0) == 0x80; }

// Behind a line's end.
bool EndsLine(const std::string& text, size_t place) {
  return place == 0 || place == text.size() || text[place - 1] == '\n';
}

// Behind a sentence's last mark and the quotes that close with it.
bool EndsSentence(const std::string& text, size_t place) {
  if (place == 0 || place == text.size()) return true;
  if (!IsSpace(text[place])) return false;
  size_t last = place - 1;
  while (last > 0 && (text[last] == '"' || text[last] == '\'' || text[last] == ')')) --last;
  return text[last] == '.' || text[last] == '!' || text[last] == '?';
}

bool EndsWord(const std::string& text, size_t place) {
  return place == 0 || place == text.size() || (IsSpace(text[place]) && !IsSpace(text[place - 1]));
}

// The place nearest to `target` in [first, last] that `accepts`; npos if there is none.
size_t Nearest(size_t target, size_t first, size_t last,
               const std::function<bool(size_t)>& accepts) {
  target = std::clamp(target, first, last);
  for (size_t distance = 0; distance <= last - first; ++distance) {
    if (target >= first + distance && target - distance <= last && accepts(target - distance)) {
      return target - distance;
    }
    if (target + distance >= first && target + distance <= last && accepts(target + distance)) {
      return target + distance;
    }
  }
  return std::string::npos;
}

// Places for the statements in `text`, ascending and different but at its end.
std::vector<size_t> Places(const std::string& text, std::span<const Hidden> statements) {
  const int64_t count = static_cast<int64_t>(statements.size());
  std::vector<size_t> places;
  const size_t reach = text.size() / static_cast<size_t>(std::max<int64_t>(1, count)) / 2;
  for (int64_t index = 0; index < count; ++index) {
    const size_t target =
        static_cast<size_t>(std::llround(DepthOf(index, count) * static_cast<double>(text.size())));
    const size_t first = std::max(places.empty() ? 0 : std::min(places.back() + 1, text.size()),
                                  target > reach ? target - reach : 0);
    const size_t last = std::max(first, std::min(text.size(), target + reach));
    const bool own_line = statements[static_cast<size_t>(index)].own_line;
    size_t place = Nearest(target, first, last, [&](size_t candidate) {
      return own_line ? EndsLine(text, candidate) : EndsSentence(text, candidate);
    });
    if (place == std::string::npos) {
      place = Nearest(target, first, last, [&](size_t candidate) {
        return EndsLine(text, candidate) || EndsSentence(text, candidate);
      });
    }
    if (place == std::string::npos) {
      place =
          Nearest(target, first, last, [&](size_t candidate) { return EndsWord(text, candidate); });
    }
    if (place == std::string::npos) {
      place = Nearest(target, first, last, [&](size_t candidate) {
        return candidate == text.size() || !IsContinuationByte(text[candidate]);
      });
    }
    places.push_back(place == std::string::npos ? text.size() : place);
  }
  return places;
}

// `filler` with the statements at their places.
Document Insert(const std::string& filler, std::span<const Hidden> statements) {
  const int64_t count = static_cast<int64_t>(statements.size());
  const std::vector<size_t> places = Places(filler, statements);
  Document document;
  size_t copied = 0;
  for (int64_t index = 0; index < count; ++index) {
    const size_t place = places[static_cast<size_t>(index)];
    document.text.append(filler, copied, place - copied);
    copied = place;
    const bool own_line = statements[static_cast<size_t>(index)].own_line;
    const bool line_begins = document.text.empty() || document.text.back() == '\n';
    if (own_line && !line_begins) document.text += '\n';
    if (!own_line && !line_begins) document.text += ' ';
    document.statement_begins.push_back(document.text.size());
    document.text += statements[static_cast<size_t>(index)].text;
    if (place == filler.size()) continue;  // nothing stands behind it, or the next statement
    if (own_line) {
      document.text += '\n';
    } else if (!IsSpace(filler[place])) {
      document.text += ' ';
    }
  }
  document.text.append(filler, copied);
  return document;
}

// Looks for the length of the stretch that gives the wanted number of tokens.
class Builder {
 public:
  Builder(const std::string& source, size_t end, std::span<const Hidden> statements,
          int64_t num_tokens, const Tokenizer& tokenizer)
      : source_(source),
        end_(end),
        statements_(statements),
        wanted_(num_tokens),
        tokenizer_(tokenizer) {}

  // Whole words, then any characters, then the same from a little further in front: a source that
  // repeats may have no cut of just this length from one end.
  Result<Document> Build() {
    WINNOW_TRY(Try(0, false));
    if (count_ > wanted_) {
      return InvalidArgument(fmt::format(
          "length: the statements take {} tokens, expected at most the {} tokens of the document",
          count_, wanted_));
    }
    for (int shift = 0; shift <= 8; ++shift) {
      for (const bool words : {true, false}) {
        WINNOW_TRY(Search(words));
        if (found_) return std::move(*found_);
      }
      do {
        end_ = end_ > 1 ? end_ - 1 : source_.size();
      } while (end_ < source_.size() && IsContinuationByte(source_[end_]));
    }
    return InvalidArgument(
        fmt::format("length: no cut of the texts gives a document of exactly {} tokens with {} "
                    "statements, expected one",
                    wanted_, statements_.size()));
  }

 private:
  // The `bytes` bytes in front of end_, from the next whole word or character on.
  std::string Stretch(int64_t bytes, bool words) const {
    const int64_t size = static_cast<int64_t>(source_.size());
    const auto at = [&](int64_t back) {  // the byte `back` bytes in front of end_
      const int64_t place = (static_cast<int64_t>(end_) - back) % size;
      return source_[static_cast<size_t>(place < 0 ? place + size : place)];
    };
    while (bytes > 0 && IsContinuationByte(at(bytes))) --bytes;
    while (words && bytes > 0 && (IsSpace(at(bytes)) || !IsSpace(at(bytes + 1)))) --bytes;
    std::string stretch;
    stretch.reserve(static_cast<size_t>(bytes));
    for (int64_t back = bytes; back > 0; --back) stretch += at(back);
    return stretch;
  }

  // Sets found_ if the stretch of `bytes` bytes fits, and count_.
  Status Try(int64_t bytes, bool words) {
    if (bytes < 0) return OkStatus();
    const std::string stretch = Stretch(bytes, words);
    if (!tried_.insert(stretch.size()).second) return OkStatus();
    Document document = Insert(stretch, statements_);
    WINNOW_ASSIGN(document.tokens, tokenizer_.Encode(document.text));
    count_ = static_cast<int64_t>(document.tokens.size());
    if (count_ != wanted_) return OkStatus();
    document.repeats = stretch.size() > source_.size();
    found_ = std::move(document);
    return OkStatus();
  }

  // Newton's steps, since tokens go nearly in proportion to bytes; then what lies around.
  Status Search(bool words) {
    constexpr int64_t kReach = 100;
    tried_.clear();
    int64_t estimate = wanted_ * 4;
    double bytes_per_token = 4;
    for (int step = 0; step < 16; ++step) {
      const size_t tries = tried_.size();
      WINNOW_TRY(Try(estimate, words));
      if (found_ || tried_.size() == tries) break;
      if (step == 0) bytes_per_token = static_cast<double>(estimate) / static_cast<double>(count_);
      const double change = static_cast<double>(wanted_ - count_) * bytes_per_token;
      estimate = std::clamp<int64_t>(estimate + std::llround(change), 0, wanted_ * 64);
    }
    for (int64_t distance = 0; distance <= kReach && !found_; ++distance) {
      WINNOW_TRY(Try(estimate - distance, words));
      if (!found_) WINNOW_TRY(Try(estimate + distance, words));
    }
    return OkStatus();
  }

  const std::string& source_;
  size_t end_;
  const std::span<const Hidden> statements_;
  const int64_t wanted_;
  const Tokenizer& tokenizer_;
  int64_t count_ = 0;
  std::set<size_t> tried_;  // bytes of stretches
  std::optional<Document> found_;
};

// Byte offsets of the tokens, and the end of the last.
std::vector<size_t> TokenBegins(const std::vector<int32_t>& tokens, const Tokenizer& tokenizer) {
  std::vector<size_t> begins = {0};
  for (const int32_t token : tokens) {
    begins.push_back(begins.back() + tokenizer.TokenBytes(token).size());
  }
  return begins;
}

}  // namespace

double DepthOf(int64_t index, int64_t count) {
  return count == 1 ? 0.5 : static_cast<double>(index) / static_cast<double>(count - 1);
}

Result<Document> BuildDocument(const std::string& source, size_t end,
                               std::span<const Hidden> statements, int64_t num_tokens,
                               const Tokenizer& tokenizer) {
  if (std::all_of(source.begin(), source.end(), IsSpace)) {
    return InvalidArgument("text: it holds no words, expected some");
  }
  return Builder(source, end, statements, num_tokens, tokenizer).Build();
}

Quotation QuoteAt(const Document& document, std::span<const Hidden> statements, double depth,
                  const Tokenizer& tokenizer) {
  const std::string& text = document.text;
  const std::vector<size_t> begins = TokenBegins(document.tokens, tokenizer);
  constexpr size_t kAll = static_cast<size_t>(kPassageTokens + kContinuationTokens);
  if (document.tokens.size() < kAll) return {};
  const auto word_begins = [&](size_t token) {
    const size_t place = begins[token];
    return place == 0 || IsSpace(text[place]) || IsSpace(text[place - 1]);
  };
  const auto touches_statement = [&](size_t first, size_t last) {
    for (size_t index = 0; index < statements.size(); ++index) {
      const size_t begin = document.statement_begins[index];
      if (begins[first] < begin + statements[index].text.size() + 1 && begin < begins[last] + 1) {
        return true;
      }
    }
    return false;
  };
  const auto quote = [&](size_t token) {
    const size_t middle = begins[token + kPassageTokens];
    return Quotation{Trimmed(text.substr(begins[token], middle - begins[token])),
                     Trimmed(text.substr(middle, begins[token + kAll] - middle))};
  };
  // 0: passage and continuation in one line, and the passage occurs once; 3: anything.
  const auto accepts = [&](size_t token, int leniency) {
    if (!word_begins(token) || !word_begins(token + kPassageTokens)) return false;
    if (touches_statement(token, token + kAll)) return false;
    const Quotation quotation = quote(token);
    if (quotation.passage.empty() || quotation.continuation.empty()) return false;
    const bool passage_in_line = quotation.passage.find('\n') == std::string::npos;
    const bool all_in_line =
        text.substr(begins[token], begins[token + kAll] - begins[token]).find('\n', 1) ==
        std::string::npos;
    const size_t place = text.find(quotation.passage);
    const bool once = text.find(quotation.passage, place + 1) == std::string::npos;
    if (leniency == 0) return all_in_line && once;
    if (leniency == 1) return passage_in_line && once;
    return leniency == 3 || passage_in_line;
  };
  const size_t last = document.tokens.size() - kAll;
  const size_t target = static_cast<size_t>(std::llround(depth * static_cast<double>(last)));
  // A strict place nearby rather than a lenient one here; anything rather than nothing.
  for (int leniency = 0; leniency <= 3; ++leniency) {
    const size_t reach = leniency == 3 ? last : std::max<size_t>(last / 16, 64);
    const size_t token =
        Nearest(target, target > reach ? target - reach : 0, std::min(last, target + reach),
                [&](size_t candidate) { return accepts(candidate, leniency); });
    if (token != std::string::npos) return quote(token);
  }
  return {};
}

}  // namespace winnow::eval
