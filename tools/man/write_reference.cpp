// What is said of the pool's file in other forms: write_reference schema|manual VERSION, to stdout.
#include <cstdio>
#include <string>
#include <string_view>

#include "base/program.hpp"
#include "config/reference.hpp"

int main(int argc, char** argv) {
  return modelpool::run_program("write_reference", {1, 1}, [&] {
    const std::string_view form = argc == 3 ? argv[1] : "";
    if (form != "schema" && form != "manual") {
      std::fputs("usage: write_reference schema|manual VERSION\n", stderr);
      return 2;
    }
    const std::string text = form == "schema" ? modelpool::config::config_schema()
                                              : modelpool::config::config_manual(argv[2]);
    return std::fwrite(text.data(), 1, text.size(), stdout) == text.size() ? 0 : 1;
  });
}
