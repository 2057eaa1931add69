#include "explorer.hpp"

#include <ucontext.h>

#include <algorithm>
#include <array>
#include <cstddef>
#include <memory>
#include <optional>
#include <stdexcept>

namespace modelpool::model {
namespace {

constexpr std::size_t kWordsMax = 8;
constexpr std::size_t kStack_bytes = 512 * 1024;

// For each word the place in its list of values that a thread has got to.
using View = std::array<std::size_t, kWordsMax>;

void take_over(View* view, const View& other) {
  for (std::size_t i = 0; i < kWordsMax; ++i) (*view)[i] = std::max((*view)[i], other[i]);
}

// The words that a thread accessed between two switches, explored or not.
class Footprint {
 public:
  void add(const void* word, bool writes) {
    for (Touch& touch : touches_) {
      if (touch.word != word) continue;
      touch.writes |= writes;
      return;
    }
    touches_.push_back({word, writes});
  }
  void add(const Footprint& other) {
    for (const Touch& touch : other.touches_) add(touch.word, touch.writes);
  }
  void clear() { touches_.clear(); }
  // Whether the order of the two makes a difference.
  bool conflicts(const Footprint& other) const {
    return std::ranges::any_of(touches_, [&](const Touch& mine) {
      return std::ranges::any_of(other.touches_, [&](const Touch& its) {
        return mine.word == its.word && (mine.writes || its.writes);
      });
    });
  }

 private:
  struct Touch {
    const void* word;
    bool writes;
  };
  std::vector<Touch> touches_;
};

struct Value {
  std::uint64_t value = 0;
  View view{};  // of the thread that stored it, as far as its release allows to see
};

struct Thread {
  ucontext_t context{};
  std::unique_ptr<std::byte[]> stack = std::make_unique<std::byte[]>(kStack_bytes);
  View view{};
  bool ended = false;
  // Its next step, if that was tried already where nothing since makes a difference to it.
  std::optional<Footprint> asleep;
};

// Every run answers the same questions until the last one whose answer can still be another.
class Choices {
 public:
  std::size_t choose(std::size_t count) {
    if (count <= 1 || closed_) return 0;
    if (next_ == made_.size()) made_.push_back({0, count, {}});
    if (made_[next_].count != count)
      throw std::logic_error("the scenario is not the same each time");
    return made_[next_++].answer;
  }
  // The one that was answered last, and that one again later.
  std::size_t last() const { return next_ - 1; }
  std::vector<Footprint>& steps(std::size_t place) { return made_[place].steps; }
  // What is left of this run was seen before: it only comes to its end.
  void close() { closed_ = true; }
  bool closed() const { return closed_; }
  bool next_run() {
    next_ = 0;
    closed_ = false;
    while (!made_.empty() && made_.back().answer + 1 == made_.back().count) made_.pop_back();
    if (made_.empty()) return false;
    ++made_.back().answer;
    return true;
  }

 private:
  struct Choice {
    std::size_t answer;
    std::size_t count;
    std::vector<Footprint> steps;  // which thread goes on: what each answer so far has accessed
  };
  std::vector<Choice> made_;
  std::size_t next_ = 0;
  bool closed_ = false;
};

bool acquires(std::memory_order order) {
  return order == std::memory_order_acquire || order == std::memory_order_acq_rel ||
         order == std::memory_order_seq_cst;
}
bool releases(std::memory_order order) {
  return order == std::memory_order_release || order == std::memory_order_acq_rel ||
         order == std::memory_order_seq_cst;
}

class Machine {
 public:
  Machine(const Scenario& scenario, const std::string& weakened, Orders orders, Exploration* found)
      : scenario_(scenario), weakened_(weakened), orders_(orders), found_(found) {}

  void run(Choices* choices);

  bool knows(const void* word, Access access) {
    if (running_ == nullptr) return false;
    if (index_of(word) < scenario_.words.size()) return true;
    step_.add(word, access != Access::kLoad);
    return false;
  }
  std::uint64_t load(const void* word, std::memory_order order, Site site);
  void store(const void* word, std::uint64_t value, std::memory_order order, Site site);
  bool change(const void* word, std::uint64_t* expected, std::uint64_t value,
              std::memory_order order, Site site);
  std::uint64_t add(const void* word, std::uint64_t value, std::memory_order order, Site site);
  void run_current();

 private:
  std::size_t index_of(const void* word) const {
    std::size_t i = 0;
    while (i < scenario_.words.size() && scenario_.words[i].word != word) ++i;
    return i;
  }
  // Lets one thread go on, up to its next access.
  void take_step();
  // Lets another thread go first, perhaps; then says with which order the access is made.
  std::memory_order step(std::size_t w, Access access, std::memory_order order, Site site);
  std::uint64_t read(std::size_t w, std::size_t at, std::memory_order order);
  void append(std::size_t w, std::uint64_t value, View view, std::memory_order order);
  void note(std::size_t w, const char* what, std::uint64_t value);

  const Scenario& scenario_;
  const std::string& weakened_;
  const Orders orders_;
  Exploration* found_;
  Choices* choices_ = nullptr;
  std::array<std::vector<Value>, kWordsMax> values_;
  View latest_seq_cst_{};
  std::vector<Thread> threads_;
  Thread* running_ = nullptr;
  Footprint step_;  // of the running thread, since it was switched to
  ucontext_t scheduler_{};
  std::string steps_;
};

Machine* g_machine = nullptr;

void start_thread() { g_machine->run_current(); }

void Machine::run_current() {
  Thread* self = running_;
  scenario_.threads[static_cast<std::size_t>(self - threads_.data())]();
  self->ended = true;
  swapcontext(&self->context, &scheduler_);
}

void Machine::run(Choices* choices) {
  choices_ = choices;
  steps_.clear();
  latest_seq_cst_ = {};
  scenario_.begin();
  for (std::size_t w = 0; w < scenario_.words.size(); ++w)
    values_[w] = {{scenario_.words[w].now(), View{}}};
  threads_.resize(scenario_.threads.size());
  for (Thread& thread : threads_) {
    thread.view = {};
    thread.ended = false;
    thread.asleep.reset();
    getcontext(&thread.context);
    thread.context.uc_stack.ss_sp = thread.stack.get();
    thread.context.uc_stack.ss_size = kStack_bytes;
    thread.context.uc_link = nullptr;
    makecontext(&thread.context, start_thread, 0);
  }
  while (!std::ranges::all_of(threads_, &Thread::ended)) take_step();
  for (const Scenario::Outcome& outcome : scenario_.outcomes) {
    if (outcome.came_about()) found_->outcomes.insert(outcome.name);
  }
  if (scenario_.went_wrong()) {
    found_->violated = true;
    found_->steps = steps_;
  }
  scenario_.end();
}

// Two steps that access different words, or only read, have the same effect in either order: one is
// enough. A thread whose step was tried first sleeps while the others go on, until one of them
// accesses what that step does (sleep sets).
void Machine::take_step() {
  std::vector<Thread*> able;
  std::vector<Thread*> awake;
  for (Thread& thread : threads_) {
    if (thread.ended) continue;
    able.push_back(&thread);
    if (!thread.asleep) awake.push_back(&thread);
  }
  if (awake.empty()) choices_->close();
  const std::vector<Thread*>& from = awake.empty() ? able : awake;
  const std::size_t chosen = choices_->choose(from.size());
  const bool is_noted = orders_ == Orders::kOneOfEachKind && from.size() > 1 && !choices_->closed();
  const std::size_t place = choices_->last();
  if (is_noted) {
    choices_->steps(place).resize(chosen + 1);
    for (std::size_t i = 0; i < chosen; ++i) from[i]->asleep = choices_->steps(place)[i];
  }
  running_ = from[chosen];
  step_.clear();
  swapcontext(&scheduler_, &running_->context);
  running_ = nullptr;
  if (is_noted) choices_->steps(place)[chosen].add(step_);
  for (Thread& thread : threads_) {
    if (thread.asleep && thread.asleep->conflicts(step_)) thread.asleep.reset();
  }
}

std::memory_order Machine::step(std::size_t w, Access access, std::memory_order order, Site site) {
  Thread* self = running_;
  swapcontext(&self->context, &scheduler_);
  step_.add(scenario_.words[w].word, access != Access::kLoad);
  if (order != std::memory_order_seq_cst) return order;
  static constexpr std::array kNames = {" load ", " store ", " cas "};
  const std::string place = std::string(site.function) + kNames[static_cast<std::size_t>(access)] +
                            scenario_.words[w].name;
  found_->sites.insert(place);
  if (place != weakened_) return order;
  switch (access) {
    case Access::kLoad:
      return std::memory_order_acquire;
    case Access::kStore:
      return std::memory_order_release;
    default:
      return std::memory_order_acq_rel;
  }
}

std::uint64_t Machine::read(std::size_t w, std::size_t at, std::memory_order order) {
  const Value& value = values_[w][at];
  running_->view[w] = at;
  if (acquires(order)) take_over(&running_->view, value.view);
  return value.value;
}

void Machine::append(std::size_t w, std::uint64_t value, View view, std::memory_order order) {
  const std::size_t at = values_[w].size();
  running_->view[w] = at;
  if (releases(order)) take_over(&view, running_->view);
  view[w] = at;
  values_[w].push_back({value, view});
  if (order == std::memory_order_seq_cst) latest_seq_cst_[w] = at;
}

void Machine::note(std::size_t w, const char* what, std::uint64_t value) {
  steps_ += "  thread " + std::to_string(running_ - threads_.data()) + ": " + what + " " +
            scenario_.words[w].name + " " + std::to_string(value) + "\n";
}

std::uint64_t Machine::load(const void* word, std::memory_order order, Site site) {
  const std::size_t w = index_of(word);
  order = step(w, Access::kLoad, order, site);
  const std::size_t from = order == std::memory_order_seq_cst
                               ? std::max(running_->view[w], latest_seq_cst_[w])
                               : running_->view[w];
  const std::size_t at = values_[w].size() - 1 - choices_->choose(values_[w].size() - from);
  const std::uint64_t value = read(w, at, order);
  note(w, "reads", value);
  return value;
}

void Machine::store(const void* word, std::uint64_t value, std::memory_order order, Site site) {
  const std::size_t w = index_of(word);
  order = step(w, Access::kStore, order, site);
  append(w, value, View{}, order);
  note(w, "stores", value);
}

bool Machine::change(const void* word, std::uint64_t* expected, std::uint64_t value,
                     std::memory_order order, Site site) {
  const std::size_t w = index_of(word);
  order = step(w, Access::kChange, order, site);
  // It fails on any value it may read that is another one; it succeeds on the last value only.
  const std::size_t from = order == std::memory_order_seq_cst
                               ? std::max(running_->view[w], latest_seq_cst_[w])
                               : running_->view[w];
  std::vector<std::size_t> readable;
  for (std::size_t at = values_[w].size(); at-- > from;) {
    if (at + 1 == values_[w].size() || values_[w][at].value != *expected) readable.push_back(at);
  }
  const std::size_t at = readable[choices_->choose(readable.size())];
  const std::uint64_t seen = read(w, at, order);
  if (seen != *expected) {
    *expected = seen;
    note(w, "does not change", seen);
    return false;
  }
  append(w, value, values_[w][at].view, order);
  note(w, "changes to", value);
  return true;
}

std::uint64_t Machine::add(const void* word, std::uint64_t value, std::memory_order order,
                           Site site) {
  const std::size_t w = index_of(word);
  order = step(w, Access::kChange, order, site);
  const std::size_t at = values_[w].size() - 1;
  const std::uint64_t seen = read(w, at, order);
  append(w, seen + value, values_[w][at].view, order);
  note(w, "changes to", seen + value);
  return seen;
}

}  // namespace

bool is_explored(const void* word, Access access) {
  return g_machine != nullptr && g_machine->knows(word, access);
}
std::uint64_t explored_load(const void* word, std::memory_order order, Site site) {
  return g_machine->load(word, order, site);
}
void explored_store(const void* word, std::uint64_t value, std::memory_order order, Site site) {
  g_machine->store(word, value, order, site);
}
bool explored_change(const void* word, std::uint64_t* expected, std::uint64_t value,
                     std::memory_order order, Site site) {
  return g_machine->change(word, expected, value, order, site);
}
std::uint64_t explored_add(const void* word, std::uint64_t value, std::memory_order order,
                           Site site) {
  return g_machine->add(word, value, order, site);
}

Exploration explore(const Scenario& scenario, const std::string& weakened, Orders orders) {
  if (scenario.words.size() > kWordsMax) throw std::logic_error("too many words");
  Exploration found;
  Machine machine(scenario, weakened, orders, &found);
  Choices choices;
  g_machine = &machine;
  do {
    machine.run(&choices);
    ++found.executions;
  } while (!found.violated && choices.next_run());
  g_machine = nullptr;
  return found;
}

}  // namespace modelpool::model
