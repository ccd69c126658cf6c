// The page at /, page/index.html as it was when Winnow was built.
#pragma once

#include <string_view>

namespace winnow::server {

extern const std::string_view kPage;

}  // namespace winnow::server
