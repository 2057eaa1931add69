#include "segment/settings_image.hpp"

#include <algorithm>
#include <bit>
#include <utility>

#include "base/glob.hpp"
#include "base/size.hpp"

namespace modelpool {
namespace {

constexpr std::size_t kHeadWords = sizeof(SettingsHead) / sizeof(Word);
constexpr std::size_t kRuleWords = sizeof(RuleRecord) / sizeof(Word);
constexpr std::size_t kEntryWords = sizeof(EntryRecord) / sizeof(Word);

// acquire: see read_settings (settings_block.hpp)
std::uint64_t load(const Word& word) { return word.load(std::memory_order_acquire); }

constexpr std::size_t words_of(std::size_t bytes) { return (bytes + 7) / 8; }

constexpr std::uint64_t pack_origin(Origin origin) {
  return pack_half(origin.line, static_cast<std::uint32_t>(origin.kind));
}

// The fields of EntryRecord::what.
constexpr std::uint64_t pack_what(Setting id, bool is_text, Origin origin) {
  return std::uint64_t{origin.line} << 32 |
         (static_cast<std::uint64_t>(origin.kind) & 0xffff) << 16 | std::uint64_t{is_text} << 8 |
         (index_of(id) & 0xff);
}
constexpr Origin origin_of(std::uint64_t what) {
  return {static_cast<OriginKind>(what >> 16 & 0xffff), static_cast<std::uint32_t>(what >> 32)};
}

// Not 0 for none: so that zeroes do not pass for a copy that was written.
constexpr std::uint64_t hash_needed(std::uint64_t judge, std::uint64_t admit) {
  return (judge * 0x9e3779b97f4a7c15 ^ std::rotl(admit, 32)) * 0xbf58476d1ce4e5b9 ^
         0x94d049bb133111eb;
}

template <class Do>
void for_each_bit(std::uint64_t bits, Do act) {
  for (; bits != 0; bits &= bits - 1) act(static_cast<std::size_t>(std::countr_zero(bits)));
}

}  // namespace

// --- SettingsView --------------------------------------------------------------------------------

SettingsView::SettingsView(const Word* copy, std::size_t words)
    : head_(*reinterpret_cast<const SettingsHead*>(copy)) {
  const std::uint64_t rule_count = load(head_.rule_count);
  const std::uint64_t entry_count = load(head_.entry_count);
  const std::size_t rules = std::size_t{low_half(rule_count)} + high_half(rule_count);
  const std::size_t entries = low_half(entry_count);
  const std::size_t text_words = high_half(entry_count);
  const std::size_t used = kHeadWords + rules * kRuleWords + entries * kEntryWords + text_words;
  tables_fit_ = used <= words && high_half(rule_count) <= kGlobsMax;
  if (tables_fit_) {
    exact_ = low_half(rule_count);
    globs_ = high_half(rule_count);
    entry_count_ = entries;
    text_words_ = text_words;
  }
  rules_ = reinterpret_cast<const RuleRecord*>(copy + kHeadWords);
  entries_ = reinterpret_cast<const EntryRecord*>(rules_ + exact_ + globs_);
  texts_ = reinterpret_cast<const Word*>(entries_ + entry_count_);
}

std::uint64_t SettingsView::get(Setting id) const {
  const SettingInfo& info = setting_info(id);
  const std::uint64_t bit = bit_of(id);
  if ((load(head_.given) & bit) == 0 || (load(head_.texts) & bit) != 0) return info.default_value;
  return clamp_setting(info, load(head_.value[index_of(id)]));
}

std::optional<SettingsView::Needed> SettingsView::needed() const {
  const Needed needed{load(head_.judge), load(head_.admit)};
  if (hash_needed(needed.by_judge, needed.by_workers) != load(head_.needed_hash)) return {};
  return needed;
}

bool SettingsView::damaged() const { return !tables_fit_ || !needed(); }

std::uint64_t SettingsView::unknown_to_workers() const {
  return needed().value_or(Needed()).by_workers & ~kKnownSettings;
}
bool SettingsView::uses(Setting id) const {
  return (needed().value_or(Needed()).by_workers & bit_of(id)) != 0;
}
std::uint64_t SettingsView::rules_hash() const { return load(head_.rules_hash); }

std::string_view SettingsView::text(std::uint64_t place, TextBuffer* buffer) const {
  const std::size_t at = high_half(place);
  const std::size_t bytes = low_half(place);
  if (bytes > kSettingTextMax_bytes || at > text_words_ || words_of(bytes) > text_words_ - at)
    return {};
  for (std::size_t i = 0; i < words_of(bytes); ++i) {
    const std::uint64_t word = load(texts_[at + i]);
    std::memcpy(buffer->data() + 8 * i, &word, 8);
  }
  return {buffer->data(), bytes};
}

SettingEntry SettingsView::entry(std::uint64_t what, std::uint64_t value) const {
  SettingEntry entry;
  entry.id = static_cast<Setting>(what & 0xff);
  entry.origin = origin_of(what);
  entry.is_text = (what & 0xff00) != 0;
  if (entry.is_text) {
    TextBuffer buffer;
    entry.text = text(value, &buffer);
  } else {
    entry.number = value;
  }
  return entry;
}

SettingEntry SettingsView::pool_entry(std::size_t setting) const {
  const std::uint64_t origin = load(head_.origin[setting]);
  const Origin from{static_cast<OriginKind>(low_half(origin)), high_half(origin)};
  const bool is_text = (load(head_.texts) >> setting & 1) != 0;
  SettingEntry result =
      entry(pack_what(static_cast<Setting>(setting), is_text, {}), load(head_.value[setting]));
  result.origin = from;
  return result;
}

template <class Take>
void SettingsView::for_each_entry(std::size_t rule, Take take) const {
  const std::uint64_t place = load(rules_[rule].entries);
  const std::size_t first = high_half(place);
  const std::size_t count = low_half(place);
  if (count > kSettingCapacity || first > entry_count_ || count > entry_count_ - first) return;
  for (std::size_t i = first; i < first + count; ++i) {
    const SettingEntry found = entry(load(entries_[i].what), load(entries_[i].value));
    if (index_of(found.id) < kSettingCapacity) take(found);
  }
}

PoolSettings SettingsView::pool() const {
  PoolSettings result;
  const std::uint64_t given = load(head_.given);
  for_each_bit(given, [&](std::size_t setting) { result.pool.set(pool_entry(setting)); });
  result.config_hash = load(head_.config_hash);
  result.config_path = head_.config_path.load();
  const auto [judge, admit] = needed().value_or(Needed());
  for_each_bit(~kKnownSettings, [&, judge = judge, admit = admit](std::size_t setting) {
    ForeignSetting foreign{static_cast<Setting>(setting), head_.name[setting].load(),
                           (judge >> setting & 1) != 0, (admit >> setting & 1) != 0};
    const bool is_used = ((given | judge | admit) >> setting & 1) != 0;
    if (is_used || !foreign.name.empty()) result.foreign.push_back(std::move(foreign));
  });
  return result;
}

std::vector<Rule> SettingsView::rules() const {
  std::vector<std::pair<std::uint64_t, Rule>> ordered(rule_count());
  TextBuffer buffer;
  for (std::size_t i = 0; i < ordered.size(); ++i) {
    ordered[i].first = load(rules_[i].order);
    Rule& rule = ordered[i].second;
    rule.pattern = text(load(rules_[i].pattern), &buffer);
    for_each_entry(i, [&](const SettingEntry& entry) { rule.overrides.set(entry); });
  }
  std::stable_sort(ordered.begin(), ordered.end(),
                   [](const auto& a, const auto& b) { return a.first < b.first; });
  std::vector<Rule> result;
  result.reserve(ordered.size());
  for (auto& [order, rule] : ordered) result.push_back(std::move(rule));
  return result;
}

// The first rule of an exact name with this hash, or where it would stand.
std::size_t SettingsView::first_of_hash(std::uint64_t hash) const {
  std::size_t low = 0;
  for (std::size_t high = exact_; low < high;) {
    const std::size_t middle = low + (high - low) / 2;
    if (load(rules_[middle].hash) < hash) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  return low;
}

bool SettingsView::is_about(std::size_t rule, std::string_view model, std::string* pattern) const {
  TextBuffer buffer;
  const std::string_view found = text(load(rules_[rule].pattern), &buffer);
  if (rule < exact_ ? found != model : !glob_matches(found, model)) return false;
  *pattern = found;
  return true;
}

void SettingsView::resolve(std::string_view model, Effective* result) const {
  for_each_bit(load(head_.given),
               [&](std::size_t setting) { result->take_of_pool(pool_entry(setting)); });
  // Exact names and globs are apart; merged by their order, as they were written.
  const std::uint64_t hash = hash_name(model);
  std::size_t exact = first_of_hash(hash);
  std::size_t glob = exact_;
  for (;;) {
    const bool exact_is_left = exact < exact_ && load(rules_[exact].hash) == hash;
    const bool glob_is_left = glob < rule_count();
    if (!exact_is_left && !glob_is_left) return;
    const bool exact_is_next =
        exact_is_left && (!glob_is_left || load(rules_[exact].order) < load(rules_[glob].order));
    const std::size_t next = exact_is_next ? exact++ : glob++;
    std::string pattern;
    if (!is_about(next, model, &pattern)) continue;
    for_each_entry(next, [&](const SettingEntry& entry) { result->take_of_rule(entry, pattern); });
  }
}

// --- SettingsImage -------------------------------------------------------------------------------

namespace {

class ImageBuilder {
 public:
  explicit ImageBuilder(const Settings& settings) : settings_(settings) {}

  Result<> build() {
    std::vector<std::pair<std::uint64_t, std::size_t>> exact;  // hash of the name, order
    std::vector<std::size_t> globs;
    for (std::size_t i = 0; i < settings_.rules.size(); ++i) {
      const Rule& rule = settings_.rules[i];
      if (rule.is_glob()) {
        globs.push_back(i);
      } else {
        exact.emplace_back(hash_name(rule.pattern), i);
      }
    }
    if (globs.size() > kGlobsMax) {
      return refuse(std::to_string(globs.size()) + " rules have wildcards and " +
                    std::to_string(kGlobsMax) + " may; merge some into wider globs");
    }
    std::sort(exact.begin(), exact.end());
    for (const auto& [hash, order] : exact) add_rule(hash, order);
    for (const std::size_t order : globs) add_rule(0, order);
    exact_ = exact.size();
    globs_ = globs.size();
    rules_hash_ = hash_of_rules();
    for (const SettingEntry& entry : settings_.pool.entries()) add_of_pool(entry);
    if (too_long_)
      return refuse("a text has more than " + std::to_string(kSettingTextMax_bytes) + " bytes");
    return {};
  }

  std::size_t words() const { return kHeadWords + rules_.size() + entries_.size() + texts_.size(); }

  std::unique_ptr<Word[]> image() const {
    auto image = std::make_unique<Word[]>(words());  // all zero
    // relaxed: nobody else reads it yet
    Word* to = image.get() + kHeadWords;
    for (const auto* part : {&rules_, &entries_, &texts_}) {
      for (const std::uint64_t word : *part) (to++)->store(word, std::memory_order_relaxed);
    }
    fill(*reinterpret_cast<SettingsHead*>(image.get()));
    return image;
  }

  static tl::unexpected<Error> refuse(const std::string& why) {
    return fail(Errc::kInvalid, "unable to publish settings: " + why);
  }

 private:
  std::uint64_t add_text(std::string_view text) {
    too_long_ = too_long_ || text.size() > kSettingTextMax_bytes;
    const std::uint64_t place = pack_half(static_cast<std::uint32_t>(texts_.size()),
                                          static_cast<std::uint32_t>(text.size()));
    for (std::size_t at = 0; at < text.size(); at += 8) {
      texts_.push_back(load_word(text.data() + at, text.size() - at));
    }
    return place;
  }
  std::uint64_t add_value(const SettingEntry& entry) {
    note_use(entry);
    return entry.is_text ? add_text(entry.text) : entry.number;
  }
  void add_rule(std::uint64_t hash, std::size_t order) {
    const Rule& rule = settings_.rules[order];
    const auto first = static_cast<std::uint32_t>(entries_.size() / kEntryWords);
    const auto count = static_cast<std::uint32_t>(rule.overrides.entries().size());
    for (const std::uint64_t word :
         {hash, std::uint64_t{order}, pack_half(first, count), add_text(rule.pattern)}) {
      rules_.push_back(word);
    }
    for (const SettingEntry& entry : rule.overrides.entries()) {
      entries_.push_back(pack_what(entry.id, entry.is_text, entry.origin));
      entries_.push_back(add_value(entry));
    }
  }
  void add_of_pool(const SettingEntry& entry) {
    const std::size_t index = index_of(entry.id) % kSettingCapacity;
    given_ |= bit_of(entry.id);
    if (entry.is_text) texts_given_ |= bit_of(entry.id);
    origin_[index] = pack_origin(entry.origin);
    value_[index] = add_value(entry);
  }
  // One that is at its default is not in use: it does what a program does that does not know it.
  void note_use(const SettingEntry& entry) {
    if (is_known(entry.id)) {
      const SettingInfo& info = setting_info(entry.id);
      const bool is_in_use =
          entry.is_text ? !entry.text.empty() : entry.number != info.default_value;
      if (!is_in_use || info.needed == SettingClass::kCompat) return;
      judge_ |= bit_of(entry.id);
      if (info.needed == SettingClass::kAdmit) admit_ |= bit_of(entry.id);
      return;
    }
    for (const ForeignSetting& foreign : settings_.foreign) {
      if (foreign.id != entry.id) continue;
      if (foreign.needed_by_judge) judge_ |= bit_of(entry.id);
      if (foreign.needed_by_workers) admit_ |= bit_of(entry.id);
    }
  }
  std::uint64_t hash_of_rules() const {
    std::uint64_t hash = 0;
    for (const auto* part : {&rules_, &entries_, &texts_}) {
      const std::string_view bytes{reinterpret_cast<const char*>(part->data()), part->size() * 8};
      hash = (hash ^ hash_name(bytes)) * 0x9e3779b97f4a7c15;
    }
    return hash;
  }
  void fill(SettingsHead& head) const {
    const auto put = [](Word& word, std::uint64_t value) {
      word.store(value, std::memory_order_relaxed);
    };
    put(head.config_hash, settings_.config_hash);
    put(head.rules_hash, rules_hash_);
    put(head.given, given_);
    put(head.texts, texts_given_);
    put(head.judge, judge_);
    put(head.admit, admit_);
    put(head.needed_hash, hash_needed(judge_, admit_));
    put(head.rule_count,
        pack_half(static_cast<std::uint32_t>(globs_), static_cast<std::uint32_t>(exact_)));
    put(head.entry_count, pack_half(static_cast<std::uint32_t>(texts_.size()),
                                    static_cast<std::uint32_t>(entries_.size() / kEntryWords)));
    for (std::size_t i = 0; i < kSettingCapacity; ++i) {
      put(head.value[i], value_[i]);
      put(head.origin[i], origin_[i]);
    }
    for (const SettingInfo& info : kSettings) head.name[index_of(info.id)].store(info.name);
    for (const ForeignSetting& foreign : settings_.foreign) {
      if (!is_known(foreign.id))
        head.name[index_of(foreign.id) % kSettingCapacity].store(foreign.name);
    }
    head.config_path.store(settings_.config_path);
  }

  const Settings& settings_;
  std::vector<std::uint64_t> rules_;
  std::vector<std::uint64_t> entries_;
  std::vector<std::uint64_t> texts_;
  std::size_t exact_ = 0;
  std::size_t globs_ = 0;
  std::uint64_t rules_hash_ = 0;
  std::uint64_t given_ = 0;
  std::uint64_t texts_given_ = 0;
  std::uint64_t judge_ = 0;
  std::uint64_t admit_ = 0;
  std::array<std::uint64_t, kSettingCapacity> value_{};
  std::array<std::uint64_t, kSettingCapacity> origin_{};
  bool too_long_ = false;
};

}  // namespace

Result<SettingsImage> SettingsImage::make(const Settings& settings, std::size_t room_words) {
  ImageBuilder builder(settings);
  if (auto built = builder.build(); !built) return fail(built.error());
  if (builder.words() > room_words) {
    return ImageBuilder::refuse(std::to_string(settings.rules.size()) + " rules take " +
                                format_size_exactly(builder.words() * sizeof(Word)) +
                                " and the pool has room for " +
                                format_size_exactly(room_words * sizeof(Word)) +
                                "; merge some into globs, or create the pool with more --rules");
  }
  return SettingsImage(builder.image(), builder.words());
}

void SettingsImage::copy_to(Word* copy) const {
  // release: see read_settings (settings_block.hpp)
  for (std::size_t i = 0; i < count_; ++i) {
    copy[i].store(words_[i].load(std::memory_order_relaxed), std::memory_order_release);
  }
}

// --- What `ready` gave ---------------------------------------------------------------------------

GivenSettings pack_given(const Overrides& overrides) {
  GivenSettings packed;
  std::size_t count = 0;
  for (const SettingEntry& entry : overrides.entries()) {
    if (entry.is_text || count == kGivenMax) continue;
    packed.given |= bit_of(entry.id);
    packed.number[count++] = entry.number;
  }
  return packed;
}

Overrides unpack_given(const GivenSettings& packed) {
  Overrides overrides;
  std::size_t count = 0;
  for_each_bit(packed.given, [&](std::size_t setting) {
    if (count == kGivenMax) return;
    overrides.set(static_cast<Setting>(setting), packed.number[count++], {OriginKind::kReady, 0});
  });
  return overrides;
}

constexpr auto kGivable =
    std::count_if(kSettings.begin(), kSettings.end(),
                  [](const SettingInfo& info) { return may_be_given_at_ready(info); });
static_assert(kGivable <= static_cast<std::ptrdiff_t>(kGivenMax),
              "ready can give every setting of a model that is a number");

}  // namespace modelpool
