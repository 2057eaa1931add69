// P3 for device memory: hand-overs in virtual time, with a driver that gives memory back some time
// after the processes are gone. The real decide() judges; what really happens to the memory is
// known to the test alone.
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <memory>
#include <random>

#include "base/time.hpp"
#include "judge/decide.hpp"
#include "judge/settling.hpp"

namespace modelpool::coordinator {
namespace {

constexpr std::size_t kDevices = 3;
constexpr std::size_t kSlots = 12;
constexpr std::uint64_t kGiB = std::uint64_t{1} << 30;
constexpr std::uint64_t kDevice_bytes = 24 * kGiB;
constexpr std::uint64_t kSettle_ns = 2 * kSecond_ns;
constexpr std::uint64_t kDelayMax_ns = 600 * kMillisecond_ns;  // of the driver

using PerDevice = std::array<std::uint64_t, kDevices>;

enum class Driver {
  kNamesProcesses,
  kNamesNone,  // as in a container: free bytes are all there is
  kNamesSome,  // on the first device only
};

struct Found {
  std::size_t given_on = 0;  // places that held device memory
  std::size_t early = 0;     // before the driver had it back, and before `settle` had passed
  std::size_t by_time = 0;   // when that had passed
};

class HandOvers {
 public:
  HandOvers(Driver driver, std::uint64_t settle_ns, std::uint64_t between_stops_ns)
      : driver_(driver), settle_ns_(settle_ns), between_stops_ns_(between_stops_ns) {
    const auto effective = std::make_shared<Effective>();
    effective->set(Setting::kSettle, settle_ns);
    snapshot_.backends.resize(kSlots);
    for (std::uint32_t i = 0; i < kSlots; ++i) {
      snapshot_.backends[i].ref = {i, 1};
      snapshot_.backends[i].effective = effective;
    }
    facts_.epoch = 1;
  }

  Found run(std::size_t count) {
    while (found_.given_on < count) {
      now_ns_ = next_ns();
      happen();
      scan();
      let_in();
    }
    return found_;
  }

 private:
  // What a backend really does.
  struct Truth {
    PerDevice takes{};
    std::uint64_t allocates_ns = kNever_ns;
    bool has_allocated = false;
    std::uint64_t ends_ns = kNever_ns;
    PerDevice returns_ns{};  // kNever_ns: not on its way
    bool crashes = false;
    bool is_measured = false;  // it can be told what it takes

    bool has_ended(std::uint64_t now) const { return ends_ns <= now; }
    bool holds(std::size_t device, std::uint64_t now) const {
      return has_allocated && takes[device] != 0 && returns_ns[device] > now;
    }
  };

  std::uint64_t draw(std::uint64_t least, std::uint64_t most) {
    return std::uniform_int_distribution<std::uint64_t>(least, most)(random_);
  }
  bool chance(std::uint64_t percent) { return draw(1, 100) <= percent; }
  BackendView& view(std::size_t i) { return snapshot_.backends[i]; }

  std::uint64_t next_ns() const {
    std::uint64_t next = std::min({sample_begins_ns_, sample_arrives_ns_, stops_ns_, wake_ns_});
    for (const Truth& truth : truth_) {
      if (truth.allocates_ns > now_ns_) next = std::min(next, truth.allocates_ns);
      if (truth.ends_ns > now_ns_) next = std::min(next, truth.ends_ns);
    }
    return std::max(next, now_ns_);
  }

  void happen() {
    for (Truth& truth : truth_) {
      if (truth.allocates_ns <= now_ns_ && !truth.has_ended(now_ns_)) truth.has_allocated = true;
    }
    if (now_ns_ >= sample_arrives_ns_) {
      sample_ = begun_;
      facts_.devices.sample = &sample_;
      sample_arrives_ns_ = kNever_ns;
      sample_begins_ns_ = now_ns_ + draw(20, 150) * kMillisecond_ns;
    }
    if (now_ns_ >= sample_begins_ns_) {
      measure();
      sample_begins_ns_ = kNever_ns;
      sample_arrives_ns_ = now_ns_ + draw(1, 60) * kMillisecond_ns;
    }
    if (now_ns_ >= stops_ns_) {
      for (std::uint64_t n = draw(1, 3); n > 0; --n) stop_one();
      stops_ns_ = now_ns_ + draw(kMillisecond_ns, between_stops_ns_);
    }
  }

  bool names_processes(std::size_t device) const {
    return driver_ == Driver::kNamesProcesses || (driver_ == Driver::kNamesSome && device == 0);
  }

  void measure() {
    begun_ = Sample();
    begun_.taken_ns = now_ns_;
    for (std::uint32_t d = 0; d < kDevices; ++d) {
      DeviceSample device{d, kDevice_bytes, kDevice_bytes, names_processes(d), {}};
      for (const Truth& truth : out_) {
        if (truth.holds(d, now_ns_))
          device.free_bytes -= std::min(device.free_bytes, truth.takes[d]);
      }
      for (std::size_t i = 0; i < kSlots; ++i) {
        if (!truth_[i].holds(d, now_ns_)) continue;
        device.free_bytes -= std::min(device.free_bytes, truth_[i].takes[d]);
        if (device.knows_processes)
          device.processes.emplace_back(view(i).process.pid, truth_[i].takes[d]);
      }
      begun_.devices.push_back(device);
    }
    for (std::size_t i = 0; i < kSlots; ++i) {
      if (!truth_[i].is_measured) continue;
      Bytes bytes;
      for (std::size_t d = 0; d < kDevices; ++d)
        bytes.device[d] = truth_[i].holds(d, now_ns_) ? truth_[i].takes[d] : 0;
      begun_.backends.emplace_back(view(i).ref, bytes);
    }
  }

  void stop_one() {
    const std::size_t i = draw(0, kSlots - 1);
    if (view(i).state.state != BackendState::kReady || truth_[i].ends_ns != kNever_ns) return;
    if (!truth_[i].has_allocated && !chance(20)) return;
    if (chance(10)) {
      truth_[i].crashes = true;
      end_at(i, now_ns_ + draw(1, 5) * kMillisecond_ns);
    } else {
      view(i).control = kControlEvict;
    }
  }

  void end_at(std::size_t i, std::uint64_t at_ns) {
    truth_[i].ends_ns = at_ns;
    for (std::uint64_t& returns : truth_[i].returns_ns)
      returns = at_ns + draw(kMillisecond_ns, kDelayMax_ns);
  }

  void take_measures() {
    for (const auto& [ref, bytes] : sample_.backends) {
      BackendView& b = view(ref.index);
      if (b.ref != ref || b.state.state != BackendState::kReady) continue;
      b.measured = bytes;
      b.peak = larger_of(b.peak, bytes);
    }
  }

  void scan() {
    take_measures();
    for (bool changed = true; changed;) {
      changed = false;
      snapshot_.now_ns = now_ns_;
      facts_.exited.clear();
      facts_.vanished.clear();
      facts_.devices.listed.clear();
      for (std::size_t i = 0; i < kSlots; ++i) {
        if (!view(i).live() || !truth_[i].has_ended(now_ns_)) continue;
        facts_.exited.push_back(view(i).ref);
        facts_.vanished.push_back(view(i).ref);
      }
      list();
      const Decision decision = decide(snapshot_, facts_);
      facts_.devices.baselines_from_ns =
          baselines_from_ns(facts_.devices.baselines_from_ns, decision, snapshot_);
      for (const Action& action : decision.actions) changed |= carry_out(action);
      wake_ns_ = decision.wake_ns;
    }
  }

  void list() {
    for (const DeviceSample& device : sample_.devices) {
      for (const auto& [pid, bytes] : device.processes) {
        for (const BackendView& b : snapshot_.backends) {
          if (b.process.pid == pid) facts_.devices.listed.push_back({b.ref, 1u << device.device});
        }
      }
    }
  }

  bool carry_out(const Action& action) {
    const std::size_t i = action.backend.index;
    BackendView& b = view(i);
    switch (action.kind) {
      case ActionKind::kClose:
        b.stop = action.stop;
        b.stop.stopping_ns = now_ns_;
        b.state.state = BackendState::kStopping;
        return true;
      case ActionKind::kSignal:
        b.stop.signalled_ns = now_ns_;
        if (truth_[i].ends_ns == kNever_ns) end_at(i, now_ns_ + draw(1, 300) * kMillisecond_ns);
        return true;
      case ActionKind::kSettle:
        b.stop.ended_ns = now_ns_;
        return true;
      case ActionKind::kMarkGone:
        give_on(i);
        return true;
      default:
        ADD_FAILURE() << "an action that nothing here leads to";
        return false;
    }
  }

  void give_on(std::size_t i) {
    BackendView& gone = view(i);
    bool is_out = false;
    for (std::size_t d = 0; d < kDevices; ++d) is_out |= truth_[i].holds(d, now_ns_);
    const bool is_late =
        gone.stop.ended_ns != 0 && now_ns_ >= gone.stop.ended_ns + settle_ns_ && settle_ns_ != 0;
    ++found_.given_on;
    found_.early += is_out && !is_late;
    found_.by_time += is_late;
    for (BackendView& other : snapshot_.backends) {
      if (&other != &gone && other.state.state == BackendState::kStopping)
        raise_baseline(gone, &other.stop);
    }
    truth_[i].ends_ns = kNever_ns;
    std::erase_if(out_, [&](const Truth& one) {
      return std::all_of(one.returns_ns.begin(), one.returns_ns.end(),
                         [&](std::uint64_t returns_ns) { return returns_ns <= now_ns_; });
    });
    if (is_out) out_.push_back(truth_[i]);
    truth_[i] = Truth();
    BackendView next;
    next.ref = {gone.ref.index, gone.ref.generation + 1};
    next.effective = gone.effective;
    gone = next;
  }

  // Whatever fits comes in at once: devices are full.
  void let_in() {
    for (std::uint32_t i = 0; i < kSlots; ++i) {
      if (view(i).live()) continue;
      PerDevice takes{};
      const std::size_t first = draw(0, kDevices - 1);
      takes[first] = draw(kGiB / 2, 16 * kGiB);
      if (chance(30)) takes[(first + 1) % kDevices] = draw(kGiB / 2, 8 * kGiB);
      if (fits(takes)) load(i, takes);
    }
  }

  bool fits(const PerDevice& takes) const {
    for (std::size_t d = 0; d < kDevices; ++d) {
      std::uint64_t held = takes[d];
      for (const BackendView& b : snapshot_.backends) {
        if (b.live()) held += most_held(b, d);
      }
      if (held > kDevice_bytes) return false;
    }
    return true;
  }

  void load(std::uint32_t i, const PerDevice& takes) {
    BackendView& b = view(i);
    b.state = {b.ref.generation, 0, BackendState::kReady};
    b.model = "m" + std::to_string(i);
    b.process.pid = next_pid_++;
    b.reserved_ns = b.ready_ns = b.last_used_ns = now_ns_;
    b.noted = pack_half(b.ref.generation, static_cast<std::uint32_t>(BackendState::kReady));
    Truth& truth = truth_[i];
    for (std::size_t d = 0; d < kDevices; ++d) {
      b.expected.device[d] = takes[d];
      if (takes[d] != 0) b.devices |= 1u << d;
      truth.takes[d] = takes[d] - draw(0, takes[d] / 10);
      truth.returns_ns[d] = kNever_ns;
    }
    truth.allocates_ns = now_ns_ + draw(1, 3000) * kMillisecond_ns;
    truth.is_measured = driver_ == Driver::kNamesProcesses || chance(50);
  }

  std::mt19937 random_{20260101};
  const Driver driver_;
  const std::uint64_t settle_ns_;
  const std::uint64_t between_stops_ns_;  // at most
  Snapshot snapshot_;
  Facts facts_;
  std::array<Truth, kSlots> truth_;
  std::vector<Truth> out_;  // of places that were given on too early, or by time
  Sample begun_;
  Sample sample_;
  pid_t next_pid_ = 1000;
  std::uint64_t now_ns_ = 1000 * kSecond_ns;
  std::uint64_t sample_begins_ns_ = now_ns_;
  std::uint64_t sample_arrives_ns_ = kNever_ns;
  std::uint64_t stops_ns_ = now_ns_ + kSecond_ns;
  std::uint64_t wake_ns_ = kNever_ns;
  Found found_;
};

// 100,000 by hand: MODELPOOL_TEST_HANDOVERS.
const std::size_t kHandOvers = [] {
  const char* const asked = std::getenv("MODELPOOL_TEST_HANDOVERS");
  return asked == nullptr ? std::size_t{20'000} : static_cast<std::size_t>(std::atol(asked));
}();
// Up to three stop at a time, and the next while these still end.
constexpr std::uint64_t kCrowded_ns = 800 * kMillisecond_ns;
constexpr std::uint64_t kCalm_ns = 20 * kSecond_ns;

TEST(SettleSim, P3NoPlaceIsGivenOnBeforeADriverThatNamesProcessesHasItsMemoryBack) {
  const Found found = HandOvers(Driver::kNamesProcesses, kSettle_ns, kCrowded_ns).run(kHandOvers);
  EXPECT_EQ(found.early, 0u);
  EXPECT_EQ(found.by_time, 0u) << "its list says when, always";
}

TEST(SettleSim, P3NoPlaceIsGivenOnBeforeItsMemoryIsBackByFreeBytesAlone) {
  EXPECT_EQ(HandOvers(Driver::kNamesNone, kSettle_ns, kCrowded_ns).run(kHandOvers).early, 0u);
}

TEST(SettleSim, P3NoPlaceIsGivenOnBeforeItsMemoryIsBackOnDevicesOfBothKinds) {
  EXPECT_EQ(HandOvers(Driver::kNamesSome, kSettle_ns, kCrowded_ns).run(kHandOvers / 10).early, 0u);
}

TEST(SettleSim, FreeBytesAloneTellWhereLittleElseHappens) {
  const Found found = HandOvers(Driver::kNamesNone, kSettle_ns, kCalm_ns).run(kHandOvers / 50);
  EXPECT_EQ(found.early, 0u);
  EXPECT_LT(found.by_time, found.given_on / 3) << "crashes among them, which have no baseline";
}

TEST(SettleSim, WithoutSettlingPlacesAreGivenOnTooEarly) {
  const Found found = HandOvers(Driver::kNamesProcesses, 0, kCrowded_ns).run(kHandOvers / 100);
  EXPECT_GT(found.early, found.given_on / 2);
}

}  // namespace
}  // namespace modelpool::coordinator
