// A folder of safetensors files as one directory of tensors. Only headers are read; the data stays
// in the mapped files until someone computes with it.
#include "model/safetensors.h"

#include <algorithm>
#include <filesystem>
#include <set>

#include "base/check.h"
#include "base/json.h"
#include "base/text.h"

namespace winnow {
namespace {

constexpr char kIndexName[] = "model.safetensors.index.json";
constexpr int64_t kMaxIndexBytes = int64_t{256} << 20;

bool IsShardName(const std::string& name) {
  return name.starts_with("model") && name.ends_with(".safetensors");
}

// The names of the shards in `folder`. Other safetensors files may lie beside them.
Result<std::set<std::string>> ListShards(const std::filesystem::path& folder) {
  std::set<std::string> names;
  std::error_code error;
  std::filesystem::directory_iterator entry(folder, error);
  for (; !error && entry != std::filesystem::directory_iterator(); entry.increment(error)) {
    const std::string name = entry->path().filename().string();
    if (IsShardName(name)) names.insert(name);
  }
  if (error) return NotFound(fmt::format("{}: {}", folder.string(), error.message()));
  return names;
}

// Adds the shards that the index names. Where a tensor lies is decided by the shards' own headers.
Status AddIndexedShards(const std::filesystem::path& folder, std::set<std::string>* names) {
  const std::filesystem::path path = folder / kIndexName;
  std::error_code error;
  if (!std::filesystem::exists(path, error)) return OkStatus();
  WINNOW_ASSIGN(const json::value index, ReadJsonFile(path.string(), kMaxIndexBytes));
  const json::object* root = index.if_object();
  const json::value* map = root == nullptr ? nullptr : root->if_contains("weight_map");
  if (map == nullptr || !map->is_object()) {
    return Corrupt(fmt::format("{}: weight_map is missing, expected an object", kIndexName));
  }
  for (const auto& member : map->get_object()) {
    const json::string* text = member.value().if_string();
    const std::string name = text == nullptr ? "" : std::string(text->data(), text->size());
    if (name.empty() || name.find('/') != std::string::npos ||
        name.find('\0') != std::string::npos) {
      return Corrupt(fmt::format("{}: tensor {} lies in {}, expected a file name of the folder",
                                 kIndexName, Quoted(member.key()),
                                 text == nullptr ? JsonKindName(member.value()) : Quoted(name)));
    }
    if (!names->insert(name).second) continue;
    if (!std::filesystem::is_regular_file(folder / name, error)) {
      return NotFound(fmt::format("{}: shard {} is not in the folder, expected by tensor {}",
                                  kIndexName, Quoted(name), Quoted(member.key())),
                      "download the missing shard");
    }
  }
  return OkStatus();
}

StoredTensor Locate(const SafetensorsHeader::Entry& entry, const uint8_t* data,
                    const std::string& file) {
  StoredTensor tensor;
  tensor.file = file;
  tensor.dtype_name = entry.dtype_name;
  tensor.supported = DTypeFromName(entry.dtype_name, &tensor.dtype);
  tensor.shape = entry.shape;
  tensor.data = data + entry.begin;
  tensor.bytes = entry.end - entry.begin;
  return tensor;
}

}  // namespace

Result<TensorDirectory> TensorDirectory::Open(const std::string& path) {
  std::vector<std::string> paths;
  std::error_code error;
  if (std::filesystem::is_directory(path, error)) {
    WINNOW_ASSIGN(std::set<std::string> names, ListShards(path));
    WINNOW_TRY(AddIndexedShards(path, &names));
    if (names.empty()) {
      return NotFound(path + ": no model*.safetensors, expected one or more",
                      "a model is a folder with config.json and safetensors files");
    }
    for (const std::string& name : names) {
      paths.push_back((std::filesystem::path(path) / name).string());
    }
  } else {
    paths.push_back(path);
  }
  TensorDirectory directory;
  for (const std::string& shard : paths) WINNOW_TRY(directory.AddFile(shard));
  return directory;
}

Status TensorDirectory::AddFile(const std::string& path) {
  WINNOW_ASSIGN(MappedFile file, MappedFile::Open(path));
  const std::string name = FileName(path);
  const std::string_view bytes(reinterpret_cast<const char*>(file.data()),
                               static_cast<size_t>(file.size()));
  WINNOW_ASSIGN(SafetensorsHeader header, ParseSafetensorsHeader(bytes, file.size(), name));
  if (!file.intact()) return Corrupt(name + ": shrank while its header was read");
  tensors_.reserve(tensors_.size() + header.entries.size());
  for (SafetensorsHeader::Entry& entry : header.entries) {
    StoredTensor tensor = Locate(entry, file.data() + header.data_begin, name);
    const auto [existing, inserted] = tensors_.emplace(std::move(entry.name), std::move(tensor));
    if (!inserted) {
      return Corrupt(fmt::format("{}: tensor {} is also in {}, expected once", name,
                                 Quoted(existing->first), existing->second.file));
    }
  }
  metadata_.merge(header.metadata);
  files_.push_back(std::move(file));
  return OkStatus();
}

const StoredTensor* TensorDirectory::Find(const std::string& name) const {
  const auto found = tensors_.find(name);
  return found == tensors_.end() ? nullptr : &found->second;
}

int64_t TensorDirectory::file_bytes() const {
  int64_t bytes = 0;
  for (const MappedFile& file : files_) bytes += file.size();
  return bytes;
}

Status TensorDirectory::CheckIntact() const {
  for (const MappedFile& file : files_) {
    if (file.intact()) continue;
    return Corrupt(fmt::format("{}: shrank while it was in use, expected {} bytes",
                               FileName(file.path()), file.size()),
                   "do not replace a model's files while it runs");
  }
  return OkStatus();
}

}  // namespace winnow
