#include "base/name.hpp"

#include "base/text.hpp"

namespace modelpool {

Result<> check_pool_name(std::string_view name) {
  bool fits = !name.empty() && name.size() <= kPoolNameMax_bytes;
  for (const char c : name) {
    fits = fits && ((c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '_' || c == '-');
  }
  if (fits) return {};
  return unusable("pool name", name, "a pool name is 1 to 64 of a-z, 0-9, _ and -; change it");
}

Result<> check_model_name(std::string_view name) {
  return check_text("model name", name, 1, kModelNameMax_bytes);
}

Result<> check_address(std::string_view address) {
  if (address.find(' ') != std::string_view::npos) {
    return unusable("address", address, "it contains a blank; remove it");
  }
  return check_text("address", address, 1, kAddressMax_bytes);
}

Result<> check_tag(std::string_view tag) { return check_text("tag", tag, 0, kTagMax_bytes); }

}  // namespace modelpool
