// Does each operation some times, each time between two marks: for counts.py, which runs this under
// valgrind and so sees every instruction and every access to memory. JSON on stdout says where the
// marks, the segment and the stacks lie.
#include <sys/eventfd.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdint>
#include <iostream>
#include <nlohmann/json.hpp>
#include <string>
#include <thread>
#include <vector>

#include "operations.hpp"

// Debian 12's valgrind does not know pidfd_open, without which nobody attaches. Here it gives what
// never becomes readable, as the pidfd of a process that lives; the linker sends the library's
// calls to it (--wrap). No operation that is counted calls it.
extern "C" {
long __real_syscall(long number, ...);  // NOLINT: the linker's names
long __wrap_syscall(long number, long a, long b, long c, long d, long e, long f) {  // NOLINT
  if (number == SYS_pidfd_open) return eventfd(0, EFD_CLOEXEC);
  return __real_syscall(number, a, b, c, d, e, f);
}
}

namespace modelpool::bench {
namespace {

constexpr int kTimes = 100;  // the first few are not the steady state

// A store to mark i begins operation i, one to the last mark ends it.
constexpr std::size_t kMarks = 32;
volatile std::uint64_t g_marks[kMarks];

std::uint64_t address_of(const volatile void* place) {
  return reinterpret_cast<std::uintptr_t>(place);
}

class Operations {
 public:
  // An operation that measure() will do. `stack` is above its frames, and below what else its
  // thread keeps there. `process` tells whose cache lines it writes.
  std::size_t add(const std::string& name, const std::string& process, const void* stack) {
    const std::size_t id = described_.size();
    if (id + 1 >= kMarks) give_up("too few marks");
    described_.push_back({{"name", name}, {"process", process}, {"stack", address_of(stack)}});
    return id;
  }
  template <class Operation>
  [[gnu::noinline]] static void measure(std::size_t id, Operation operation) {
    for (int i = 0; i < kTimes; ++i) {
      g_marks[id] = 1;
      operation();
      g_marks[kMarks - 1] = 1;
    }
  }
  const nlohmann::json& described() const { return described_; }

 private:
  nlohmann::json described_ = nlohmann::json::array();
};

void run() {
  const void* const stack = __builtin_frame_address(0);
  LoadedPool loaded;
  loaded.load(1);
  Pool& pool = loaded.pool();
  const Segment& segment = segment_of(pool);
  const BackendRef backend = loaded.backend(0);
  const std::string& model = loaded.model(0);
  Operations operations;
  const auto measure = [&](const std::string& name, auto operation) {
    Operations::measure(operations.add(name, "first", stack), operation);
  };

  Floor floor(segment);
  measure("floor", [&] { floor(); });
  measure("begin_end", [&] { begin_end(loaded.worker(), backend); });
  measure("begin_end_tag", [&] { begin_end(loaded.worker(), backend, kTag); });
  measure("acquire_release", [&] { acquire_release(pool, model); });
  measure("touch", [&] { touch(pool, model); });
  LocalAiWatchdog localai;
  const std::string address = "127.0.0.1:43210";
  measure("localai", [&] { localai(address); });
  RobustStamps robust;
  measure("robust_mutex", [&] { robust(); });

  std::thread([&] {
    Operations::measure(
        operations.add("acquire_release/second_thread", "first", __builtin_frame_address(0)),
        [&] { acquire_release(pool, model); });
  }).join();

  // A forked child has a worker of its own from its first request on.
  const auto second = operations.add("acquire_release/second_process", "second", stack);
  const auto second_touch = operations.add("touch/second_process", "second", stack);
  const pid_t child = fork();
  if (child == 0) {
    Operations::measure(second, [&] { acquire_release(pool, model); });
    Operations::measure(second_touch, [&] { touch(pool, model); });
    _exit(0);
  }
  int status = -1;
  if (waitpid(child, &status, 0) != child || status != 0) give_up("the second process failed");

  const std::uint64_t base = address_of(&segment.lock()) -
                             segment.header().tables[static_cast<std::size_t>(Table::kLock)].offset;
  std::cout << nlohmann::json{{"times", kTimes},
                              {"marks", address_of(g_marks)},
                              {"last_mark", address_of(&g_marks[kMarks - 1])},
                              {"segment", base},
                              {"segment_bytes", segment.header().total_bytes},
                              {"operations", operations.described()}}
                   .dump()
            << std::endl;
}

}  // namespace
}  // namespace modelpool::bench

int main() { modelpool::bench::run(); }
