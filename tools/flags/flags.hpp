// The flags of a small program: those of the demo, of the tests and of the benchmarks. Only
// flags.cpp knows CLI11, whose header costs seconds in each file that includes it.
//
// Safety: one thread.
//
// Errors: kInvalid with the reason; the caller says what it wanted to read, and why.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <variant>

#include "modelpool/result.hpp"

namespace CLI {
class App;
class Option;
}  // namespace CLI

namespace modelpool {

class Flags {
 public:
  // Where the value goes; a bool has none and becomes true.
  using Target = std::variant<bool*, int*, unsigned*, long*, std::uint64_t*, double*, std::string*>;
  // Gets the text; its error ends the parsing.
  using Take = std::function<Result<>(const std::string&)>;

  Flags(const std::string& what, const std::string& name);
  ~Flags();

  // `value` stands for the value in the help, which ends with the default as written there.
  void add(const std::string& flag, const std::string& value, Target to, const std::string& help);
  void add_positive(const std::string& flag, const std::string& value, Target to,
                    const std::string& help);
  void take(const std::string& flag, const std::string& value, const Take& take,
            const std::string& help);
  // It may be given again; each text is taken, in their order.
  void take_each(const std::string& flag, const std::string& value, const Take& take,
                 const std::string& help);
  void require(const std::string& flag);

  // The help if it was asked for; empty: the flags are read.
  Result<std::string> parse(int argc, const char* const* argv);
  // For main(): with what to end, after the help on stdout or the reason on stderr.
  std::optional<int> parse_or_end(int argc, const char* const* argv);

 private:
  CLI::Option* option(const std::string& flag, const std::string& value, Target to,
                      const std::string& help);

  std::unique_ptr<CLI::App> app_;
};

// Takes what one of the library's parsers makes of the text.
Flags::Take parsed(std::uint64_t* to, Result<std::uint64_t> (*parse)(std::string_view));

}  // namespace modelpool
