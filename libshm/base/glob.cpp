#include "base/glob.hpp"

#include <cstddef>

#include "base/name.hpp"
#include "base/text.hpp"
#include "base/utf8.hpp"

namespace modelpool {
namespace {

// One element of a glob, anything but *, compared with what stands at a position of a name.
struct Step {
  bool valid = false;  // false: the glob ends inside the element
  bool matches = false;
  bool backwards = false;    // a range like [z-a]
  std::size_t next = 0;      // where the glob goes on
  std::size_t consumed = 0;  // bytes of the name
};

// REQUIRES: glob[at] == '['.
Step step_class(std::string_view glob, std::size_t at, Character subject) {
  Step step;
  step.consumed = subject.bytes;
  ++at;
  const bool negated = at < glob.size() && glob[at] == '!';
  if (negated) ++at;
  // One member, its backslash resolved; bytes 0 if the glob ends first.
  const auto take = [glob, &at] {
    if (at < glob.size() && glob[at] == '\\') ++at;
    const Character member = decode_any(glob, at);
    at += member.bytes;
    return member;
  };
  bool found = false;
  for (bool first = true; first || at >= glob.size() || glob[at] != ']'; first = false) {
    const Character low = take();
    if (low.bytes == 0) return step;
    Character high = low;
    if (at + 1 < glob.size() && glob[at] == '-' && glob[at + 1] != ']') {
      ++at;
      high = take();
      if (high.bytes == 0) return step;
    }
    if (low.code > high.code) step.backwards = true;
    if (subject.code >= low.code && subject.code <= high.code) found = true;
  }
  step.valid = true;
  step.next = at + 1;
  step.matches = found != negated && subject.bytes != 0;
  return step;
}

// REQUIRES: at < glob.size() and glob[at] != '*'.
Step step_element(std::string_view glob, std::size_t at, std::string_view name,
                  std::size_t name_at) {
  if (glob[at] == '[') return step_class(glob, at, decode_any(name, name_at));
  Step step;
  if (glob[at] == '?') {
    step.consumed = decode_any(name, name_at).bytes;
    step.matches = step.consumed != 0;
  } else {
    if (glob[at] == '\\' && ++at == glob.size()) return step;
    step.consumed = 1;
    step.matches = name_at < name.size() && name[name_at] == glob[at];
  }
  step.valid = true;
  step.next = at + 1;
  return step;
}

}  // namespace

Result<> check_glob(std::string_view glob) {
  if (Result<> checked = check_text("model glob", glob, 1, kModelNameMax_bytes); !checked) {
    return checked;
  }
  for (std::size_t at = 0; at < glob.size();) {
    if (glob[at] == '*') {
      ++at;
      continue;
    }
    // Other matchers take [^a] for what is [!a] here; refused rather than read in an unmeant way.
    if (glob.substr(at, 2) == "[^") {
      return unusable("model glob", glob, "write [!...] to exclude, or [\\^...] for a ^");
    }
    const Step step = step_element(glob, at, {}, 0);
    if (!step.valid) {
      return unusable("model glob", glob,
                      glob[at] == '[' ? "a [ is not closed; add a ], or write \\[ for a bracket"
                                      : "it ends in a single \\; write \\\\ for a backslash");
    }
    if (step.backwards) {
      return unusable("model glob", glob, "a range in [] runs backwards; swap its ends");
    }
    at = step.next;
  }
  return {};
}

bool glob_matches(std::string_view glob, std::string_view name) {
  std::size_t glob_at = 0;
  std::size_t name_at = 0;
  // Where to go on after a mismatch: behind the last * with one character more in its run. Earlier
  // ones need no second try, since what lies between two * already matched at its earliest place.
  bool star = false;
  std::size_t star_glob = 0;
  std::size_t star_name = 0;
  while (glob_at < glob.size() || name_at < name.size()) {
    if (glob_at < glob.size() && glob[glob_at] == '*') {
      star = true;
      star_glob = ++glob_at;
      star_name = name_at;
      continue;
    }
    if (glob_at < glob.size()) {
      const Step step = step_element(glob, glob_at, name, name_at);
      if (!step.valid) return false;
      if (step.matches) {
        glob_at = step.next;
        name_at += step.consumed;
        continue;
      }
    }
    if (!star || star_name >= name.size()) return false;
    star_name += decode_any(name, star_name).bytes;
    glob_at = star_glob;
    name_at = star_name;
  }
  return true;
}

}  // namespace modelpool
