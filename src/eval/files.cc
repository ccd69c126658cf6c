// What an evaluation reads and writes: texts, and outputs that replace nothing of what is read.
#include <algorithm>

#include "base/check.h"
#include "base/file.h"
#include "base/output_file.h"
#include "base/text.h"
#include "eval/evaluation.h"
#include "text/unicode.h"

namespace winnow::eval {
namespace {

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

// The files of a model's folder, and what is given by name.
std::vector<std::string> Inputs(const EvalOptions& options, const std::string& needles) {
  std::vector<std::string> inputs = FilesIn(options.engine.model_dir);
  inputs.insert(inputs.end(), options.texts.begin(), options.texts.end());
  if (!needles.empty()) inputs.push_back(needles);
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
  const std::vector<std::string> inputs = Inputs(options, needles);
  for (const std::string& path : {options.json, options.svg}) {
    if (path.empty()) continue;
    for (const std::string& input : inputs) {
      if (SameFile(path, input)) {
        return InvalidArgument(
            fmt::format("{}: it would replace {}, expected no text, needles or file of the model",
                        path, input));
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
