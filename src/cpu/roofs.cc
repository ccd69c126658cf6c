// Each ceiling is the best of several passes over equal work, divided among the threads as
// operations divide theirs: in pieces handed out one by one.
#include "cpu/roofs.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstring>
#include <set>
#include <string>

#include "base/check.h"
#include "base/file.h"
#include "cpu/context.h"
#include "cpu/roof_kernels.h"

namespace winnow::cpu {
namespace {

using Clock = std::chrono::steady_clock;

constexpr int kMinPasses = 7;
constexpr double kSecondsEach = 0.12;
constexpr int64_t kPiecesPerThread = 64;
constexpr int64_t kRounds = 16384;  // of a piece: tens of microseconds
constexpr int64_t kReadPiece = int64_t{2} << 20;

const RoofKernels& RoofKernelsFor(InstructionSet set) {
  switch (set) {
#if defined(__x86_64__)
    case InstructionSet::kAmx:
      return amx::kRoofKernels;
    case InstructionSet::kAvx512Bf16:
      return avx512_bf16::kRoofKernels;
    case InstructionSet::kAvx512:
      return avx512::kRoofKernels;
    case InstructionSet::kAvx2:
      return avx2::kRoofKernels;
#endif
    default:
      return portable::kRoofKernels;
  }
}

// The highest rate seen at which piece(number) for `num_pieces` pieces does `work`.
template <typename Piece>
double BestRate(CpuContext& context, int64_t num_pieces, double work, const Piece& piece) {
  std::atomic<uint32_t> sink{0};
  double best = 0;
  const Clock::time_point begin = Clock::now();
  for (int pass = 0;; ++pass) {
    const Clock::time_point start = Clock::now();
    context.ForEach(num_pieces, [&](int64_t number, int) {
      sink.fetch_add(piece(number), std::memory_order_relaxed);
    });
    const Clock::time_point end = Clock::now();
    const double seconds = std::chrono::duration<double>(end - start).count();
    if (seconds > 0) best = std::max(best, work / seconds);
    if (pass + 1 >= kMinPasses && end - begin >= std::chrono::duration<double>(kSecondsEach)) break;
  }
  return best;
}

// 32768K as the system writes it.
int64_t ReadSize(const std::string& text) {
  const char* begin = text.c_str();
  char* end = nullptr;
  const long long count = std::strtoll(begin, &end, 10);
  if (end == begin || count < 0 || count > (int64_t{1} << 30)) return 0;
  if (*end == 'K') return count << 10;
  if (*end == 'M') return count << 20;
  return count;
}

std::string SystemFile(const std::string& path) {
  Result<std::string> text = ReadFile("/sys/devices/system/cpu/" + path, 4096);
  return text.ok() ? std::move(*text) : std::string();
}

}  // namespace

int64_t LastLevelCacheBytes(const std::function<std::string(const std::string&)>& read) {
  constexpr int64_t kUnknown = int64_t{64} << 20;
  constexpr int kMaxProcessors = 4096;
  constexpr int kMaxCaches = 8;
  std::set<std::string> counted;  // "0-7": processors that share one cache
  int64_t bytes = 0;
  for (int processor = 0; processor < kMaxProcessors; ++processor) {
    std::string last;
    for (int cache = 0; cache < kMaxCaches; ++cache) {
      const std::string folder =
          "cpu" + std::to_string(processor) + "/cache/index" + std::to_string(cache) + "/";
      if (read(folder + "size").empty()) break;
      last = folder;
    }
    if (last.empty()) break;
    if (counted.insert(read(last + "shared_cpu_list")).second) {
      bytes += ReadSize(read(last + "size"));
    }
  }
  return bytes > 0 ? bytes : kUnknown;
}

Result<Roofs> MeasureRoofs(CpuContext& context, InstructionSet set) {
  const RoofKernels& kernels = RoofKernelsFor(set);
  const int64_t num_pieces = kPiecesPerThread * context.pool.num_threads();
  Roofs roofs;
  roofs.cache_bytes = LastLevelCacheBytes(SystemFile);

  const double rounds = static_cast<double>(num_pieces * kRounds);
  roofs.flops_f32 = BestRate(
      context, num_pieces, rounds * static_cast<double>(kernels.flops_per_round),
      [&](int64_t) { return static_cast<uint32_t>(kernels.multiply_add(kRounds, 0.5f, 0.75f)); });

  if (kernels.bf16_products != nullptr) {
    roofs.flops_bf16 = BestRate(
        context, num_pieces, rounds * static_cast<double>(kernels.bf16_ops_per_round),
        [&](int64_t) { return static_cast<uint32_t>(kernels.bf16_products(kRounds, 0.5f)); });
  }

  roofs.ops_int8 =
      BestRate(context, num_pieces, rounds * static_cast<double>(kernels.int8_ops_per_round),
               [&](int64_t) { return kernels.int8_products(kRounds, 0x00590025); });

  // Several times the caches, which then hold nothing of the next pass.
  const int64_t size = std::clamp(roofs.cache_bytes * 4, int64_t{256} << 20, int64_t{512} << 20);
  HostBuffer buffer = HostBuffer::TryMake(size);
  if (buffer.data() == nullptr) {
    return ResourceExhausted("cpu memory: " + std::to_string(size) +
                             " bytes wanted to measure reading, the system gives none");
  }
  // Memory that was never written is one page of zeros, and always in the cache.
  const int64_t read_pieces = size / kReadPiece;
  context.ForEach(read_pieces, [&](int64_t number, int) {
    std::memset(buffer.data() + number * kReadPiece, static_cast<int>(number % 255) + 1,
                kReadPiece);
  });
  roofs.read_bytes_per_second = BestRate(
      context, read_pieces, static_cast<double>(read_pieces * kReadPiece), [&](int64_t number) {
        return kernels.read(buffer.data() + number * kReadPiece, kReadPiece);
      });
  return roofs;
}

}  // namespace winnow::cpu
