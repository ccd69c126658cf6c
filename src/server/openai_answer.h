// Answers in the form of OpenAI's API, with DeepSeek's fields.
#pragma once

#include <memory>
#include <vector>

#include "base/json.h"
#include "server/answer_writer.h"

namespace winnow::server {

std::unique_ptr<AnswerWriter> MakeChatWriter(AnswerShape shape);

// `prompts` are the texts to repeat before the answers, one for each prompt; empty: no echo.
std::unique_ptr<AnswerWriter> MakeTextWriter(AnswerShape shape, std::vector<std::string> prompts);

// How a token is spelled in logprobs: its text, or "bytes:\xe2\x82" if that is part of a character,
// or "token_id:17" if the model has no tokenizer.
std::string TokenSpelling(const TokenLogprob& token);

}  // namespace winnow::server
