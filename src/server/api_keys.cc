#include "server/api_keys.h"

#include <openssl/crypto.h>
#include <openssl/sha.h>

#include <algorithm>

#include "base/check.h"
#include "base/file.h"
#include "base/text.h"

namespace winnow::server {
namespace {

constexpr int64_t kMaxFileBytes = 1 << 20;
constexpr size_t kMaxName = 64;

std::array<unsigned char, 32> Digest(std::string_view text) {
  std::array<unsigned char, 32> digest;
  SHA256(reinterpret_cast<const unsigned char*>(text.data()), text.size(), digest.data());
  return digest;
}

bool IsName(std::string_view name) {
  return !name.empty() && name.size() <= kMaxName &&
         std::all_of(name.begin(), name.end(), [](unsigned char letter) {
           return std::isalnum(letter) != 0 || letter == '_' || letter == '-' || letter == '.' ||
                  letter == '@';
         });
}

}  // namespace

Status ApiKeys::Add(const std::string& text, const std::string& where) {
  Key key;
  key.name = fmt::format("key-{}", keys_.size() + 1);
  std::string_view secret = text;
  const size_t equals = text.find('=');
  // '=' may also end a key in base64.
  if (equals != std::string::npos && equals + 1 < text.size() && text[equals + 1] != '=') {
    key.name = text.substr(0, equals);
    secret.remove_prefix(equals + 1);
    if (!IsName(key.name)) {
      return InvalidArgument(
          fmt::format("{}: the name before '=' is not one of 1 to {} letters, digits and \"_-.@\"",
                      where, kMaxName));
    }
  }
  if (secret.empty()) return InvalidArgument(where + ": it is empty, expected KEY or NAME=KEY");
  key.digest = Digest(secret);
  for (const Key& other : keys_) {
    if (other.name == key.name || other.digest == key.digest) {
      return InvalidArgument(fmt::format("{}: its name or key is that of {}", where, other.name));
    }
  }
  keys_.push_back(std::move(key));
  return OkStatus();
}

Result<ApiKeys> ApiKeys::Load(const std::vector<std::string>& keys, const std::string& file) {
  ApiKeys loaded;
  for (const std::string& key : keys) WINNOW_TRY(loaded.Add(key, "--api-key"));
  if (file.empty()) return loaded;
  WINNOW_ASSIGN(const std::string text, ReadFile(file, kMaxFileBytes));
  int line_number = 0;
  for (size_t at = 0; at < text.size();) {
    const size_t end = std::min(text.find('\n', at), text.size());
    std::string line = text.substr(at, end - at);
    at = end + 1;
    ++line_number;
    while (!line.empty() && (line.back() == '\r' || line.back() == ' ')) line.pop_back();
    if (line.empty() || line[0] == '#') continue;
    WINNOW_TRY(loaded.Add(line, fmt::format("{}: line {}", FileName(file), line_number)));
  }
  if (loaded.empty()) {
    return InvalidArgument(FileName(file) + ": it has no keys, expected one a line");
  }
  return loaded;
}

bool ApiKeys::HasName(std::string_view name) const {
  return std::any_of(keys_.begin(), keys_.end(),
                     [name](const Key& key) { return key.name == name; });
}

std::optional<std::string> ApiKeys::NameOf(std::string_view key) const {
  const std::array<unsigned char, 32> digest = Digest(key);
  const Key* found = nullptr;
  for (const Key& candidate : keys_) {
    if (CRYPTO_memcmp(candidate.digest.data(), digest.data(), digest.size()) == 0) {
      found = &candidate;
    }
  }
  if (found == nullptr) return std::nullopt;
  return found->name;
}

}  // namespace winnow::server
