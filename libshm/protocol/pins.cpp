#include "protocol/pins.hpp"

#include "base/text.hpp"
#include "segment/settings_block.hpp"

namespace modelpool {

Result<> unpin(const Segment& segment, BackendRef ref) {
  set_control(segment, ref, 0, kControlPinned);
  const BackendRecord& record = segment.backend(ref.index);
  const std::string model = record.model.load();
  const Overrides given = unpack_given(record.given.load());
  const Effective settings = resolve_settings(segment, model, &given);
  if (settings.get(Setting::kPinned) == 0) return {};
  const std::string origin =
      origin_text(read_pool_settings(segment).config_path, settings.origin(Setting::kPinned));
  return fail(Errc::kInvalid, "unable to unpin " + escape(model) + ": its settings pin it (" +
                                  escape(origin) + "); set pinned = false there");
}

}  // namespace modelpool
