// Sleeping on a shared word, and waking who sleeps on it.
//
// Safety: any thread, any process that has the word mapped, also read-only.
//
// Crash: the kernel forgets a sleeper that dies. A waker may die between its store and its wake:
// sleepers bound their waits.
#pragma once

#include <cstdint>

#include "segment/words.hpp"

namespace modelpool {

void futex_wake_all(const HalfWord& word);
// Waits until woken, the word differs from `seen`, or the time has come. Spurious returns happen.
void futex_wait(const HalfWord& word, std::uint32_t seen, std::uint64_t until_ns);

}  // namespace modelpool
