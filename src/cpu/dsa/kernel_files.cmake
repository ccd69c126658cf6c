# The files of this folder: kernels, compiled once for each instruction set, and the rest.
list(APPEND WINNOW_KERNEL_FILES dsa/lightning_indexer_kernels.cc dsa/sparse_attention_kernels.cc)
set(WINNOW_CPU_DSA_FILES
  dsa/caches.cc dsa/dsa_kernels.cc dsa/lightning_indexer.cc dsa/rope.cc dsa/sparse_attention.cc
  dsa/token_selection.cc)
