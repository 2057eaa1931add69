// Calls that may wait, on threads of their own, while the loop goes on.
//
// Safety: awaited in the loop's thread; the call runs in another, and its answer comes back into
// the loop. Who awaits keeps what the call refers to.
//
// Errors: what the call throws ends the process: it is not to.
#pragma once

#include <boost/asio/post.hpp>
#include <boost/asio/thread_pool.hpp>
#include <optional>
#include <type_traits>
#include <utility>

#include "worker/io.hpp"

namespace modelpool::serve {

template <class Call>
Task<std::invoke_result_t<Call>> apart(Loop& loop, asio::thread_pool& threads, Call call) {
  std::optional<std::invoke_result_t<Call>> result;
  Wake done(loop.get_executor());
  asio::post(threads, [&] {
    result.emplace(call());
    asio::post(loop, [&] { done.notify(); });
  });
  co_await done.wait();
  co_return std::move(*result);
}

}  // namespace modelpool::serve
