// What several model servers tell Prometheus, as one text: each family has one HELP and one TYPE,
// and each series says whose it is, by `model` and `pool`. A label of theirs that has such a name
// becomes exported_model, as Prometheus itself would call it.
//
// Texts are in its format 0.0.4; of OpenMetrics what goes beyond that is left out: units, exemplars
// and times. A text is taken as a whole or not at all. Series that stand twice are taken once. A
// family whose type differs between two texts has none in the result: "untyped".
//
// Safety: pure function of bytes that strangers sent; takes some times as much memory as they do.
//
// Errors: a text that Prometheus could not read, or that has no or too many series, is not taken.
#pragma once

#include <cstddef>
#include <string>
#include <vector>

namespace modelpool::metrics {

inline constexpr std::size_t kSeriesMax = 50'000;  // of one text
// 1: the text of a model was taken; 0: it was not, and nothing else is there of it. The only
// family that no text can have.
inline constexpr const char* kBackendUp = "modelpool_backend_metrics_up";

struct Told {
  std::string model;
  std::string text;  // empty: it said nothing
};

// REQUIRES: no two of one model.
std::string merge(const std::string& pool, const std::vector<Told>& all);

}  // namespace modelpool::metrics
