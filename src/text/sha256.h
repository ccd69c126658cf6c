// SHA-256 (FIPS 180-4), to recognise fixed texts of checkpoints by their digests.
#pragma once

#include <string>
#include <string_view>

namespace winnow {

// The digest of `bytes` as 64 lower-case hexadecimal digits.
std::string Sha256(std::string_view bytes);

}  // namespace winnow
