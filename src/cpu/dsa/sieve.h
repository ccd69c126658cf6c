// Which scores become candidates, and which candidates stay. Included by
// lightning_indexer_kernels.cc only.
#pragma once

#include "cpu/dsa/dsa_kernels.h"
#include "cpu/simd.h"

namespace winnow::cpu::WINNOW_LEVEL {
namespace {

constexpr int64_t kBlockScores = 64;  // one bit of a mask each
constexpr int kFewPassing = 8;        // of a block: these go one by one

// Maps floats but NaN to integers of the same order.
uint32_t Ordered(float score) {
  uint32_t bits;
  memcpy(&bits, &score, sizeof(bits));
  return bits & 0x80000000 ? ~bits : bits | 0x80000000;
}

// Those of the scores from `scores` on whose bits are set, one by one.
int64_t AppendFew(const float* scores, int32_t first_position, uint64_t mask, Candidate* out) {
  int64_t count = 0;
  for (; mask != 0; mask &= mask - 1) {
    const int s = __builtin_ctzll(mask);
    out[count++] = uint64_t{Ordered(scores[s])} << 32 | ~static_cast<uint32_t>(first_position + s);
  }
  return count;
}

#if defined(__AVX512F__)

// Sixteen candidates to the front of two registers, and both stored: to compress into memory takes
// some processors a hundred times as long.
int64_t Append(F32x16 scores, I32x16 positions, Mask16 mask, Candidate* out) {
  const __mmask16 chosen = static_cast<__mmask16>(mask);
  const __m512i bits = Bits(scores).v;
  const __m512i flip = _mm512_or_si512(_mm512_srai_epi32(bits, 31), _mm512_set1_epi32(INT32_MIN));
  const __m512i ordered = _mm512_maskz_compress_epi32(chosen, _mm512_xor_si512(bits, flip));
  const __m512i places = _mm512_maskz_compress_epi32(chosen, positions.v);
  const __m512i lower = _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
  const __m512i upper = _mm512_add_epi32(lower, _mm512_set1_epi32(8));
  _mm512_storeu_si512(out, _mm512_permutex2var_epi32(places, lower, ordered));
  _mm512_storeu_si512(out + 8, _mm512_permutex2var_epi32(places, upper, ordered));
  return __builtin_popcount(mask);
}

int64_t AppendMany(const float* scores, int64_t num_scores, int32_t first_position, uint64_t mask,
                   Candidate* out) {
  const int32_t kUp[kLanes] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
  // The complements of sixteen positions.
  I32x16 positions = SubInt(
      BroadcastInt(static_cast<int32_t>(~static_cast<uint32_t>(first_position))), LoadInt(kUp));
  int64_t count = 0;
  for (int64_t s = 0; s < num_scores; s += kLanes, mask >>= kLanes) {
    count += Append(LoadPartial(scores + s, num_scores - s < kLanes ? num_scores - s : kLanes),
                    positions, static_cast<Mask16>(mask & 0xffff), out + count);
    positions = SubInt(positions, BroadcastInt(kLanes));
  }
  return count;
}

#else

int64_t AppendMany(const float* scores, int64_t, int32_t first_position, uint64_t mask,
                   Candidate* out) {
  return AppendFew(scores, first_position, mask, out);
}

#endif

Mask16 Passing(F32x16 scores, const float* threshold) {
  return threshold ? Less(Broadcast(*threshold), scores) : Equal(scores, scores);
}

// Bit s for score s of at most 64 that passes.
uint64_t PassingOf(const float* scores, int64_t num_scores, const float* threshold) {
  uint64_t mask = 0;
  int64_t s = 0;
  for (; s + kLanes <= num_scores; s += kLanes) {
    mask |= uint64_t{Passing(Load(scores + s), threshold)} << s;
  }
  if (s < num_scores) {
    const int64_t lanes = num_scores - s;
    const Mask16 valid = (Mask16{1} << lanes) - 1;
    mask |= uint64_t{Passing(LoadPartial(scores + s, lanes), threshold) & valid} << s;
  }
  return mask;
}

int64_t Filter(const float* scores, int64_t num_scores, int32_t first_position,
               const float* threshold, Candidate* out) {
  int64_t count = 0;
  for (int64_t s = 0; s < num_scores; s += kBlockScores) {
    const int64_t size = num_scores - s < kBlockScores ? num_scores - s : kBlockScores;
    const uint64_t mask = PassingOf(scores + s, size, threshold);
    const int32_t first = first_position + static_cast<int32_t>(s);
    count += __builtin_popcountll(mask) <= kFewPassing
                 ? AppendFew(scores + s, first, mask, out + count)
                 : AppendMany(scores + s, size, first, mask, out + count);
  }
  return count;
}

// Without a branch on what is compared, which would be guessed wrong half of the time.
int64_t Keep(const Candidate* candidates, int64_t count, Candidate pivot, Candidate* out) {
  int64_t kept = 0;
  int64_t i = 0;
#if defined(__AVX512F__)
  for (; i + 8 <= count; i += 8) {
    const __m512i eight = _mm512_loadu_si512(candidates + i);
    const __mmask8 chosen =
        _mm512_cmpge_epu64_mask(eight, _mm512_set1_epi64(static_cast<int64_t>(pivot)));
    _mm512_storeu_si512(out + kept, _mm512_maskz_compress_epi64(chosen, eight));
    kept += __builtin_popcount(chosen);
  }
#endif
  for (; i < count; ++i) {
    const Candidate candidate = candidates[i];
    out[kept] = candidate;
    kept += candidate >= pivot;
  }
  return kept;
}

int64_t CountFrom(const Candidate* candidates, int64_t count, Candidate pivot) {
  int64_t reached = 0;
  int64_t i = 0;
#if defined(__AVX512F__)
  const __m512i least = _mm512_set1_epi64(static_cast<int64_t>(pivot));
  const __m512i one = _mm512_set1_epi64(1);
  __m512i sum[2] = {};
  for (; i + 16 <= count; i += 16) {
    for (int half = 0; half < 2; ++half) {
      const __m512i eight = _mm512_loadu_si512(candidates + i + 8 * half);
      sum[half] =
          _mm512_mask_add_epi64(sum[half], _mm512_cmpge_epu64_mask(eight, least), sum[half], one);
    }
  }
  reached = _mm512_reduce_add_epi64(_mm512_add_epi64(sum[0], sum[1]));
#endif
  for (; i < count; ++i) reached += candidates[i] >= pivot;
  return reached;
}

CandidateRange FindRange(const Candidate* candidates, int64_t count) {
  CandidateRange range = {candidates[0], candidates[0]};
  int64_t i = 0;
#if defined(__AVX512F__)
  if (count >= 8) {
    __m512i worst = _mm512_loadu_si512(candidates);
    __m512i best = worst;
    for (i = 8; i + 8 <= count; i += 8) {
      const __m512i eight = _mm512_loadu_si512(candidates + i);
      worst = _mm512_min_epu64(worst, eight);
      best = _mm512_max_epu64(best, eight);
    }
    range = {_mm512_reduce_min_epu64(worst), _mm512_reduce_max_epu64(best)};
  }
#endif
  for (; i < count; ++i) {
    if (candidates[i] < range.worst) range.worst = candidates[i];
    if (candidates[i] > range.best) range.best = candidates[i];
  }
  return range;
}

}  // namespace
}  // namespace winnow::cpu::WINNOW_LEVEL
