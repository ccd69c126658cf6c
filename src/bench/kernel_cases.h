// What is measured: operations at the shapes of two models.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "bench/inputs.h"
#include "bench/kernel_cost.h"

namespace winnow::bench {

// Runs an operation once. Successive turns, counted from 0, use successive parts of the pools.
using KernelRun = std::function<void(int64_t turn)>;

struct KernelCase {
  std::string name;  // "v32/select/32K/int8/t16": model, operation, shape, type, tokens
  KernelCost cost;
  // Makes the inputs; they live in `inputs`.
  std::function<Result<KernelRun>(Inputs& inputs)> prepare;
  bool group_codes = false;  // of weights that only some backends read
};

// All of them, in the order of a table.
std::vector<KernelCase> KernelCases();

// Those of one model: SelectTokens, and Attention sparse and dense (attention_cases.cc); Linear,
// AbsorbQuery, ExpandValue and Moe (product_cases.cc).
void AddSelectCases(const ModelShape& shape, std::vector<KernelCase>* cases);
void AddAttentionCases(const ModelShape& shape, std::vector<KernelCase>* cases);
void AddLinearCases(const ModelShape& shape, std::vector<KernelCase>* cases);
void AddHeadProductCases(const ModelShape& shape, std::vector<KernelCase>* cases);
void AddMoeCases(const ModelShape& shape, std::vector<KernelCase>* cases);

}  // namespace winnow::bench
