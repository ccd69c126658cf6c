// Lists that grow by other lists.
#pragma once

#include <iterator>
#include <utility>
#include <vector>

namespace winnow::server {

template <typename T>
void AppendAll(std::vector<T>* to, std::vector<T> more) {
  to->insert(to->end(), std::make_move_iterator(more.begin()), std::make_move_iterator(more.end()));
}

}  // namespace winnow::server
