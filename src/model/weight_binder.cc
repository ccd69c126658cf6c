#include "model/weight_binder.h"

#include <cstring>

#include "base/check.h"
#include "base/text.h"
#include "tensor/group_codes.h"

namespace winnow {
namespace {

constexpr int64_t kAlignment = 64;

int64_t Blocks(int64_t extent) { return (extent + ScaledView::kBlock - 1) / ScaledView::kBlock; }

std::string ShapeText(const std::vector<int64_t>& shape) {
  return fmt::format("[{}]", fmt::join(shape, ", "));
}

bool IsFloat(const StoredTensor& tensor) {
  return tensor.supported && (tensor.dtype == DType::kF32 || tensor.dtype == DType::kBF16 ||
                              tensor.dtype == DType::kF16);
}

bool IsAligned(const StoredTensor& tensor) {
  return reinterpret_cast<uintptr_t>(tensor.data) % SizeOf(tensor.dtype) == 0;
}

Dims DimsOf(const StoredTensor& tensor) {
  return tensor.shape.size() == 1 ? Dims{tensor.shape[0]} : Dims{tensor.shape[0], tensor.shape[1]};
}

}  // namespace

ScaledView Binder::Matrix(const std::string& name, Extent rows, Extent columns, Role role) {
  if (role != Role::kExact && IsQuantized(name)) return Codes(name, rows, columns);
  const StoredTensor* tensor = Check(name, {rows, columns});
  if (tensor == nullptr) return {};
  const std::string scale_name = name + "_scale_inv";
  const StoredTensor* scale = directory_.Find(scale_name);
  const bool scaled = tensor->dtype == DType::kF8E4M3;
  if (!checked_) {
    if (!CheckPair(name, *tensor, scale_name, scale)) return {};
    if (scaled && !CheckScale(scale_name, *scale, rows.value, columns.value)) return {};
  }
  if (wanted_ != WeightType::kStored && role != Role::kExact) {
    return Quantized({name, tensor, scale}, role == Role::kInt8 ? WeightType::kInt8 : wanted_);
  }
  ScaledView view;
  view.value = IsAligned(*tensor) ? Mapped(*tensor) : Copied(*tensor);
  if (scaled) {
    const bool mappable = scale->dtype == DType::kF32 && IsAligned(*scale);
    view.scale = mappable ? Mapped(*scale) : Converted(*scale);
  }
  if (!checked_) {
    Count(*tensor, true);
    if (scaled) Count(*scale, false);
    Plan({name, tensor, scaled ? scale_name : "", scale, WeightType::kStored});
  }
  return view;
}

TensorView Binder::Vector(const std::string& name, Extent extent) {
  const StoredTensor* tensor = Check(name, {extent});
  if (tensor == nullptr) return {};
  if (!IsFloat(*tensor)) {
    Fail(Unsupported(fmt::format("{}: tensor {} is {}, expected F32, BF16 or F16", tensor->file,
                                 Quoted(name), tensor->dtype_name)));
    return {};
  }
  if (!checked_) {
    Count(*tensor, true);
    Plan({name, tensor, "", nullptr, WeightType::kStored});
  }
  return Converted(*tensor);
}

void Binder::Fail(Status status) {
  if (status_.ok()) status_ = std::move(status);
}

Status Binder::Bind() {
  checked_ = true;
  owned_ = HostBuffer::TryMake(owned_bytes_);
  if (owned_.size() < owned_bytes_) {
    return ResourceExhausted(
        fmt::format("weights: {} bytes of memory are not to be had", owned_bytes_));
  }
  owned_bytes_ = 0;
  return OkStatus();
}

StorageSummary Binder::Summary() const {
  StorageSummary summary = bytes_;
  for (const auto& [dtype, row] : rows_) summary.rows.push_back(row);
  return summary;
}

const StoredTensor* Binder::Check(const std::string& name, std::initializer_list<Extent> extents) {
  if (failed()) return nullptr;
  const StoredTensor* tensor = directory_.Find(name);
  if (checked_) return tensor;
  std::vector<int64_t> shape;
  std::vector<std::string> origins;
  for (const Extent& extent : extents) {
    shape.push_back(extent.value);
    origins.push_back(extent.origin);
  }
  if (tensor == nullptr) {
    Fail(Corrupt(
        fmt::format("{}: tensor \"{}\" is missing, expected {}", source_, name, ShapeText(shape)),
        "do config.json and the shards come from one checkpoint?"));
    return nullptr;
  }
  if (tensor->shape != shape) {
    Fail(Corrupt(
        fmt::format("{}: tensor \"{}\" is {}, expected {}", tensor->file, name,
                    ShapeText(tensor->shape), ShapeText(shape)),
        fmt::format("config.json makes it [{}]; do config.json and the shards come from one "
                    "checkpoint?",
                    fmt::join(origins, ", "))));
    return nullptr;
  }
  return tensor;
}

bool Binder::IsQuantized(const std::string& name) const {
  const StoredTensor* tensor = directory_.Find(name);
  return tensor != nullptr && stored_ != WeightType::kStored && tensor->supported &&
         (tensor->dtype == DType::kI8 || tensor->dtype == DType::kU8);
}

ScaledView Binder::Codes(const std::string& name, Extent rows, Extent columns) {
  const bool int4 = directory_.Find(name)->dtype == DType::kU8;
  const Extent bytes = {Int4RowBytes(columns.value), "32 * ceil(columns / 64)"};
  const StoredTensor* tensor = Check(name, {rows, int4 ? bytes : columns});
  if (tensor == nullptr) return {};
  const std::string scale_name = name + "_scale";
  const StoredTensor* scale = directory_.Find(scale_name);
  if (!checked_ && !CheckGroups(name, *tensor, scale_name, scale, rows.value, columns.value)) {
    return {};
  }
  ScaledView view;
  view.value = Mapped(*tensor);
  view.scale = IsAligned(*scale) ? Mapped(*scale) : Copied(*scale);
  if (int4) view.int4_columns = columns.value;
  if (!checked_) {
    CountCodes(int4 ? WeightType::kInt4 : WeightType::kInt8, rows.value * columns.value,
               tensor->bytes + scale->bytes, &bytes_.stored_bytes);
    Plan({name, tensor, scale_name, scale, WeightType::kStored});
  }
  return view;
}

ScaledView Binder::Quantized(StoredMatrix matrix, WeightType as) {
  const int64_t rows = matrix.rows();
  const int64_t columns = matrix.columns();
  const int64_t row_bytes = CodeBytes(as, columns);
  uint8_t* codes = Allocate(rows * row_bytes);
  uint8_t* scales = Allocate(rows * NumCodeGroups(columns) * 2);
  if (!checked_) {
    CountCodes(as, rows * columns, rows * (row_bytes + NumCodeGroups(columns) * 2),
               &bytes_.quantized_bytes);
    const std::string scale_name = matrix.scale ? matrix.name + "_scale_inv" : "";
    Plan({matrix.name, matrix.value, scale_name, matrix.scale, as});
    return {};
  }
  ScaledView view;
  view.value =
      TensorView(codes, as == WeightType::kInt4 ? DType::kU8 : DType::kI8, {rows, row_bytes});
  view.scale = TensorView(scales, DType::kBF16, {rows, NumCodeGroups(columns)});
  if (as == WeightType::kInt4) view.int4_columns = columns;
  jobs_.push_back({std::move(matrix), as, codes, reinterpret_cast<uint16_t*>(scales)});
  return view;
}

bool Binder::CheckGroups(const std::string& name, const StoredTensor& tensor,
                         const std::string& scale_name, const StoredTensor* scale, int64_t rows,
                         int64_t columns) {
  const std::vector<int64_t> shape = {rows, NumCodeGroups(columns)};
  if (scale == nullptr) {
    Fail(Corrupt(fmt::format("{}: tensor {} is {} without {}, expected the scales of its groups",
                             tensor.file, Quoted(name), tensor.dtype_name, Quoted(scale_name))));
  } else if (scale->shape != shape) {
    Fail(Corrupt(fmt::format("{}: tensor {} is {}, expected {} for groups of {} of [{}, {}]",
                             scale->file, Quoted(scale_name), ShapeText(scale->shape),
                             ShapeText(shape), kCodeGroup, rows, columns)));
  } else if (!scale->supported || scale->dtype != DType::kBF16) {
    Fail(Unsupported(fmt::format("{}: tensor {} is {}, expected BF16", scale->file,
                                 Quoted(scale_name), scale->dtype_name)));
  }
  return !failed();
}

bool Binder::CheckPair(const std::string& name, const StoredTensor& tensor,
                       const std::string& scale_name, const StoredTensor* scale) {
  const bool fp8 = tensor.supported && tensor.dtype == DType::kF8E4M3;
  if (!fp8 && !IsFloat(tensor)) {
    Fail(Unsupported(fmt::format("{}: tensor \"{}\" is {}, expected F32, BF16, F16 or F8_E4M3",
                                 tensor.file, name, tensor.dtype_name)));
  } else if (fp8 && scale == nullptr) {
    Fail(Corrupt(fmt::format("{}: tensor \"{}\" is F8_E4M3 without \"{}\", expected its scales",
                             tensor.file, name, scale_name)));
  } else if (!fp8 && scale != nullptr) {
    Fail(Corrupt(fmt::format("{}: tensor \"{}\" belongs to a matrix of {}, expected F8_E4M3",
                             scale->file, scale_name, tensor.dtype_name)));
  }
  return !failed();
}

bool Binder::CheckScale(const std::string& name, const StoredTensor& scale, int64_t rows,
                        int64_t columns) {
  const std::vector<int64_t> shape = {Blocks(rows), Blocks(columns)};
  if (scale.shape != shape) {
    Fail(Corrupt(
        fmt::format("{}: tensor \"{}\" is {}, expected {} for 128x128 blocks of "
                    "[{}, {}]",
                    scale.file, name, ShapeText(scale.shape), ShapeText(shape), rows, columns)));
  } else if (!IsFloat(scale)) {
    Fail(Unsupported(fmt::format("{}: tensor \"{}\" is {}, expected F32, BF16 or F16", scale.file,
                                 name, scale.dtype_name)));
  }
  return !failed();
}

TensorView Binder::Mapped(const StoredTensor& tensor) const {
  if (!checked_) return {};
  return {static_cast<const void*>(tensor.data), tensor.dtype, DimsOf(tensor)};
}

TensorView Binder::Copied(const StoredTensor& tensor) {
  uint8_t* data = Allocate(tensor.bytes);
  if (data == nullptr) return {};
  std::memcpy(data, tensor.data, static_cast<size_t>(tensor.bytes));
  return {data, tensor.dtype, DimsOf(tensor)};
}

TensorView Binder::Converted(const StoredTensor& tensor) {
  const int64_t count = tensor.bytes / SizeOf(tensor.dtype);
  float* data = reinterpret_cast<float*>(Allocate(4 * count));
  if (data == nullptr) return {};
  for (int64_t index = 0; index < count; ++index) {
    data[index] = ElementAsFloat(tensor, index);
  }
  return {data, DType::kF32, DimsOf(tensor)};
}

uint8_t* Binder::Allocate(int64_t bytes) {
  const int64_t begin = owned_bytes_;
  owned_bytes_ += (bytes + kAlignment - 1) / kAlignment * kAlignment;
  return checked_ ? owned_.data() + begin : nullptr;
}

void Binder::Count(const StoredTensor& tensor, bool parameters) {
  bytes_.stored_bytes += tensor.bytes;
  StorageSummary::Row& row = rows_[tensor.dtype_name];
  row.dtype = tensor.dtype_name;
  row.tensors += 1;
  row.bytes += tensor.bytes;
  if (parameters) row.parameters += tensor.bytes / SizeOf(tensor.dtype);
}

void Binder::CountCodes(WeightType type, int64_t parameters, int64_t bytes, int64_t* total) {
  StorageSummary::Row& row = rows_[Name(type)];
  row.dtype = Name(type);
  row.tensors += 1;
  row.parameters += parameters;
  row.bytes += bytes;
  *total += bytes;
}

void Binder::Plan(PlannedTensor tensor) {
  used_.insert(tensor.value);
  if (tensor.scale != nullptr) used_.insert(tensor.scale);
  plan_.push_back(std::move(tensor));
}

}  // namespace winnow
