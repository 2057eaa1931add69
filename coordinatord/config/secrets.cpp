#include "config/secrets.hpp"

#include <cstdlib>

#include "base/text.hpp"
#include "config/files.hpp"
#include "config/values.hpp"

namespace modelpool::config {

std::optional<std::string> SecretReader::with_variables(const Member& member,
                                                        Problems& problems) const {
  const std::string& text = member.value.text;
  if (text.find('\0') != std::string::npos) {
    problems.add(member.value.at, member.key + " has a zero byte in it; remove that");
    return std::nullopt;
  }
  std::string value;
  std::size_t at = 0;
  for (;;) {
    const std::size_t begin = text.find("${", at);
    value += text.substr(at, begin - at);
    if (begin == std::string::npos) return value;
    const std::size_t end = text.find('}', begin);
    const std::string name =
        end == std::string::npos ? "" : text.substr(begin + 2, end - begin - 2);
    if (name.empty()) {
      problems.add(member.value.at, member.key + " has a ${ that names no variable; write ${NAME}");
      return std::nullopt;
    }
    at = end + 1;
    if (variables_ == Variables::kLeft) {
      value += text.substr(begin, at - begin);
    } else if (const char* const found = std::getenv(name.c_str()); found != nullptr) {
      value += found;
    } else {
      problems.add(member.value.at, member.key + ": " + quote(name) +
                                        " is not in the environment of this program; set it there, "
                                        "or write { file = \"PATH\" }");
      return std::nullopt;
    }
  }
}

std::optional<std::string> SecretReader::read(const Member& member, Problems& problems) const {
  const Node& node = member.value;
  if (node.is(Node::Kind::kString)) return with_variables(member, problems);
  if (node.is(Node::Kind::kInteger)) return std::to_string(node.integer);
  const bool is_file =
      node.is(Node::Kind::kTable) && node.members.size() == 1 && node.members.front().key == "file";
  if (!is_file) {
    problems.add(node.at, member.key + " is " + std::string(kind_name(node)) +
                              "; write it like \"value\", \"${NAME}\" or { file = \"PATH\" }");
    return std::nullopt;
  }
  const auto name = read_text(node.members.front(), "\"/run/secrets/key\"", problems);
  if (!name) return std::nullopt;
  const std::string path = beside(config_path_, *name);
  if (variables_ == Variables::kLeft) return "file " + path;
  auto secret = read_secret(path);
  if (secret) return std::move(*secret);
  problems.add(node.at, member.key + ": " + as_reason(secret.error().text));
  return std::nullopt;
}

}  // namespace modelpool::config
