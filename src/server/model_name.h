// What a served model is called, and how one tells that it is still the same.
#pragma once

#include <string>
#include <vector>

#include "winnow/winnow.h"

namespace winnow::server {

// What the model is listed as: `served_model_names`, or the name of its folder if there are none.
std::vector<std::string> ModelNames(const std::vector<std::string>& served_model_names,
                                    const std::string& model_dir);

// What requests may call it: the same, and the name of the folder.
std::vector<std::string> AcceptedNames(const std::vector<std::string>& served_model_names,
                                       const std::string& model_dir);

// `system_fingerprint` of answers: the same for equal models, numbers and versions; says nothing of
// the machine.
std::string Fingerprint(const ModelInfo& info, const EngineOptions& options);

}  // namespace winnow::server
