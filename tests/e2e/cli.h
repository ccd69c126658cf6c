// `winnow` as a person runs it: arguments in, output and exit code back.
#pragma once

#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <string>

namespace winnow {

namespace fs = std::filesystem;

const std::string kRoot = WINNOW_SOURCE_DIR;
const std::string kNano = kRoot + "/models/winnow-nano";
const std::string kSmall = kRoot + "/tests/golden/v32-groups-f32";

struct Ended {
  int code = -1;
  std::string out;
  std::string err;
};

inline std::string Slurp(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  std::ostringstream text;
  text << file.rdbuf();
  return text.str();
}

class Cli : public testing::Test {
 protected:
  void SetUp() override {
    folder_ = fs::path(testing::TempDir()) / ("winnow_cli_" + std::to_string(getpid()));
    fs::create_directories(folder_);
  }
  void TearDown() override { fs::remove_all(folder_); }

  std::string Path(const std::string& name) const { return (folder_ / name).string(); }

  std::string Write(const std::string& name, const std::string& text) const {
    std::ofstream(Path(name), std::ios::binary) << text;
    return Path(name);
  }

  // Runs `winnow ARGUMENTS` with `input` on standard input.
  Ended Winnow(const std::string& arguments, const std::string& input = "") const {
    const std::string in = Write("stdin", input);
    const std::string command = std::string(WINNOW_BINARY) + " " + arguments + " <" + in + " >" +
                                Path("stdout") + " 2>" + Path("stderr");
    const int status = std::system(command.c_str());
    return {WIFEXITED(status) ? WEXITSTATUS(status) : -1, Slurp(Path("stdout")),
            Slurp(Path("stderr"))};
  }

  fs::path folder_;
};

}  // namespace winnow
