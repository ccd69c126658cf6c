// Runs a fuzz target without libFuzzer: every input of the folders given, then mutations of each.
//
//   replay_NAME MUTATIONS PATH…
//
// The mutations come from a generator with a fixed seed: the same inputs on every machine.
#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);

namespace {

constexpr size_t kMaxMutatedBytes = size_t{1} << 16;

// SplitMix64.
class Random {
 public:
  explicit Random(uint64_t seed) : state_(seed) {}
  uint64_t Next() {
    uint64_t z = (state_ += 0x9E3779B97F4A7C15u);
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return z ^ (z >> 31);
  }
  size_t Below(size_t bound) { return bound == 0 ? 0 : static_cast<size_t>(Next() % bound); }

 private:
  uint64_t state_;
};

std::string Read(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

// A copy on the heap of exactly the input's size, so that a sanitizer sees a read past its end.
void Run(const std::string& bytes) {
  const std::vector<uint8_t> exact(bytes.begin(), bytes.end());
  LLVMFuzzerTestOneInput(exact.data(), exact.size());
}

void MutateOnce(Random* random, const std::string& other, std::string* bytes) {
  static constexpr const char* kTokens[] = {"0",       "-1",   "18446744073709551615",
                                            "1e999",   "null", "true",
                                            "[]",      "{}",   "\"\"",
                                            "\\u0000", "[[[[", "\xF0\x9F",
                                            "\xFF",    "\"",   "128"};
  const size_t at = random->Below(bytes->size() + 1);
  const size_t left = bytes->size() - at;
  switch (random->Below(7)) {
    case 0:
      if (left > 0) (*bytes)[at] ^= static_cast<char>(1u << random->Below(8));
      break;
    case 1:
      if (left > 0) (*bytes)[at] = static_cast<char>(random->Next());
      break;
    case 2:
      bytes->erase(at, random->Below(std::min<size_t>(left, 32) + 1));
      break;
    case 3:
      bytes->insert(at, kTokens[random->Below(std::size(kTokens))]);
      break;
    case 4: {
      const size_t from = random->Below(bytes->size() + 1);
      bytes->insert(at, bytes->substr(from, random->Below(64)));
      break;
    }
    case 5: {
      const size_t from = random->Below(other.size() + 1);
      bytes->replace(at, random->Below(left + 1), other.substr(from, random->Below(256)));
      break;
    }
    case 6:
      bytes->resize(at);
      break;
  }
  if (bytes->size() > kMaxMutatedBytes) bytes->resize(kMaxMutatedBytes);
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 3) {
    std::fprintf(stderr, "usage: %s MUTATIONS PATH...\n", argv[0]);
    return 2;
  }
  const long mutations = std::strtol(argv[1], nullptr, 10);
  std::vector<std::filesystem::path> paths;
  for (int argument = 2; argument < argc; ++argument) {
    if (!std::filesystem::is_directory(argv[argument])) {
      paths.emplace_back(argv[argument]);
      continue;
    }
    for (const auto& entry : std::filesystem::directory_iterator(argv[argument])) {
      paths.push_back(entry.path());
    }
  }
  std::sort(paths.begin(), paths.end());
  std::vector<std::string> seeds;
  for (const auto& path : paths) seeds.push_back(Read(path));
  if (seeds.empty()) {
    std::fprintf(stderr, "no inputs\n");
    return 1;
  }

  for (size_t index = 0; index < seeds.size(); ++index) {
    Run(seeds[index]);
    // Mutations of a large seed are dear and find little that those of a small one do not.
    const bool large = seeds[index].size() > kMaxMutatedBytes;
    Random random(index + 1);
    for (long mutation = 0; mutation < (large ? mutations / 20 : mutations); ++mutation) {
      std::string bytes = seeds[index];
      for (size_t step = 0, steps = 1 + random.Below(4); step < steps; ++step) {
        MutateOnce(&random, seeds[random.Below(seeds.size())], &bytes);
      }
      Run(bytes);
    }
  }
  std::printf("%zu inputs, %ld mutations of each\n", seeds.size(), mutations);
  return 0;
}
