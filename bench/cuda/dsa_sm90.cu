// The kernels of DSA for Hopper on their own: checks them against definitions on the host, then
// times them at the shapes of docs/benchmarks.md, which says how to build it. Needs a GPU and
// nothing else.
//
//   dsa_sm90 check [indexer|selection|attention]   checks, or some; status 1 when one fails
//   dsa_sm90 time [WORDS…]                         times what has one of the words in its name
//   dsa_sm90 time --topk K [WORDS…]                of selections of K instead of 2,048
#include <cstdlib>
#include <cstring>

#include "dsa_bench.h"

int main(int argc, char** argv) {
  using namespace winnow::cuda;
  const std::string mode = argc > 1 ? argv[1] : "check";
  int topk = 2048;
  for (int i = 2; i < argc; ++i) {
    if (mode == "time" && std::strcmp(argv[i], "--topk") == 0) {
      topk = i + 1 < argc ? std::atoi(argv[++i]) : 0;
    } else {
      words.push_back(argv[i]);
    }
  }
  if (topk < 1 || (mode != "check" && mode != "time")) {
    std::fprintf(stderr, "dsa_sm90: expected check or time, and after --topk a K of at least 1\n");
    return 2;
  }
  cudaDeviceProp properties;
  MUST(cudaGetDeviceProperties(&properties, 0));
  multiprocessors = properties.multiProcessorCount;
  std::printf("%s, %d multiprocessors\n", properties.name, multiprocessors);
  if (mode == "time") {
    TimeShapes(topk);
    return 0;
  }
  if (Wanted("indexer")) CheckIndexers();
  if (Wanted("selection")) CheckSelections();
  if (Wanted("attention")) CheckAttention();
  std::printf("%d checks failed\n", failures);
  return failures > 0;
}
