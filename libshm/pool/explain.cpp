// Pool::explain, apart from the rest of the Pool: who does not call it does not link it.
#include "explain/explain.hpp"

#include "base/name.hpp"
#include "base/time.hpp"
#include "pool/inside.hpp"

namespace modelpool {

Result<Explanation> Pool::explain(std::string_view model) {
  if (auto ok = check_model_name(model); !ok) return fail(ok.error());
  const auto seen = look_inside(*this);
  if (!seen) return fail(seen.error());
  const Segment& segment = segment_of(*this);
  return explain_model(segment, *seen, model, look_at_judge(segment, now_ns()).state, false);
}

}  // namespace modelpool
