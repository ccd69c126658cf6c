// The tensors of `winnow logits`.
#pragma once

#include "engine/model_runner.h"

namespace winnow {

// Engine::WriteLogits, on the engine thread.
Status WriteLogitsFile(const LogitsRequest& request, ModelRunner& runner, const Progress& progress);

}  // namespace winnow
