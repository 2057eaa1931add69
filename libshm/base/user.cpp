#include "base/user.hpp"

#include <pwd.h>
#include <unistd.h>

#include <cerrno>
#include <vector>

#include "base/text.hpp"

namespace modelpool {

std::string user_name(uid_t uid) {
  constexpr std::size_t kEntryMax_bytes = 1 << 20;
  std::vector<char> buffer(1024);
  passwd entry{};
  passwd* found = nullptr;
  while (getpwuid_r(uid, &entry, buffer.data(), buffer.size(), &found) == ERANGE &&
         buffer.size() < kEntryMax_bytes) {
    buffer.resize(2 * buffer.size());
  }
  return found == nullptr || entry.pw_name == nullptr ? std::to_string(uid) : escape(entry.pw_name);
}

}  // namespace modelpool
