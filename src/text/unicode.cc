// Decoding of UTF-8, and a two-level table of character classes made from the runs of
// unicode_ranges.h.
#include "text/unicode.h"

#include <algorithm>
#include <array>
#include <iterator>
#include <map>
#include <vector>

#include "text/unicode_ranges.h"

namespace winnow {
namespace {

constexpr uint32_t kCodePoints = 0x110000;
constexpr uint32_t kBlock = 256;
constexpr std::string_view kReplacement = "\xEF\xBF\xBD";

constexpr CharClass ClassOfLetter(char letter) {
  switch (letter) {
    case 'L':
      return CharClass::kLetter;
    case 'M':
      return CharClass::kMark;
    case 'N':
      return CharClass::kNumber;
    case 'P':
      return CharClass::kPunctuation;
    case 'S':
      return CharClass::kSymbol;
    case ' ':
      return CharClass::kSpace;
    default:
      return CharClass::kOther;
  }
}

constexpr std::array<CharClass, 128> MakeAsciiClasses() {
  std::array<CharClass, 128> classes{};
  for (const UnicodeRun& run : kUnicodeRuns) {
    for (uint32_t byte = run.first; byte < classes.size(); ++byte) {
      classes[byte] = ClassOfLetter(run.char_class);
    }
  }
  return classes;
}

// Blocks of 256 code points; equal blocks, which are most, are stored once.
struct ClassTable {
  using Block = std::array<CharClass, kBlock>;
  std::array<uint16_t, kCodePoints / kBlock> block_of;
  std::vector<Block> blocks;

  ClassTable() {
    std::map<Block, uint16_t> known;
    size_t run = 0;
    for (uint32_t first = 0; first < kCodePoints; first += kBlock) {
      Block block;
      for (uint32_t offset = 0; offset < kBlock; ++offset) {
        while (run + 1 < std::size(kUnicodeRuns) && kUnicodeRuns[run + 1].first <= first + offset) {
          ++run;
        }
        block[offset] = ClassOfLetter(kUnicodeRuns[run].char_class);
      }
      const auto [entry, is_new] = known.try_emplace(block, static_cast<uint16_t>(blocks.size()));
      if (is_new) blocks.push_back(block);
      block_of[first / kBlock] = entry->second;
    }
  }

  CharClass operator[](uint32_t code_point) const {
    return blocks[block_of[code_point / kBlock]][code_point % kBlock];
  }
};

const ClassTable& Classes() {
  static const ClassTable table;
  return table;
}

// How the sequence at the front of `bytes` (not empty) reads: a whole character, or the longest
// beginning of one. `length` counts its bytes; a byte that begins nothing has length 1 and is
// neither.
struct Sequence {
  int length;
  bool whole;
  bool cut_short;  // the bytes ended before the character did
  uint32_t code_point;
};

Sequence ReadSequence(std::string_view bytes) {
  const auto byte = [&](size_t index) { return static_cast<uint8_t>(bytes[index]); };
  const uint8_t lead = byte(0);
  if (lead < 0x80) return {1, true, false, lead};
  if (lead < 0xC2 || lead > 0xF4) return {1, false, false, 0};
  const int length = lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : 4;
  // The second byte rules out overlong forms, surrogates and what lies beyond U+10FFFF.
  const uint8_t lowest = lead == 0xE0 ? 0xA0 : lead == 0xF0 ? 0x90 : 0x80;
  const uint8_t highest = lead == 0xED ? 0x9F : lead == 0xF4 ? 0x8F : 0xBF;
  uint32_t code_point = lead & (0xFF >> (length + 1));
  for (int index = 1; index < length; ++index) {
    if (static_cast<size_t>(index) >= bytes.size()) return {index, false, true, 0};
    const uint8_t next = byte(index);
    if (next < (index == 1 ? lowest : 0x80) || next > (index == 1 ? highest : 0xBF)) {
      return {index, false, false, 0};
    }
    code_point = code_point << 6 | (next & 0x3F);
  }
  return {length, true, false, code_point};
}

}  // namespace

constexpr std::array<CharClass, 128> kAsciiClasses = MakeAsciiClasses();

Character LongCharacterAt(std::string_view text, size_t position) {
  static const ClassTable& classes = Classes();
  const Sequence sequence = ReadSequence(text.substr(position, 4));
  if (!sequence.whole) return {kInvalidCodePoint, 1, CharClass::kOther};
  return {sequence.code_point, sequence.length, classes[sequence.code_point]};
}

void AppendUtf8(uint32_t code_point, std::string& out) {
  const auto tail = [&](int shift) {
    out += static_cast<char>(0x80 | (code_point >> shift & 0x3F));
  };
  if (code_point < 0x80) {
    out += static_cast<char>(code_point);
  } else if (code_point < 0x800) {
    out += static_cast<char>(0xC0 | code_point >> 6);
    tail(0);
  } else if (code_point < 0x10000) {
    out += static_cast<char>(0xE0 | code_point >> 12);
    tail(6);
    tail(0);
  } else {
    out += static_cast<char>(0xF0 | code_point >> 18);
    tail(12);
    tail(6);
    tail(0);
  }
}

std::string Utf8Repair::Append(std::string_view bytes) {
  pending_ += bytes;
  std::string text;
  size_t position = 0;
  while (position < pending_.size()) {
    const Sequence sequence = ReadSequence(std::string_view(pending_).substr(position));
    if (sequence.cut_short) break;
    if (sequence.whole) {
      text.append(pending_, position, sequence.length);
    } else {
      text += kReplacement;
    }
    position += sequence.length;
  }
  pending_.erase(0, position);
  return text;
}

std::string Utf8Repair::Flush() {
  if (pending_.empty()) return {};
  pending_.clear();
  return std::string(kReplacement);
}

}  // namespace winnow
