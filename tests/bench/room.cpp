#include "room.hpp"

#include <cmath>
#include <random>

#include "operations.hpp"
#include "policy/victims.hpp"

namespace modelpool::bench {
namespace {

constexpr std::uint64_t kNow_ns = 1'000'000 * kSecond_ns;

struct Crowd {
  std::uint32_t residents, devices, heads;
  std::string text() const {
    return std::to_string(residents) + "x" + std::to_string(devices) + "x" + std::to_string(heads);
  }
};

// A pool that is full: of places, of the host's memory and of each device. Models of 0.5 to 80 GB,
// those above 40 GB on two devices and those above 60 GB on four; an eighth as much of the host. A
// quarter is in use. Each head may go to any devices, and has waited for as long as one in use
// keeps its place.
class FullPool {
 public:
  FullPool(const Crowd& crowd, std::uint64_t seed) : chance_(seed) {
    rules_.order.now_ns = kNow_ns;
    rules_.limits.max_backends = crowd.residents;
    rules_.limits.devices = (1u << crowd.devices) - 1;
    for (std::uint32_t i = 0; i < crowd.residents; ++i) add_resident(i, crowd.devices);
    for (std::uint32_t i = 0; i < crowd.heads; ++i) add_head(i, crowd.devices);
  }

  std::size_t make() const {
    Alarm alarm(kNow_ns);
    return make_room(holdings_, heads_, rules_, alarm).steps.size();
  }

 private:
  double uniform(double from, double to) {
    return from + (to - from) * static_cast<double>(chance_() >> 11) * 0x1p-53;
  }
  double spread(double from, double to) { return std::exp(uniform(std::log(from), std::log(to))); }
  std::uint64_t seconds(double s) { return static_cast<std::uint64_t>(s * 1e9); }
  static std::uint64_t bytes(double gigabytes) {
    return static_cast<std::uint64_t>(gigabytes * 1e9);
  }
  static std::uint32_t width(double gigabytes, std::uint32_t devices) {
    return std::min(devices, gigabytes > 60 ? 4u : gigabytes > 40 ? 2u : 1u);
  }

  void add_resident(std::uint32_t slot, std::uint32_t devices) {
    const double gigabytes = spread(0.5, 80);
    Holding holding;
    Resident& resident = holding.resident;
    resident.ref = {slot, 1};
    resident.state = BackendState::kReady;
    resident.model = 1000 + slot;
    resident.ready_ns = kNow_ns - seconds(10000);
    resident.last_used_ns = kNow_ns - seconds(spread(1, 7200));
    resident.load_ns = seconds(2 + gigabytes / uniform(0.5, 3));
    resident.interval_ns = seconds(spread(1, 3600));
    resident.in_flight = chance_() % 4 == 0;
    resident.holds = Amounts(1, bytes(gigabytes / 8));
    rules_.limits.max_memory += bytes(gigabytes / 8);
    const std::uint32_t wide = width(gigabytes, devices);
    const auto first = static_cast<std::uint32_t>(chance_() % devices) / wide * wide;
    for (std::uint32_t i = 0; i < wide; ++i) {
      const std::uint32_t device = (first + i) % devices;
      resident.devices |= 1u << device;
      resident.holds.set_bytes(index_of_device(device), bytes(gigabytes / wide));
      rules_.limits.device[device].bytes += bytes(gigabytes / wide);
    }
    holding.role = Holding::Role::kCandidate;
    holding.max_wait_ns = seconds(60);
    holding.drain_timeout_ns = seconds(30);
    holdings_.push_back(holding);
  }

  void add_head(std::uint32_t number, std::uint32_t devices) {
    const double gigabytes = spread(2, 80);
    Head head;
    head.first.arrival = head.first.model = 1 + number;
    head.first.row = number;
    head.first.deadline_ns = kNever_ns;
    head.first.looked_ns = kNow_ns;
    head.first.takes = Amounts(1, bytes(gigabytes / 8));
    head.first.devices.count = width(gigabytes, devices);
    head.first.devices.bytes.fill(bytes(gigabytes / head.first.devices.count));
    head.since_ns = head.first.model_since_ns = kNow_ns - seconds(100);
    head.load_ns = head.first.load_ns = seconds(2 + gigabytes);
    heads_.push_back(head);
  }

  std::mt19937_64 chance_;
  std::vector<Holding> holdings_;
  std::vector<Head> heads_;
  RoomRules rules_;
};

}  // namespace

void measure_room(Report& report, std::size_t samples) {
  for (const Crowd& crowd : {Crowd{8, 2, 8}, Crowd{8, 8, 8}, Crowd{8, 8, 64}, Crowd{64, 8, 1},
                             Crowd{64, 8, 64}, Crowd{64, 8, 0}}) {
    std::vector<double> times_us;
    for (std::size_t i = 0; i < samples; ++i) {
      const FullPool pool(crowd, i);
      std::uint64_t least_ns = kNever_ns;
      for (int again = 0; again < 5; ++again) {
        const std::uint64_t begin_ns = now_ns();
        use(pool.make());
        least_ns = std::min(least_ns, now_ns() - begin_ns);
      }
      times_us.push_back(static_cast<double>(least_ns) / 1000.0);
    }
    report.add("make_room/" + crowd.text(), std::move(times_us));
  }
}

}  // namespace modelpool::bench
