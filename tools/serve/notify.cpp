#include "notify.hpp"

#include <systemd/sd-daemon.h>

#include <cstdlib>

#include "clock.hpp"

namespace modelpool::serve {

void notify_ready(const std::string& status) {
  sd_notify(0, ("READY=1\nSTATUS=" + status).c_str());
}

void notify_reloading() {
  sd_notify(0, ("RELOADING=1\nMONOTONIC_USEC=" + std::to_string(clock_ns() / 1000)).c_str());
}

void notify_stopping() { sd_notify(0, "STOPPING=1\nSTATUS=finishing requests"); }

void forget_supervisor() {
  for (const char* name : {"NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"}) unsetenv(name);
}

}  // namespace modelpool::serve
