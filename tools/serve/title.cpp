#include "title.hpp"

#include <sys/prctl.h>

#include <cstddef>
#include <cstring>
#include <string>

namespace modelpool::serve {
namespace {

char* g_begin = nullptr;
std::size_t g_bytes = 0;

}  // namespace

void keep_title_space(int argc, char** argv) {
  if (argc == 0) return;
  g_begin = argv[0];
  const char* const end = argv[argc - 1] + std::strlen(argv[argc - 1]) + 1;
  g_bytes = static_cast<std::size_t>(end - g_begin);
}

void set_title(const char* title) {
  const std::string text(title);
  prctl(PR_SET_NAME, text.substr(0, text.find(':')).c_str());
  if (g_bytes == 0) return;
  std::memset(g_begin, 0, g_bytes);
  std::memcpy(g_begin, title, std::min(text.size(), g_bytes - 1));
}

}  // namespace modelpool::serve
