#include "server/model_name.h"

#include <openssl/sha.h>

#include <filesystem>

#include "base/text.h"

namespace winnow::server {
namespace {

std::string FolderName(const std::string& path) {
  std::error_code error;
  std::filesystem::path folder = std::filesystem::weakly_canonical(path, error);
  if (error) folder = path;
  const std::string name = folder.filename().string();
  return name.empty() ? "model" : name;
}

}  // namespace

std::vector<std::string> ModelNames(const std::vector<std::string>& served_model_names,
                                    const std::string& model_dir) {
  return served_model_names.empty() ? std::vector{FolderName(model_dir)} : served_model_names;
}

std::vector<std::string> AcceptedNames(const std::vector<std::string>& served_model_names,
                                       const std::string& model_dir) {
  std::vector<std::string> names = ModelNames(served_model_names, model_dir);
  names.push_back(FolderName(model_dir));
  return names;
}

std::string Fingerprint(const ModelInfo& info, const EngineOptions& options) {
  const std::string text =
      fmt::format("{} {} {} {} {} {} {} {} {}", WINNOW_VERSION, info.model_type, info.parameters,
                  info.vocab_size, info.num_hidden_layers, info.index_topk, Name(options.precision),
                  Name(options.kv_cache), Name(options.index_keys));
  unsigned char digest[SHA256_DIGEST_LENGTH];
  SHA256(reinterpret_cast<const unsigned char*>(text.data()), text.size(), digest);
  std::string fingerprint = "fp_";
  for (int index = 0; index < 5; ++index) fingerprint += fmt::format("{:02x}", digest[index]);
  return fingerprint;
}

}  // namespace winnow::server
