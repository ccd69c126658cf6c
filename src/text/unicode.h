// Characters as tokenizers see them: UTF-8 in and out, and the classes their splits ask for.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace winnow {

constexpr uint32_t kLastCodePoint = 0x10FFFF;

// The first letter of a general category of Unicode 16; white space (White_Space) is a class of its
// own.
enum class CharClass : uint8_t {
  kLetter,
  kMark,
  kNumber,
  kPunctuation,
  kSymbol,
  kSpace,
  kOther,  // controls, unassigned code points, and bytes that are not UTF-8
};

// One character of a text. A byte that belongs to no valid UTF-8 sequence is a character of its
// own, with code point kInvalidCodePoint.
struct Character {
  uint32_t code_point;
  int length;  // bytes, 1 to 4
  CharClass char_class;
};

inline constexpr uint32_t kInvalidCodePoint = 0xFFFFFFFF;

extern const std::array<CharClass, 128> kAsciiClasses;

// As CharacterAt, for a byte that is not ASCII.
Character LongCharacterAt(std::string_view text, size_t position);

// The character that begins at byte `position` < text.size().
inline Character CharacterAt(std::string_view text, size_t position) {
  const uint8_t byte = static_cast<uint8_t>(text[position]);
  if (byte < 0x80) return {byte, 1, kAsciiClasses[byte]};
  return LongCharacterAt(text, position);
}

// Appends the UTF-8 form of `code_point`, which is at most 0x10FFFF.
void AppendUtf8(uint32_t code_point, std::string& out);

// Turns bytes that arrive in pieces into valid UTF-8. Each longest run of bytes that begins a
// character but does not finish it, and each byte that can begin none, becomes one U+FFFD (the
// practice that Unicode recommends, and what Rust's from_utf8_lossy does).
class Utf8Repair {
 public:
  // The characters that `bytes` completes. What may still become a character is kept back.
  std::string Append(std::string_view bytes);

  // The end of the text: what was kept back becomes U+FFFD.
  std::string Flush();

 private:
  std::string pending_;  // at most three bytes, the beginning of a character
};

}  // namespace winnow
