// The header of a safetensors file. Everything a later reader relies on (offsets inside the file,
// sizes that match shapes, no overlap) is established here, from bytes that may say anything.
#include <algorithm>
#include <cstring>

#include "base/check.h"
#include "base/json.h"
#include "base/text.h"
#include "model/safetensors.h"

namespace winnow {
namespace {

constexpr int64_t kMaxHeaderBytes = 100'000'000;
constexpr size_t kMaxRank = 8;

struct StoredType {
  std::string_view name;
  int64_t bits;
};
constexpr StoredType kStoredTypes[] = {
    {"F4", 4},      {"F6_E2M3", 6}, {"F6_E3M2", 6},     {"F8_E5M2", 8},     {"F8_E4M3", 8},
    {"F8_E8M0", 8}, {"BOOL", 8},    {"F8_E4M3FNUZ", 8}, {"F8_E5M2FNUZ", 8}, {"U8", 8},
    {"I8", 8},      {"U16", 16},    {"I16", 16},        {"F16", 16},        {"BF16", 16},
    {"U32", 32},    {"I32", 32},    {"F32", 32},        {"U64", 64},        {"I64", 64},
    {"F64", 64},    {"C64", 64}};

// Reads one tensor's description; keeps file and tensor for the errors.
class EntryReader {
 public:
  EntryReader(std::string_view what, std::string_view tensor) : what_(what), tensor_(tensor) {}

  Result<SafetensorsHeader::Entry> Read(const json::value& value) const {
    const json::object* object = value.if_object();
    if (object == nullptr) return Error("is {}, expected an object", JsonKindName(value));
    SafetensorsHeader::Entry entry;
    entry.name = tensor_;
    WINNOW_ASSIGN(const int64_t bits, ReadDType(*object, &entry.dtype_name));
    WINNOW_ASSIGN(entry.shape, ReadExtents(*object, "shape"));
    if (entry.shape.size() > kMaxRank) {
      return Error("has {} axes, at most {} are read", entry.shape.size(), kMaxRank);
    }
    WINNOW_ASSIGN(const std::vector<int64_t> offsets, ReadExtents(*object, "data_offsets"));
    if (offsets.size() != 2 || offsets[0] > offsets[1]) {
      return Error("has data_offsets that are not a begin and an end");
    }
    entry.begin = offsets[0];
    entry.end = offsets[1];
    WINNOW_TRY(CheckSize(entry, bits));
    return entry;
  }

 private:
  template <typename... Args>
  Status Error(fmt::format_string<Args...> format, Args&&... args) const {
    return Corrupt(fmt::format("{}: tensor {} {}", what_, Quoted(tensor_),
                               fmt::format(format, std::forward<Args>(args)...)));
  }

  // Bits of one element; *name is the type as the header spells it.
  Result<int64_t> ReadDType(const json::object& object, std::string* name) const {
    const json::value* value = object.if_contains("dtype");
    const json::string* text = value == nullptr ? nullptr : value->if_string();
    if (text == nullptr) return Error("has no dtype, expected a string");
    name->assign(text->data(), text->size());
    for (const StoredType& type : kStoredTypes) {
      if (*name == type.name) return type.bits;
    }
    return Error("has dtype {}, which safetensors does not define", Quoted(*name));
  }

  Result<std::vector<int64_t>> ReadExtents(const json::object& object, const char* key) const {
    const json::value* value = object.if_contains(key);
    const json::array* array = value == nullptr ? nullptr : value->if_array();
    if (array == nullptr) return Error("has no {}, expected an array", key);
    std::vector<int64_t> extents;
    extents.reserve(array->size());
    for (const json::value& element : *array) {
      const int64_t* number = element.if_int64();
      if (number == nullptr || *number < 0) {
        return Error("has {} in {}, expected integers from 0 to 2^63 - 1",
                     element.is_number() ? json::serialize(element) : JsonKindName(element), key);
      }
      extents.push_back(*number);
    }
    return extents;
  }

  Status CheckSize(const SafetensorsHeader::Entry& entry, int64_t bits) const {
    int64_t count = bits;
    for (int64_t extent : entry.shape) {
      if (__builtin_mul_overflow(count, extent, &count)) {
        return Error("has shape [{}], whose size overflows", fmt::join(entry.shape, ", "));
      }
    }
    const int64_t bytes = entry.end - entry.begin;
    if (count % 8 != 0 || count / 8 != bytes) {
      return Error("takes {} bytes, expected {} for {} [{}]", bytes, static_cast<double>(count) / 8,
                   entry.dtype_name, fmt::join(entry.shape, ", "));
    }
    return OkStatus();
  }

  std::string_view what_;
  std::string_view tensor_;
};

Status ReadMetadata(const json::value& value, std::string_view what, SafetensorsHeader* header) {
  const json::object* object = value.if_object();
  if (object == nullptr) {
    return Corrupt(
        fmt::format("{}: __metadata__ is {}, expected an object", what, JsonKindName(value)));
  }
  for (const auto& member : *object) {
    const json::string* text = member.value().if_string();
    if (text == nullptr) {
      return Corrupt(fmt::format("{}: __metadata__ {} is {}, expected a string", what,
                                 Quoted(member.key()), JsonKindName(member.value())));
    }
    header->metadata.emplace(std::string(member.key()), std::string(text->data(), text->size()));
  }
  return OkStatus();
}

// Entries, sorted by offset, must tile the data section.
Status CheckTiling(const SafetensorsHeader& header, int64_t data_bytes, std::string_view what) {
  int64_t expected = 0;
  for (const SafetensorsHeader::Entry& entry : header.entries) {
    if (entry.begin != expected) {
      return Corrupt(fmt::format("{}: tensor {} begins at byte {} of the data, expected {} ({})",
                                 what, Quoted(entry.name), entry.begin, expected,
                                 entry.begin < expected ? "it overlaps another" : "a hole"));
    }
    expected = entry.end;
  }
  if (expected != data_bytes) {
    return Corrupt(
        fmt::format("{}: {} bytes of data, expected {} by the header", what, data_bytes, expected),
        data_bytes < expected ? "the file is truncated: download or copy it again" : "");
  }
  return OkStatus();
}

}  // namespace

Result<SafetensorsHeader> ParseSafetensorsHeader(std::string_view file, int64_t file_size,
                                                 std::string_view what) {
  uint64_t length = 0;
  if (file.size() < sizeof(length)) {
    return Corrupt(fmt::format("{}: {} bytes, expected at least 8", what, file.size()));
  }
  std::memcpy(&length, file.data(), sizeof(length));
  if (length > kMaxHeaderBytes) {
    return Corrupt(
        fmt::format("{}: header of {} bytes, expected at most {}", what, length, kMaxHeaderBytes));
  }
  SafetensorsHeader header;
  header.data_begin = 8 + static_cast<int64_t>(length);
  if (header.data_begin > std::min(file_size, static_cast<int64_t>(file.size()))) {
    return Corrupt(fmt::format("{}: {} bytes, expected at least {} for the header", what, file_size,
                               header.data_begin),
                   "the file is truncated: download or copy it again");
  }
  const std::string_view text = file.substr(8, length);
  if (text.empty() || text.front() != '{') {
    return Corrupt(fmt::format("{}: header does not begin with {{", what));
  }
  WINNOW_ASSIGN(const json::value root, ParseJson(text, what));
  const json::object& object = root.get_object();
  header.entries.reserve(object.size());
  for (const auto& member : object) {
    if (member.key() == "__metadata__") {
      WINNOW_TRY(ReadMetadata(member.value(), what, &header));
      continue;
    }
    WINNOW_ASSIGN(SafetensorsHeader::Entry entry,
                  EntryReader(what, member.key()).Read(member.value()));
    header.entries.push_back(std::move(entry));
  }
  std::sort(header.entries.begin(), header.entries.end(), [](const auto& a, const auto& b) {
    return a.begin != b.begin ? a.begin < b.begin : a.end < b.end;
  });
  WINNOW_TRY(CheckTiling(header, file_size - header.data_begin, what));
  return header;
}

}  // namespace winnow
