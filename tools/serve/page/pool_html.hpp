// The text of pool.html.
#pragma once

#include <string_view>

namespace modelpool::serve {

extern const std::string_view kPoolHtml;

}  // namespace modelpool::serve
