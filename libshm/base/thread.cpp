#include "base/thread.hpp"

#include <dlfcn.h>
#include <pthread.h>
#include <signal.h>

#include <cerrno>
#include <memory>

#include "base/shortage.hpp"

namespace modelpool {
namespace {

constexpr std::size_t kStackMax_bytes = std::size_t{1} << 30;
constexpr std::size_t kUnknownStatics_bytes = std::size_t{256} << 10;

// What the C library takes of each stack: static thread-local storage and its own. It refuses a
// stack that cannot hold that, and says how much it is only here.
std::size_t reserved_bytes(const pthread_attr_t& attributes) {
  using GetMinstack = std::size_t (*)(const pthread_attr_t*);
  static const auto get =
      reinterpret_cast<GetMinstack>(dlsym(RTLD_DEFAULT, "__pthread_get_minstack"));
  return get == nullptr ? kUnknownStatics_bytes : get(&attributes);
}

void* run(void* argument) {
  const std::unique_ptr<std::function<void()>> body(static_cast<std::function<void()>*>(argument));
  (*body)();
  return nullptr;
}

int start(std::size_t stack_bytes, std::function<void()>* body) {
  pthread_attr_t attributes;
  pthread_attr_init(&attributes);
  pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
  int error = EINVAL;
  pthread_t thread;
  for (std::size_t size = stack_bytes + reserved_bytes(attributes);
       error == EINVAL && size <= kStackMax_bytes; size *= 2) {
    pthread_attr_setstacksize(&attributes, (size + 0xffff) & ~std::size_t{0xffff});
    error = pthread_create(&thread, &attributes, run, body);
  }
  pthread_attr_destroy(&attributes);
  return error;
}

}  // namespace

Result<> start_detached_thread(std::size_t stack_bytes, std::function<void()> body) {
  auto mine = std::make_unique<std::function<void()>>(std::move(body));
  sigset_t all;
  sigset_t before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);  // inherited
  const int error = start(stack_bytes, mine.get());
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
  if (error != 0)
    return fail_errno(error, "start a thread", shortage_advice(Needs::kThread, error));
  static_cast<void>(mine.release());  // the thread's now
  return {};
}

}  // namespace modelpool
