#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <string_view>

#include "base/duration.hpp"
#include "base/glob.hpp"
#include "base/name.hpp"
#include "base/number.hpp"
#include "base/size.hpp"
#include "base/text.hpp"
#include "config/listen.hpp"
#include "config/pool_file.hpp"
#include "config/summary.hpp"
#include "config/words.hpp"
#include "import/sources.hpp"
#include "modelpool/settings.hpp"
#include "targets.hpp"

namespace modelpool::fuzz {
namespace {

void hold(bool holds, const char* what) {
  if (holds) return;
  std::fprintf(stderr, "property does not hold: %s\n", what);
  std::abort();
}

std::string_view text_of(Bytes bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

template <class T>
void check_error(const Result<T>& result) {
  if (!result) hold(is_printable_utf8(result.error().text), "an error text is printable");
}

}  // namespace

bool config(Bytes bytes) {
  static const int file = memfd_create("config", MFD_CLOEXEC);
  static const std::string path = "/proc/self/fd/" + std::to_string(file);
  if (ftruncate(file, 0) != 0 || pwrite(file, bytes.data(), bytes.size(), 0) < 0) return false;
  const auto file_read = config::load_pool_file(path);
  if (!file_read) {
    const std::string& text = file_read.error().text;
    hold(!text.empty(), "a refusal says why");
    hold(std::count(text.begin(), text.end(), '\n') <= 20, "a refusal has an end");
    return false;
  }
  const Settings* const settings = &file_read->settings;
  hold(settings->config_hash != 0, "a config has a hash");
  for (const SettingInfo& info : kSettings) {
    const std::uint64_t value = settings->get(info.id);
    hold(clamp_setting(info, value) == value, "a value that was read is in its range");
  }
  std::string again = file_read->text;
  hold(config::read_pool_file(path, again).has_value(), "the text of a file is read as the file");
  hold(!config::config_summary(*settings, file_read->capacities, file_read->door).empty(),
       "a config has a summary");
  return true;
}

bool text(Bytes bytes) {
  const std::string_view whole = text_of(bytes);
  const std::string_view first = whole.substr(0, whole.find('\0'));
  const std::string_view second = first.size() < whole.size() ? whole.substr(first.size() + 1) : "";

  bool is_any = false;
  const auto check = [&](const auto& result) {
    check_error(result);
    is_any |= result.has_value();
  };

  const auto duration = parse_duration(whole);
  check(duration);
  if (duration) {
    const auto again = parse_duration(format_duration(*duration));
    hold(again && *again == *duration, "format_duration is read back");
  }
  const auto size = parse_size(whole);
  check(size);
  if (size) hold(parse_size(format_size(*size)).has_value(), "format_size is read back");
  check(parse_count(whole, 4095));
  for (const SettingInfo& info : kSettings) {
    const auto value = parse_setting(info, whole);
    check(value);
    if (!value) continue;
    hold(clamp_setting(info, *value) == *value, "a setting that was read is in its range");
    const auto again = parse_setting(info, format_setting(info, *value));
    hold(again && *again == *value, "format_setting is read back");
  }
  const int signal = parse_signal(whole);
  hold(signal >= 0 && signal <= 64, "a signal is one");
  if (signal != 0) hold(parse_signal(signal_text(signal)) == signal, "signal_text is read back");
  static_cast<void>(find_setting(whole));

  check(check_pool_name(whole));
  check(check_model_name(whole));
  check(check_address(whole));
  check(check_tag(whole));
  hold(is_printable_utf8(escape(whole)), "escape makes it printable");
  hold(is_printable_utf8(quote(whole)), "quote makes it printable");
  if (const auto words = config::split_words(whole)) {
    std::string quoted;
    for (const std::string& word : *words) quoted += config::quote_word(word) + " ";
    const auto again = config::split_words(quoted);
    hold(again && *again == *words, "quote_word is read back");
  }
  check(config::parse_listen(whole));
  // Only what has a parser of ours: the YAML of other sources has not.
  if (const auto draft = serve::read_preset("x", std::string(whole))) {
    is_any = true;
    const auto file = config::read_pool_file("x", draft->text("x"), {}, config::Variables::kLeft);
    std::string line(whole);
    std::replace(line.begin(), line.end(), '\n', ' ');
    if (!file && is_printable_utf8(line)) {
      hold(file.error().text.find("Error while parsing") == std::string::npos,
           "what is written of a preset is TOML");
    }
  }

  check(check_glob(first));
  static_cast<void>(glob_matches(first, second));
  if (!first.empty() && first.find_first_of("*?[]\\") == first.npos) {
    hold(glob_matches(first, first), "a glob without wildcards matches itself");
  }
  return is_any;
}

}  // namespace modelpool::fuzz
