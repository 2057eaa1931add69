#include "support/pool.hpp"

#include <algorithm>
#include <stdexcept>

#include "protocol/check.hpp"
#include "protocol/settings_change.hpp"
#include "segment/settings_block.hpp"

namespace modelpool::test {

Capacities small_capacities() {
  Capacities capacities;
  capacities.backends = 16;
  capacities.workers = 24;
  capacities.leases = 256;
  capacities.waiters = 256;
  capacities.events = 256;
  capacities.models = 16;
  capacities.rules = 64;
  return capacities;
}

Settings settings_of(const std::vector<std::pair<std::string, std::string>>& values) {
  Settings settings;
  for (const auto& [name, text] : values) {
    const SettingInfo* info = find_setting(name);
    if (info == nullptr) throw std::runtime_error("no such setting: " + name);
    auto entry = parse_entry(*info, text);
    if (!entry) throw std::runtime_error(entry.error().text);
    settings.pool.set(std::move(*entry));
  }
  return settings;
}

Effective effective_of(const Settings& settings, std::string_view model, const Overrides* given) {
  const auto image = SettingsImage::make(settings, SIZE_MAX);
  if (!image) throw std::runtime_error(image.error().text);
  return resolve_settings(*image, model, given);
}

namespace {
void edit(const Segment& segment, const std::function<void(Settings&)>& change) {
  if (auto edited = edit_settings(segment, kLockWaitMax_ns, change); !edited) {
    throw std::runtime_error(edited.error().text);
  }
  wake_everyone(segment);
  ring(segment);
}
}  // namespace

void publish_foreign(const Segment& segment, const ForeignSetting& setting) {
  edit(segment, [&](Settings& settings) {
    settings.foreign.push_back(setting);
    settings.pool.set(setting.id, 1, {OriginKind::kSet, 0});
  });
}

void withdraw_foreign(const Segment& segment, Setting id) {
  edit(segment, [&](Settings& settings) {
    Overrides rest;
    for (const SettingEntry& entry : settings.pool.entries()) {
      if (entry.id != id) rest.set(entry);
    }
    settings.pool = rest;
  });
}

std::shared_ptr<Segment> make_segment(
    const Scratch& scratch, const std::vector<std::pair<std::string, std::string>>& values,
    const Capacities& capacities) {
  const Settings settings = settings_of(values);
  SegmentOptions options;
  options.dir = scratch.dir();
  options.capacities = capacities;
  options.settings = &settings;
  auto segment = Segment::attach("default", options);
  if (!segment) throw std::runtime_error(segment.error().text);
  return *segment;
}

Pool make_pool(const Scratch& scratch,
               const std::vector<std::pair<std::string, std::string>>& values,
               const Capacities& capacities) {
  const Settings settings = settings_of(values);
  PoolOptions options;
  options.dir = scratch.dir();
  options.capacities = capacities;
  options.settings = &settings;
  auto pool = Pool::attach("default", options);
  if (!pool) throw std::runtime_error(pool.error().text);
  return std::move(*pool);
}

LoadTicket ticket_for(Pool& pool, const std::string& model, Deadline deadline) {
  auto granted = pool.acquire(model, deadline);
  if (!granted) throw std::runtime_error(granted.error().text);
  auto* ticket = std::get_if<LoadTicket>(&*granted);
  if (ticket == nullptr) throw std::runtime_error(model + " is loaded already");
  return std::move(*ticket);
}

Lease lease_on(Pool& pool, const std::string& model, Deadline deadline) {
  auto granted = pool.acquire(model, deadline);
  if (!granted) throw std::runtime_error(granted.error().text);
  auto* lease = std::get_if<Lease>(&*granted);
  if (lease == nullptr) throw std::runtime_error(model + " is not loaded");
  return std::move(*lease);
}

Lease load_external(Pool& pool, const std::string& model, const ReadyOptions& options) {
  LoadTicket ticket = ticket_for(pool, model);
  ReadyOptions external = options;
  external.external = true;
  auto lease = ticket.ready("127.0.0.1:1", external);
  if (!lease) throw std::runtime_error(lease.error().text);
  return std::move(*lease);
}

Snapshot look(const std::shared_ptr<Segment>& segment) { return SnapshotReader(segment).read(); }
Snapshot look(const Pool& pool) { return look(shared_segment_of(pool)); }

std::string state_of(const Pool& pool, std::string_view model) {
  const Snapshot snapshot = look(pool);
  const BackendView* backend = snapshot.find_model(model);
  return backend == nullptr ? "none" : std::string(backend_state_name(backend->state.state));
}

std::string findings(const std::shared_ptr<Segment>& segment, bool settled) {
  std::string text;
  for (const std::string& finding : check_invariants(look(segment), settled))
    text += finding + "; ";
  return text;
}

bool nothing_left_but(const Pool& pool, const std::vector<pid_t>& workers) {
  const Snapshot s = look(pool);
  const auto is_expected = [&](const WorkerView& worker) {
    return std::find(workers.begin(), workers.end(), worker.process.pid) != workers.end();
  };
  const auto has_ticket = [](const BackendView& b) {
    return b.state.state == BackendState::kReserved || b.state.state == BackendState::kStarting;
  };
  return s.leases.empty() && s.waiters.empty() && s.workers.size() == workers.size() &&
         std::all_of(s.workers.begin(), s.workers.end(), is_expected) &&
         std::none_of(s.backends.begin(), s.backends.end(), has_ticket);
}

}  // namespace modelpool::test
