// The header of a safetensors file: whatever it says, what is accepted tiles the data exactly.
#include <string_view>

#include "base/check.h"
#include "model/safetensors.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view file(reinterpret_cast<const char*>(data), size);
  const auto file_size = static_cast<int64_t>(size);
  const winnow::Result<winnow::SafetensorsHeader> header =
      winnow::ParseSafetensorsHeader(file, file_size, "fuzz.safetensors");
  if (!header.ok()) {
    WINNOW_CHECK(!header.error().message().empty(), "refused without a reason");
    return 0;
  }
  int64_t end = 0;
  for (const winnow::SafetensorsHeader::Entry& entry : header->entries) {
    WINNOW_CHECK(entry.begin == end && entry.end >= entry.begin, "a hole or an overlap");
    for (const int64_t extent : entry.shape) WINNOW_CHECK(extent >= 0, "a negative extent");
    end = entry.end;
  }
  WINNOW_CHECK(header->data_begin + end == file_size, "bytes outside every tensor");
  return 0;
}
