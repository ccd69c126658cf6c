// Reading the fields of a JSON object: typed, bounded, and with a memory of what was asked for, so
// that what nobody asked for can be found. Used by config*.cc only.
#pragma once

#include <cstdint>
#include <set>
#include <span>
#include <string>
#include <string_view>

#include "base/json.h"
#include "model/config.h"

namespace winnow {

// The values an integer or number may take, both ends included.
template <typename T>
struct Range {
  T least;
  T most;
};

// Reads one object. The first mistake is kept in status() and later reads give harmless values, so
// a caller reads everything and asks once. A null counts as an absent field.
class FieldReader {
 public:
  // `what` names the object in errors: "config.json", "config.json: rope_scaling".
  FieldReader(const json::object& object, std::string what)
      : object_(object), what_(std::move(what)) {}

  // The field's value, or null if it is absent.
  const json::value* Find(std::string_view key);

  // The overloads without `absent` require the field. Whole floats such as 40.0 are integers.
  int64_t Int(std::string_view key, Range<int64_t> range);
  int64_t Int(std::string_view key, Range<int64_t> range, int64_t absent);
  double Number(std::string_view key, Range<double> range);
  double Number(std::string_view key, Range<double> range, double absent);
  bool Bool(std::string_view key, bool absent);
  std::string String(std::string_view key);
  std::string String(std::string_view key, std::string absent);
  // An array of strings; empty if absent.
  std::vector<std::string> Strings(std::string_view key);
  // One token id or a list of them; empty if absent.
  std::vector<int32_t> TokenIds(std::string_view key);

  // Keeps "what: key ISSUE" unless an earlier mistake is kept already.
  void Fail(StatusCode code, std::string_view key, std::string_view issue, std::string hint = {});
  void Fail(Status status);

  // Refuses a key that was neither asked for nor is in `ignored`, if it begins like one of
  // `prefixes` or is a letter or two away from a known key. Such a key replaces an earlier mistake:
  // it explains the field that seems to be missing.
  void RefuseMisspelt(std::span<const std::string_view> ignored,
                      std::span<const std::string_view> prefixes);

  const std::string& what() const { return what_; }
  const Status& status() const { return status_; }

 private:
  const json::value* Require(std::string_view key, std::string_view expected);
  int64_t ToInt(const json::value& value, std::string_view key, Range<int64_t> range);
  double ToNumber(const json::value& value, std::string_view key, Range<double> range);
  std::string ToString(const json::value& value, std::string_view key);

  const json::object& object_;
  std::string what_;
  std::set<std::string, std::less<>> asked_;
  Status status_;
};

// A number as errors print it; other kinds of values by name.
std::string Described(const json::value& value);

// rope_parameters or rope_scaling, and rope_theta wherever it stands.
RopeConfig ReadRope(FieldReader& fields, int64_t max_position_embeddings);

// Sets indexer_types and indexer_types_stated. Needs model_type and num_hidden_layers.
void ReadIndexerTypes(FieldReader& fields, ModelConfig* config);

// Which layers are mixtures of experts: mlp_layer_types, or first_k_dense_replace with
// moe_layer_freq.
std::vector<bool> ReadMoeLayers(FieldReader& fields, int64_t num_hidden_layers);

}  // namespace winnow
