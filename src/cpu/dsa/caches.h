// How the CPU lays out a page of index keys: codes [J, page_size], so that sixteen keys are one
// vector, then for kE4m3 and kInt8 a f32 scale for each key.
#pragma once

#include "backend/ops.h"

namespace winnow::cpu {

uint8_t* IndexPage(const IndexCacheView& cache, int64_t page);

// The scales of a page's keys; null where keys are values.
float* IndexScales(const IndexCacheView& cache, int64_t page);

}  // namespace winnow::cpu
