// libFuzzer's entry; one program a target, FUZZ_TARGET names it.
#include "targets.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  modelpool::fuzz::FUZZ_TARGET({data, size});
  return 0;
}
