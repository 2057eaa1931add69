// Is a lease's backend no more? Its connections end a moment before its process does, and the pool
// sees that a moment later.
//
// Safety: the loop's thread; the lease stays meanwhile.
//
// Errors: none; a server that is not the pool's has no process to look at.
#pragma once

#include "between/fd.hpp"
#include "modelpool/pool.hpp"
#include "worker/io.hpp"

namespace modelpool::serve {

class BackendLife {
 public:
  explicit BackendLife(Lease& lease);

  bool has_ended() const;                       // its process, at this moment
  Task<bool> is_over(Executor executor) const;  // waits for what decides it, 2 s at most

 private:
  Lease& lease_;
  Fd process_;
};

}  // namespace modelpool::serve
