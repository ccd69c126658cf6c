// The container: what is read of it, and that nothing it says is believed unchecked.
#include "model/safetensors.h"

#include <gtest/gtest.h>
#include <signal.h>
#include <sys/resource.h>
#include <unistd.h>

#include <limits>

#include "unit/model/checkpoint.h"

namespace winnow {
namespace {

// Two tensors over 12 bytes, with padding after the header.
constexpr char kHeader[] =
    R"({"__metadata__":{"format":"pt"},"b":{"dtype":"F32","shape":[2],"data_offsets":[4,12]},)"
    R"("a":{"dtype":"BF16","shape":[1,2],"data_offsets":[0,4]}}   )";

Result<SafetensorsHeader> ParseHeader(const std::string& file) {
  return ParseSafetensorsHeader(file, static_cast<int64_t>(file.size()), "model.safetensors");
}

// A header of one tensor "t" over `data_bytes` bytes.
Result<SafetensorsHeader> ParseEntry(const std::string& entry, size_t data_bytes = 4) {
  return ParseHeader(
      SafetensorsFile(fmt::format(R"({{"t":{}}})", entry), std::string(data_bytes, '\0')));
}

void ExpectCorrupt(const Result<SafetensorsHeader>& result, std::string_view part) {
  ASSERT_FALSE(result.ok()) << part;
  EXPECT_EQ(result.error().code(), StatusCode::kCorrupt);
  EXPECT_NE(result.error().message().find(part), std::string::npos)
      << "\"" << part << "\" not in: " << result.error().message();
}

std::string WithLength(std::string file, uint64_t length) {
  std::memcpy(file.data(), &length, sizeof(length));
  return file;
}

TEST(SafetensorsHeader, ListsTensorsInTheOrderOfTheirData) {
  const std::string data(12, 'x');
  const SafetensorsHeader header = ParseHeader(SafetensorsFile(kHeader, data)).value();
  ASSERT_EQ(header.entries.size(), 2u);
  EXPECT_EQ(header.entries[0].name, "a");
  EXPECT_EQ(header.entries[0].dtype_name, "BF16");
  EXPECT_EQ(header.entries[0].shape, (std::vector<int64_t>{1, 2}));
  EXPECT_EQ(header.entries[1].name, "b");
  EXPECT_EQ(header.entries[1].begin, 4);
  EXPECT_EQ(header.entries[1].end, 12);
  EXPECT_EQ(header.metadata.at("format"), "pt");
  EXPECT_EQ(header.data_begin, 8 + static_cast<int64_t>(sizeof(kHeader)) - 1);
}

TEST(SafetensorsHeader, AcceptsScalarsEmptyTensorsAndNoTensors) {
  EXPECT_TRUE(ParseEntry(R"({"dtype":"F32","shape":[],"data_offsets":[0,4]})").ok());
  EXPECT_TRUE(ParseEntry(R"({"dtype":"F32","shape":[0,7],"data_offsets":[0,0]})", 0).ok());
  EXPECT_TRUE(ParseHeader(SafetensorsFile("{}", "")).ok());
  EXPECT_TRUE(ParseHeader(SafetensorsFile(R"({"x":{"dtype":"U8","shape":[0],"data_offsets":[2,2]},)"
                                          R"("y":{"dtype":"U8","shape":[2],"data_offsets":[0,2]},)"
                                          R"("z":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}})",
                                          "ab"))
                  .ok());
}

TEST(SafetensorsHeader, KnowsTheSizesOfAllTypes) {
  for (const auto& [name, bits] : std::vector<std::pair<std::string, int>>{
           {"F4", 4},      {"F6_E2M3", 6}, {"F6_E3M2", 6}, {"F8_E5M2", 8}, {"F8_E4M3", 8},
           {"F8_E8M0", 8}, {"BOOL", 8},    {"U8", 8},      {"I8", 8},      {"F8_E4M3FNUZ", 8},
           {"U16", 16},    {"I16", 16},    {"F16", 16},    {"BF16", 16},   {"F8_E5M2FNUZ", 8},
           {"U32", 32},    {"I32", 32},    {"F32", 32},    {"U64", 64},    {"I64", 64},
           {"F64", 64},    {"C64", 64}}) {
    const std::string entry =
        fmt::format(R"({{"dtype":"{}","shape":[2,4],"data_offsets":[0,{}]}})", name, bits);
    EXPECT_TRUE(ParseEntry(entry, static_cast<size_t>(bits)).ok()) << name;
  }
  ExpectCorrupt(ParseEntry(R"({"dtype":"F4","shape":[7],"data_offsets":[0,4]})"), "expected 3.5");
  ExpectCorrupt(ParseEntry(R"({"dtype":"F99","shape":[1],"data_offsets":[0,4]})"), "F99");
}

TEST(SafetensorsHeader, RefusesEveryTruncation) {
  const std::string file = SafetensorsFile(kHeader, std::string(12, 'x'));
  for (size_t length = 0; length < file.size(); ++length) {
    EXPECT_FALSE(ParseHeader(file.substr(0, length)).ok()) << length;
    // The same, known only by the file's size, as when its pages are mapped.
    const auto size = static_cast<int64_t>(length);
    EXPECT_FALSE(ParseSafetensorsHeader(file, size, "model.safetensors").ok()) << length;
  }
  EXPECT_FALSE(ParseHeader(file + "x").ok());
}

TEST(SafetensorsHeader, SurvivesEveryFlippedByte) {
  const std::string file = SafetensorsFile(kHeader, std::string(12, 'x'));
  const auto header_bytes = static_cast<size_t>(ParseHeader(file)->data_begin);
  for (size_t index = 0; index < header_bytes; ++index) {
    for (int bits = 1; bits < 256; ++bits) {
      std::string flipped = file;
      flipped[index] = static_cast<char>(flipped[index] ^ bits);
      const Result<SafetensorsHeader> result = ParseHeader(flipped);
      if (!result.ok()) continue;
      // What is accepted still tiles the data.
      int64_t end = 0;
      for (const SafetensorsHeader::Entry& entry : result->entries) {
        ASSERT_EQ(entry.begin, end);
        end = entry.end;
      }
      ASSERT_EQ(result->data_begin + end, static_cast<int64_t>(file.size()));
    }
  }
}

TEST(SafetensorsHeader, RefusesLengthsOverTheLimitOrTheFile) {
  const std::string file = SafetensorsFile(kHeader, std::string(12, 'x'));
  ExpectCorrupt(ParseHeader(WithLength(file, uint64_t{1} << 63)), "at most 100000000");
  ExpectCorrupt(ParseHeader(WithLength(file, std::numeric_limits<uint64_t>::max())),
                "at most 100000000");
  ExpectCorrupt(ParseHeader(WithLength(file, 100'000'001)), "at most 100000000");
  ExpectCorrupt(ParseHeader(WithLength(file, 100'000'000)), "expected at least 100000008");
  ExpectCorrupt(ParseHeader(WithLength(file, 0)), "begin");
}

TEST(SafetensorsHeader, RefusesHolesAndOverlaps) {
  const auto two = [](const char* first, const char* second, size_t bytes) {
    return ParseHeader(
        SafetensorsFile(std::string(R"({"a":{"dtype":"U8","shape":[4],"data_offsets":)") + first +
                            R"(},"b":{"dtype":"U8","shape":[4],"data_offsets":)" + second + "}}",
                        std::string(bytes, 'x')));
  };
  EXPECT_TRUE(two("[0,4]", "[4,8]", 8).ok());
  EXPECT_TRUE(two("[4,8]", "[0,4]", 8).ok());
  ExpectCorrupt(two("[0,4]", "[3,7]", 7), "overlaps");
  ExpectCorrupt(two("[0,4]", "[0,4]", 4), "overlaps");
  ExpectCorrupt(two("[0,4]", "[5,9]", 9), "hole");
  ExpectCorrupt(two("[1,5]", "[5,9]", 9), "hole");
  ExpectCorrupt(two("[0,4]", "[4,8]", 9), "9 bytes of data, expected 8");
  ExpectCorrupt(two("[0,4]", "[4,8]", 7), "7 bytes of data, expected 8");
}

TEST(SafetensorsHeader, RefusesSizesThatDoNotFit) {
  ExpectCorrupt(ParseEntry(R"({"dtype":"F32","shape":[2],"data_offsets":[0,4]})"),
                "tensor \"t\" takes 4 bytes, expected 8 for F32 [2]");
  ExpectCorrupt(ParseEntry(R"({"dtype":"F32","shape":[4294967296,4294967296],)"
                           R"("data_offsets":[0,4]})"),
                "overflows");
  ExpectCorrupt(ParseEntry(R"({"dtype":"F32","shape":[9223372036854775807],)"
                           R"("data_offsets":[0,4]})"),
                "overflows");
  ExpectCorrupt(ParseEntry(R"({"dtype":"F32","shape":[1],"data_offsets":[4,0]})"), "begin");
  ExpectCorrupt(ParseEntry(R"({"dtype":"F32","shape":[1],)"
                           R"("data_offsets":[9223372036854775803,9223372036854775807]})"),
                "hole");
}

TEST(SafetensorsHeader, RefusesEntriesThatAreNotTensors) {
  for (const char* entry :
       {"3", "null", "[]", "{}", R"({"dtype":"F32"})", R"({"dtype":"F32","shape":[1]})",
        R"({"dtype":3,"shape":[1],"data_offsets":[0,4]})",
        R"({"dtype":"F32","shape":1,"data_offsets":[0,4]})",
        R"({"dtype":"F32","shape":[-1],"data_offsets":[0,4]})",
        R"({"dtype":"F32","shape":[1.0],"data_offsets":[0,4]})",
        R"({"dtype":"F32","shape":["1"],"data_offsets":[0,4]})",
        R"({"dtype":"F32","shape":[18446744073709551615],"data_offsets":[0,4]})",
        R"({"dtype":"F32","shape":[1],"data_offsets":[0]})",
        R"({"dtype":"F32","shape":[1],"data_offsets":[0,4,8]})",
        R"({"dtype":"F32","shape":[1],"data_offsets":[-4,0]})",
        R"({"dtype":"F32","shape":[1],"data_offsets":[0,NaN]})",
        R"({"dtype":"F32","shape":[1,1,1,1,1,1,1,1,1],"data_offsets":[0,4]})"}) {
    EXPECT_FALSE(ParseEntry(entry).ok()) << entry;
  }
  EXPECT_TRUE(ParseEntry(R"({"dtype":"F32","shape":[1,1,1,1,1,1,1,1],"data_offsets":[0,4]})").ok());
}

TEST(SafetensorsHeader, RefusesJsonThatIsNotAHeader) {
  const std::string entry = R"("t":{"dtype":"U8","shape":[1],"data_offsets":[0,1]})";
  EXPECT_TRUE(ParseHeader(SafetensorsFile("{" + entry + "}", "x")).ok());
  ExpectCorrupt(ParseHeader(SafetensorsFile("{" + entry + "," + entry + "}", "x")), "twice");
  EXPECT_FALSE(ParseHeader(SafetensorsFile(" {" + entry + "}", "x")).ok());
  EXPECT_FALSE(ParseHeader(SafetensorsFile("[]", "")).ok());
  EXPECT_FALSE(ParseHeader(SafetensorsFile("{" + entry + "}{}", "x")).ok());
  EXPECT_FALSE(ParseHeader(SafetensorsFile("{\"\xff\":{}}", "")).ok());
  EXPECT_FALSE(ParseHeader(SafetensorsFile("{\"a\":" + std::string(100000, '['), "")).ok());
  ExpectCorrupt(ParseHeader(SafetensorsFile(R"({"__metadata__":{"n":1}})", "")), "__metadata__");
  ExpectCorrupt(ParseHeader(SafetensorsFile(R"({"__metadata__":[]})", "")), "__metadata__");
}

TEST(SafetensorsHeader, ShowsHostileNamesEscapedAndCut) {
  const std::string header = fmt::format(R"({{"\u001b[2J{}":3}})", std::string(10000, 'x'));
  const Result<SafetensorsHeader> result = ParseHeader(SafetensorsFile(header, ""));
  ASSERT_FALSE(result.ok());
  EXPECT_LT(result.error().message().size(), 300u);
  EXPECT_EQ(result.error().message().find('\x1b'), std::string::npos);
}

const TestTensor kOne = {"U8", {1}, "1"};
const TestTensor kTwo = {"U8", {1}, "2"};

TEST(TensorDirectory, OpensOneFile) {
  const TestFolder folder;
  const std::string path = folder.Write("any.safetensors", SafetensorsFile({{"a", kOne}}));
  const TensorDirectory directory = TensorDirectory::Open(path).value();
  ASSERT_NE(directory.Find("a"), nullptr);
  EXPECT_EQ(directory.Find("a")->data[0], '1');
  EXPECT_EQ(directory.Find("a")->file, "any.safetensors");
  EXPECT_EQ(directory.Find("b"), nullptr);
  EXPECT_EQ(directory.file_bytes(), static_cast<int64_t>(std::filesystem::file_size(path)));
}

TEST(TensorDirectory, ReadsEveryShardWhateverTheIndexSays) {
  const TestFolder folder;
  folder.Write("model-00001-of-00002.safetensors", SafetensorsFile({{"a", kOne}}));
  folder.Write("model-00002-of-00002.safetensors", SafetensorsFile({{"b", kTwo}}));
  folder.Write("expected.safetensors", SafetensorsFile({{"c", kOne}}));
  for (const char* index :
       {"", R"({"weight_map":{}})", R"({"weight_map":{"b":"model-00001-of-00002.safetensors"}})"}) {
    if (*index != '\0') folder.Write("model.safetensors.index.json", index);
    const Result<TensorDirectory> directory = TensorDirectory::Open(folder.path());
    ASSERT_TRUE(directory.ok()) << directory.status().ToString();
    EXPECT_EQ(directory->tensors().size(), 2u);
    EXPECT_EQ(directory->Find("b")->file, "model-00002-of-00002.safetensors");
    EXPECT_EQ(directory->Find("b")->data[0], '2');
  }
}

TEST(TensorDirectory, MissesShardsThatTheIndexNames) {
  const TestFolder folder;
  folder.Write("model-00001-of-00002.safetensors", SafetensorsFile({{"a", kOne}}));
  folder.Write("model.safetensors.index.json",
               R"({"weight_map":{"a":"model-00001-of-00002.safetensors",
                                 "b":"model-00002-of-00002.safetensors"}})");
  const Status status = TensorDirectory::Open(folder.path()).status();
  EXPECT_EQ(status.code(), StatusCode::kNotFound);
  EXPECT_NE(status.message().find("\"model-00002-of-00002.safetensors\""), std::string::npos)
      << status.message();
}

TEST(TensorDirectory, RefusesAnIndexThatLeavesTheFolder) {
  const TestFolder folder;
  folder.Write("model.safetensors", SafetensorsFile({{"a", kOne}}));
  for (const char* index :
       {R"({"weight_map":{"a":"../model.safetensors"}})", R"({"weight_map":{"a":"/etc/passwd"}})",
        R"({"weight_map":{"a":""}})", R"({"weight_map":{"a":7}})", R"({"weight_map":[]})",
        R"({"weight_map":{"a":"model.safetensors\u0000x"}})", "[]", "{"}) {
    folder.Write("model.safetensors.index.json", index);
    EXPECT_EQ(TensorDirectory::Open(folder.path()).status().code(), StatusCode::kCorrupt) << index;
  }
}

TEST(TensorDirectory, RefusesATensorInTwoShards) {
  const TestFolder folder;
  folder.Write("model-00001-of-00002.safetensors", SafetensorsFile({{"a", kOne}}));
  folder.Write("model-00002-of-00002.safetensors", SafetensorsFile({{"a", kTwo}}));
  const Status status = TensorDirectory::Open(folder.path()).status();
  EXPECT_EQ(status.code(), StatusCode::kCorrupt);
  EXPECT_EQ(status.message(),
            "model-00002-of-00002.safetensors: tensor \"a\" is also in "
            "model-00001-of-00002.safetensors, expected once");
}

TEST(TensorDirectory, MissesFoldersWithoutTensors) {
  const TestFolder folder;
  EXPECT_EQ(TensorDirectory::Open(folder.path()).status().code(), StatusCode::kNotFound);
  EXPECT_EQ(TensorDirectory::Open(folder.path() + "/no").status().code(), StatusCode::kNotFound);
  folder.Write("model.safetensors", "");
  EXPECT_EQ(TensorDirectory::Open(folder.path()).status().code(), StatusCode::kCorrupt);
}

TEST(TensorDirectory, TellsWhenAFileShrankWhileInUse) {
  const TestFolder folder;
  const auto bytes = static_cast<size_t>(3 * sysconf(_SC_PAGESIZE));
  const std::string path = folder.Write(
      "model.safetensors",
      SafetensorsFile({{"a", {"U8", {static_cast<int64_t>(bytes)}, std::string(bytes, 'x')}}}));
  const TensorDirectory directory = TensorDirectory::Open(path).value();
  ASSERT_EQ(truncate(path.c_str(), 100), 0);
  const volatile uint8_t* data = directory.Find("a")->data;
  EXPECT_EQ(data[bytes - 1], 0);
  const Status status = directory.CheckIntact();
  EXPECT_EQ(status.code(), StatusCode::kCorrupt);
  EXPECT_NE(status.message().find("model.safetensors"), std::string::npos);
}

TEST(SafetensorsWriter, WritesWhatTheDirectoryReads) {
  const TestFolder folder;
  const std::string path = folder.path() + "/out.safetensors";
  const std::vector<float> a = {1.0f, 2.0f, 3.0f};
  const std::string b = "bytes";
  Result<SafetensorsWriter> writer = SafetensorsWriter::Create(
      path, {{"a", DType::kF32, {3, 1}}, {"b\"\n", DType::kU8, {5}}, {"c", DType::kI32, {0, 4}}},
      {{"format", "pt"}});
  ASSERT_TRUE(writer.ok()) << writer.status().ToString();
  ASSERT_TRUE(writer->Append(a.data(), 12).ok());
  ASSERT_TRUE(writer->WriteAt(1, 2, b.data() + 2, 3).ok());
  ASSERT_TRUE(writer->WriteAt(1, 0, b.data(), 2).ok());
  EXPECT_FALSE(std::filesystem::exists(path));
  ASSERT_TRUE(writer->Finish().ok());
  EXPECT_FALSE(std::filesystem::exists(path + ".partial"));

  const TensorDirectory directory = TensorDirectory::Open(path).value();
  EXPECT_EQ(directory.metadata().at("format"), "pt");
  ASSERT_EQ(directory.tensors().size(), 3u);
  const StoredTensor& first = *directory.Find("a");
  EXPECT_EQ(first.shape, (std::vector<int64_t>{3, 1}));
  EXPECT_EQ(reinterpret_cast<uintptr_t>(first.data) % 8, 0u);
  EXPECT_EQ(std::memcmp(first.data, a.data(), 12), 0);
  EXPECT_EQ(std::memcmp(directory.Find("b\"\n")->data, b.data(), 5), 0);
  EXPECT_EQ(directory.Find("c")->bytes, 0);
}

TEST(SafetensorsWriter, LeavesNothingBehindWhenItDoesNotFinish) {
  const TestFolder folder;
  const std::string path = folder.path() + "/out.safetensors";
  {
    Result<SafetensorsWriter> writer =
        SafetensorsWriter::Create(path, {{"a", DType::kF32, {2}}}, {});
    ASSERT_TRUE(writer.ok());
    EXPECT_FALSE(std::filesystem::exists(path));
    EXPECT_FALSE(std::filesystem::is_empty(folder.path()));
  }
  EXPECT_TRUE(std::filesystem::is_empty(folder.path()));
}

TEST(SafetensorsWriter, ReportsPlacesItCannotWriteTo) {
  EXPECT_EQ(SafetensorsWriter::Create("/nowhere/out.safetensors", {}, {}).status().code(),
            StatusCode::kNotFound);
}

TEST(SafetensorsWriter, ReportsAFullDisk) {
  const TestFolder folder;
  const std::string path = folder.path() + "/out.safetensors";
  // A limit on the size of files stands for the full disk: no byte can be written under it.
  rlimit saved;
  ASSERT_EQ(getrlimit(RLIMIT_FSIZE, &saved), 0);
  const auto handler = signal(SIGXFSZ, SIG_IGN);
  const rlimit none = {0, saved.rlim_max};
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &none), 0);
  const Status status = SafetensorsWriter::Create(path, {{"a", DType::kF32, {2}}}, {}).status();
  setrlimit(RLIMIT_FSIZE, &saved);
  signal(SIGXFSZ, handler);
  EXPECT_EQ(status.code(), StatusCode::kResourceExhausted) << status.message();
  EXPECT_TRUE(std::filesystem::is_empty(folder.path()));
}

TEST(SafetensorsWriter, ReplacesNothingButRegularFiles) {
  const Status status = SafetensorsWriter::Create("/dev/null", {}, {}).status();
  EXPECT_EQ(status.code(), StatusCode::kInvalidArgument) << status.message();
  EXPECT_TRUE(std::filesystem::is_character_file("/dev/null"));
}

}  // namespace
}  // namespace winnow
