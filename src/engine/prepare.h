// From a Request to the task that the engine thread runs: chat format, tokens, defaults, checks.
#pragma once

#include "engine/generation.h"
#include "text/chat_template.h"

namespace winnow {

// What preparing needs of a loaded model; the views outlive the call.
struct PrepareContext {
  const ModelConfig& config;
  const GenerationConfig& generation;
  const Tokenizer* tokenizer;         // null: the model folder has no tokenizer.json
  const ChatTemplate* chat_template;  // null: likewise, or `chat_error` says why
  Status chat_error;
  std::shared_ptr<const TokenTrie> token_trie;  // of the tokenizer; null without
  int64_t max_context;
};

// Errors name the field of the request.
Result<GenerationTask> PrepareGeneration(const Request& request, const PrepareContext& context);

}  // namespace winnow
