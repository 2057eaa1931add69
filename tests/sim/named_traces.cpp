#include "named_traces.hpp"

#include <algorithm>
#include <cmath>
#include <functional>
#include <random>

#include "base/text.hpp"
#include "base/time.hpp"

namespace modelpool::sim {
namespace {

constexpr double kHour = 3600;  // times are seconds here
constexpr double kDay = 24 * kHour;
constexpr std::uint32_t kParallel = 4;

using Weights = std::vector<double>;

class Maker {
 public:
  explicit Maker(std::uint64_t seed) : random_(seed) {}

  // --- Chance

  double uniform() { return static_cast<double>(random_() >> 11) * 0x1p-53; }
  double uniform(double from, double to) { return from + (to - from) * uniform(); }
  std::uint32_t one_of(std::size_t count) {
    return static_cast<std::uint32_t>(uniform() * static_cast<double>(count));
  }
  bool chance(double probability) { return uniform() < probability; }
  double exponential(double mean) { return -mean * std::log(1 - uniform()); }
  double normal() {
    return std::sqrt(-2 * std::log(1 - uniform())) * std::cos(2 * M_PI * uniform());
  }
  // Most requests take about the median, some much longer.
  double service(double median = 5) {
    return std::clamp(median * std::exp(0.8 * normal()), 0.2, 120.0);
  }
  std::size_t geometric(double mean) {
    std::size_t n = 1;
    while (n < 500 && !chance(1 / mean)) ++n;
    return n;
  }
  std::uint32_t weighted(const Weights& weights) {
    double left = uniform();
    double sum = 0;
    for (const double weight : weights) sum += weight;
    for (std::uint32_t i = 0; i + 1 < weights.size(); ++i) {
      left -= weights[i] / sum;
      if (left < 0) return i;
    }
    return static_cast<std::uint32_t>(weights.size() - 1);
  }
  // Gaps whose deviation is so many times their mean.
  double bursty(double mean, double deviation) {
    std::gamma_distribution<double> gaps(1 / (deviation * deviation), mean * deviation * deviation);
    return gaps(random_);
  }

  // --- What is asked for

  void pool(std::uint32_t places, std::size_t models, double least_load, double longest_load) {
    trace_.places = places;
    for (std::size_t i = 0; i < models; ++i) {
      model(std::exp(uniform(std::log(least_load), std::log(longest_load))));
    }
  }
  void memory(double gigabytes) { trace_.memory_bytes = bytes(gigabytes); }
  void model(double load, std::uint32_t parallel = kParallel, double gigabytes = 1) {
    trace_.models.push_back({ns(load), bytes(gigabytes), parallel, false});
  }
  void set_load(std::size_t model, double load) { trace_.models[model].load_ns = ns(load); }
  void request(double at, std::uint32_t model, double service) {
    trace_.requests.push_back({ns(at), model, ns(service)});
  }
  // Requests to one model, each after the last would have ended and a pause.
  void talk(double at, std::uint32_t model, double mean_length, double pause, double median) {
    for (std::size_t left = geometric(mean_length); left > 0; --left) {
      const double takes = service(median);
      request(at, model, takes);
      at += takes + exponential(pause);
    }
  }
  // At random times.
  void every(double mean_gap, double until, const std::function<void(double)>& act) {
    for (double at = 0; at < until; at += exponential(mean_gap)) act(at);
  }
  TraceSession& session(double start) {
    trace_.sessions.emplace_back().start_ns = ns(start);
    return trace_.sessions.back();
  }
  static void step(TraceSession& session,
                   const std::vector<std::pair<std::uint32_t, double>>& calls, double pause) {
    TraceSession::Step& step = session.steps.emplace_back();
    for (const auto& [model, takes] : calls) step.calls.push_back({model, ns(takes)});
    step.pause_ns = ns(pause);
  }

  std::vector<TraceModel>& models() { return trace_.models; }
  Trace take() {
    std::stable_sort(
        trace_.requests.begin(), trace_.requests.end(),
        [](const TraceRequest& a, const TraceRequest& b) { return a.at_ns < b.at_ns; });
    return std::move(trace_);
  }

 private:
  static std::uint64_t ns(double seconds) {
    return static_cast<std::uint64_t>(std::llround(seconds * 1e9));
  }
  static std::uint64_t bytes(double gigabytes) {
    return static_cast<std::uint64_t>(std::llround(gigabytes * 1e9));
  }

  std::mt19937_64 random_;
  Trace trace_;
};

Weights zipf(std::size_t count, double exponent) {
  Weights weights;
  for (std::size_t i = 0; i < count; ++i)
    weights.push_back(std::pow(static_cast<double>(i + 1), -exponent));
  return weights;
}

// --- Open: requests come whatever becomes of them ------------------------------------------------

void zipf8(Maker& m) {
  m.pool(3, 8, 10, 60);
  const Weights weights = zipf(8, 1);
  m.every(30, 2 * kDay, [&](double at) { m.request(at, m.weighted(weights), m.service()); });
}

void zipf20(Maker& m) {
  m.pool(5, 20, 5, 90);
  const Weights weights = zipf(20, 0.9);
  m.every(120, 2 * kDay, [&](double at) { m.talk(at, m.weighted(weights), 6, 20, 6); });
}

// By day ten times as much as at night; twice a day other models are liked.
void zipf40(Maker& m) {
  m.pool(8, 40, 5, 120);
  const Weights weights = zipf(40, 1.1);
  std::vector<std::uint32_t> order(40);
  for (std::uint32_t i = 0; i < order.size(); ++i) order[i] = i;
  double next_change = kDay / 2;
  m.every(60, 4 * kDay, [&](double at) {
    if (at > next_change) {
      next_change += kDay / 2;
      for (int i = 0; i < 12; ++i) std::swap(order[m.one_of(40)], order[m.one_of(40)]);
    }
    const double day = 0.1 + 0.9 * std::pow(0.5 - 0.5 * std::cos(2 * M_PI * at / kDay), 1.5);
    if (m.chance(day)) m.talk(at, order[m.weighted(weights)], 5, 15, 6);
  });
}

void gamma12(Maker& m) {
  m.pool(4, 12, 5, 90);
  const Weights weights = zipf(12, 1);
  double sum = 0;
  for (const double weight : weights) sum += weight;
  for (std::uint32_t model = 0; model < 12; ++model) {
    const double gap = kHour / 150 * sum / weights[model];
    for (double at = m.bursty(gap, 4) * m.uniform(); at < 2 * kDay; at += m.bursty(gap, 4))
      m.request(at, model, m.service());
  }
}

// github.com/Layr-Labs/d-inference, issue 789: 1 % of the requests cause most loads.
void dinf(Maker& m) {
  m.pool(3, 5, 12, 25);
  m.every(160, 49 * kHour, [&](double at) { m.talk(at, 0, 60, 1, 1.6); });
  m.every(400, 49 * kHour, [&](double at) { m.talk(at, 1, 50, 1, 1.6); });
  m.every(168, 49 * kHour, [&](double at) {
    m.request(at, 2 + m.weighted({.4, .35, .25}), m.service(4));
  });
}

void five3(Maker& m) {
  m.pool(3, 5, 15, 45);
  m.every(45, 49 * kHour, [&](double at) {
    m.request(at, m.weighted({.35, .30, .23, .07, .05}), m.service());
  });
}

// In a circle, one more than there are places: the worst for LRU.
void scan(Maker& m) {
  m.pool(3, 4, 20, 20);
  std::uint32_t next = 0;
  for (double at = 0; at < kDay; at += m.uniform(40, 80)) m.request(at, next++ % 4, m.service(4));
}

void shift(Maker& m) {
  m.pool(3, 10, 10, 60);
  const Weights weights = zipf(10, 1.4);
  m.every(40, 3 * kDay, [&](double at) {
    const auto shifts = static_cast<std::uint32_t>(at / (6 * kHour));
    m.request(at, (m.weighted(weights) + 3 * shifts) % 10, m.service());
  });
}

// Dear models that are wanted once in hours, cheap ones all the time.
void pollute(Maker& m) {
  m.pool(3, 8, 5, 12);
  for (std::size_t model = 5; model < 8; ++model) m.set_load(model, 110);
  m.every(40, 3 * kDay, [&](double at) {
    m.request(at, m.weighted({.4, .25, .2, .1, .05}), m.service());
  });
  m.every(2 * kHour, 3 * kDay, [&](double at) { m.talk(at, 5 + m.one_of(3), 4, 20, 8); });
}

// --- Closed: who asks waits for the answer -------------------------------------------------------

void agent1(Maker& m) {
  m.pool(1, 2, 15, 15);
  TraceSession& agent = m.session(0);
  for (std::uint32_t i = 0; i < 1500; ++i)
    Maker::step(agent, {{i % 2, m.service(i % 2 == 0 ? 10 : 6)}}, m.uniform(0.1, 2));
}

// A planner, and runs of calls of a coder.
void agent2p(Maker& m) {
  m.pool(1, 2, 20, 30);
  for (int i = 0; i < 2; ++i) {
    TraceSession& agent = m.session(m.uniform(0, 60));
    for (int plan = 0; plan < 150; ++plan) {
      Maker::step(agent, {{0, m.service(12)}}, m.uniform(0.2, 1));
      for (std::size_t left = m.geometric(6); left > 0; --left)
        Maker::step(agent, {{1, m.service(5)}}, m.uniform(0.2, 3));
    }
  }
}

void agent3(Maker& m) {
  m.pool(1, 3, 10, 30);
  for (int i = 0; i < 4; ++i) {
    TraceSession& agent = m.session(m.uniform(0, 60));
    for (int call = 0; call < 800; ++call)
      Maker::step(agent, {{m.weighted({.5, .35, .15}), m.service(6)}}, m.exponential(10));
  }
}

// github.com/mostlygeek/llama-swap, issue 611: an orchestrator, explorers, a coder.
void fanout(Maker& m) {
  m.pool(1, 3, 10, 25);
  for (int i = 0; i < 2; ++i) {
    TraceSession& agent = m.session(m.uniform(0, 60));
    for (int round = 0; round < 250; ++round) {
      Maker::step(agent, {{0, m.service(8)}}, 0.3);
      Maker::step(agent,
                  {{1, m.service()},
                   {1, m.service()},
                   {1, m.service()},
                   {2, m.service(10)},
                   {0, m.service(4)}},
                  0.3);
    }
  }
}

// Embedding, reranker, chat, on two places.
void trio(Maker& m) {
  m.pool(2, 0, 1, 1);
  for (const double load : {40.0, 3.0, 4.0}) m.model(load);
  for (int i = 0; i < 4; ++i) {
    TraceSession& user = m.session(m.uniform(0, 100));
    for (int question = 0; question < 400; ++question) {
      Maker::step(user, {{1, 0.1}}, 0.05);
      if (m.chance(0.7)) Maker::step(user, {{2, 0.3}}, 0.05);
      Maker::step(user, {{0, m.service(8)}}, m.exponential(60));
    }
  }
  m.every(25, 8 * kHour, [&](double at) { m.request(at, 1, 0.1); });
}

// Every two hours 300 requests, eight at a time, to the last model.
void batches(Maker& m, std::uint32_t model) {
  for (int batch = 0; batch < 24; ++batch) {
    for (int line = 0; line < 8; ++line) {
      TraceSession& session = m.session(batch * 2 * kHour + 600 + line * 0.01);
      for (int i = 0; i < 38; ++i) Maker::step(session, {{model, m.service(4)}}, 0.05);
    }
  }
}

void batch1(Maker& m) {
  m.pool(1, 3, 20, 40);
  m.every(90, 2 * kDay, [&](double at) { m.request(at, m.weighted({.85, .15}), m.service(6)); });
  batches(m, 2);
}

void batch2(Maker& m) {
  m.pool(2, 4, 20, 40);
  m.every(45, 2 * kDay, [&](double at) { m.request(at, m.weighted({.5, .3, .2}), m.service(6)); });
  batches(m, 3);
}

// github.com/mostlygeek/llama-swap, issue 612: four models on one place.
void swap(Maker& m, double gap) {
  m.pool(1, 4, 12, 30);
  m.every(gap, kDay, [&](double at) {
    m.request(at, m.weighted({.45, .3, .15, .1}), m.service());
  });
}

// All wanted all the time.
void busy5(Maker& m) {
  m.pool(3, 5, 15, 45);
  m.every(4, kDay, [&](double at) {
    m.request(at, m.weighted({.3, .25, .2, .15, .1}), m.service());
  });
}

// --- Memory is what runs short -------------------------------------------------------------------

// Talks with models that take so many gigabytes, and a load of that much at 0.8 to 3 of them a
// second.
void talks_in_memory(Maker& m, double gigabytes, const std::vector<double>& sizes) {
  m.memory(gigabytes);
  for (const double size : sizes) m.model(2 + size / m.uniform(0.8, 3), kParallel, size);
  const Weights weights = zipf(sizes.size(), 0.9);
  std::vector<std::uint32_t> order(sizes.size());
  for (std::uint32_t i = 0; i < order.size(); ++i) order[i] = i;
  for (std::size_t i = order.size(); i > 1; --i) std::swap(order[i - 1], order[m.one_of(i)]);
  m.every(150, 2 * kDay, [&](double at) { m.talk(at, order[m.weighted(weights)], 5, 15, 6); });
}

void mem(Maker& m, std::size_t models, double gigabytes) {
  std::vector<double> sizes;
  for (std::size_t i = 0; i < models; ++i) sizes.push_back(std::exp(m.uniform(0, std::log(80))));
  talks_in_memory(m, gigabytes, sizes);
}

// A third of them so large that only one goes in with others.
void membig(Maker& m) {
  std::vector<double> sizes;
  for (int i = 0; i < 12; ++i) sizes.push_back(i % 3 == 0 ? m.uniform(60, 80) : m.uniform(2, 20));
  talks_in_memory(m, 128, sizes);
}

// Embedding and reranker are small; of two chat models only one fits beside them.
void memtrio(Maker& m) {
  m.memory(48);
  const std::pair<double, double> models[] = {{35, 38}, {2, 0.6}, {3, 1.3}, {28, 30}};
  for (const auto& [load, gigabytes] : models) m.model(load, kParallel, gigabytes);
  for (int i = 0; i < 3; ++i) {
    TraceSession& user = m.session(m.uniform(0, 100));
    for (int question = 0; question < 400; ++question) {
      Maker::step(user, {{1, 0.1}}, 0.05);
      if (m.chance(0.7)) Maker::step(user, {{2, 0.3}}, 0.05);
      const std::uint32_t chat = m.chance(0.75) ? 0 : 3;
      Maker::step(user, {{chat, m.service(8)}}, m.exponential(90));
    }
  }
}

// --- Any mixture, for the search for bad cases ---------------------------------------------------

void ask_in_a_style(Maker& m, std::uint32_t model, double load, double until) {
  const double median = m.uniform(0.5, 15);
  const double mean = median * 1.35;
  switch (m.one_of(5)) {
    case 0:
      return m.every(mean / load, until,
                     [&](double at) { m.request(at, model, m.service(median)); });
    case 1: {
      const double length = m.uniform(2, 40);
      const double pause = m.uniform(0.2, 30);
      return m.every(length * mean / load, until,
                     [&](double at) { m.talk(at, model, length, pause, median); });
    }
    case 2: {  // by the clock, some at once
      const double period = std::max(mean, mean / load);
      const std::uint32_t burst = 1 + m.one_of(6);
      for (double at = m.uniform() * period; at < until; at += period * burst) {
        for (std::uint32_t i = 0; i < burst; ++i)
          m.request(at + 0.05 * i, model, m.service(median));
      }
      return;
    }
    case 3: {  // batches, four at a time
      const std::uint32_t length = 20 + m.one_of(200);
      const double period = length * mean / load;
      for (double at = m.uniform() * period; at < until; at += period) {
        for (int line = 0; line < 4; ++line) {
          TraceSession& session = m.session(at);
          for (std::uint32_t i = 0; i < length / 4; ++i)
            Maker::step(session, {{model, m.service(median)}}, 0.05);
        }
      }
      return;
    }
    default:
      return;  // only agents ask for it
  }
}

void random_agent(Maker& m, std::uint32_t models, double until) {
  Weights weights;
  for (std::uint32_t i = 0; i < models; ++i) weights.push_back(m.chance(0.5) ? m.uniform() : 0.02);
  const double stays = m.chance(0.5) ? 0 : m.uniform(0, 0.9);
  const double thinks = std::exp(m.uniform(std::log(0.1), std::log(60)));
  TraceSession& agent = m.session(m.uniform(0, 600));
  std::uint32_t model = 0;
  for (double at = 0; at < until / 2;) {
    if (!m.chance(stays)) model = m.weighted(weights);
    const double takes = m.service(4);
    const double pause = m.exponential(thinks);
    Maker::step(agent, {{model, takes}}, pause);
    at += takes + pause + 5;
  }
}

void mixture(Maker& m) {
  const std::uint32_t models = 2 + m.one_of(11);
  const std::uint32_t places = 1 + m.one_of(std::min<std::size_t>(5, models - 1));
  const double least_load = m.uniform(2, 20);
  m.pool(places, models, least_load, m.uniform(20, 120));
  const double until = m.uniform(4, 24) * kHour;
  const double busy = std::exp(m.uniform(std::log(0.05), std::log(1.5)));
  for (TraceModel& model : m.models()) model.parallel = m.chance(0.3) ? 1 : kParallel;
  const Weights weights = zipf(models, m.uniform(0.2, 1.6));
  double sum = 0;
  for (const double weight : weights) sum += weight;
  for (std::uint32_t model = 0; model < models; ++model)
    ask_in_a_style(m, model, busy * places * weights[model] / sum, until);
  const std::uint32_t agents = m.chance(0.5) ? 0 : 1 + m.one_of(4);
  for (std::uint32_t i = 0; i < agents; ++i) random_agent(m, models, until);
}

// A model that is wanted now and then, behind streams that never end.
void behind(Maker& m) {
  m.pool(1, 0, 5, 5);
  for (int i = 0; i < 2; ++i) m.model(5, 64);
  m.models()[1].rare = true;
  m.every(2, kDay, [&](double at) { m.request(at, 0, m.chance(0.5) ? 8 : 15); });
  for (double at = 120; at < kDay; at += 120) m.request(at, 1, 5);
}

struct Named {
  std::string_view name;
  void (*make)(Maker&);
};
constexpr Named kNamed[] = {
    {"zipf8", zipf8},
    {"zipf20", zipf20},
    {"zipf40", zipf40},
    {"gamma12", gamma12},
    {"dinf", dinf},
    {"five3", five3},
    {"scan", scan},
    {"shift", shift},
    {"pollute", pollute},
    {"agent1", agent1},
    {"agent2p", agent2p},
    {"agent3", agent3},
    {"fanout", fanout},
    {"trio", trio},
    {"batch1", batch1},
    {"batch2", batch2},
    {"swap1", [](Maker& m) { swap(m, 25); }},
    {"swapo", [](Maker& m) { swap(m, 6); }},
    {"busy5", busy5},
    {"mem12", [](Maker& m) { mem(m, 12, 96); }},
    {"mem20", [](Maker& m) { mem(m, 20, 160); }},
    {"membig", membig},
    {"memtrio", memtrio},
    {"behind", behind},
    {"rand", mixture},
};

}  // namespace

std::vector<std::string_view> trace_names() {
  std::vector<std::string_view> names;
  for (const Named& named : kNamed) names.push_back(named.name);
  return names;
}

Result<Trace> make_trace(std::string_view name, std::uint64_t seed) {
  std::string known;
  for (const Named& named : kNamed) {
    if (named.name == name) {
      Maker maker(seed);
      named.make(maker);
      return maker.take();
    }
    known += " " + std::string(named.name);
  }
  return fail(Errc::kInvalid, "there is no workload " + quote(name) + "; there are" + known);
}

}  // namespace modelpool::sim
