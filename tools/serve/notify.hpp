// What systemd is told (Type=notify). Without NOTIFY_SOCKET nothing happens.
//
// Safety: one thread.
//
// Errors: none; who does not listen is not told.
#pragma once

#include <string>

namespace modelpool::serve {

void notify_ready(const std::string& status);
void notify_reloading();
void notify_stopping();

// In a child, whose own children must not speak for us.
void forget_supervisor();

}  // namespace modelpool::serve
