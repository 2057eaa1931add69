#include "base/shortage.hpp"

#include <sys/resource.h>

#include <cerrno>
#include <fstream>

#include "base/proc.hpp"

namespace modelpool {
namespace {

std::string limit_text(int resource) {
  rlimit limit{};
  if (getrlimit(static_cast<__rlimit_resource>(resource), &limit) != 0) return "";
  return limit.rlim_cur == RLIM_INFINITY ? "" : std::to_string(limit.rlim_cur) + " ";
}

// "fs.file-max" with its value, where /proc shows it.
std::string sysctl_text(const std::string& name) {
  std::ifstream file(sysctl_path(name));
  std::string value;
  return file >> value ? name + " = " + value : name;
}

std::string raise_sysctl(const std::string& what, const std::string& name) {
  return what + " are used up (" + sysctl_text(name) + "); raise them with sysctl -w " + name +
         "=N";
}

std::string descriptors() {
  return "the " + limit_text(RLIMIT_NOFILE) +
         "descriptors of this process are used up; raise them with ulimit -n, or LimitNOFILE= in "
         "its unit";
}

}  // namespace

std::string shortage_advice(Needs needed, int error) {
  if (error == ENFILE) return raise_sysctl("the system's open files", "fs.file-max");
  if (error == ENOMEM) {
    return "memory is used up, or what this process may have of it; free some, or raise ulimit -v "
           "or MemoryMax= in its unit";
  }
  switch (needed) {
    case Needs::kDescriptor:
      return error == EMFILE ? descriptors() : "";
    case Needs::kInotifyInstance:
      // EMFILE is either: of this user, or of this process.
      return error == EMFILE
                 ? raise_sysctl("this user's inotify instances", "fs.inotify.max_user_instances") +
                       ", or descriptors with ulimit -n"
                 : "";
    case Needs::kInotifyWatch:
      return error == ENOSPC
                 ? raise_sysctl("this user's inotify watches", "fs.inotify.max_user_watches")
                 : "";
    case Needs::kEpollWatch:
      return error == ENOSPC
                 ? raise_sysctl("this user's epoll watches", "fs.epoll.max_user_watches")
                 : "";
    case Needs::kThread:
      return error == EAGAIN ? "the " + limit_text(RLIMIT_NPROC) +
                                   "processes and threads this user may have are used up, or those "
                                   "of its control "
                                   "group (pids.max) or of the system; raise them with ulimit -u, "
                                   "LimitNPROC= and "
                                   "TasksMax= in its unit, or sysctl -w kernel.threads-max=N"
                             : "";
  }
  return "";
}

std::string proc_advice(int error) {
  std::string shortage = shortage_advice(Needs::kDescriptor, error);
  return shortage.empty() ? "mount /proc" : shortage;
}

bool is_shortage(int error) {
  switch (error) {
    case EMFILE:
    case ENFILE:
    case ENOMEM:
    case ENOSPC:
    case EDQUOT:
    case EAGAIN:
    case EINTR:
    case EIO:
    case ENOLCK:
      return true;
    default:
      return false;
  }
}

}  // namespace modelpool
