// Views of a checkpoint's tensors, checked first and then bound. Used by weights.cc only.
#pragma once

#include <map>
#include <string>
#include <unordered_set>
#include <vector>

#include "model/weights.h"

namespace winnow {

// An extent and the fields of config.json it comes from.
struct Extent {
  int64_t value;
  const char* origin;
};

// What a matrix may become where weights are quantized.
//   kLayer  what is asked for: nearly all weights are in such matrices
//   kInt8   int8 at most: every logit is a product with the head, the indexer decides what is read,
//           and all that is read went through the latent; their matrices are small
//   kExact  nothing: embeddings are copied, not multiplied; router and index weights are multiplied
//           in f32, and smaller still
enum class Role { kLayer, kInt8, kExact };

// A matrix to quantize into memory that the model is bound to already.
struct QuantizeJob {
  StoredMatrix matrix;
  WeightType as;
  uint8_t* codes;
  uint16_t* scales;
};

// Gives out views of stored tensors. While checking, the views are empty and only the first mistake
// and the bytes to allocate are kept; afterwards, Bind() turns it over.
class Binder {
 public:
  // `stored`: what config.json says the matrices are quantized to; `wanted`: what they become.
  Binder(const TensorDirectory& directory, std::string source, WeightType stored, WeightType wanted)
      : directory_(directory), source_(std::move(source)), stored_(stored), wanted_(wanted) {}

  // A matrix that products read, and a vector as F32. Empty while checking and after a mistake.
  ScaledView Matrix(const std::string& name, Extent rows, Extent columns, Role role = Role::kLayer);
  TensorView Vector(const std::string& name, Extent extent);

  bool Has(const std::string& name) const { return directory_.Find(name) != nullptr; }
  bool failed() const { return !status_.ok(); }
  const Status& status() const { return status_; }
  void Fail(Status status);

  bool Uses(const StoredTensor& tensor) const { return used_.count(&tensor) > 0; }

  // Ends checking: allocates all that is needed and binds from here on.
  Status Bind();
  HostBuffer TakeOwned() { return std::move(owned_); }

  // What was checked, in order, and what is left to do after binding.
  std::vector<PlannedTensor> TakePlan() { return std::move(plan_); }
  const std::vector<QuantizeJob>& jobs() const { return jobs_; }

  StorageSummary Summary() const;

 private:
  // The tensor, if it exists in the shape given. A mistake is kept and gives null.
  const StoredTensor* Check(const std::string& name, std::initializer_list<Extent> extents);

  // Whether the tensor holds codes, of a model that says so: else they are no type of a matrix.
  bool IsQuantized(const std::string& name) const;

  // A matrix that is stored quantized.
  ScaledView Codes(const std::string& name, Extent rows, Extent columns);

  // A matrix that is quantized into memory of our own.
  ScaledView Quantized(StoredMatrix matrix, WeightType as);

  bool CheckGroups(const std::string& name, const StoredTensor& tensor,
                   const std::string& scale_name, const StoredTensor* scale, int64_t rows,
                   int64_t columns);

  // A matrix has a type Winnow multiplies with, and a scale exactly if it is FP8.
  bool CheckPair(const std::string& name, const StoredTensor& tensor, const std::string& scale_name,
                 const StoredTensor* scale);

  bool CheckScale(const std::string& name, const StoredTensor& scale, int64_t rows,
                  int64_t columns);

  TensorView Mapped(const StoredTensor& tensor) const;
  TensorView Copied(const StoredTensor& tensor);
  TensorView Converted(const StoredTensor& tensor);  // to F32

  // Memory of our own; while checking, only its amount.
  uint8_t* Allocate(int64_t bytes);

  void Count(const StoredTensor& tensor, bool parameters);

  // Codes with their scales; `total` is the sum of the summary that they belong to.
  void CountCodes(WeightType type, int64_t parameters, int64_t bytes, int64_t* total);

  void Plan(PlannedTensor tensor);

  const TensorDirectory& directory_;
  std::string source_;
  WeightType stored_;
  WeightType wanted_;
  bool checked_ = false;
  Status status_;
  std::unordered_set<const StoredTensor*> used_;
  std::map<std::string, StorageSummary::Row> rows_;
  StorageSummary bytes_;  // without rows
  std::vector<PlannedTensor> plan_;
  std::vector<QuantizeJob> jobs_;
  int64_t owned_bytes_ = 0;
  HostBuffer owned_;
};

}  // namespace winnow
