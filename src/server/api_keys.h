// The keys that clients show, kept as digests.
#pragma once

#include <array>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "winnow/status.h"

namespace winnow::server {

class ApiKeys {
 public:
  // `keys` are "KEY" or "NAME=KEY". A key without a name is called "key-1" by its place. `file`, if
  // not empty, has one of them a line; blank lines and lines that begin with # are left out.
  // kInvalidArgument or kNotFound naming option or line; keys are not repeated in errors.
  static Result<ApiKeys> Load(const std::vector<std::string>& keys, const std::string& file);

  bool empty() const { return keys_.empty(); }
  bool HasName(std::string_view name) const;
  // The name that belongs to `key`. Takes the same time whichever key it is, and whether or not it
  // is one.
  std::optional<std::string> NameOf(std::string_view key) const;

 private:
  struct Key {
    std::string name;
    std::array<unsigned char, 32> digest;
  };
  Status Add(const std::string& text, const std::string& where);

  std::vector<Key> keys_;
};

}  // namespace winnow::server
