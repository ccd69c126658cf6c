// Kernel objects must not leak code: an inline function compiled for AVX-512 that the linker may
// choose for everyone crashes other machines. Each object of each instruction set exports its table
// and nothing else.
#include <gtest/gtest.h>

#include <cstdio>
#include <fstream>
#include <sstream>
#include <string>
#include <vector>

namespace winnow::cpu {
namespace {

std::vector<std::string> Levels() {
  std::vector<std::string> levels;
  std::stringstream names(WINNOW_KERNEL_LEVELS);
  for (std::string name; names >> name;) levels.push_back(name);
  return levels;
}

std::string SymbolsOf(const std::string& object) {
  const std::string command = std::string(WINNOW_NM) + " -P '" + object + "'";
  std::string output;
  FILE* pipe = popen(command.c_str(), "r");
  if (pipe == nullptr) return output;
  char buffer[4096];
  while (const size_t count = fread(buffer, 1, sizeof(buffer), pipe)) output.append(buffer, count);
  pclose(pipe);
  return output;
}

TEST(KernelObjects, ExportOneTableEach) {
  if (*WINNOW_SANITIZED) GTEST_SKIP() << "sanitizers add symbols of their own";
  ASSERT_FALSE(Levels().empty());
  for (const std::string& level : Levels()) {
    std::ifstream list(std::string(WINNOW_KERNEL_OBJECTS_DIR) + "/kernel_objects_" + level +
                       ".txt");
    int num_objects = 0;
    for (std::string object; std::getline(list, object);) {
      if (object.empty()) continue;
      ++num_objects;
      std::vector<std::string> exported;
      std::istringstream symbols(SymbolsOf(object));
      for (std::string line; std::getline(symbols, line);) {
        std::istringstream fields(line);
        std::string name;
        char type = 0;
        fields >> name >> type;
        if (type == 'U') {
          // The C library only: a C++ name would be someone else's inline function.
          EXPECT_NE(name.substr(0, 2), "_Z") << object;
        } else if (type >= 'A' && type <= 'Z') {
          exported.push_back(name);
        }
        EXPECT_EQ(std::string("WVuwv").find(type), std::string::npos) << object << ": " << line;
      }
      ASSERT_EQ(exported.size(), 1u) << object;
      EXPECT_NE(exported[0].find("Kernels"), std::string::npos) << exported[0];
      EXPECT_NE(exported[0].find(std::to_string(level.size()) + level), std::string::npos)
          << exported[0];
    }
    EXPECT_GE(num_objects, 4) << level;
  }
}

}  // namespace
}  // namespace winnow::cpu
