// A thread, or the reason why there is none: std::thread throws when the kernel has no room for it.
#pragma once

#include <system_error>
#include <thread>
#include <utility>

#include "base/shortage.hpp"
#include "modelpool/result.hpp"

namespace modelpool::coordinator {

template <class Body>
Result<std::thread> start_thread(Body body) {
  try {
    return std::thread(std::move(body));
  } catch (const std::system_error& error) {
    return fail_errno(error.code().value(), "start a thread",
                      shortage_advice(Needs::kThread, error.code().value()));
  }
}

}  // namespace modelpool::coordinator
