#include "json.hpp"

namespace modelpool::poolctl {

void print_json(const Json& json) { print(json_page(json) + "\n"); }

}  // namespace modelpool::poolctl
