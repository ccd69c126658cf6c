// Files whole and mapped, and what happens to a mapping when its file shrinks.
#include "base/file.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>

namespace winnow {
namespace {

// A folder of its own for each test, removed afterwards.
class Files : public testing::Test {
 protected:
  Files() {
    std::string pattern = testing::TempDir() + "winnow_files_XXXXXX";
    folder_ = mkdtemp(pattern.data());
  }
  ~Files() override { std::filesystem::remove_all(folder_); }

  std::string Write(const std::string& name, const std::string& bytes) const {
    const std::string path = folder_ + "/" + name;
    std::ofstream(path, std::ios::binary) << bytes;
    return path;
  }

  std::string folder_;
};

TEST(FileName, IsTheLastPartOfAPath) {
  EXPECT_EQ(FileName("/models/nano/config.json"), "config.json");
  EXPECT_EQ(FileName("config.json"), "config.json");
  EXPECT_EQ(FileName("/"), "");
}

TEST_F(Files, AreReadWholeWithTheirZeroBytes) {
  const std::string bytes("one\0two\n", 8);
  EXPECT_EQ(ReadFile(Write("a", bytes), 8).value(), bytes);
  EXPECT_EQ(ReadFile(Write("empty", ""), 0).value(), "");
}

TEST_F(Files, LongerThanAllowedAreRefused) {
  const Status status = ReadFile(Write("long", "12345"), 4).status();
  EXPECT_EQ(status.code(), StatusCode::kInvalidArgument);
  EXPECT_NE(status.message().find("5 bytes"), std::string::npos) << status.message();
}

TEST_F(Files, OfTheSystemAreReadThoughTheySayThatTheyAreEmpty) {
  const std::string maps = ReadFile("/proc/self/maps", 1 << 20).value();
  EXPECT_NE(maps.find("[stack]"), std::string::npos) << maps;
  EXPECT_EQ(ReadFile("/proc/self/maps", 10).status().code(), StatusCode::kInvalidArgument);
}

TEST_F(Files, ThatDoNotExistAreNotFound) {
  EXPECT_EQ(ReadFile(folder_ + "/absent", 100).status().code(), StatusCode::kNotFound);
  EXPECT_EQ(MappedFile::Open(folder_ + "/absent").status().code(), StatusCode::kNotFound);
}

TEST_F(Files, ThatAreFoldersAreRefused) {
  EXPECT_EQ(ReadFile(folder_, 100).status().code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(MappedFile::Open(folder_).status().code(), StatusCode::kInvalidArgument);
}

TEST_F(Files, MappedShowTheirBytes) {
  const std::string path = Write("mapped", "winnow");
  const MappedFile file = MappedFile::Open(path).value();
  EXPECT_EQ(file.path(), path);
  ASSERT_EQ(file.size(), 6);
  EXPECT_EQ(std::string(reinterpret_cast<const char*>(file.data()), 6), "winnow");
  EXPECT_TRUE(file.intact());
}

TEST_F(Files, MappedWhenEmptyHaveNoBytes) {
  const MappedFile file = MappedFile::Open(Write("empty", "")).value();
  EXPECT_EQ(file.size(), 0);
  EXPECT_TRUE(file.intact());
}

TEST_F(Files, KeepTheirAddressWhenTheMappingMoves) {
  MappedFile first = MappedFile::Open(Write("mapped", "winnow")).value();
  const uint8_t* data = first.data();
  MappedFile second = std::move(first);
  EXPECT_EQ(second.data(), data);
  EXPECT_EQ(second.data()[5], 'w');
}

TEST_F(Files, ThatShrinkWhileMappedReadAsZerosAndAreNoLongerIntact) {
  const int64_t page = sysconf(_SC_PAGESIZE);
  const std::string path = Write("shrinking", std::string(static_cast<size_t>(4 * page), 'x'));
  const std::string other_path = Write("other", std::string(static_cast<size_t>(page), 'y'));
  const MappedFile file = MappedFile::Open(path).value();
  const MappedFile other = MappedFile::Open(other_path).value();
  ASSERT_EQ(truncate(path.c_str(), page), 0);

  const volatile uint8_t* data = file.data();
  EXPECT_EQ(data[0], 'x');
  EXPECT_TRUE(file.intact()) << "no missing page was read yet";
  EXPECT_EQ(data[2 * page + 17], 0);
  EXPECT_EQ(data[4 * page - 1], 0);
  EXPECT_EQ(data[page - 1], 'x');
  EXPECT_FALSE(file.intact());
  EXPECT_TRUE(other.intact());
  EXPECT_EQ(other.data()[page - 1], 'y');
  EXPECT_EQ(file.size(), 4 * page);
}

TEST_F(Files, MappedAfterALossStartIntact) {
  const int64_t page = sysconf(_SC_PAGESIZE);
  const std::string path = Write("lost", std::string(static_cast<size_t>(2 * page), 'x'));
  {
    const MappedFile file = MappedFile::Open(path).value();
    ASSERT_EQ(truncate(path.c_str(), 0), 0);
    const volatile uint8_t* data = file.data();
    EXPECT_EQ(data[0], 0);
    EXPECT_FALSE(file.intact());
  }
  const MappedFile again = MappedFile::Open(Write("lost", "new")).value();
  EXPECT_TRUE(again.intact());
  EXPECT_EQ(again.data()[0], 'n');
}

}  // namespace
}  // namespace winnow
