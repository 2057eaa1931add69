#include "protocol/check.hpp"

#include <map>
#include <set>

#include "base/address.hpp"
#include "base/time.hpp"

namespace modelpool {
namespace {

std::string slot_name(std::uint32_t index) { return "backend slot " + std::to_string(index); }

}  // namespace

std::vector<std::string> check_invariants(const Snapshot& s, bool settled) {
  std::vector<std::string> findings = s.damage;
  const auto find = [&](const std::string& text) { findings.push_back(text); };

  std::map<std::string, std::uint32_t> serving;
  std::map<std::string, const BackendView*> placed;
  for (const BackendView& b : s.backends) {
    const std::string name = slot_name(b.ref.index) + " (" + escape(b.model) + ")";
    const BackendState state = b.state.state;
    const bool has_process = b.process.pid > 1;
    if (state == BackendState::kReserved || state == BackendState::kStarting) {
      if (b.state.owner == 0 || b.holder == 0) find(name + ": has a ticket that nobody holds");
      if (settled && s.find_worker(b.holder) == nullptr) {
        find(name + ": its ticket's worker is not attached");
      }
    }
    if (state == BackendState::kStarting && !has_process)
      find(name + ": starting without a process");
    if (state == BackendState::kReady || state == BackendState::kEvicting) {
      if (!has_process && !b.external()) find(name + ": serves without a process");
      if (b.address.empty() || !is_printable_utf8(b.address))
        find(name + ": serves at no valid address");
    }
    if (state == BackendState::kReady && (b.state.owner & ~StateWord::kCounted) != 0) {
      find(name + ": ready, yet has an owner");
    }
    if (b.overdue && settled) find(name + ": does not die of SIGKILL; keeps a place");
    if (state == BackendState::kEvicting && settled &&
        b.state.owner != StateWord::owner_of_epoch(s.coordinator.identity.epoch)) {
      find(name + ": left closed by an earlier coordinator");
    }
    if (state == BackendState::kGone && settled && b.state.owner == 0 && b.in_flight == 0) {
      find(name + ": gone, but its slot was not freed");
    }
    if (s.devices.size() < kDevicesMax && b.devices >> s.devices.size() != 0) {
      find(name + ": has a device that nobody registered");
    }
    if (b.last_used_ns > add_ns(s.now_ns, kSecond_ns)) find(name + ": last used in the future");
    // One of two processes at one address answers for the other.
    if (!b.external() && !b.address.empty() &&
        (state == BackendState::kReady || state == BackendState::kEvicting)) {
      const BackendView* other = nullptr;
      for (const std::string& place : places_of(b.address)) {
        const auto [it, alone] = placed.emplace(place, &b);
        if (!alone) other = it->second;
      }
      if (other != nullptr) {
        find(name + ": has the address of slot " + std::to_string(other->ref.index) + " (" +
             escape(other->model) + ")");
      }
    }
    // STOPPING may be overdue and then does not serve its model any more.
    if (b.live() && state != BackendState::kStopping) {
      const auto [it, fresh] = serving.emplace(b.model, b.ref.index);
      if (!fresh)
        find(name + ": a second backend of its model, beside slot " + std::to_string(it->second));
    }
  }

  for (const LeaseView& lease : s.leases) {
    const BackendView* backend = s.find(lease.backend);
    const bool valid = backend != nullptr && backend->state.state >= BackendState::kStarting;
    if (settled && !valid) {
      find("lease " + std::to_string(lease.worker) + "/" + std::to_string(lease.cell) +
           ": names a backend that is not there");
    }
  }

  std::set<std::uint64_t> arrivals;
  for (const WaiterView& waiter : s.waiters) {
    const std::string name = "waiter row " + std::to_string(waiter.row);
    if (!arrivals.insert(waiter.arrival).second) find(name + ": shares its arrival number");
    if (settled && s.find_worker(waiter.owner) == nullptr)
      find(name + ": its worker is not attached");
  }
  return findings;
}

}  // namespace modelpool
