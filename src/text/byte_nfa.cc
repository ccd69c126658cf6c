// Ranges of characters become ranges of bytes: a range is split until all bytes behind the first
// that differs take all their values.
#include "text/byte_nfa.h"

namespace winnow {
namespace {

// UTF-8 of a code point with `length` bytes.
void EncodeUtf8(uint32_t code_point, int length, uint8_t* bytes) {
  for (int index = length - 1; index > 0; --index) {
    bytes[index] = static_cast<uint8_t>(0x80 | (code_point & 0x3F));
    code_point >>= 6;
  }
  constexpr uint8_t kLead[] = {0, 0, 0xC0, 0xE0, 0xF0};
  bytes[0] = static_cast<uint8_t>(kLead[length] | code_point);
}

}  // namespace

int32_t ByteNfa::AddState() {
  states_.emplace_back();
  return static_cast<int32_t>(states_.size() - 1);
}

void ByteNfa::AddBytes(int32_t from, uint8_t first, uint8_t last, int32_t to, CountAction action) {
  states_[from].edges.push_back({first, last, action, to});
}

void ByteNfa::AddCall(int32_t from, int32_t rule, int32_t to) {
  states_[from].calls.push_back({rule, to});
}

void ByteNfa::AddEmpty(int32_t from, int32_t to) { states_[from].empty.push_back(to); }

int32_t ByteNfa::Bytes(int32_t from, uint8_t first, uint8_t last) {
  const int32_t to = AddState();
  AddBytes(from, first, last, to);
  return to;
}

int32_t ByteNfa::Spell(int32_t from, std::string_view text) {
  for (char byte : text) from = Bytes(from, static_cast<uint8_t>(byte), static_cast<uint8_t>(byte));
  return from;
}

void ByteNfa::AddCharacters(int32_t from, uint32_t first, uint32_t last, int32_t to,
                            CountAction action) {
  if (first > last) return;
  if (first < 0xE000 && last > 0xD7FF) {
    if (first < 0xD800) AddCharacters(from, first, 0xD7FF, to, action);
    if (last > 0xDFFF) AddCharacters(from, 0xE000, last, to, action);
    return;
  }
  constexpr uint32_t kLastOfLength[] = {0, 0x7F, 0x7FF, 0xFFFF, 0x10FFFF};
  int length = 1;
  while (first > kLastOfLength[length]) ++length;
  if (last > kLastOfLength[length]) {
    AddCharacters(from, first, kLastOfLength[length], to, action);
    AddCharacters(from, kLastOfLength[length] + 1, last, to, action);
    return;
  }
  if (length == 1) {
    AddBytes(from, static_cast<uint8_t>(first), static_cast<uint8_t>(last), to, action);
    return;
  }
  // Split until all bytes behind the first that differs take all their values.
  for (int tail = 1; tail < length; ++tail) {
    const uint32_t mask = (uint32_t{1} << (6 * tail)) - 1;
    if ((first & ~mask) == (last & ~mask)) break;
    if ((first & mask) != 0) {
      AddCharacters(from, first, first | mask, to, action);
      AddCharacters(from, (first | mask) + 1, last, to, action);
      return;
    }
    if ((last & mask) != mask) {
      AddCharacters(from, first, (last & ~mask) - 1, to, action);
      AddCharacters(from, last & ~mask, last, to, action);
      return;
    }
  }
  uint8_t low[4];
  uint8_t high[4];
  EncodeUtf8(first, length, low);
  EncodeUtf8(last, length, high);
  for (int index = 0; index < length; ++index) {
    const int32_t next = index + 1 == length ? to : AddState();
    AddBytes(from, low[index], high[index], next, index == 0 ? action : CountAction::kNone);
    from = next;
  }
}

}  // namespace winnow
