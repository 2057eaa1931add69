#include "wire/form.hpp"

#include <string.h>

#include <algorithm>

#include "wire/tokens.hpp"

namespace modelpool::serve {
namespace {

constexpr std::size_t kBoundaryMax_bytes = 70;  // RFC 2046, 5.1.1
constexpr std::size_t kPartHeadMax_bytes = 8 * 1024;
constexpr std::size_t kPartsMax = 100'000;

tl::unexpected<Refusal> no_form(const std::string& reason) {
  return refuse(400, "invalid_form", "unable to read the body as a form: " + reason);
}

std::size_t find_from(std::string_view body, std::size_t from, std::string_view what) {
  const void* found = memmem(body.data() + from, body.size() - from, what.data(), what.size());
  if (found == nullptr) return std::string_view::npos;
  return static_cast<std::size_t>(static_cast<const char*>(found) - body.data());
}

// A quoted value at the front of `text`, taken from it.
std::optional<std::string> take_quoted(std::string_view& text) {
  std::string value;
  for (std::size_t at = 1; at < text.size(); ++at) {
    if (text[at] == '"') {
      text.remove_prefix(at + 1);
      return value;
    }
    if (text[at] == '\\' && ++at == text.size()) break;
    value += text[at];
  }
  return std::nullopt;
}

// Is the part the field of that name, and no file?
Checked<bool> is_field(std::string_view head, std::string_view name) {
  std::optional<Parameters> disposition;
  while (!head.empty()) {
    const std::size_t end = std::min(head.find("\r\n"), head.size());
    const std::string_view line = head.substr(0, end);
    head.remove_prefix(std::min(end + 2, head.size()));
    const std::size_t colon = line.find(':');
    if (colon == std::string_view::npos || !is_token(line.substr(0, colon))) {
      return no_form("a part has a line that is no field");
    }
    if (line.find_first_of(std::string_view("\r\n\0", 3)) != std::string_view::npos) {
      return no_form("a part has a control character in its head");
    }
    if (same_word(line.substr(0, colon), "Content-Transfer-Encoding")) {
      const std::string coding = lowered(trimmed(line.substr(colon + 1)));
      if (coding != "7bit" && coding != "8bit" && coding != "binary") {
        return no_form("a part has a Content-Transfer-Encoding; leave it out");
      }
    }
    if (!same_word(line.substr(0, colon), "Content-Disposition")) continue;
    if (disposition) return no_form("a part has several Content-Disposition");
    disposition = read_parameters(line.substr(colon + 1));
    if (!disposition) return no_form("a part's Content-Disposition cannot be read");
  }
  if (!disposition || disposition->word != "form-data") return false;
  if (!disposition->has("name")) return false;
  const auto found = disposition->one("name");
  if (!found) return no_form("a part has several names");
  return *found == name && !disposition->has("filename") && !disposition->has("filename*");
}

}  // namespace

std::optional<std::string> Parameters::one(std::string_view name) const {
  std::optional<std::string> found;
  for (const auto& [key, value] : values) {
    if (key != name) continue;
    if (found) return std::nullopt;
    found = value;
  }
  return found;
}

bool Parameters::has(std::string_view name) const {
  return std::any_of(values.begin(), values.end(),
                     [&](const auto& value) { return value.first == name; });
}

std::optional<Parameters> read_parameters(std::string_view text) {
  Parameters result;
  const std::size_t end = std::min(text.find(';'), text.size());
  result.word = lowered(trimmed(text.substr(0, end)));
  text.remove_prefix(end);
  for (;;) {
    text = trimmed(text);
    if (text.empty()) return result;
    if (text.front() != ';') return std::nullopt;
    text = trimmed(text.substr(1));
    if (text.empty() || text.front() == ';') continue;
    const std::size_t equals = text.find('=');
    if (equals == std::string_view::npos || !is_token(text.substr(0, equals))) return std::nullopt;
    std::string key = lowered(text.substr(0, equals));
    text.remove_prefix(equals + 1);
    std::string value;
    if (!text.empty() && text.front() == '"') {
      auto quoted = take_quoted(text);
      if (!quoted) return std::nullopt;
      value = std::move(*quoted);
    } else {
      const std::size_t stop = std::min(text.find(';'), text.size());
      value = trimmed(text.substr(0, stop));
      text.remove_prefix(stop);
    }
    result.values.emplace_back(std::move(key), std::move(value));
  }
}

Checked<std::optional<FormField>> find_form_field(const Parameters& content_type,
                                                  std::string_view body, std::string_view name) {
  const auto boundary = content_type.one("boundary");
  if (!boundary || boundary->empty() || boundary->size() > kBoundaryMax_bytes ||
      std::any_of(boundary->begin(), boundary->end(), is_control)) {
    return no_form("its Content-Type needs one boundary of 1 to 70 characters");
  }
  const std::string delimiter = "\r\n--" + *boundary;
  std::optional<FormField> found;
  std::size_t at = 0;
  if (body.substr(0, delimiter.size() - 2) == std::string_view(delimiter).substr(2)) {
    at = delimiter.size() - 2;
  } else {
    at = find_from(body, 0, delimiter);
    if (at == std::string_view::npos) return no_form("its boundary is not in it");
    at += delimiter.size();
  }
  for (std::size_t parts = 0; body.substr(at, 2) != "--"; ++parts) {
    if (parts == kPartsMax) return no_form("it has more than 100,000 parts");
    at = std::min(body.find_first_not_of(" \t", at), body.size());
    if (body.substr(at, 2) != "\r\n") return no_form("a boundary goes on as something else");
    at += 2;
    std::string_view head = body.substr(at, kPartHeadMax_bytes);
    if (head.substr(0, 2) == "\r\n") {
      head = {};
      at += 2;
    } else {
      const std::size_t end = head.find("\r\n\r\n");
      if (end == std::string_view::npos) return no_form("a part's head does not end in 8 KiB");
      head = head.substr(0, end);
      at += end + 4;
    }
    const std::size_t end = find_from(body, at, delimiter);
    if (end == std::string_view::npos) return no_form("it is cut off");
    const auto is_it = is_field(head, name);
    if (!is_it) return tl::unexpected(is_it.error());
    if (*is_it && found) {
      return refuse(400, "model_named_twice",
                    "unable to choose a model: the form has \"" + std::string(name) +
                        "\" twice; send it once");
    }
    if (*is_it) found = FormField{at, body.substr(at, end - at)};
    at = end + delimiter.size();
  }
  return found;
}

}  // namespace modelpool::serve
