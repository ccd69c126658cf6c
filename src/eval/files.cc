// What an evaluation reads and writes: texts, and outputs that replace nothing of what is read.
#include <algorithm>
#include <filesystem>

#include "base/check.h"
#include "base/file.h"
#include "base/output_file.h"
#include "base/text.h"
#include "eval/evaluation.h"
#include "text/unicode.h"

namespace winnow::eval {
namespace {

namespace fs = std::filesystem;

constexpr int64_t kMaxTextBytes = int64_t{1} << 30;

// That `bytes` are UTF-8 and hold a word.
Status CheckText(const std::string& path, const std::string& bytes) {
  if (bytes.empty()) return InvalidArgument(path + ": it is empty, expected text");
  bool words = false;
  for (size_t place = 0; place < bytes.size();) {
    const Character character = CharacterAt(bytes, place);
    if (character.code_point == kInvalidCodePoint) {
      return InvalidArgument(fmt::format("{}: byte {} is {:#04x}, expected UTF-8", path, place,
                                         static_cast<uint8_t>(bytes[place])));
    }
    words |= character.char_class != CharClass::kSpace;
    place += static_cast<size_t>(character.length);
  }
  if (!words) return InvalidArgument(path + ": it holds no words, expected text");
  return OkStatus();
}

// Whether two paths lead to one file, or would once it is written.
bool SameFile(const fs::path& a, const fs::path& b) {
  std::error_code error;
  if (fs::equivalent(a, b, error)) return true;
  const fs::path target = fs::weakly_canonical(fs::absolute(a, error), error);
  return !target.empty() && target == fs::weakly_canonical(fs::absolute(b, error), error);
}

// The files of a model's folder, and what is given by name.
std::vector<fs::path> Inputs(const EvalOptions& options, const std::string& needles) {
  std::vector<fs::path> inputs(options.texts.begin(), options.texts.end());
  if (!needles.empty()) inputs.emplace_back(needles);
  std::error_code error;
  for (fs::directory_iterator entry(options.engine.model_dir, error), end; !error && entry != end;
       entry.increment(error)) {
    inputs.push_back(entry->path());
  }
  return inputs;
}

}  // namespace

Result<std::vector<Text>> ReadTexts(const std::vector<std::string>& paths) {
  if (paths.empty()) return InvalidArgument("text: none is given, expected at least one file");
  std::vector<Text> texts;
  for (const std::string& path : paths) {
    if (path.empty()) return InvalidArgument("text: an empty name, expected a file");
    WINNOW_ASSIGN(std::string bytes, ReadFile(path, kMaxTextBytes));
    WINNOW_TRY(CheckText(path, bytes));
    texts.push_back({path, Printable(FileName(path)), std::move(bytes)});
  }
  return texts;
}

Status CheckOutputs(const EvalOptions& options, const std::string& needles) {
  if (!options.json.empty() && !options.svg.empty() && SameFile(options.json, options.svg)) {
    return InvalidArgument(options.svg + ": json and svg name the same file, expected two");
  }
  const std::vector<fs::path> inputs = Inputs(options, needles);
  for (const std::string& path : {options.json, options.svg}) {
    if (path.empty()) continue;
    for (const fs::path& input : inputs) {
      if (SameFile(path, input)) {
        return InvalidArgument(
            fmt::format("{}: it would replace {}, expected no text, needles or file of the model",
                        path, input.string()));
      }
    }
    WINNOW_TRY(CheckWritable(path));
  }
  return OkStatus();
}

Result<EvalReport> Finish(const EvalOptions& options, EvalReport report) {
  if (!options.json.empty()) WINNOW_TRY(WriteFile(options.json, report.json + "\n"));
  if (!options.svg.empty()) WINNOW_TRY(WriteFile(options.svg, report.svg));
  return report;
}

}  // namespace winnow::eval
