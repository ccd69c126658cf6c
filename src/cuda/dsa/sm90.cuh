// Hopper's instructions as functions: barriers in shared memory, bulk copies, warpgroup products,
// clusters, and launches that overlap their predecessor's end.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

namespace winnow::cuda::sm90 {

// ---- Shared memory and barriers -----------------------------------------------------------------

__device__ inline uint32_t SharedAddress(const void* pointer) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(pointer));
}

__device__ inline void BarrierInit(uint32_t barrier, uint32_t arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(arrivals) : "memory");
}
__device__ inline void BarrierInit(uint64_t* barrier, uint32_t arrivals) {
  BarrierInit(SharedAddress(barrier), arrivals);
}
// After BarrierInit, before anyone else or the copy engine uses the barriers.
__device__ inline void BarrierInitFence() {
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}
__device__ inline void BarrierExpect(uint32_t barrier, uint32_t bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes)
               : "memory");
}
__device__ inline void BarrierExpect(uint64_t* barrier, uint32_t bytes) {
  BarrierExpect(SharedAddress(barrier), bytes);
}
__device__ inline void BarrierArrive(uint32_t barrier) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(barrier) : "memory");
}
__device__ inline void BarrierArrive(uint64_t* barrier) { BarrierArrive(SharedAddress(barrier)); }
// `arrivals` at once.
__device__ inline void BarrierArriveTimes(uint32_t barrier, uint32_t arrivals) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(arrivals)
               : "memory");
}
// Until the phase of this parity is over.
__device__ inline void BarrierWait(uint32_t barrier, uint32_t parity) {
  uint32_t done;
  do {
    asm volatile(
        "{\n.reg .pred p;\n"
        "mbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2;\n"
        "selp.u32 %0, 1, 0, p;\n}\n"
        : "=r"(done)
        : "r"(barrier), "r"(parity)
        : "memory");
  } while (!done);
}
__device__ inline void BarrierWait(uint64_t* barrier, uint32_t parity) {
  BarrierWait(SharedAddress(barrier), parity);
}
// Whether it is over.
__device__ inline bool BarrierPassed(uint32_t barrier, uint32_t parity) {
  uint32_t done;
  asm volatile(
      "{\n.reg .pred p;\n"
      "mbarrier.test_wait.parity.shared::cta.b64 p, [%1], %2;\n"
      "selp.u32 %0, 1, 0, p;\n}\n"
      : "=r"(done)
      : "r"(barrier), "r"(parity)
      : "memory");
  return done != 0;
}
// Of `threads` threads of the block that name the same barrier, 1 … 15.
__device__ inline void NamedBarrier(int id, int threads) {
  asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory");
}
// The same, and whether `condition` holds for all of them: one answer for all.
__device__ inline bool NamedBarrierAll(int id, int threads, bool condition) {
  uint32_t all;
  asm volatile(
      "{\n.reg .pred p, q;\n"
      "setp.ne.u32 p, %3, 0;\n"
      "bar.red.and.pred q, %1, %2, p;\n"
      "selp.u32 %0, 1, 0, q;\n}\n"
      : "=r"(all)
      : "r"(id), "r"(threads), "r"(static_cast<uint32_t>(condition))
      : "memory");
  return all != 0;
}
__device__ inline void NamedBarrierArrive(int id, int threads) {
  asm volatile("bar.arrive %0, %1;" ::"r"(id), "r"(threads) : "memory");
}

// Ordinary writes to shared memory, own or learned of by a barrier, are seen by the tensor cores
// from here on. It waits for all that this thread has under way, copies too: so the reader calls
// it, not the writer.
__device__ inline void FenceProxyAsync() {
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

// ---- Copies -------------------------------------------------------------------------------------

// The line of 128 bytes around it is on its way to the second-level cache.
__device__ inline void Prefetch(const void* global) {
  asm volatile("prefetch.global.L2 [%0];" ::"l"(global));
}
// Multiples of 16 bytes, both ends aligned to 16; arrives at `barrier` in bytes.
__device__ inline void BulkCopy(void* shared, const void* global, uint32_t bytes,
                                uint64_t* barrier) {
  asm volatile(
      "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::
          "r"(SharedAddress(shared)),
      "l"(global), "r"(bytes), "r"(SharedAddress(barrier))
      : "memory");
}
__device__ inline void CopyAsync16(uint32_t shared, const void* global) {
  asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16;" ::"r"(shared), "l"(global)
               : "memory");
}
// The same, or sixteen zero bytes, for which nothing is read.
__device__ inline void CopyAsync16OrZero(uint32_t shared, const void* global, bool there) {
  asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16, %2;" ::"r"(shared), "l"(global),
               "r"(there ? 16 : 0)
               : "memory");
}
// One of the barrier's arrivals, once this thread's copies so far have landed.
__device__ inline void CopyAsyncArrive(uint32_t barrier) {
  asm volatile("cp.async.mbarrier.arrive.noinc.shared::cta.b64 [%0];" ::"r"(barrier) : "memory");
}
__device__ inline void CopyAsyncArrive(uint64_t* barrier) {
  CopyAsyncArrive(SharedAddress(barrier));
}
__device__ inline void CopyAsyncCommit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int kPending>
__device__ inline void CopyAsyncWait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
}
__device__ inline uint4 LoadStreaming(const void* global) {
  uint4 v;
  asm volatile("ld.global.nc.L1::no_allocate.L2::128B.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
               : "l"(global));
  return v;
}
// From the second-level cache, where others may have written.
__device__ inline uint4 LoadL2(const uint4* global) {
  uint4 v;
  asm volatile("ld.global.cg.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
               : "l"(global)
               : "memory");
  return v;
}
__device__ inline uint2 LoadL2(const uint2* global) {
  uint2 v;
  asm volatile("ld.global.cg.v2.u32 {%0, %1}, [%2];"
               : "=r"(v.x), "=r"(v.y)
               : "l"(global)
               : "memory");
  return v;
}
__device__ inline float4 LoadL2(const float4* global) {
  const uint4 v = LoadL2(reinterpret_cast<const uint4*>(global));
  return make_float4(__uint_as_float(v.x), __uint_as_float(v.y), __uint_as_float(v.z),
                     __uint_as_float(v.w));
}
__device__ inline float LoadStreamingFloat(const void* global) {
  float v;
  asm volatile("ld.global.nc.L1::no_allocate.f32 %0, [%1];" : "=f"(v) : "l"(global));
  return v;
}
__device__ inline void StoreShared16(uint32_t shared, uint4 v) {
  asm volatile("st.shared.v4.u32 [%0], {%1, %2, %3, %4};" ::"r"(shared), "r"(v.x), "r"(v.y),
               "r"(v.z), "r"(v.w)
               : "memory");
}
__device__ inline uint4 LoadShared16(uint32_t shared) {
  uint4 v;
  asm volatile("ld.shared.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
               : "r"(shared)
               : "memory");
  return v;
}
__device__ inline float LoadSharedFloat(uint32_t shared) {
  float v;
  asm volatile("ld.shared.f32 %0, [%1];" : "=f"(v) : "r"(shared) : "memory");
  return v;
}
__device__ inline uint2 LoadShared8(uint32_t shared) {
  uint2 v;
  asm volatile("ld.shared.v2.u32 {%0, %1}, [%2];" : "=r"(v.x), "=r"(v.y) : "r"(shared) : "memory");
  return v;
}
__device__ inline void StoreShared2(uint32_t shared, uint32_t v) {
  asm volatile("st.shared.b16 [%0], %1;" ::"r"(shared), "h"(static_cast<uint16_t>(v)) : "memory");
}
__device__ inline void LoadMatrix4(uint32_t (&r)[4], uint32_t shared) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(shared)
               : "memory");
}

// ---- Warpgroup products -------------------------------------------------------------------------

// Rows of 128 bytes whose 16-byte chunks are exchanged by the row's number mod 8. `stride8` is the
// distance of groups of eight rows; `leading` that of blocks of 64 columns, where the matrix lies
// with its columns contiguous (transposed). Both in bytes.
__device__ inline uint64_t SwizzledMatrix(uint32_t shared, uint32_t stride8,
                                          uint32_t leading = 16) {
  return (uint64_t{1} << 62) | (uint64_t{stride8 >> 4} << 32) | (uint64_t{leading >> 4} << 16) |
         ((shared & 0x3ffff) >> 4);
}
// The same of rows of 64 bytes, whose chunks are exchanged by half the row's number mod 4, and
// blocks of 32 columns.
__device__ inline uint64_t SwizzledNarrowMatrix(uint32_t shared, uint32_t stride8,
                                                uint32_t leading) {
  return (uint64_t{2} << 62) | (uint64_t{stride8 >> 4} << 32) | (uint64_t{leading >> 4} << 16) |
         ((shared & 0x3ffff) >> 4);
}
// Of blocks of eight rows of 16 bytes, one after the other, and `leading` and `stride8` bytes
// between them along the rows and across.
__device__ inline uint64_t PlainMatrix(uint32_t shared, uint32_t leading, uint32_t stride8) {
  return (uint64_t{stride8 >> 4} << 32) | (uint64_t{leading >> 4} << 16) |
         ((shared & 0x3ffff) >> 4);
}
__device__ inline void ProductFence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ inline void ProductCommit() {
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}
template <int kPending>
__device__ inline void ProductWait() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(kPending) : "memory");
}
// The compiler may not move uses of these values across this, nor make them again.
__device__ inline void Pin(int& value) { asm volatile("" : "+r"(value)::"memory"); }
template <typename T, int kSize>
__device__ inline void Pin(T (&values)[kSize]) {
#pragma unroll
  for (int i = 0; i < kSize; ++i) {
    if constexpr (sizeof(T) == 4 && static_cast<T>(0.5) != static_cast<T>(0)) {
      asm volatile("" : "+f"(values[i])::"memory");
    } else {
      asm volatile("" : "+r"(values[i])::"memory");
    }
  }
}

// ---- Uniform values -----------------------------------------------------------------------------

// The same number in all lanes, which the compiler learns by this: what follows from such numbers
// it makes once for a warp, where products and barriers want their descriptors and addresses.
template <typename T>
__device__ __forceinline__ T Uniform(T value) {
  return __shfl_sync(0xffffffff, value, 0);
}

// ---- Clusters -----------------------------------------------------------------------------------

__device__ inline uint32_t ClusterRank() {
  uint32_t rank;
  asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
  return rank;
}
__device__ inline void ClusterSync() {
  asm volatile(
      "barrier.cluster.arrive.release.aligned;\n"
      "barrier.cluster.wait.acquire.aligned;" ::
          : "memory");
}
// The address in block `rank` of the cluster of what lies at `shared` in this one.
__device__ inline uint32_t PeerAddress(uint32_t shared, uint32_t rank) {
  uint32_t address;
  asm volatile("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(address) : "r"(shared), "r"(rank));
  return address;
}
__device__ inline uint32_t LoadPeer(uint32_t address) {
  uint32_t value;
  asm volatile("ld.shared::cluster.u32 %0, [%1];" : "=r"(value) : "r"(address) : "memory");
  return value;
}
__device__ inline void StorePeer(uint32_t address, uint32_t value) {
  asm volatile("st.shared::cluster.u32 [%0], %1;" ::"r"(address), "r"(value) : "memory");
}
// At a barrier of a block of the cluster, by its PeerAddress. For what this thread has read: what
// it wrote is not published beyond its block, which takes far longer.
__device__ inline void BarrierArrivePeer(uint32_t barrier) {
  asm volatile("mbarrier.arrive.shared::cluster.b64 _, [%0];" ::"r"(barrier) : "memory");
}
// Out of this block's shared memory into that of `rank`, to where `to` lies there; arrives at its
// `barrier` in bytes. Multiples of 16.
__device__ inline void BulkCopyToPeer(uint32_t to, uint32_t from, uint32_t bytes, uint32_t barrier,
                                      uint32_t rank) {
  asm volatile(
      "cp.async.bulk.shared::cluster.shared::cta.mbarrier::complete_tx::bytes [%0], [%1], %2, "
      "[%3];" ::"r"(PeerAddress(to, rank)),
      "r"(from), "r"(bytes), "r"(PeerAddress(barrier, rank))
      : "memory");
}

// ---- Launches that overlap ----------------------------------------------------------------------

// Until everything the launch before wrote can be read.
__device__ inline void WaitForPrevious() { asm volatile("griddepcontrol.wait;" ::: "memory"); }
// The next launch may begin to set itself up.
__device__ inline void LetNextBegin() { asm volatile("griddepcontrol.launch_dependents;" :::); }

struct Launch {
  dim3 grid;
  int threads = 0;
  int shared_bytes = 0;
  int cluster = 1;
  cudaStream_t stream = nullptr;
};

// A kernel that calls WaitForPrevious before it reads or writes device memory.
template <typename... Parameters, typename... Arguments>
cudaError_t LaunchOverlapping(void (*kernel)(Parameters...), const Launch& launch,
                              const Arguments&... arguments) {
  cudaError_t error = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                           launch.shared_bytes);
  if (error != cudaSuccess) return error;
  cudaLaunchAttribute attributes[2];
  attributes[0].id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attributes[0].val.programmaticStreamSerializationAllowed = 1;
  attributes[1].id = cudaLaunchAttributeClusterDimension;
  attributes[1].val.clusterDim.x = static_cast<unsigned>(launch.cluster);
  attributes[1].val.clusterDim.y = 1;
  attributes[1].val.clusterDim.z = 1;
  cudaLaunchConfig_t config = {};
  config.gridDim = launch.grid;
  config.blockDim = dim3(static_cast<unsigned>(launch.threads));
  config.dynamicSmemBytes = static_cast<size_t>(launch.shared_bytes);
  config.stream = launch.stream;
  config.attrs = attributes;
  config.numAttrs = launch.cluster > 1 ? 2 : 1;
  return cudaLaunchKernelEx(&config, kernel, Parameters(arguments)...);
}

// How many clusters of such a launch run at once; at least 1.
template <typename... Parameters>
int ClustersAtOnce(void (*kernel)(Parameters...), const Launch& launch) {
  cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, launch.shared_bytes);
  cudaLaunchAttribute attribute;
  attribute.id = cudaLaunchAttributeClusterDimension;
  attribute.val.clusterDim.x = static_cast<unsigned>(launch.cluster);
  attribute.val.clusterDim.y = 1;
  attribute.val.clusterDim.z = 1;
  cudaLaunchConfig_t config = {};
  config.gridDim = dim3(static_cast<unsigned>(launch.cluster));
  config.blockDim = dim3(static_cast<unsigned>(launch.threads));
  config.dynamicSmemBytes = static_cast<size_t>(launch.shared_bytes);
  config.attrs = &attribute;
  config.numAttrs = 1;
  int clusters = 0;
  cudaOccupancyMaxActiveClusters(&clusters, kernel, &config);
  return clusters > 0 ? clusters : 1;
}

}  // namespace winnow::cuda::sm90
