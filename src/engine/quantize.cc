// Quantize: a model folder written anew, with codes in the place of weights.
//
// The folder is written under another name and takes its own when it is complete.
#include <unistd.h>

#include <algorithm>
#include <filesystem>

#include "base/check.h"
#include "base/file.h"
#include "base/json.h"
#include "base/output_file.h"
#include "base/text.h"
#include "engine/backends.h"
#include "model/config.h"
#include "model/weights.h"
#include "tensor/group_codes.h"
#include "winnow/winnow.h"

namespace winnow {
namespace {

namespace fs = std::filesystem;

constexpr char kConfigName[] = "config.json";
constexpr int64_t kMaxConfigBytes = int64_t{16} << 20;
constexpr int64_t kMaxOtherBytes = int64_t{64} << 20;  // of a tokenizer, a template, a license
constexpr int64_t kRowsBytes = int64_t{32} << 20;      // of codes that are made at a time

// A folder that is gone with all that is in it unless it is kept.
class PartialFolder {
 public:
  PartialFolder() = default;
  ~PartialFolder() {
    std::error_code error;
    if (!path_.empty()) fs::remove_all(path_, error);
  }
  PartialFolder(const PartialFolder&) = delete;
  PartialFolder& operator=(const PartialFolder&) = delete;

  Status Create(const fs::path& target) {
    std::error_code error;
    if (fs::symlink_status(target, error).type() != fs::file_type::not_found) {
      return InvalidArgument(target.string() + ": it exists, expected the name of a new folder");
    }
    fs::path path = target;
    path += fmt::format(".{}.partial", getpid());
    if (!fs::create_directory(path, error)) {
      return NotFound(fmt::format("{}: {}, expected a place for a new folder", path.string(),
                                  error ? error.message() : "it exists"));
    }
    path_ = path;
    return OkStatus();
  }
  const fs::path& path() const { return path_; }
  Status Keep(const fs::path& target) {
    std::error_code error;
    fs::rename(path_, target, error);
    if (error) return Unavailable(fmt::format("{}: {}", target.string(), error.message()));
    path_.clear();
    return OkStatus();
  }

 private:
  fs::path path_;
};

// config.json of the model, saying how its weights are quantized.
Status WriteConfig(const std::string& model_dir, WeightType type, const fs::path& folder) {
  WINNOW_ASSIGN(json::value root,
                ReadJsonFile((fs::path(model_dir) / kConfigName).string(), kMaxConfigBytes));
  json::object& object = root.as_object();  // LoadModelConfig has read it
  object["quantization_config"] =
      json::object{{"quant_method", "winnow"}, {"weights", Name(type)}, {"group_size", kCodeGroup}};
  return WriteFile((folder / kConfigName).string(), json::serialize(root) + "\n");
}

bool IsCopied(const fs::directory_entry& entry) {
  const std::string name = entry.path().filename().string();
  std::error_code error;
  return entry.is_regular_file(error) && name != kConfigName && !name.ends_with(".safetensors") &&
         !name.ends_with(".safetensors.index.json") &&
         static_cast<int64_t>(entry.file_size(error)) <= kMaxOtherBytes && !error;
}

// What lies beside the weights: tokenizer, chat template, generation_config.json, license.
Status CopyOthers(const std::string& model_dir, const fs::path& folder) {
  std::error_code error;
  for (fs::directory_iterator entry(model_dir, error), end; !error && entry != end;
       entry.increment(error)) {
    if (!IsCopied(*entry)) continue;
    WINNOW_ASSIGN(const std::string bytes, ReadFile(entry->path().string(), kMaxOtherBytes));
    WINNOW_TRY(WriteFile((folder / entry->path().filename()).string(), bytes));
  }
  if (error) return NotFound(fmt::format("{}: {}", model_dir, error.message()));
  return OkStatus();
}

// The tensors of the file, and how the planned ones come into it.
class WeightFile {
 public:
  WeightFile(const CheckedCheckpoint& checkpoint, const QuantizeOptions& options)
      : checkpoint_(checkpoint), options_(options), pool_(options.num_threads) {}

  Status Write(const std::string& path) {
    const std::vector<SafetensorsWriter::Announced> tensors = Announce();
    WINNOW_ASSIGN(SafetensorsWriter writer,
                  SafetensorsWriter::Create(path, tensors, {{"format", "pt"}}));
    double total = 0;
    for (const PlannedTensor& tensor : checkpoint_.tensors) {
      total += static_cast<double>(tensor.value->bytes);
    }
    total_ = std::max(total, 1.0);
    for (size_t index = 0; index < checkpoint_.tensors.size(); ++index) {
      const PlannedTensor& tensor = checkpoint_.tensors[index];
      const Place& place = places_[index];
      if (tensor.as != WeightType::kStored) {
        WINNOW_TRY(WriteCodes(tensor, place, &writer));
        continue;
      }
      WINNOW_TRY(writer.WriteAt(place.value, 0, tensor.value->data, tensor.value->bytes));
      if (tensor.scale != nullptr) {
        WINNOW_TRY(writer.WriteAt(place.scale, 0, tensor.scale->data, tensor.scale->bytes));
      }
      WINNOW_TRY(Advance(tensor.value->bytes));
    }
    WINNOW_TRY(checkpoint_.directory->CheckIntact());
    return writer.Finish();
  }

 private:
  struct Place {
    int64_t value = -1;  // number of a tensor of the file
    int64_t scale = -1;
  };

  // Codes first: most are a multiple of 64 bytes long, so that their rows begin at one.
  std::vector<SafetensorsWriter::Announced> Announce() {
    std::vector<SafetensorsWriter::Announced> tensors;
    places_.resize(checkpoint_.tensors.size());
    const auto announce = [&](std::string name, DType dtype, std::vector<int64_t> shape) {
      tensors.push_back({std::move(name), dtype, std::move(shape)});
      return static_cast<int64_t>(tensors.size()) - 1;
    };
    for (const bool codes : {true, false}) {
      for (size_t index = 0; index < places_.size(); ++index) {
        const PlannedTensor& tensor = checkpoint_.tensors[index];
        if ((tensor.as != WeightType::kStored) != codes) continue;
        const StoredTensor& value = *tensor.value;
        const DType dtype = !codes                           ? value.dtype
                            : tensor.as == WeightType::kInt4 ? DType::kU8
                                                             : DType::kI8;
        places_[index].value = announce(
            tensor.name, dtype,
            codes ? std::vector<int64_t>{value.shape[0], CodeBytes(tensor.as, value.shape[1])}
                  : value.shape);
      }
    }
    for (size_t index = 0; index < places_.size(); ++index) {
      const PlannedTensor& tensor = checkpoint_.tensors[index];
      if (tensor.as != WeightType::kStored) {
        places_[index].scale =
            announce(tensor.name + "_scale", DType::kBF16,
                     {tensor.value->shape[0], NumCodeGroups(tensor.value->shape[1])});
      } else if (tensor.scale != nullptr) {
        places_[index].scale =
            announce(tensor.scale_name, tensor.scale->dtype, tensor.scale->shape);
      }
    }
    return tensors;
  }

  Status WriteCodes(const PlannedTensor& tensor, const Place& place, SafetensorsWriter* writer) {
    const StoredMatrix matrix = {tensor.name, tensor.value, tensor.scale};
    const int64_t code_bytes = CodeBytes(tensor.as, matrix.columns());
    const int64_t groups = NumCodeGroups(matrix.columns());
    const int64_t at_once = std::clamp<int64_t>(kRowsBytes / code_bytes, 1, matrix.rows());
    codes_.resize(static_cast<size_t>(at_once * code_bytes));
    scales_.resize(static_cast<size_t>(at_once * groups));
    for (int64_t first = 0; first < matrix.rows(); first += at_once) {
      const int64_t count = std::min(at_once, matrix.rows() - first);
      WINNOW_TRY(
          QuantizeRows(matrix, tensor.as, first, count, codes_.data(), scales_.data(), pool_));
      WINNOW_TRY(
          writer->WriteAt(place.value, first * code_bytes, codes_.data(), count * code_bytes));
      WINNOW_TRY(
          writer->WriteAt(place.scale, first * groups * 2, scales_.data(), count * groups * 2));
      WINNOW_TRY(Advance(tensor.value->bytes / matrix.rows() * count));
    }
    return OkStatus();
  }

  Status Advance(int64_t bytes) {
    done_ += static_cast<double>(bytes);
    if (options_.progress && !options_.progress(std::min(1.0, done_ / total_))) {
      return Status(StatusCode::kCancelled, "interrupted");
    }
    return OkStatus();
  }

  const CheckedCheckpoint& checkpoint_;
  const QuantizeOptions& options_;
  ThreadPool pool_;
  std::vector<Place> places_;  // of the checkpoint's tensors
  std::vector<uint8_t> codes_;
  std::vector<uint16_t> scales_;
  double total_ = 0;
  double done_ = 0;
};

}  // namespace

Status Quantize(const QuantizeOptions& options) {
  if (options.weights == WeightType::kStored) {
    return InvalidArgument("weights: stored, expected int8 or int4");
  }
  WINNOW_TRY(CheckThreads(options.num_threads));
  WINNOW_ASSIGN(ModelConfig config, LoadModelConfig(options.model_dir));
  if (config.weights != WeightType::kStored) {
    return InvalidArgument(
        fmt::format("{}: config.json says that its weights are {}, expected a "
                    "model that is not quantized by Winnow",
                    options.model_dir, Name(config.weights)));
  }
  WINNOW_ASSIGN(const CheckedCheckpoint checkpoint,
                Weights::Check(options.model_dir, &config, options.weights));
  // "out/" is "out".
  const fs::path given = fs::path(options.out_dir).lexically_normal();
  const fs::path target = given.has_filename() ? given : given.parent_path();
  if (target.empty()) return InvalidArgument("output: the path is empty, expected a new folder");
  PartialFolder folder;
  WINNOW_TRY(folder.Create(target));
  WINNOW_TRY(CopyOthers(options.model_dir, folder.path()));
  WINNOW_TRY(WriteConfig(options.model_dir, options.weights, folder.path()));
  WINNOW_TRY(WeightFile(checkpoint, options).Write((folder.path() / "model.safetensors").string()));
  return folder.Keep(target);
}

}  // namespace winnow
