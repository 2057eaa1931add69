#include "import/draft.hpp"

#include <cstdio>

namespace modelpool::serve {
namespace {

// Nothing that a source says may end a comment.
std::string one_line(std::string_view text) {
  std::string line;
  for (const char c : text) line += static_cast<unsigned char>(c) < ' ' || c == 127 ? ' ' : c;
  return line;
}

std::string model_text(const DraftModel& model) {
  std::string text = "[models." + toml_text(model.name) + "]\n";
  text += "command = " + toml_list(model.command) + "\n";
  if (!model.address.empty()) text += "address = " + toml_text(model.address) + "\n";
  if (!model.ready.empty()) text += "ready = " + toml_text(model.ready) + "\n";
  if (!model.aliases.empty()) text += "aliases = " + toml_list(model.aliases) + "\n";
  std::string variables;
  for (const auto& [name, value] : model.env)
    variables += (variables.empty() ? "" : ", ") + toml_text(name) + " = " + toml_text(value);
  if (!variables.empty()) text += "env = { " + variables + " }\n";
  if (model.preload) text += "preload = true\n";
  for (const auto& [name, value] : model.settings) text += name + " = " + value + "\n";
  return text;
}

std::string commented(const std::string& text) {
  std::string all = "#";
  for (std::size_t at = 0; at < text.size(); ++at) {
    all += text[at];
    if (text[at] == '\n' && at + 1 < text.size()) all += '#';
  }
  return all;
}

}  // namespace

std::string toml_text(std::string_view text) {
  std::string quoted = "\"";
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if (c == '"' || c == '\\') {
      quoted += '\\';
      quoted += c;
    } else if (byte < ' ' || byte == 127) {
      char code[8];
      std::snprintf(code, sizeof code, "\\u%04x", static_cast<unsigned>(byte));
      quoted += code;
    } else {
      quoted += c;
    }
  }
  return quoted + '"';
}

std::string toml_list(const std::vector<std::string>& texts) {
  std::string all;
  for (const std::string& text : texts) all += (all.empty() ? "" : ", ") + toml_text(text);
  return "[" + all + "]";
}

std::string group_word(std::string_view name) {
  std::string word;
  for (const char c : name.substr(0, 50)) {
    const bool is_plain = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') ||
                          (c >= '0' && c <= '9') || c == '-' || c == '_';
    word += is_plain ? c : '_';
  }
  return word;
}

std::string Draft::text(const std::string& source) const {
  std::string text = "# From " + one_line(source) + ", by poolserve import.\n";
  bool is_first = true;
  for (const ImportedKey& key : keys) {
    if (key.reason.empty()) continue;
    if (is_first) text += "# Not carried over:\n";
    is_first = false;
    text += "#   " + one_line(key.key + ": " + key.reason) + "\n";
  }
  for (const auto& [name, lines] : {std::pair("pool", &pool), std::pair("serve", &serve)}) {
    if (!lines->empty()) text += "\n[" + std::string(name) + "]\n";
    for (const auto& [key, value] : *lines) text += key + " = " + value + "\n";
  }
  for (const DraftModel& model : models)
    text += "\n" + (model.is_usable ? model_text(model) : commented(model_text(model)));
  return text;
}

}  // namespace modelpool::serve
