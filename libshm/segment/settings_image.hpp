// The settings as they lie in the segment: a copy there, read in place, and a whole one that its
// owner prepares.
//
// Safety: a view reads words that others may write; an image is its owner's alone.
//
// Crash: nothing is written here but private memory (settings_block.hpp publishes it).
//
// Errors: kInvalid: they do not fit. A view may meet any bytes (P13): it passes over places that
// lead nowhere and forces values into their ranges.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "modelpool/settings.hpp"
#include "segment/layout.hpp"

namespace modelpool {

// One copy of the settings, read in place. Any word may change at any time, so nothing that was
// read is acted on before the generation was compared (read_settings).
class SettingsView {
 public:
  // REQUIRES: words >= sizeof(SettingsHead) / 8.
  SettingsView(const Word* copy, std::size_t words);

  std::uint64_t get(Setting id) const;  // the pool's value, or the default
  // Bits of the settings in use that who asks for a place must know and this program does not.
  std::uint64_t unknown_to_workers() const;
  // Is a value of it given anywhere, of the pool or in a rule? Of a setting that workers must know.
  bool uses(Setting id) const;
  std::uint64_t rules_hash() const;
  std::size_t rule_count() const { return exact_ + globs_; }
  // Its tables lead out of it: no rule is read. Or what programs must know contradicts its hash:
  // then they must know nothing.
  bool damaged() const;

  PoolSettings pool() const;
  std::vector<Rule> rules() const;  // in their order
  // What the pool and its rules say about a model.
  void resolve(std::string_view model, Effective* result) const;

 private:
  // Bits of the settings in use that these must know.
  struct Needed {
    std::uint64_t by_judge = 0;
    std::uint64_t by_workers = 0;
  };
  std::optional<Needed> needed() const;  // none: damage

  using TextBuffer = std::array<char, kSettingTextMax_bytes + 1>;

  std::string_view text(std::uint64_t place, TextBuffer* buffer) const;
  // Is the rule about the model? Then its pattern is in `pattern`.
  bool is_about(std::size_t rule, std::string_view model, std::string* pattern) const;
  std::size_t first_of_hash(std::uint64_t hash) const;
  SettingEntry entry(std::uint64_t what, std::uint64_t value) const;
  SettingEntry pool_entry(std::size_t setting) const;
  template <class Take>
  void for_each_entry(std::size_t rule, Take take) const;

  const SettingsHead& head_;
  const RuleRecord* rules_;
  const EntryRecord* entries_;
  const Word* texts_;
  std::size_t exact_ = 0;
  std::size_t globs_ = 0;
  std::size_t entry_count_ = 0;
  std::size_t text_words_ = 0;
  bool tables_fit_ = false;
};

// A whole publication, prepared where nobody else reads it.
class SettingsImage {
 public:
  static Result<SettingsImage> make(const Settings& settings, std::size_t room_words);

  SettingsView view() const { return {words_.get(), count_}; }
  std::size_t words() const { return count_; }
  void copy_to(Word* copy) const;

 private:
  SettingsImage(std::unique_ptr<Word[]> words, std::size_t count)
      : words_(std::move(words)), count_(count) {}

  std::unique_ptr<Word[]> words_;
  std::size_t count_;
};

// --- What `ready` gave ---------------------------------------------------------------------------

GivenSettings pack_given(const Overrides& overrides);
Overrides unpack_given(const GivenSettings& given);

}  // namespace modelpool
