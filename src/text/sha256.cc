// SHA-256 over a text in memory. Its constants are computed as the standard defines them: the first
// 32 bits of the fractional parts of square roots and cube roots of the first primes.
#include "text/sha256.h"

#include <fmt/format.h>

#include <array>
#include <bit>
#include <cmath>
#include <cstdint>

namespace winnow {
namespace {

struct Constants {
  std::array<uint32_t, 8> start;
  std::array<uint32_t, 64> round;

  Constants() {
    const auto fraction = [](long double root) {
      return static_cast<uint32_t>((root - std::floor(root)) * 4294967296.0L);
    };
    size_t count = 0;
    for (uint32_t number = 2; count < round.size(); ++number) {
      bool is_prime = true;
      for (uint32_t divisor = 2; divisor * divisor <= number; ++divisor) {
        is_prime = is_prime && number % divisor != 0;
      }
      if (!is_prime) continue;
      if (count < start.size())
        start[count] = fraction(std::sqrt(static_cast<long double>(number)));
      round[count++] = fraction(std::cbrt(static_cast<long double>(number)));
    }
  }
};

using State = std::array<uint32_t, 8>;

// Mixes one block of 64 bytes into the state.
void Mix(const Constants& constants, std::string_view block, State& state) {
  std::array<uint32_t, 64> words;
  for (size_t index = 0; index < 16; ++index) {
    words[index] = 0;
    for (size_t byte = 0; byte < 4; ++byte) {
      words[index] = words[index] << 8 | static_cast<uint8_t>(block[4 * index + byte]);
    }
  }
  for (size_t index = 16; index < 64; ++index) {
    const uint32_t x = words[index - 15];
    const uint32_t y = words[index - 2];
    words[index] = words[index - 16] + (std::rotr(x, 7) ^ std::rotr(x, 18) ^ x >> 3) +
                   words[index - 7] + (std::rotr(y, 17) ^ std::rotr(y, 19) ^ y >> 10);
  }
  auto [a, b, c, d, e, f, g, h] = state;
  for (size_t index = 0; index < 64; ++index) {
    const uint32_t t1 = h + (std::rotr(e, 6) ^ std::rotr(e, 11) ^ std::rotr(e, 25)) +
                        ((e & f) ^ (~e & g)) + constants.round[index] + words[index];
    const uint32_t t2 =
        (std::rotr(a, 2) ^ std::rotr(a, 13) ^ std::rotr(a, 22)) + ((a & b) ^ (a & c) ^ (b & c));
    h = g;
    g = f;
    f = e;
    e = d + t1;
    d = c;
    c = b;
    b = a;
    a = t1 + t2;
  }
  const State mixed = {a, b, c, d, e, f, g, h};
  for (size_t index = 0; index < state.size(); ++index) state[index] += mixed[index];
}

}  // namespace

std::string Sha256(std::string_view bytes) {
  static const Constants constants;
  // A one bit, zeros to the end of a block, and the length in bits in its last eight bytes.
  std::string padded(bytes);
  padded += '\x80';
  while (padded.size() % 64 != 56) padded += '\0';
  for (int shift = 56; shift >= 0; shift -= 8) {
    padded += static_cast<char>(static_cast<uint64_t>(bytes.size()) * 8 >> shift);
  }
  State state = constants.start;
  for (size_t first = 0; first < padded.size(); first += 64) {
    Mix(constants, std::string_view(padded).substr(first, 64), state);
  }
  std::string digest;
  for (uint32_t word : state) digest += fmt::format("{:08x}", word);
  return digest;
}

}  // namespace winnow
