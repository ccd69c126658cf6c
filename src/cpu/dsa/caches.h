// How the CPU lays out a page of index keys: codes of dimensions that are multiplied in one step
// lie together, [J / n, page_size, n] for n = CodesTogether(type) and J rounded up to
// kIndexDimUnit, so that a step of sixteen keys is one vector; then for kE4m3 and kInt8 a f32 scale
// for each key.
#pragma once

#include "backend/ops.h"

namespace winnow::cpu {

uint8_t* IndexPage(const IndexCacheView& cache, int64_t page);

// The scales of a page's keys; null where keys are values.
float* IndexScales(const IndexCacheView& cache, int64_t page);

// `x` [J], values or codes of the cache's type, with their scale.
void StoreIndexKey(const IndexCacheView& cache, int64_t slot, const float* x, float scale);

}  // namespace winnow::cpu
