// poolctl set: the pool's settings, shown or changed.
#include <algorithm>

#include "base/available.hpp"
#include "base/size.hpp"
#include "json.hpp"
#include "judge/host_limit.hpp"
#include "policy/fit.hpp"
#include "pool/change_settings.hpp"
#include "protocol/outlook.hpp"
#include "segment/settings_block.hpp"

namespace modelpool::poolctl {
namespace {

struct Options {
  std::string file;
  std::vector<std::pair<std::string, std::string>> values;
};

int show(const Context& context, const Options& options) {
  const auto seen = look(context, options.file);
  if (!seen) return report(seen.error());
  const PoolSettings& settings = settings_of(seen->snapshot);
  if (context.json) {
    print_json(settings_json(settings));
    return kDone;
  }
  TextTable table(
      {{"SETTING"}, {"VALUE"}, {"ORIGIN"}, {.name = "MEANING", .may_shrink = true, .wraps = true}});
  for (const SettingInfo& info : kSettings) {
    const Origin origin = settings.pool.origin(info.id);
    table.add({std::string(info.name), escape(settings.shown(info.id)),
               escape(origin_text(settings.config_path, origin)), std::string(info.help)});
  }
  print(table.text(terminal_width()));
  if (const std::uint64_t rules = seen->snapshot.rule_count; rules > 0) {
    print("\n" + count_text(rules, "rule") +
          " for models; poolctl explain MODEL says which apply\n");
  }
  std::uint64_t unknown = 0;
  for (const SettingEntry& entry : settings.pool.entries()) {
    if (!is_known(entry.id)) unknown |= bit_of(entry.id);
  }
  // Those that only rules give: who must know them is told.
  for (const ForeignSetting& setting : settings.foreign) {
    if (setting.needed_by_judge || setting.needed_by_workers) unknown |= bit_of(setting.id);
  }
  if (unknown != 0) {
    print("\nThe pool also has " + settings_text(unknown, settings) +
          ", which this program does not know\n");
  }
  return kDone;
}

// The changed settings that are in use now and that the coordinator had to know, and does not.
std::string names_unknown_to_judge(const Segment& segment, const Options& options) {
  std::uint64_t known = 0;
  // acquire: before its epoch
  for (const Word& bits : segment.coordinator().features)
    known |= bits.load(std::memory_order_acquire);
  const PoolSettings settings = read_pool_settings(segment);
  std::string names;
  for (const auto& [name, value] : options.values) {
    const SettingInfo* const info = find_setting(name);
    if (info == nullptr || info->needed == SettingClass::kCompat) continue;
    const bool is_in_use = is_text(info->kind) ? !settings.text(info->id).empty()
                                               : settings.get(info->id) != info->default_value;
    if (!is_in_use || (known & bit_of(info->id)) != 0) continue;
    names += (names.empty() ? "" : ", ") + std::string(info->name);
  }
  return names;
}

// A limit of the pool that its backends exceed now.
struct Exceeded {
  std::size_t resource;  // of Amounts
  std::string text;      // "2 backends are live, 1 may be"
  std::string meanwhile;
};

std::vector<Exceeded> find_exceeded(const Snapshot& snapshot, const Limits& limits) {
  const std::vector<Resident> all = residents_of(snapshot);
  const Amounts excess = Room(limits, all).excess();
  Amounts held;
  for (const Resident& resident : all) {
    if (resident.live()) held += resident.holds;
  }
  std::vector<Exceeded> exceeded;
  const auto add = [&](std::size_t resource, const std::string& text, const std::string& what) {
    if (excess[resource] == 0) return;
    exceeded.push_back({resource, text, "nothing" + what + " is loaded meanwhile"});
  };
  const auto bytes = [&held](std::size_t resource) {
    return "backends take " + format_size(static_cast<std::uint64_t>(held[resource])) + " of ";
  };
  constexpr std::size_t kHost = index_of(Resource::kHostBytes);
  add(index_of(Resource::kPlaces),
      std::to_string(count_live(all)) + " backends are live, " +
          std::to_string(limits.max_backends) + " may be",
      "");
  add(kHost, bytes(kHost) + "memory, max_memory is " + format_size(limits.max_memory),
      " that takes memory");
  for (std::uint32_t d = 0; d < std::min(kDevicesMax, snapshot.devices.size()); ++d) {
    const std::string uuid = escape(snapshot.devices[d]);
    add(index_of_device(d),
        bytes(index_of_device(d)) + uuid + ", gpu_memory lets them have " +
            format_size(limits.device[d].bytes),
        " that takes memory of " + uuid);
  }
  return exceeded;
}

// "a, b": pinned backends that by themselves exceed this limit; "" if they do not.
std::string pinned_above(const Snapshot& snapshot, const Limits& limits, std::size_t resource) {
  std::vector<Resident> pinned;
  std::string names;
  for (const BackendView& backend : snapshot.backends) {
    const Resident resident = resident_of(backend);
    const bool stays = resident.live() && resident.state != BackendState::kStopping;
    if (!stays || !resident.pinned() || resident.holds[resource] == 0) continue;
    pinned.push_back(resident);
    names += (names.empty() ? "" : ", ") + escape(backend.model);
  }
  return Room(limits, pinned).excess()[resource] == 0 ? "" : names;
}

// What the settings ask for and cannot have, or not at once.
void warn_of_limits(const std::shared_ptr<const Segment>& segment) {
  const Snapshot snapshot = SnapshotReader(segment).read();
  const Limits limits = limits_of(snapshot);
  const auto fault = find_judge_fault(*segment, "");
  for (const Exceeded& one : find_exceeded(snapshot, limits)) {
    const std::string pinned = pinned_above(snapshot, limits, one.resource);
    const std::string who =
        !pinned.empty() ? "those that are pinned exceed that by themselves, and stay: " + pinned +
                              "; unpin some or raise the limit"
        : fault ? "nobody makes room, for " + *fault
                : "the coordinator makes room without cutting leases";
    complain(one.text + ": " + who + "; " + one.meanwhile);
  }
}

int change(const Context& context, const Options& options) {
  const auto segment = Segment::attach(context.pool, {context.dir, false, {}, nullptr});
  if (!segment) return report(segment.error());
  const JudgeView judge = look_at_judge(**segment, now_ns());
  if (auto changed = change_settings(**segment, options.values, {OriginKind::kSet, 0}); !changed) {
    return report(changed.error());
  }
  const std::string unknown = names_unknown_to_judge(**segment, options);
  if (judge.state == JudgeState::kAnswers && !unknown.empty()) {
    complain("the coordinator, pid " + std::to_string(judge.identity.process.pid) +
             ", does not know " + unknown + " and leaves; start a newer coordinatord");
  }
  warn_of_limits(*segment);
  const bool changes_host =
      std::any_of(options.values.begin(), options.values.end(), [](const auto& change) {
        const SettingInfo* const info = find_setting(change.first);
        return info != nullptr && info->id == Setting::kMinAvailable;
      });
  const std::uint64_t min_available = pool_setting(**segment, Setting::kMinAvailable);
  if (const auto host = coordinator::find_host_fault(min_available, read_total_bytes());
      host && changes_host)
    complain(*host);
  return kDone;
}

}  // namespace

void add_set(CLI::App& root, Context& context) {
  const auto options = std::make_shared<Options>();
  std::string notes =
      "Without arguments it prints the settings in force and where each came from. Several are\n"
      "changed together or not at all. A change stays until the coordinator's configuration is\n"
      "read again (SIGHUP, or a start with another one).\n\nSettings:\n";
  for (const SettingInfo& info : kSettings) {
    std::string name(info.name);
    std::replace(name.begin(), name.end(), '_', '-');
    std::string form = "  " + name + "=" + std::string(info.placeholder);
    form.resize(std::max<std::size_t>(form.size() + 1, 28), ' ');
    notes +=
        form + std::string(info.help) + " (" + format_setting(info, info.default_value) + ")\n";
  }
  notes +=
      "\nExamples:\n  poolctl set max-backends=3 idle-timeout=15m\n  poolctl set "
      "busy_timeout=off\n";
  CLI::App* command = add_command(
      root, context, "set", "Show or change the pool's settings", notes, [&context, options] {
        if (options->values.empty()) return show(context, *options);
        if (!options->file.empty()) {
          complain("unable to change " + escape(options->file) +
                   ": a copied segment is only looked at; leave out --file");
          return kWrongUsage;
        }
        return change(context, *options);
      });
  add_texts(
      command, "SETTING", "",  // CLI11 2.4 takes no "=" in a name
      [options](const std::vector<std::string>& texts) {
        for (const std::string& text : texts) {
          options->values.push_back(split_assignment("set", text));
        }
      },
      "KEY=VALUE: settings to change");
  add_file(command, &options->file);
}

}  // namespace modelpool::poolctl
