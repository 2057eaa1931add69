#include "bell.hpp"

#include <unistd.h>

#include <cstdint>

namespace modelpool::coordinator {
namespace {

constexpr int kTriesMax = 4;

}  // namespace

void ring_bell(const Fd& bell) {
  const std::uint64_t one = 1;
  for (int i = 0; i < kTriesMax; ++i) {
    if (write(bell.get(), &one, sizeof one) == sizeof one) return;
  }
}

void drain_bell(const Fd& bell) {
  std::uint64_t count;
  static_cast<void>(!read(bell.get(), &count, sizeof count));
}

}  // namespace modelpool::coordinator
