#include "server/answer_writer.h"

#include <openssl/rand.h>

#include "base/text.h"

namespace winnow::server {

std::string ProgressComment(int64_t prefilled, int64_t prompt_tokens) {
  if (prompt_tokens == 0) return ": queued\n\n";
  return fmt::format(": prefill {}/{}\n\n", prefilled, prompt_tokens);
}

std::string RandomId(std::string_view prefix) {
  constexpr char kDigits[] = "0123456789abcdefghijklmnopqrstuv";
  unsigned char bytes[24] = {};
  RAND_bytes(bytes, sizeof(bytes));
  std::string id(prefix);
  for (const unsigned char byte : bytes) id += kDigits[byte % 32];
  return id;
}

}  // namespace winnow::server
