// safetensors: tensors in mapped files, with nothing believed that is not checked.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "base/file.h"
#include "tensor/tensor.h"

namespace winnow {

// One tensor of a checkpoint, still in its file.
struct StoredTensor {
  std::string file;        // the shard's name, for errors
  std::string dtype_name;  // as in the header, also when Winnow has no such type
  bool supported = false;  // dtype is set
  DType dtype = DType::kF32;
  std::vector<int64_t> shape;
  const uint8_t* data = nullptr;  // anywhere in the mapping; not necessarily aligned
  int64_t bytes = 0;
};

// The header of one safetensors file: entries with offsets relative to the data that follows it.
struct SafetensorsHeader {
  struct Entry {
    std::string name;
    std::string dtype_name;
    std::vector<int64_t> shape;
    int64_t begin = 0;
    int64_t end = 0;
  };
  std::vector<Entry> entries;  // in the order of their offsets
  std::unordered_map<std::string, std::string> metadata;
  int64_t data_begin = 0;  // bytes from the start of the file
};

// Parses and checks the header at the start of `file` (its first bytes, at least 8 + N of them) of
// a file of `file_size` bytes: length ≤ 100,000,000, UTF-8 JSON, no duplicate names, offsets that
// follow each other without overlap or hole to the end of the file, sizes that match shape and
// type. `what` names the file in errors.
Result<SafetensorsHeader> ParseSafetensorsHeader(std::string_view file, int64_t file_size,
                                                 std::string_view what);

// All tensors of a folder's *.safetensors files (every shard's header is read; the index file is
// only a hint about which shards to expect), or of one file. Movable; views stay valid while it
// lives.
class TensorDirectory {
 public:
  // `path`: a folder with model*.safetensors shards, or one safetensors file. A name in two shards
  // is kCorrupt; a shard that the index names and the folder lacks is kNotFound.
  static Result<TensorDirectory> Open(const std::string& path);

  const StoredTensor* Find(const std::string& name) const;  // null if absent
  const std::unordered_map<std::string, StoredTensor>& tensors() const { return tensors_; }
  const std::unordered_map<std::string, std::string>& metadata() const { return metadata_; }
  int64_t file_bytes() const;

  // kCorrupt naming the file that shrank since it was opened; OK otherwise.
  Status CheckIntact() const;

 private:
  Status AddFile(const std::string& path);

  std::vector<MappedFile> files_;
  std::unordered_map<std::string, StoredTensor> tensors_;
  std::unordered_map<std::string, std::string> metadata_;
};

// Writes a safetensors file front to back: announce all tensors, then append their bytes in that
// order. The file appears under its name only when Finish succeeds.
class SafetensorsWriter {
 public:
  struct Announced {
    std::string name;
    DType dtype;
    std::vector<int64_t> shape;
  };
  static Result<SafetensorsWriter> Create(
      const std::string& path, const std::vector<Announced>& tensors,
      const std::unordered_map<std::string, std::string>& metadata);
  SafetensorsWriter(SafetensorsWriter&&) noexcept;
  SafetensorsWriter& operator=(SafetensorsWriter&&) noexcept;
  ~SafetensorsWriter();

  // Appends the next bytes of the data section.
  Status Append(const void* data, int64_t bytes);
  // Writes `bytes` at `offset` of tensor number `index`, for producers that fill several at once.
  Status WriteAt(int64_t index, int64_t offset, const void* data, int64_t bytes);
  Status Finish();

 private:
  struct State;
  explicit SafetensorsWriter(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

}  // namespace winnow
