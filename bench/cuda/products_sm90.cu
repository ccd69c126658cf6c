// Products of bf16 precision on Hopper's tensor cores, on their own: checks them against sums in
// double on the host and against themselves, then times them at the shapes of DeepSeek-V3.2.
// docs/benchmarks.md says how to build it. Needs a GPU and nothing else.
//
//   products_sm90 check     status 1 when a check fails
//   products_sm90 time [WORDS…]
#include <cuda_runtime.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <random>
#include <string>
#include <tuple>
#include <vector>

#include "cuda/product_sm90.h"
#include "device.h"
#include "tensor/half.h"

namespace {

using namespace winnow;
using namespace winnow::cuda;

std::mt19937_64 generator(7);
int failures = 0;

std::vector<float> Normals(int64_t count) {
  std::vector<float> values(static_cast<size_t>(count));
  std::normal_distribution<float> normal;
  for (float& value : values) value = normal(generator);
  return values;
}

// A stored matrix on host and device.
struct Stored {
  DType type;
  int64_t rows, columns;
  std::vector<uint8_t> bytes;
  std::vector<float> scales;
  Device<uint8_t> data;
  Device<float> scale;

  static std::vector<uint8_t> Bytes(DType type, int64_t count) {
    std::vector<uint8_t> bytes(static_cast<size_t>(count * SizeOf(type)));
    if (type == DType::kF8E4M3) {
      for (auto& code : bytes) {
        do code = static_cast<uint8_t>(generator());
        while ((code & 0x7f) == 0x7f);
      }
    } else {
      const std::vector<float> values = Normals(count);
      for (size_t i = 0; i < values.size(); ++i) {
        const uint16_t half = winnow::FloatToBf16(values[i]);
        std::memcpy(&bytes[2 * i], &half, 2);
      }
    }
    return bytes;
  }
  static std::vector<float> Scales(DType type, int64_t rows, int64_t columns) {
    if (type != DType::kF8E4M3) return {};
    std::vector<float> scales(static_cast<size_t>((rows + 127) / 128 * ((columns + 127) / 128)));
    for (float& s : scales) s = std::uniform_real_distribution<float>(0.5f, 2.0f)(generator) / 100;
    return scales;
  }
  Stored(DType type_in, int64_t rows_in, int64_t columns_in)
      : type(type_in),
        rows(rows_in),
        columns(columns_in),
        bytes(Bytes(type, rows * columns)),
        scales(Scales(type, rows, columns)),
        data(bytes),
        scale(scales) {}

  Weight weight() const {
    return {.data = data.get(),
            .type = type,
            .scale_columns = static_cast<int32_t>((columns + 127) / 128),
            .columns = columns,
            .scale = scales.empty() ? nullptr : scale.get()};
  }
  float At(int64_t row, int64_t column) const {
    const int64_t i = row * columns + column;
    if (type == DType::kBF16) {
      uint16_t half;
      std::memcpy(&half, &bytes[static_cast<size_t>(2 * i)], 2);
      return winnow::Bf16ToFloat(half);
    }
    return winnow::RoundToBf16(
        winnow::E4m3ToFloat(bytes[static_cast<size_t>(i)]) *
        scales[static_cast<size_t>(row / 128 * ((columns + 127) / 128) + column / 128)]);
  }
};

void Report(const std::string& name, bool ok, const std::string& detail) {
  if (!ok || detail.size() > 0)
    std::printf("%s %s %s\n", ok ? "ok  " : "FAIL", name.c_str(), detail.c_str());
  std::fflush(stdout);
  failures += !ok;
}

// x [T, columns] by the rows of a weight from first_row on.
std::vector<float> Run(const Stored& stored, const std::vector<float>& x, int64_t tokens,
                       int64_t first_row, int64_t num_rows, const float* bias) {
  Device<float> x_device(x);
  Device<uint8_t> packed(static_cast<size_t>(PackedBytes(tokens, stored.columns, 1)));
  Device<float> out(static_cast<size_t>(tokens * num_rows));
  PackArgs pack;
  pack.x = x_device.get();
  pack.x_stride = stored.columns;
  pack.rows = tokens;
  pack.columns = stored.columns;
  pack.weight = stored.type;
  pack.out = {packed.get(), PackedRowCount(tokens), 0};
  MUST(PackRows(pack, nullptr));
  TensorProduct product;
  product.x = pack.out;
  product.num_x = static_cast<int32_t>(tokens);
  product.num_rows = static_cast<int32_t>(num_rows);
  product.weight = stored.weight();
  product.first_row = first_row;
  product.bias = bias;
  product.out = out.get();
  product.out_stride = num_rows;
  MUST(RunTensorProduct(product, nullptr));
  MUST(cudaDeviceSynchronize());
  return out.Host();
}

void CheckShape(DType type, int64_t rows, int64_t columns, int64_t first_row) {
  const Stored stored(type, first_row + rows, columns);
  const int64_t most = 200;
  const std::vector<float> x = Normals(most * columns);
  const Device<float> bias(Normals(first_row + rows));
  const std::vector<float> biases = bias.Host();
  const std::string name = std::string(type == DType::kBF16 ? "bf16" : "e4m3") + " " +
                           std::to_string(rows) + "x" + std::to_string(columns);
  const std::vector<float> all = Run(stored, x, most, first_row, rows, bias.get());
  double worst = 0;
  for (int sample = 0; sample < 3000; ++sample) {
    const int64_t m = static_cast<int64_t>(generator() % most);
    const int64_t n =
        sample < 64 ? rows - 1 - sample % rows : static_cast<int64_t>(generator() % rows);
    double sum = biases[static_cast<size_t>(first_row + n)];
    double size = std::fabs(sum);
    for (int64_t k = 0; k < columns; ++k) {
      const double term = double{winnow::RoundToBf16(x[static_cast<size_t>(m * columns + k)])} *
                          stored.At(first_row + n, k);
      sum += term;
      size += term * term;
    }
    const double error = std::fabs(all[static_cast<size_t>(m * rows + n)] - sum) / std::sqrt(size);
    worst = error <= worst ? worst : error;  // NaN stays
    if (std::isnan(error)) worst = error;
  }
  char text[64];
  std::snprintf(text, sizeof(text), "error %.1e of the size of a sum", worst);
  Report(name, worst < 2e-5, text);
  for (int64_t tokens : {1, 2, 8, 9, 16, 17, 32, 33, 64, 65, 128, 129}) {
    const std::vector<float> some(x.end() - tokens * columns, x.end());
    const std::vector<float> out = Run(stored, some, tokens, first_row, rows, bias.get());
    const bool same = std::memcmp(out.data(), &all[static_cast<size_t>((most - tokens) * rows)],
                                  out.size() * 4) == 0;
    Report(name + " of " + std::to_string(tokens) + " rows as in a batch", same,
           same ? "" : "differs");
  }
}

// Experts with 0, 1, 8, 9 … rows, in tiles of every size: what each row gives alone.
void CheckGrouped(DType type) {
  const int64_t rows = 200, columns = 384, experts = 6;
  std::vector<std::unique_ptr<Stored>> stored;
  std::vector<Weight> table;
  for (int64_t e = 0; e < experts * 2; ++e) {
    stored.push_back(std::make_unique<Stored>(type, rows, columns));
    table.push_back(stored.back()->weight());
  }
  Device<Weight> table_device(table);
  const std::vector<int> counts = {0, 1, 8, 9, 130, 3};
  for (int tile_rows : {8, 16, 32, 64, 128}) {
    std::vector<ExpertTile> tiles;
    int first = 0;
    for (int e = 0; e < experts; ++e) {
      for (int at = 0; at < counts[static_cast<size_t>(e)]; at += tile_rows) {
        tiles.push_back({e, first + at, std::min(tile_rows, counts[static_cast<size_t>(e)] - at)});
      }
      first += (counts[static_cast<size_t>(e)] + 7) / 8 * 8;
    }
    const int64_t total = first;
    const std::vector<float> x = Normals(total * columns);
    Device<float> x_device(x);
    Device<uint8_t> packed(static_cast<size_t>(PackedBytes(total, columns, 1)));
    Device<float> out(static_cast<size_t>(2 * total * rows));
    Device<ExpertTile> tiles_device(tiles);
    Device<int32_t> num_tiles(std::vector<int32_t>{static_cast<int32_t>(tiles.size())});
    PackArgs pack;
    pack.x = x_device.get();
    pack.x_stride = columns;
    pack.rows = total;
    pack.columns = columns;
    pack.weight = type;
    pack.out = {packed.get(), total, 0};
    MUST(PackRows(pack, nullptr));
    TensorProduct product;
    product.x = pack.out;
    product.num_rows = static_cast<int32_t>(rows);
    product.weight = table[0];
    product.out = out.get();
    product.out_stride = rows;
    product.batch = 2;
    product.out_step = total * rows;
    product.table = table_device.get();
    product.table_stride = 2;
    product.tiles = tiles_device.get();
    product.num_tiles = num_tiles.get();
    product.max_tiles = static_cast<int32_t>(tiles.size()) + 3;
    product.tile_rows = tile_rows;
    MUST(RunTensorProduct(product, nullptr));
    MUST(cudaDeviceSynchronize());
    const std::vector<float> got = out.Host();
    bool same = true;
    for (const ExpertTile& tile : tiles) {
      const std::vector<float> some(x.begin() + tile.first * columns,
                                    x.begin() + (tile.first + tile.count) * columns);
      for (int z = 0; z < 2; ++z) {
        // Four slices serve experts, whatever a matrix alone has; 384 columns have six blocks, too
        // few for more.
        const std::vector<float> expected = Run(*stored[static_cast<size_t>(tile.expert * 2 + z)],
                                                some, tile.count, 0, rows, nullptr);
        same = same && std::memcmp(expected.data(),
                                   &got[static_cast<size_t>((z * total + tile.first) * rows)],
                                   expected.size() * 4) == 0;
      }
    }
    Report(std::string("experts ") + (type == DType::kBF16 ? "bf16" : "e4m3") + " tiles of " +
               std::to_string(tile_rows),
           same, same ? "equal bits" : "differs");
  }
}

void Check() {
  for (DType type : {DType::kBF16, DType::kF8E4M3}) {
    for (auto [rows, columns, first] : {std::tuple<int64_t, int64_t, int64_t>{1, 16, 0},
                                        {64, 64, 0},
                                        {65, 80, 3},
                                        {300, 2000, 0},
                                        {257, 1040, 64},
                                        {576, 7168, 0},
                                        {1536, 1536, 0},
                                        {2500, 512, 128},
                                        {7168, 2048, 0}}) {
      CheckShape(type, rows, columns, first);
    }
    CheckGrouped(type);
  }
}

// Microseconds of a product and of its packing; weights change from run to run, so they come from
// memory.
void Time(const char* name, DType type, int64_t rows, int64_t columns, int64_t tokens, int batch,
          bool x_batched) {
  const int64_t bytes = rows * batch * columns * SizeOf(type);
  const int copies = static_cast<int>(std::clamp<int64_t>((int64_t{400} << 20) / bytes, 1, 64));
  const int64_t blocks = (rows * batch + 127) / 128 * ((columns + 127) / 128);
  Device<uint8_t> data(static_cast<size_t>(bytes * copies));
  std::vector<uint8_t> random = Stored::Bytes(type, (1 << 20) / SizeOf(type));
  for (int64_t at = 0; at < bytes * copies; at += 1 << 20) {
    MUST(cudaMemcpy(data.get() + at, random.data(),
                    static_cast<size_t>(std::min<int64_t>(1 << 20, bytes * copies - at)),
                    cudaMemcpyHostToDevice));
  }
  Device<float> scales(std::vector<float>(static_cast<size_t>(blocks), 0.01f));
  const int x_batch = x_batched ? batch : 1;
  Device<float> x(Normals(tokens * columns * x_batch));
  Device<uint8_t> packed(static_cast<size_t>(PackedBytes(tokens, columns, x_batch)));
  Device<float> out(static_cast<size_t>(tokens * rows * batch));
  cudaStream_t stream;
  MUST(cudaStreamCreate(&stream));
  cudaEvent_t begin, end;
  MUST(cudaEventCreate(&begin));
  MUST(cudaEventCreate(&end));
  PackArgs pack;
  pack.x = x.get();
  pack.x_stride = columns * x_batch;
  pack.rows = tokens;
  pack.columns = columns;
  pack.batch = x_batch;
  pack.x_step = columns;
  pack.weight = type;
  pack.out = {packed.get(), PackedRowCount(tokens),
              x_batched ? (columns + 63) / 64 * PackedRowCount(tokens) * 128 : 0};
  TensorProduct product;
  product.x = pack.out;
  product.num_x = static_cast<int32_t>(tokens);
  product.num_rows = static_cast<int32_t>(rows);
  product.out = out.get();
  product.out_stride = rows * batch;
  product.batch = batch;
  product.row_step = rows;
  product.out_step = rows;
  auto launch = [&](int turn) {
    product.weight = {.data = data.get() + turn % copies * bytes,
                      .type = type,
                      .scale_columns = static_cast<int32_t>((columns + 127) / 128),
                      .columns = columns,
                      .scale = type == DType::kF8E4M3 ? scales.get() : nullptr};
    MUST(RunTensorProduct(product, stream));
  };
  const int runs = tokens > 256 ? 6 : 20;
  auto timed = [&](auto body) {
    for (int i = 0; i < 3; ++i) body(i);
    std::vector<float> times;
    for (int round = 0; round < 5; ++round) {
      MUST(cudaEventRecord(begin, stream));
      for (int i = 0; i < runs; ++i) body(i + round);
      MUST(cudaEventRecord(end, stream));
      MUST(cudaEventSynchronize(end));
      float ms;
      MUST(cudaEventElapsedTime(&ms, begin, end));
      times.push_back(ms * 1000 / static_cast<float>(runs));
    }
    std::sort(times.begin(), times.end());
    return times[2];
  };
  const float pack_us = timed([&](int) { MUST(PackRows(pack, stream)); });
  const float us = timed(launch);
  const double flops = 2.0 * static_cast<double>(rows * batch * columns * tokens);
  std::printf("%-12s %-4s T=%-5ld %8.1f us  pack %6.1f  %6.0f GB/s  %6.0f TFLOP/s\n", name,
              type == DType::kBF16 ? "bf16" : "e4m3", static_cast<long>(tokens), us, pack_us,
              static_cast<double>(bytes) / us / 1e3, flops / us / 1e6);
  std::fflush(stdout);
  cudaStreamDestroy(stream);
}

void TimeAll(const std::vector<std::string>& words) {
  const struct {
    const char* name;
    int64_t rows, columns;
    int batch;
    bool x_batched;
  } shapes[] = {{"q_a_proj", 1536, 7168, 1, false},   {"q_b_proj", 24576, 1536, 1, false},
                {"kv_a_proj", 576, 7168, 1, false},   {"o_proj", 7168, 16384, 1, false},
                {"index wq_b", 8192, 1536, 1, false}, {"gate or up", 18432, 7168, 1, false},
                {"down", 7168, 18432, 1, false},      {"expert gates", 2048, 7168, 16, false},
                {"values", 128, 512, 128, true}};
  for (const auto& shape : shapes) {
    if (!words.empty() && std::none_of(words.begin(), words.end(), [&](const std::string& word) {
          return std::string(shape.name).find(word) != std::string::npos;
        })) {
      continue;
    }
    for (int64_t tokens : {1, 8, 32, 64, 128, 512, 2048}) {
      Time(shape.name, DType::kF8E4M3, shape.rows, shape.columns, tokens, shape.batch,
           shape.x_batched);
    }
    Time(shape.name, DType::kBF16, shape.rows, shape.columns, 1, shape.batch, shape.x_batched);
    Time(shape.name, DType::kBF16, shape.rows, shape.columns, 2048, shape.batch, shape.x_batched);
  }
}

}  // namespace

int main(int argc, char** argv) {
  const std::string what = argc > 1 ? argv[1] : "";
  if (what == "check") {
    Check();
    std::printf("%d failures\n", failures);
    return failures > 0;
  }
  if (what == "time") {
    TimeAll(std::vector<std::string>(argv + 2, argv + argc));
    return 0;
  }
  std::fprintf(stderr, "products_sm90 check | time [WORDS…]\n");
  return 2;
}
