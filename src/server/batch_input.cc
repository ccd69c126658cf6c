#include "server/batch_input.h"

#include "base/check.h"
#include "base/text.h"

namespace winnow::server {

Result<BatchInput> BatchInput::Open(const std::string& path, BatchRules rules,
                                    const std::atomic<bool>* stop,
                                    std::vector<BatchProblem>* problems) {
  WINNOW_ASSIGN(MappedFile file, MappedFile::Open(path));
  BatchInput input(std::move(file), std::move(rules));
  WINNOW_TRY(input.Check(stop, problems));
  return input;
}

std::string_view BatchInput::Text(const Place& place) const {
  return {reinterpret_cast<const char*>(file_.data()) + place.offset,
          static_cast<size_t>(place.length)};
}

Status BatchInput::Check(const std::atomic<bool>* stop, std::vector<BatchProblem>* problems) {
  Place place;
  while (place.offset < file_.size() && problems->size() < kMostProblems) {
    if (stop != nullptr && stop->load()) return {StatusCode::kCancelled, "batch: it was stopped"};
    ++place.number;
    place.length = file_.size() - place.offset;
    const size_t end = Text(place).find('\n');
    if (end != std::string_view::npos) place.length = static_cast<int64_t>(end);
    const int64_t next = place.offset + place.length + 1;
    if (Text(place).find_first_not_of(" \t\r") != std::string_view::npos) {
      if (rules_.max_lines > 0 && size() == rules_.max_lines) {
        problems->push_back({.line = place.number,
                             .code = "too_many_requests",
                             .message = fmt::format("more than {} requests, expected at most that",
                                                    rules_.max_lines)});
        break;
      }
      CheckLine(place, problems);
      places_.push_back(place);
    }
    place.offset = next;
  }
  if (places_.empty() && problems->empty()) {
    problems->push_back({.code = "empty_file", .message = "it has no requests, expected some"});
  }
  return OkStatus();
}

void BatchInput::CheckLine(const Place& place, std::vector<BatchProblem>* problems) {
  if (place.length > rules_.max_line_bytes) {
    problems->push_back({.line = place.number,
                         .code = "line_too_long",
                         .message = fmt::format("{} bytes, expected at most {}", place.length,
                                                rules_.max_line_bytes)});
    return;
  }
  BatchLine line;
  if (const auto error = ParseBatchLine(Text(place), rules_, &line)) {
    problems->push_back({.line = place.number,
                         .code = error->code,
                         .param = error->param,
                         .message = error->message});
    return;
  }
  const auto [known, added] = requests_.emplace(line.custom_id, size());
  if (added) return;
  problems->push_back(
      {.line = place.number,
       .code = "duplicate_custom_id",
       .param = "custom_id",
       .message = fmt::format("custom_id: {}, which line {} has as well, expected another",
                              Quoted(line.custom_id), LineNumber(known->second))});
}

std::optional<int64_t> BatchInput::Find(const std::string& custom_id) const {
  const auto found = requests_.find(custom_id);
  if (found == requests_.end()) return std::nullopt;
  return found->second;
}

Status BatchInput::Read(int64_t request, BatchLine* line) const {
  const Place& place = places_[static_cast<size_t>(request)];
  const auto error = ParseBatchLine(Text(place), rules_, line);
  if (!error && file_.intact() && Find(line->custom_id) == request) return OkStatus();
  return Corrupt(
      fmt::format("{}: line {}: it has changed since it was checked", file_.path(), place.number));
}

Status ProblemsStatus(const std::string& path, const std::vector<BatchProblem>& problems) {
  if (problems.empty()) return OkStatus();
  std::string message;
  for (const BatchProblem& problem : problems) {
    if (!message.empty()) message += "\n";
    message += path + ": ";
    if (problem.line > 0) message += fmt::format("line {}: ", problem.line);
    message += problem.message;
  }
  const bool cut = problems.size() == BatchInput::kMostProblems;
  return InvalidArgument(std::move(message), cut ? "there may be more" : "");
}

}  // namespace winnow::server
