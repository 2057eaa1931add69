// The pool's events to one client, as server-sent events, for as long as it stays.
//
// Safety: the loop's thread.
//
// Crash: the client sees its connection end, and comes again with Last-Event-ID.
//
// Errors: none; a client that takes nothing for client_timeout is given up by its connection.
#pragma once

#include "worker/access_log.hpp"
#include "worker/client.hpp"
#include "worker/io.hpp"
#include "worker/service.hpp"

namespace modelpool::serve {

struct AnswerChanges;

// Head and all, or the head alone. `changes`: of the answer, without its framing. The connection
// ends with it: when the client leaves, has its count, or this worker finishes.
Task<> stream_events(Service& service, EventsAsked asked, bool is_head, Client& client,
                     AnswerChanges changes, AccessLine& line);

}  // namespace modelpool::serve
