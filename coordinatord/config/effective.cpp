#include "config/effective.hpp"

#include "segment/layout.hpp"
#include "segment/settings_block.hpp"
#include "segment/settings_image.hpp"

namespace modelpool::config {

std::string effective_text(const Settings& settings, std::string_view model, Setting id) {
  const auto image = SettingsImage::make(settings, settings_copy_bytes({}) / sizeof(Word));
  return image ? std::string(resolve_settings(*image, model).text(id)) : std::string();
}

}  // namespace modelpool::config
