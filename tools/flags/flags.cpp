#include "flags/flags.hpp"

#include <CLI/CLI.hpp>
#include <cstdio>
#include <type_traits>
#include <vector>

namespace modelpool {
namespace {

constexpr int kExitUsage = 2;

void take_text(const Flags::Take& take, const std::string& text) {
  if (const Result<> taken = take(text); !taken) throw CLI::ValidationError(taken.error().text);
}

}  // namespace

Flags::Flags(const std::string& what, const std::string& name)
    : app_(std::make_unique<CLI::App>(what, name)) {}
Flags::~Flags() = default;

CLI::Option* Flags::option(const std::string& flag, const std::string& value, Target to,
                           const std::string& help) {
  return std::visit(
      [&](auto* target) {
        if constexpr (std::is_same_v<decltype(target), bool*>) {
          return app_->add_flag(flag, *target, help);
        } else {
          return app_->add_option(flag, *target, help)->option_text(value);
        }
      },
      to);
}

void Flags::add(const std::string& flag, const std::string& value, Target to,
                const std::string& help) {
  option(flag, value, to, help);
}

void Flags::add_positive(const std::string& flag, const std::string& value, Target to,
                         const std::string& help) {
  option(flag, value, to, help)->check(CLI::PositiveNumber);
}

void Flags::take(const std::string& flag, const std::string& value, const Take& take,
                 const std::string& help) {
  app_->add_option_function<std::string>(
          flag, [take](const std::string& text) { take_text(take, text); }, help)
      ->option_text(value);
}

void Flags::take_each(const std::string& flag, const std::string& value, const Take& take,
                      const std::string& help) {
  app_->add_option_function<std::vector<std::string>>(
          flag,
          [take](const std::vector<std::string>& texts) {
            for (const std::string& text : texts) take_text(take, text);
          },
          help)
      ->option_text(value)
      ->allow_extra_args(false);
}

void Flags::require(const std::string& flag) { app_->get_option(flag)->required(); }

Result<std::string> Flags::parse(int argc, const char* const* argv) {
  try {
    app_->parse(argc, argv);
  } catch (const CLI::CallForHelp&) {
    return app_->help();
  } catch (const CLI::ParseError& error) {
    return fail(Errc::kInvalid, error.what());
  }
  return std::string();
}

std::optional<int> Flags::parse_or_end(int argc, const char* const* argv) {
  const Result<std::string> help = parse(argc, argv);
  if (!help) {
    std::fprintf(stderr, "unable to read arguments: %s; see --help\n", help.error().text.c_str());
    return kExitUsage;
  }
  if (help->empty()) return std::nullopt;
  std::fputs(help->c_str(), stdout);
  return 0;
}

Flags::Take parsed(std::uint64_t* to, Result<std::uint64_t> (*parse)(std::string_view)) {
  return [to, parse](const std::string& text) -> Result<> {
    const Result<std::uint64_t> value = parse(text);
    if (!value) return fail(value.error());
    *to = *value;
    return {};
  };
}

}  // namespace modelpool
