#include "bench/kernel_cases.h"

namespace winnow::bench {

std::vector<KernelCase> KernelCases() {
  std::vector<KernelCase> cases;
  for (const ModelShape* shape : {&kV32, &kNano}) {
    AddSelectCases(*shape, &cases);
    AddAttentionCases(*shape, &cases);
    AddLinearCases(*shape, &cases);
    AddHeadProductCases(*shape, &cases);
    AddMoeCases(*shape, &cases);
  }
  return cases;
}

}  // namespace winnow::bench
