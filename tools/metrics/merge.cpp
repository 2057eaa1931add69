#include "metrics/merge.hpp"

#include <algorithm>
#include <charconv>
#include <map>
#include <optional>
#include <string_view>
#include <unordered_set>
#include <utility>

namespace modelpool::metrics {
namespace {

// --- Words of the format -------------------------------------------------------------------------

constexpr std::string_view kBlanks = " \t\r";

bool is_letter(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_'; }
bool is_digit(char c) { return c >= '0' && c <= '9'; }

void skip_blanks(std::string_view& text) {
  text.remove_prefix(std::min(text.find_first_not_of(kBlanks), text.size()));
}

// The name that `text` begins with, which it leaves; empty: none. Of metrics they may have colons.
std::string_view take_name(std::string_view& text, bool of_metric) {
  std::size_t size = 0;
  while (size < text.size() && (is_letter(text[size]) || (of_metric && text[size] == ':') ||
                                (size > 0 && is_digit(text[size])))) {
    ++size;
  }
  const std::string_view name = text.substr(0, size);
  text.remove_prefix(size);
  return name;
}

std::string_view take_word(std::string_view& text) {
  skip_blanks(text);
  const std::string_view word = text.substr(0, text.find_first_of(kBlanks));
  text.remove_prefix(word.size());
  return word;
}

bool is_same_word(std::string_view a, std::string_view lower) {
  return std::equal(a.begin(), a.end(), lower.begin(), lower.end(),
                    [](char x, char y) { return (x >= 'A' && x <= 'Z' ? x + 32 : x) == y; });
}

// As it is written in the result; empty: it is no number.
std::string number_of(std::string_view text) {
  const bool has_plus = text.starts_with('+');
  if (has_plus) text.remove_prefix(1);
  const bool is_negative = !has_plus && text.starts_with('-');
  const std::string_view digits = text.substr(is_negative ? 1 : 0);
  if (is_same_word(digits, "nan")) return "NaN";
  if (is_same_word(digits, "inf") || is_same_word(digits, "infinity"))
    return is_negative ? "-Inf" : "+Inf";
  if (digits.empty() || !(is_digit(digits[0]) || digits[0] == '.')) return {};
  double value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size()) return {};
  return std::string(text);
}

// How many bytes of UTF-8 stand at the beginning as one character; 0: what is there is none.
std::size_t utf8_size(std::string_view text) {
  const auto byte = [&](std::size_t i) {
    return i < text.size() ? static_cast<unsigned char>(text[i]) : 0U;
  };
  const unsigned first = byte(0);
  if (first < 0x80) return 1;
  const std::size_t size = first >= 0xF0 ? 4 : first >= 0xE0 ? 3 : 2;
  if (first < 0xC2 || first > 0xF4) return 0;
  for (std::size_t i = 1; i < size; ++i) {
    if ((byte(i) & 0xC0) != 0x80) return 0;
  }
  // Written longer than need be, half of a pair, or beyond the last character.
  const unsigned second = byte(1);
  if ((first == 0xE0 && second < 0xA0) || (first == 0xED && second > 0x9F) ||
      (first == 0xF0 && second < 0x90) || (first == 0xF4 && second > 0x8F)) {
    return 0;
  }
  return size;
}

// Escaped, as values of labels and help stand in the result. What is no UTF-8 Prometheus would not
// take.
std::string escaped(std::string_view text, bool with_quotes) {
  std::string result;
  while (!text.empty()) {
    const std::size_t size = utf8_size(text);
    if (size == 0) {
      result += "\xEF\xBF\xBD";  // U+FFFD
    } else if (text[0] == '\n') {
      result += "\\n";
    } else if (text[0] == '\\' || (with_quotes && text[0] == '"')) {
      result += {'\\', text[0]};
    } else {
      result += text.substr(0, size);
    }
    text.remove_prefix(std::max<std::size_t>(size, 1));
  }
  return result;
}

// What an escaped text means; an escape that there is none of stands for itself.
std::string unescaped(std::string_view text) {
  std::string result;
  for (std::size_t i = 0; i < text.size(); ++i) {
    const char next = i + 1 < text.size() ? text[i + 1] : '\0';
    if (text[i] != '\\' || (next != 'n' && next != '"' && next != '\\')) {
      result += text[i];
      continue;
    }
    result += next == 'n' ? '\n' : next;
    ++i;
  }
  return result;
}

// --- A line --------------------------------------------------------------------------------------

using Labels = std::map<std::string, std::string>;

struct Sample {
  std::string name;
  Labels labels;
  std::string value;
};

// The inside of "...", which `text` begins with and leaves.
std::optional<std::string_view> take_quoted(std::string_view& text) {
  if (!text.starts_with('"')) return std::nullopt;
  for (std::size_t i = 1; i < text.size(); ++i) {
    if (text[i] == '\\') {
      ++i;
    } else if (text[i] == '"') {
      const std::string_view inside = text.substr(1, i - 1);
      text.remove_prefix(i + 1);
      return inside;
    }
  }
  return std::nullopt;
}

// {name="value",...}
std::optional<Labels> take_labels(std::string_view& text) {
  Labels labels;
  if (!text.starts_with('{')) return labels;
  text.remove_prefix(1);
  for (;;) {
    skip_blanks(text);
    if (text.starts_with('}')) break;
    const std::string name(take_name(text, false));
    skip_blanks(text);
    if (name.empty() || name == "__name__" || !text.starts_with('=')) return std::nullopt;
    text.remove_prefix(1);
    skip_blanks(text);
    const auto value = take_quoted(text);
    if (!value || !labels.emplace(name, unescaped(*value)).second) return std::nullopt;
    skip_blanks(text);
    if (text.starts_with(',')) {
      text.remove_prefix(1);
    } else if (!text.starts_with('}')) {
      return std::nullopt;
    }
  }
  text.remove_prefix(1);
  return labels;
}

std::optional<Sample> read_sample(std::string_view line) {
  Sample sample;
  sample.name = take_name(line, true);
  skip_blanks(line);
  auto labels = take_labels(line);
  if (sample.name.empty() || !labels) return std::nullopt;
  sample.labels = std::move(*labels);
  sample.value = number_of(take_word(line));
  if (sample.value.empty()) return std::nullopt;
  // A time may follow, and an exemplar.
  skip_blanks(line);
  if (!line.empty() && !line.starts_with('#') && number_of(take_word(line)).empty())
    return std::nullopt;
  skip_blanks(line);
  if (!line.empty() && !line.starts_with("# {")) return std::nullopt;
  return sample;
}

// --- A text --------------------------------------------------------------------------------------

struct Family {
  std::string help;
  std::string type;
  std::vector<Sample> samples;
};
using Families = std::map<std::string, Family>;

bool is_type(std::string_view word) {
  return word == "counter" || word == "gauge" || word == "histogram" || word == "summary";
}

// Of which family is a series of that name? Histograms and summaries have several.
std::string family_of(const std::string& name, const Families& families) {
  const auto is_declared = [&](const std::string& family, std::string_view type) {
    const auto found = families.find(family);
    return found != families.end() && found->second.type == type;
  };
  if (const auto own = families.find(name); own != families.end() && !own->second.type.empty())
    return name;
  for (const std::string_view suffix : {"_bucket", "_sum", "_count"}) {
    if (!name.ends_with(suffix)) continue;
    std::string family = name.substr(0, name.size() - suffix.size());
    if (is_declared(family, "histogram") || (suffix != "_bucket" && is_declared(family, "summary")))
      return family;
  }
  return name;
}

// Lines "# HELP name text" and "# TYPE name type"; others of that kind say nothing. OpenMetrics
// names the family of a counter x_total x.
void take_comment(std::string_view line, Families* families) {
  line.remove_prefix(1);
  const std::string_view what = take_word(line);
  if (what != "HELP" && what != "TYPE") return;
  skip_blanks(line);
  const std::string name(take_name(line, true));
  if (name.empty()) return;
  Family& family = (*families)[name];
  if (what == "HELP") {
    skip_blanks(line);
    if (family.help.empty()) family.help = escaped(unescaped(line), false);
    return;
  }
  const std::string_view type = take_word(line);
  if (!family.type.empty()) return;
  family.type = is_type(type) ? type : "untyped";
  if (type != "counter" || name.ends_with("_total")) return;
  Family& totals = (*families)[name + "_total"];
  if (totals.type.empty()) totals.type = type;
  if (totals.help.empty()) totals.help = family.help;
}

// Everything that a text says; nullopt: it cannot be read.
std::optional<Families> read_text(std::string_view text) {
  Families families;
  std::size_t series = 0;
  while (!text.empty()) {
    std::string_view line = text.substr(0, text.find('\n'));
    text.remove_prefix(std::min(line.size() + 1, text.size()));
    skip_blanks(line);
    if (line.empty()) continue;
    if (line.starts_with('#')) {
      take_comment(line, &families);
      continue;
    }
    auto sample = read_sample(line);
    if (!sample || ++series > kSeriesMax) return std::nullopt;
    const std::string family = family_of(sample->name, families);
    families[family].samples.push_back(std::move(*sample));
  }
  if (series == 0) return std::nullopt;
  return families;
}

// --- The result ----------------------------------------------------------------------------------

void add_label(Labels* labels, const std::string& name, const std::string& value) {
  const auto [found, is_free] = labels->emplace(name, value);
  if (is_free) return;
  std::string other = std::move(found->second);
  found->second = value;
  for (std::string there = "exported_" + name;; there = "exported_" + there) {
    if (labels->emplace(there, other).second) return;
  }
}

std::string series_text(const Sample& sample) {
  std::string text = sample.name + "{";
  for (const auto& [name, value] : sample.labels) {
    if (!text.ends_with('{')) text += ',';
    text += name + "=\"" + escaped(value, true) + "\"";
  }
  return text + "}";
}

struct Merged {
  std::string help;
  std::string type;
  bool types_differ = false;
  std::string lines;
};

std::string text_of(const std::string& name, const Merged& family) {
  std::string text;
  if (!family.help.empty()) text += "# HELP " + name + " " + family.help + "\n";
  const bool has_type = !family.types_differ && !family.type.empty();
  text += "# TYPE " + name + " " + (has_type ? family.type : "untyped") + "\n";
  return text + family.lines;
}

}  // namespace

std::string merge(const std::string& pool, const std::vector<Told>& all) {
  std::vector<std::pair<const Told*, Families>> taken;
  std::map<std::string, Merged> merged;
  Merged& up = merged[kBackendUp];
  up.help = "Was a model's server asked for its metrics, and did it tell them?";
  up.type = "gauge";
  for (const Told& one : all) {
    auto families = read_text(one.text);
    up.lines += series_text({kBackendUp, {{"model", one.model}, {"pool", pool}}, ""}) +
                (families ? " 1\n" : " 0\n");
    if (!families) continue;
    for (const auto& [name, family] : *families) {
      if (family.samples.empty() || name == kBackendUp) continue;
      Merged& to = merged[name];
      const std::string type = family.type.empty() ? "untyped" : family.type;
      to.types_differ |= !to.type.empty() && to.type != type;
      to.type = type;
      if (to.help.empty()) to.help = family.help;
    }
    taken.emplace_back(&one, std::move(*families));
  }
  for (auto& [told, families] : taken) {
    std::unordered_set<std::string> seen;
    for (auto& [name, family] : families) {
      for (Sample& sample : family.samples) {
        if (sample.name == kBackendUp) continue;
        add_label(&sample.labels, "model", told->model);
        add_label(&sample.labels, "pool", pool);
        std::string series = series_text(sample);
        // A family without a type is one for each name.
        Merged& to = merged[merged[name].types_differ ? sample.name : name];
        if (!seen.insert(series).second) continue;
        to.lines += series + " " + sample.value + "\n";
      }
      family.samples.clear();
    }
  }
  std::string text;
  for (const auto& [name, family] : merged) {
    // Its head stands there without a model, too: an empty answer would have no type.
    if (!family.lines.empty() || name == kBackendUp) text += text_of(name, family);
  }
  return text;
}

}  // namespace modelpool::metrics
