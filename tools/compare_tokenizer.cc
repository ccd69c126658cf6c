// compare_tokenizer TOKENIZER_JSON: the Winnow half of compare_tokenizer.py.
//
// Reads texts from standard input, each as a 32-bit length, a 32-bit flag (1: recognise added
// tokens) and that many bytes; answers each with a 32-bit count and that many 32-bit tokens, then a
// 32-bit length and the bytes of their text as StreamDecoder gives it. Integers are little-endian.
// Seconds spent encoding go to standard error at the end.
#include <chrono>
#include <cstdio>
#include <string>
#include <vector>

#include "text/tokenizer.h"

namespace {

bool ReadNumber(uint32_t& number) { return std::fread(&number, sizeof number, 1, stdin) == 1; }

void WriteNumber(uint32_t number) { std::fwrite(&number, sizeof number, 1, stdout); }

}  // namespace

int main(int argc, char** argv) {
  if (argc != 2) {
    std::fprintf(stderr, "usage: compare_tokenizer TOKENIZER_JSON\n");
    return 2;
  }
  const winnow::Result<winnow::Tokenizer> tokenizer = winnow::Tokenizer::Load(argv[1]);
  if (!tokenizer.ok()) {
    std::fprintf(stderr, "%s\n", tokenizer.error().ToString().c_str());
    return 1;
  }
  std::chrono::steady_clock::duration encoding{};
  uint64_t bytes = 0;
  uint32_t size = 0;
  uint32_t recognize = 0;
  while (ReadNumber(size) && ReadNumber(recognize)) {
    std::string text(size, '\0');
    if (std::fread(text.data(), 1, size, stdin) != size) return 1;
    const auto start = std::chrono::steady_clock::now();
    const auto tokens = tokenizer->Encode(
        text, recognize != 0 ? winnow::SpecialTokens::kRecognize : winnow::SpecialTokens::kAsText);
    encoding += std::chrono::steady_clock::now() - start;
    bytes += size;
    if (!tokens.ok()) return 1;
    WriteNumber(static_cast<uint32_t>(tokens->size()));
    std::fwrite(tokens->data(), sizeof(int32_t), tokens->size(), stdout);
    winnow::StreamDecoder decoder(*tokenizer, /*keep_special=*/true);
    std::string decoded;
    for (int32_t token : *tokens) decoded += decoder.Append(token);
    decoded += decoder.Flush();
    WriteNumber(static_cast<uint32_t>(decoded.size()));
    std::fwrite(decoded.data(), 1, decoded.size(), stdout);
  }
  const double seconds = std::chrono::duration<double>(encoding).count();
  std::fprintf(stderr, "%llu bytes in %.3f s, %.1f MB/s\n", static_cast<unsigned long long>(bytes),
               seconds, bytes / seconds / 1e6);
  return 0;
}
