#include "complete.hpp"

#include <CLI/CLI.hpp>
#include <algorithm>
#include <set>
#include <utility>

#include "base/kinds.hpp"
#include "base/name.hpp"
#include "modelpool/settings.hpp"

namespace modelpool::poolctl {
namespace {

bool takes_value(const CLI::Option& option) { return option.get_items_expected_max() > 0; }

// "MODEL", "DURATION", "table|json".
std::string kind_of(const CLI::Option& option) {
  return option.get_positional() ? option.get_name() : option.get_type_name();
}

std::string first_sentence(const std::string& text) {
  return text.substr(0, text.find_first_of(";\n"));
}

class Answer {
 public:
  explicit Answer(std::string begun) : begun_(std::move(begun)) {}

  // Only what the shell can be given in a line.
  void add(const std::string& word, const std::string& meaning) {
    if (word.starts_with(begun_) && escape(word) == word) words_ += word + "\t" + meaning + "\n";
  }
  std::string text() const { return "words\n" + words_; }

 private:
  const std::string begun_;
  std::string words_;
};

void add_models(Answer* answer, const Context& context) {
  const auto seen = look(context, "");
  if (!seen) return;
  std::set<std::string> told;
  const auto add = [&](const std::string& model, const std::string& meaning) {
    if (told.insert(model).second) answer->add(model, meaning);
  };
  for (const BackendView& backend : seen->snapshot.backends)
    add(backend.model, std::string(backend_state_name(backend.state.state)));
  for (const WaiterView& waiter : seen->snapshot.waiters) add(waiter.model, "is waited for");
  for (const std::string& model : known_models(seen->segment)) add(model, "is not loaded");
}

void add_settings(Answer* answer) {
  for (const SettingInfo& info : kSettings) {
    std::string name(info.name);
    std::replace(name.begin(), name.end(), '_', '-');
    answer->add(name + "=", std::string(info.help));
  }
}

void add_options(Answer* answer, const CLI::App& app) {
  for (const CLI::Option* option : app.get_options()) {
    for (const std::string& name : option->get_lnames())
      answer->add("--" + name, first_sentence(option->get_description()));
  }
}

std::vector<const CLI::App*> commands_of(const CLI::App& root) {
  return root.get_subcommands([](const CLI::App*) { return true; });
}

void add_commands(Answer* answer, const CLI::App& root) {
  for (const CLI::App* command : commands_of(root))
    answer->add(command->get_name(), first_sentence(command->get_description()));
}

const CLI::App* command_named(const CLI::App& root, const std::string& name) {
  for (const CLI::App* command : commands_of(root)) {
    if (command->get_name() == name) return command;
  }
  return nullptr;
}

std::string values_of(const std::string& kind, const Context& context, const std::string& begun) {
  if (kind == "FILE" || kind == "PATH") return "files\n";
  if (kind == "DIR") return "directories\n";
  Answer answer(begun);
  if (kind == "MODEL") add_models(&answer, context);
  if (kind == "SETTING" || kind.starts_with("NAME=VALUE")) add_settings(&answer);
  if (kind == "STATE") {
    for (const std::string_view state : kStatesToWaitFor) answer.add(std::string(state), "");
  }
  if (kind == "KIND") {
    for (std::size_t i = 1; i <= kEventKindCount; ++i)
      answer.add(std::string(event_kind_name(static_cast<EventKind>(i))), "");
  }
  if (kind == "table|json") {
    answer.add("table", "for people");
    answer.add("json", "for programs");
  }
  return answer.text();
}

// What has been read of the line.
struct Reader {
  const CLI::App& root;
  Context context;
  const CLI::App* command = nullptr;  // null: none yet
  const CLI::Option* open = nullptr;  // an option that lacks its value
  std::size_t positionals = 0;
  bool is_known = true;  // all that was read
  bool is_over = false;  // "--" of a command that runs another

  const CLI::Option* find(const std::string& name) const {
    const CLI::Option* own = command == nullptr ? nullptr : command->get_option_no_throw(name);
    return own != nullptr ? own : root.get_option_no_throw(name);
  }
  void take_value(const CLI::Option& option, const std::string& value) {
    if (option.check_lname("pool")) context.pool = value;
    if (option.check_lname("dir")) context.dir = value;
  }
  void take(const std::string& word) {
    if (open != nullptr) {
      take_value(*std::exchange(open, nullptr), word);
    } else if (word == "--") {
      is_over = command != nullptr;
    } else if (word.size() > 1 && word.starts_with("-")) {
      const std::size_t equals = word.find('=');
      const CLI::Option* const option = find(word.substr(0, equals));
      is_known &= option != nullptr;
      if (option == nullptr || !takes_value(*option)) return;
      if (equals == std::string::npos) {
        if (option->get_items_expected_min() > 0) open = option;
      } else {
        take_value(*option, word.substr(equals + 1));
      }
    } else if (command == nullptr) {
      command = command_named(root, word);
      is_known &= command != nullptr;
    } else {
      ++positionals;
    }
  }
  // The one that a word without dashes would be; the last may be repeated.
  const CLI::Option* positional() const {
    std::vector<const CLI::Option*> all;
    for (const CLI::Option* option : command->get_options()) {
      if (option->get_positional()) all.push_back(option);
    }
    if (positionals < all.size()) return all[positionals];
    const bool may_repeat = !all.empty() && all.back()->get_items_expected_max() > 1;
    return may_repeat ? all.back() : nullptr;
  }
};

}  // namespace

std::string complete(const CLI::App& root, Context context, const std::vector<std::string>& words) {
  if (words.empty()) return {};
  Reader line{.root = root, .context = std::move(context)};
  for (std::size_t i = 0; i + 1 < words.size() && !line.is_over; ++i) line.take(words[i]);
  if (line.is_over) return "command\n";
  const std::string& begun = words.back();
  if (!line.is_known) return "words\n";
  if (line.open != nullptr) return values_of(kind_of(*line.open), line.context, begun);
  Answer answer(begun);
  if (begun.starts_with("-")) {
    if (line.command != nullptr) add_options(&answer, *line.command);
    add_options(&answer, root);
  } else if (line.command == nullptr) {
    add_commands(&answer, root);
  } else if (const CLI::Option* const next = line.positional(); next != nullptr) {
    return values_of(kind_of(*next), line.context, begun);
  }
  return answer.text();
}

}  // namespace modelpool::poolctl
