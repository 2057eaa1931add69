#include "worker/held_lease.hpp"

#include <unistd.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <utility>

#include "worker/apart.hpp"
#include "worker/refusals.hpp"

namespace modelpool::serve {
namespace {

using std::chrono::milliseconds;
using std::chrono::nanoseconds;
using std::chrono::seconds;

constexpr seconds kSignOfLife{15};
constexpr seconds kPeerGone{30};
constexpr seconds kKept{10};  // after a cut
constexpr seconds kLook{1};   // for another of the same id
// An end that was sent is seen by then: who asks anew for a name is not refused for its own lease.
constexpr seconds kSameName{1};
// Of two that began within so short a time their stamps do not tell which is the later one. Who
// sees one there waits for longer than that.
constexpr milliseconds kAtOnce{10};
constexpr std::string_view kTenant = "tenant";  // the label begins with it

// Whose lease it is: only they have it again by its id.
std::string owner_of(const Key* key, Client& client) {
  if (key != nullptr) return "key" + std::string(key->sha256.begin(), key->sha256.end());
  const auto user = client.user();
  return user ? "user " + std::to_string(*user) : "tcp";
}

// By an alias it is the same.
LeaseWish with_name(LeaseWish wish, const std::string& name) {
  wish.name = name;
  return wish;
}

std::string mark_for(const LeaseWish& wish, const Key* key, Client& client) {
  return wish.id.empty() ? std::string() : lease_mark(wish, owner_of(key, client));
}

std::string tag_for(const LeaseWish& wish, const std::string& mark, const std::string& request_id) {
  if (!wish.tag.empty()) return marked_tag(wish.tag, mark);
  return marked_tag(wish.id.empty() ? tag_of(request_id) : wish.id, mark);
}

// No rule but a forced end touches it while it is held, and none keeps it afterwards.
Overrides tenants_rules() {
  Overrides rules;
  for (const Setting off :
       {Setting::kBusyTimeout, Setting::kStallTimeout, Setting::kFirstByteTimeout,
        Setting::kMinResident, Setting::kPinned, Setting::kParallel, Setting::kProbeFailures})
    rules.set(off, 0);
  rules.set(Setting::kWhenBusy, static_cast<std::uint64_t>(WhenBusy::kWait));
  return rules;
}

}  // namespace

Checked<std::shared_ptr<const config::Model>> HeldLease::model_for(const LeaseWish& wish,
                                                                   const InForce& now) {
  const auto found = now.models.find(wish.name);
  const bool is_there = found != now.models.end();
  if (!wish.is_tenant && is_there) return found->second;
  if (!wish.is_tenant) return tl::unexpected<Refusal>(no_such_model(wish.name, *now.door));
  if (is_there)
    return refuse(409, "name_in_use", "\"" + wish.name + "\" is a model; ask for it as \"model\"");
  auto tenant = std::make_shared<config::Model>();
  tenant->name = wish.name;
  return tenant;
}

HeldLease::HeldLease(Service& service, const InForce& now, Client& client, Asked& asked,
                     LeaseWish wish, const Key* key, AccessLine& line)
    : service_(service),
      client_(client),
      asked_(asked),
      wish_(with_name(std::move(wish), asked.model->name)),
      line_(line),
      mark_(mark_for(wish_, key, client)),
      tag_(tag_for(wish_, mark_, asked.id)),
      answer_(client, asked, line, false) {
  const nanoseconds limit = wish_.timeout.value_or(nanoseconds(now.door->serve.queue_timeout_ns));
  const bool is_endless = wish_.timeout ? limit == nanoseconds::max() : limit.count() == 0;
  if (!is_endless) deadline_ = Clock::now() + std::min(limit, nanoseconds(Duration::kMax_ns));
}

HeldLease::~HeldLease() {
  const auto found = service_.leases.find(mark_);
  if (found != service_.leases.end() && found->second == this) service_.leases.erase(found);
}

Task<Checked<>> HeldLease::run() {
  line_.model = wish_.name;
  client_.set_peer_timeout(kPeerGone);
  const TimePoint from = Clock::now();
  const auto is_there = is_there_already();
  if (!is_there) co_return tl::unexpected<Refusal>(is_there.error());
  if (*is_there) co_await pause(service_.loop.get_executor(), 2 * kAtOnce);
  auto place = co_await get_place();
  line_.wait_ms = std::chrono::duration_cast<milliseconds>(Clock::now() - from).count();
  if (!place) co_return tl::unexpected<Refusal>(place.error());
  lease_ = std::move(*place);
  if (client_.has_left()) {
    line_.end = "the client left";
  } else {
    co_await hold();
    if (client_.was_cut() && !mark_.empty()) co_await keep();
  }
  end_place();
  co_return Checked<>();
}

// --- The place -----------------------------------------------------------------------------------

Task<Checked<Lease>> HeldLease::get_place() {
  take_over();
  if (lease_) co_return std::move(lease_);
  if (wish_.is_tenant) co_return co_await get_tenants_place();
  co_return co_await get_model();
}

// Is there a lease with this id? Errors: it is somebody else's.
Checked<bool> HeldLease::is_there_already() const {
  if (mark_.empty()) return false;
  const auto seen = service_.pool.snapshot();
  if (!seen) return tl::unexpected<Refusal>(refusal_of(seen.error(), 0));
  bool is_there = false;
  for (const LeaseRow& lease : seen->leases) {
    const std::string_view mark = mark_of(lease.tag);
    if (is_same_lease(mark, mark_) && mark != mark_)
      return refuse(409, "id_in_use", "somebody else has a lease with this id");
    is_there |= mark == mark_;
  }
  return is_there;
}

// From an older connection to this worker. One to another worker will see a later lease beside its
// own: so this takes a new one, if that can be had while the older is held, else that one.
void HeldLease::take_over() {
  if (mark_.empty()) return;
  HeldLease* const older = std::exchange(service_.leases[mark_], this);
  if (older == nullptr || !older->lease_) return;
  older->client_.wake.notify();
  lease_ = std::move(older->lease_);
  if (auto own = one_more(kKept)) lease_ = std::move(*own);
}

// Of what is held already.
std::optional<Lease> HeldLease::one_more(seconds keep_alive) const {
  AcquireOptions options;
  options.tag = tag_;
  options.may_load = false;
  options.cancellable = true;
  if (wish_.is_tenant) options.keep_alive = keep_alive;
  auto attempt = service_.pool.try_acquire(wish_.name, seconds(0), options);
  if (!attempt || !std::holds_alternative<Lease>(*attempt)) return std::nullopt;
  return std::get<Lease>(std::move(*attempt));
}

Checked<Lease> HeldLease::checked(Result<Lease> lease) const {
  if (lease) return std::move(*lease);
  return tl::unexpected<Refusal>(
      refusal_of(lease.error(), learned_load_ms(service_.pool, wish_.name)));
}

Task<Checked<Lease>> HeldLease::get_model() {
  Places::Asker asker(service_.places, asked_.model, tag_, deadline_, client_.wake);
  while (!asker.answer()) {
    client_.read(kPipe_bytes);
    if (client_.has_left()) co_return Lease();
    co_await client_.wake.wait();
  }
  co_return checked(std::move(*asker.answer()));
}

Task<Checked<Lease>> HeldLease::get_tenants_place() {
  const Places::Listener listener(service_.places, client_.wake);
  std::optional<PendingAcquire> pending;
  for (;;) {
    client_.read(kPipe_bytes);
    if (client_.has_left()) co_return Lease();
    There there = There::kNothing;
    if (!pending) {
      auto seen = look_at_name();
      if (!seen) co_return tl::unexpected<Refusal>(seen.error());
      there = *seen;
    }
    if (there == There::kAnothers) {
      co_await wait();
      continue;
    }
    auto granted = ask(there, pending);
    const bool is_another = !granted && granted.error().code == Errc::kNotLoaded;
    if (is_another && Clock::now() >= deadline_)
      co_return refuse(409, "name_in_use", granted.error().text);
    if (is_another) {
      co_await wait();  // what was there has just gone, or something has come
    } else if (!granted) {
      co_return checked(modelpool::fail(granted.error()));
    } else if (!*granted) {
      co_await client_.wake.wait();
    } else if (auto* ticket = std::get_if<LoadTicket>(&**granted)) {
      co_return checked(co_await reserve(std::move(*ticket)));
    } else if (is_own(std::get<Lease>(**granted))) {
      co_return std::get<Lease>(std::move(**granted));
    }
  }
}

// Errors: somebody else has the name. An end that was just sent, or what is left of the one before,
// is waited for.
Checked<HeldLease::There> HeldLease::look_at_name() const {
  const auto seen = service_.pool.look(wish_.name);
  if (!seen) return tl::unexpected<Refusal>(refusal_of(seen.error(), 0));
  if (!seen->backend || seen->backend->state == "stopping") return There::kNothing;
  const BackendRow& there = *seen->backend;
  const bool is_loading = there.state == "reserved" || there.state == "starting";
  const bool is_held_here = there.external && there.label.starts_with(kTenant);
  if (is_held_here && !mark_.empty() && mark_of(there.label) == mark_) return There::kOwn;
  const bool is_taken = !is_loading && (!is_held_here || there.in_flight > 0);
  if (is_taken && Clock::now() >= asked_.began + kSameName)
    return refuse(409, "name_in_use", "somebody else has a place as \"" + wish_.name + "\"");
  if (Clock::now() < deadline_) return There::kAnothers;
  return refuse(504, "timeout", "the place of \"" + wish_.name + "\" is still somebody else's");
}

Result<std::optional<Grant>> HeldLease::ask(There there,
                                            std::optional<PendingAcquire>& pending) const {
  if (pending) {
    auto polled = pending->poll();
    if (!polled || *polled) pending.reset();
    return polled;
  }
  AcquireOptions options;
  options.tag = tag_;
  options.keep_alive = mark_.empty() ? seconds(0) : kKept;
  options.may_load = there == There::kNothing;
  if (options.may_load) options.tenant = wish_.need;
  auto attempt = service_.pool.try_acquire(wish_.name, deadline_, options);
  if (!attempt) return modelpool::fail(attempt.error());
  if (auto* lease = std::get_if<Lease>(&*attempt)) return Grant(std::move(*lease));
  if (auto* ticket = std::get_if<LoadTicket>(&*attempt)) return Grant(std::move(*ticket));
  pending.emplace(std::get<PendingAcquire>(std::move(*attempt)));
  return std::nullopt;
}

// Another may have come between the look and the lease.
bool HeldLease::is_own(const Lease& lease) const {
  const auto seen = service_.pool.look(wish_.name);
  return seen && seen->backend && seen->backend->generation == lease.backend().generation &&
         !mark_.empty() && mark_of(seen->backend->label) == mark_;
}

// Not given up when the client leaves: it is over in a moment.
Task<Result<Lease>> HeldLease::reserve(LoadTicket ticket) {
  ReadyOptions as;
  as.size_bytes = wish_.need.memory_bytes;
  as.external = true;
  as.label = std::string(kTenant) + mark_;
  as.overrides = tenants_rules();
  devices_ = ticket.devices();
  co_return co_await apart(service_.loop, service_.threads,
                           [&] { return ticket.ready(std::string(kTenantsAddress), as); });
}

// --- The lease -----------------------------------------------------------------------------------

// Wakes at the next tick, if not before.
Task<> HeldLease::wait() {
  Timer tick(service_.loop.get_executor(), kTick);
  tick.async_wait([client = client_.shared_from_this()](error_code error) {
    if (!error) client->wake.notify();
  });
  co_await client_.wake.wait();
}

std::string HeldLease::first_line() const {
  nlohmann::ordered_json line{{"model", wish_.name}, {"address", nullptr}, {"lease", tag_}};
  if (!wish_.is_tenant) line["address"] = lease_.address();
  if (devices_) line["devices"] = *devices_;
  return line.dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace) + "\n";
}

Task<> HeldLease::hold() {
  static_cast<void>(lease_.set_endless());
  static_cast<void>(lease_.set_cancellable());
  const BackendId backend = lease_.backend();
  line_.backend = std::to_string(backend.slot) + "." + std::to_string(backend.generation);
  answer_.set_backend(line_.backend);
  answer_.begin_stream("application/x-ndjson");
  std::string text = first_line();
  TimePoint next_sign = Clock::now() + kSignOfLife;
  for (;;) {
    if (!text.empty() && !co_await answer_.send(std::exchange(text, {}), false)) break;
    co_await wait();
    client_.take(client_.input().size());
    client_.read(kPipe_bytes);
    if (client_.has_left()) break;
    if (const auto end = end_of_lease()) {
      line_.end = end->message;
      lease_.release();
      co_await answer_.send(error_json(*end) + "\n", true);
      co_return;
    }
    if (Clock::now() < next_sign) continue;
    text = "\n";
    next_sign += kSignOfLife;
  }
  line_.end = "the client left";
}

// Why it ends otherwise than by its client. That it goes on is progress.
std::optional<Refusal> HeldLease::end_of_lease() {
  if (!lease_) return refuse(409, "taken_over", "a later connection has this lease").value();
  if (const auto ok = lease_.progress(); !ok) return refusal_of(ok.error(), 0);
  if (lease_.cancelled())
    return refuse(503, "cancelled", "the lease was ended: " + lease_.cancel_reason()).value();
  if (mark_.empty() || Clock::now() < next_look_) return std::nullopt;
  next_look_ = Clock::now() + kLook;
  if (!has_successor()) return std::nullopt;
  return refuse(409, "taken_over", "a later connection has this lease").value();
}

bool HeldLease::has_successor() const {
  if (mark_.empty()) return false;
  const auto here = service_.leases.find(mark_);
  if (here != service_.leases.end() && here->second != this) return true;
  const auto seen = service_.pool.snapshot();
  if (!seen) return false;
  std::optional<milliseconds> age;  // of the latest of this process
  for (const LeaseRow& lease : seen->leases) {
    const milliseconds its(lease.age_ms.value_or(0));
    if (mark_of(lease.tag) == mark_ && lease.worker_pid == getpid())
      age = std::min(age.value_or(its), its);
  }
  return age && std::any_of(seen->leases.begin(), seen->leases.end(), [&](const LeaseRow& other) {
           if (mark_of(other.tag) != mark_ || other.worker_pid == getpid()) return false;
           const auto longer = *age - milliseconds(other.age_ms.value_or(0));
           return longer > kAtOnce || (longer > -kAtOnce && getpid() < other.worker_pid);
         });
}

// For its client to come back.
Task<> HeldLease::keep() {
  line_.end = "the client was cut off";
  const TimePoint until = Clock::now() + kKept;
  while (Clock::now() < until && !end_of_lease()) co_await wait();
}

void HeldLease::end_place() {
  // A place with an id would outlive its lease for a while.
  if (lease_ && wish_.is_tenant && !mark_.empty() && !has_successor())
    static_cast<void>(one_more(seconds(0)));
  lease_.release();
}

}  // namespace modelpool::serve
