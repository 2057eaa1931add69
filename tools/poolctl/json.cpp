#include "json.hpp"

namespace modelpool::poolctl {

void print_json(const Json& json) {
  print(json.dump(2, ' ', false, Json::error_handler_t::replace) + "\n");
}

}  // namespace modelpool::poolctl
