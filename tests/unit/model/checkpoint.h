// Safetensors files and small checkpoints, made byte by byte and without Winnow's own writer.
#pragma once

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <map>
#include <string>
#include <vector>

namespace winnow {

// A folder of its own for each test, removed afterwards.
class TestFolder {
 public:
  TestFolder() {
    std::string pattern = testing::TempDir() + "winnow_model_XXXXXX";
    path_ = mkdtemp(pattern.data());
  }
  ~TestFolder() { std::filesystem::remove_all(path_); }
  TestFolder(const TestFolder&) = delete;
  TestFolder& operator=(const TestFolder&) = delete;

  const std::string& path() const { return path_; }
  std::string Write(const std::string& name, const std::string& bytes) const {
    std::ofstream(path_ + "/" + name, std::ios::binary) << bytes;
    return path_ + "/" + name;
  }

 private:
  std::string path_;
};

// Eight bytes of length, the header, the data.
inline std::string SafetensorsFile(const std::string& header, const std::string& data) {
  std::string file(8, '\0');
  const uint64_t length = header.size();
  std::memcpy(file.data(), &length, sizeof(length));
  return file + header + data;
}

struct TestTensor {
  std::string dtype;
  std::vector<int64_t> shape;
  std::string bytes;
};
using TestTensors = std::map<std::string, TestTensor>;

// A whole file of these tensors in the order of their names, data at a multiple of eight bytes.
inline std::string SafetensorsFile(const TestTensors& tensors) {
  std::string header;
  std::string data;
  for (const auto& [name, tensor] : tensors) {
    header +=
        fmt::format(R"({}"{}":{{"dtype":"{}","shape":[{}],"data_offsets":[{},{}]}})",
                    header.empty() ? "{" : ",", name, tensor.dtype, fmt::join(tensor.shape, ","),
                    data.size(), data.size() + tensor.bytes.size());
    data += tensor.bytes;
  }
  header += header.empty() ? "{}" : "}";
  header.resize((header.size() + 7) / 8 * 8, ' ');
  return SafetensorsFile(header, data);
}

}  // namespace winnow
