#include "segment/current_settings.hpp"

#include <memory>

namespace modelpool {

const Settings* current_settings(const Segment& segment) {
  struct Cached {
    std::uint64_t uuid[2] = {0, 0};
    std::uint64_t generation = 0;
    Settings settings;
  };
  thread_local std::unique_ptr<Cached> cached;
  if (!cached) cached = std::make_unique<Cached>();
  const auto& published = segment.settings().settings;
  const std::uint64_t generation = published.generation();
  if (generation == 0) return nullptr;
  const auto& uuid = segment.header().uuid;
  if (cached->generation != generation || cached->uuid[0] != uuid[0] ||
      cached->uuid[1] != uuid[1]) {
    cached->settings = published.load();
    cached->generation = generation;
    cached->uuid[0] = uuid[0];
    cached->uuid[1] = uuid[1];
  }
  return &cached->settings;
}

}  // namespace modelpool
