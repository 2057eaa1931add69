// modelpool._modelpool: Pool and LoadTicket over <modelpool/pool.hpp>; the package adds what is
// easier said in Python (lease, asyncio).
//
// Safety: Python's objects are shared by threads, so the C++ rules are kept here. Pool: a call that
// lets the GIL go holds the C++ Pool by shared_ptr; close takes it away from the object, and the
// last call to end closes it. LoadTicket: a mutex, tried only, so that a fork cannot leave a child
// stuck. Waits sleep in slices on the main thread and look for signals between them.
#include <pybind11/stl.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cstdlib>
#include <memory>
#include <mutex>
#include <new>
#include <optional>
#include <string>
#include <system_error>

#include "base/nearest.hpp"
#include "base/time.hpp"
#include "lease.hpp"
#include "pool/inside.hpp"
#include "segment/settings_block.hpp"
#include "waits.hpp"

namespace modelpool::python {
namespace {

using std::chrono::nanoseconds;

// A signal interrupts the wait; one that came just before it is seen this much later.
constexpr std::chrono::milliseconds kSignalSlice{100};

std::atomic<std::uint64_t> g_next_wait{1};

// Python makes an object without calling __init__ when told to (Pool.__new__(Pool)); pybind11 then
// allocates its value at first use and constructs nothing. All zeros is a closed one.
struct Zeroed {
  static void* operator new(std::size_t size) {
    void* memory = std::calloc(1, size);
    if (memory == nullptr) throw std::bad_alloc();
    return memory;
  }
  static void operator delete(void* memory) { std::free(memory); }
};

// In a forked child what another thread may have been changing is left alone for ever.
template <class T>
void leave_inherited(unsigned forks, std::shared_ptr<T>& value) {
  if (!value || forks == fork_count()) return;
  static_cast<void>(new std::shared_ptr<T>(std::move(value)));
  value = nullptr;
}

struct PoolObject : Zeroed {
  std::shared_ptr<Pool> pool;  // null once closed
  std::string name;
  std::shared_ptr<Waits> waits;
  unsigned forks = 0;  // fork_count() when `waits` was made

  ~PoolObject() { close(); }

  std::shared_ptr<Pool> get() const {
    if (!pool) raise_closed("pool");
    return pool;
  }

  std::shared_ptr<Waits> waits_of(Pool& open_pool) {
    leave_inherited(forks, waits);
    auto& wake = const_cast<HalfWord&>(*unwrap(wake_word_of(open_pool)));
    if (waits) {
      waits->watch(wake);
    } else {
      waits = std::make_shared<Waits>(wake);
      forks = fork_count();
    }
    return waits;
  }

  void close() {
    leave_inherited(forks, waits);
    if (waits) waits->close();
    pool.reset();
  }
};

struct TicketObject : Zeroed {
  explicit TicketObject(LoadTicket given) : ticket(std::move(given)), forks(fork_count()) {}

  LoadTicket ticket;
  unsigned forks;
  std::mutex in_use;

  // Reads only, but not while the ticket is being used up.
  std::uint32_t waiting() {
    if (!ticket || forks != fork_count()) return 0;
    const std::unique_lock<std::mutex> turn(in_use, std::try_to_lock);
    return turn ? ticket.waiting() : 0;
  }

  // One call at a time, without the GIL. Tried only: a fork may have left the mutex locked.
  template <class Call>
  auto in_turn(const Call& call) {
    if (!ticket || forks != fork_count()) raise_closed("ticket");
    const std::unique_lock<std::mutex> turn(in_use, std::try_to_lock);
    if (!turn) {
      raise(Error{Errc::kBusy, "unable to use this ticket: another thread is using it; take turns",
                  0, 0});
    }
    const ReleasedGil released;
    return call(ticket);
  }
};

py::object to_object(Grant grant) {
  if (auto* lease = std::get_if<Lease>(&grant)) return make_lease(std::move(*lease));
  return py::cast(std::make_unique<TicketObject>(std::move(std::get<LoadTicket>(grant))));
}

// Runs without the GIL on a Pool that stays open until it is done.
template <class Call>
auto without_gil(const PoolObject& self, const Call& call) {
  const std::shared_ptr<Pool> pool = self.get();
  const ReleasedGil released;
  return call(*pool);
}

// A class whose methods answer arguments of another number, name or `self` with Invalid instead of
// pybind11's list of overloads. What stands in the arguments the methods read themselves.
template <class T>
class Class : public py::class_<T> {
 public:
  using py::class_<T>::class_;
  using py::class_<T>::def;

  template <class Fn, class... Extra>
  Class& def(const char* method, Fn&& fn, const Extra&... extra) {
    py::class_<T>::def(method, std::forward<Fn>(fn), extra...);
    py::class_<T>::def(method, [what = std::string(method)](const py::args&, const py::kwargs&) {
      refuse_arguments(what);
    });
    return *this;
  }

  // Old protocols of pickle make an instance of pybind11's own base, which ends the process.
  void refuse_copies() {
    py::class_<T>::def(
        "__reduce__",
        [](const py::object& self, const py::args&) {
          raise_invalid("unable to copy or pickle a " + std::string(Py_TYPE(self.ptr())->tp_name) +
                        ": it is this process's own");
        },
        "__reduce__(self)\n--\n\n");
  }

  [[noreturn]] static void refuse_arguments(const std::string& what) {
    raise_invalid("unable to call " + what +
                  " with these arguments; help(modelpool) says which it takes");
  }
};

// --- acquire -------------------------------------------------------------------------------------

struct Request {
  std::string_view model;
  nanoseconds timeout = kDefaultTimeout;
  AcquireOptions options;
};

void check_signals() {
  if (PyErr_CheckSignals() != 0) throw py::error_already_set();
}

// Fixed once: the wait's last look and the library's agree on it.
std::uint64_t end_of(nanoseconds timeout) { return Deadline(timeout).at_ns(); }
std::chrono::steady_clock::time_point at(std::uint64_t ns) {
  return std::chrono::steady_clock::time_point(nanoseconds(static_cast<std::int64_t>(ns)));
}

bool is_main_thread() { return getpid() == gettid(); }

// A poll if one is due, else or if it said nothing a short wait. Without the GIL.
Result<std::optional<Grant>> poll_or_wait(PendingAcquire& pending, std::uint64_t end_ns,
                                          std::uint64_t* due_ns) {
  const ReleasedGil released;
  if (pending.was_woken() || now_ns() >= *due_ns) {
    *due_ns = std::min(now_ns() + kLookEvery_ns, end_ns);
    auto polled = pending.poll();
    if (!polled || *polled) return polled;
  }
  pending.wait(kSignalSlice);
  return std::nullopt;
}

py::object wait_for_grant(PoolObject& self, const std::shared_ptr<Pool>& pool,
                          const Request& request) {
  const bool takes_signals = is_main_thread();
  const std::uint64_t end_ns = end_of(request.timeout);
  auto pending = unwrap(pool->begin_acquire(request.model, at(end_ns), request.options));
  std::uint64_t due_ns = 0;  // of the next poll, woken or not
  for (;;) {
    auto polled = poll_or_wait(pending, end_ns, &due_ns);
    if (!polled) raise(polled.error());
    if (*polled) return to_object(std::move(**polled));
    if (takes_signals) check_signals();
    if (self.pool != pool) raise_closed("pool");
  }
}

py::object acquire(PoolObject& self, const Request& request) {
  const std::shared_ptr<Pool>& open = self.pool;
  if (!open) raise_closed("pool");
  // A loaded model is leased at once, without letting the GIL go; this try takes no lock.
  auto grant = acquire_if_loaded(*open, request.model, request.options);
  if (grant) [[likely]] {
    return to_object(std::move(*grant));
  }
  const std::shared_ptr<Pool> kept = open;
  return wait_for_grant(self, kept, request);
}

// --- acquire's arguments, read without the tuple and dict that pybind11 would make ---------------

enum Argument {
  kModel,
  kTimeout,
  kTag,
  kBusyTimeout,
  kMayLoad,
  kExpectedBytes,
  kPriority,
  kCancellable,
  kKeepAlive,
  kArgumentCount
};
constexpr std::array<const char*, kArgumentCount> kArgumentNames = {
    "model",          "timeout",  "tag",         "busy_timeout", "may_load",
    "expected_bytes", "priority", "cancellable", "keep_alive"};
constexpr Py_ssize_t kPositional = 2;
std::array<PyObject*, kArgumentCount> g_argument_names{};  // interned

void set_argument(Request* request, std::size_t which, PyObject* value) {
  const char* name = kArgumentNames[which];
  switch (which) {
    case kModel:
      request->model = utf8_of(value, name);
      break;
    case kTimeout:
      request->timeout = duration_of(value, name);
      break;
    case kTag:
      if (value != Py_None) request->options.tag = utf8_of(value, name);
      break;
    case kBusyTimeout:
      request->options.busy_timeout = limit_of(value, name);
      break;
    case kMayLoad:
      request->options.may_load = truth_of(value);
      break;
    case kExpectedBytes:
      if (value != Py_None) request->options.expected_bytes = count_of(value, name);
      break;
    case kCancellable:
      request->options.cancellable = truth_of(value);
      break;
    case kKeepAlive:
      request->options.keep_alive = keep_alive_of(value, name);
      break;
    default:
      request->options.priority = count_of(value, name);
  }
}

Request parse_request(PyObject* const* values, Py_ssize_t count, PyObject* keywords) {
  Request request;
  unsigned given = 0;
  if (count > kPositional) {
    raise_invalid("unable to call acquire: it takes model and timeout by position, " +
                  std::to_string(count) + " were given");
  }
  for (Py_ssize_t i = 0; i < count; ++i) {
    set_argument(&request, static_cast<std::size_t>(i), values[i]);
    given |= 1u << i;
  }
  const Py_ssize_t keyword_count = keywords == nullptr ? 0 : PyTuple_GET_SIZE(keywords);
  for (Py_ssize_t i = 0; i < keyword_count; ++i) {
    PyObject* name = PyTuple_GET_ITEM(keywords, i);
    std::size_t which = 0;
    while (which < kArgumentCount && g_argument_names[which] != name &&
           PyUnicode_Compare(g_argument_names[which], name) != 0) {
      ++which;
    }
    if (which == kArgumentCount || given >> which & 1u) {
      raise_invalid("unable to call acquire: the argument " + quote(utf8_of(name, "argument")) +
                    " is unknown or given twice");
    }
    set_argument(&request, which, values[count + i]);
    given |= 1u << which;
  }
  if ((given & 1u << kModel) == 0) {
    raise_invalid("unable to call acquire: the argument \"model\" is missing");
  }
  return request;
}

PyObject* acquire_method(PyObject* object, PyObject* const* values, Py_ssize_t count,
                         PyObject* keywords) {
  try {
    const Request request = parse_request(values, count, keywords);
    auto* self = py::cast<PoolObject*>(py::handle(object));
    if (self == nullptr) raise_closed("pool");
    return acquire(*self, request).release().ptr();
  } catch (py::error_already_set& error) {
    error.restore();
  } catch (const std::exception& error) {
    PyErr_SetString(PyExc_RuntimeError, error.what());
  }
  return nullptr;
}

PyMethodDef g_acquire = {
    "acquire", reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(acquire_method)),
    METH_FASTCALL | METH_KEYWORDS,
    "acquire($self, /, model, timeout=30.0, *, tag='', busy_timeout=None, may_load=True, "
    "expected_bytes=None, priority=0, cancellable=False, keep_alive=None)\n--\n\n"
    "A Lease if the model is loaded, a LoadTicket if the caller is to load it. Waits for "
    "either,\nalso while the backend serves as many requests at once as the setting parallel "
    "lets it.\n\n"
    "timeout: seconds (or \"30s\"); 0 does not wait, None is refused.\n"
    "tag: at most 31 bytes, shown in events and `poolctl leases`.\n"
    "busy_timeout: kill the backend if this very request takes longer.\n"
    "may_load: False raises NotLoaded instead of granting a ticket.\n"
    "expected_bytes, priority: shown by waiters(); the line is first come, first served.\n"
    "cancellable: this process looks at Lease.cancelled often enough, and ends the request then: "
    "an overdue one is asked to end before its backend is killed (on_overdue).\n"
    "keep_alive: how long the backend may be idle from now on, in place of idle_timeout; seconds\n"
    "or \"5m\". 0 evicts it when its last lease ends; -1 or \"off\" keeps it for ever. The last "
    "one\n"
    "wins; None leaves it as it is.\n\n"
    "Other threads run meanwhile; Ctrl-C ends the wait.\n\n"
    ">>> lease = pool.acquire(\"llama\", timeout=5, tag=\"req-81\")\n"
    ">>> lease.address\n"
    "'127.0.0.1:4321'\n"
    ">>> lease.release()"};

// --- asyncio's side ------------------------------------------------------------------------------

// An Inbox with its process: a forked child takes nothing from it and locks nothing.
struct InboxObject : Zeroed {
  ~InboxObject() { leave_inherited(forks, inbox); }

  std::shared_ptr<Inbox> inbox = std::make_shared<Inbox>();
  unsigned forks = fork_count();
};

py::object begin(PoolObject& self, const InboxObject& inbox, const py::object& model,
                 const py::object& timeout, const py::object& tag, const py::object& busy_timeout,
                 const py::object& may_load, const py::object& expected_bytes,
                 const py::object& priority, const py::object& cancellable,
                 const py::object& keep_alive) {
  if (!inbox.inbox || inbox.forks != fork_count()) raise_closed("inbox");
  Request request;
  set_argument(&request, kModel, model.ptr());
  set_argument(&request, kTimeout, timeout.ptr());
  set_argument(&request, kTag, tag.ptr());
  set_argument(&request, kBusyTimeout, busy_timeout.ptr());
  set_argument(&request, kMayLoad, may_load.ptr());
  set_argument(&request, kExpectedBytes, expected_bytes.ptr());
  set_argument(&request, kPriority, priority.ptr());
  set_argument(&request, kCancellable, cancellable.ptr());
  set_argument(&request, kKeepAlive, keep_alive.ptr());
  const std::shared_ptr<Pool> pool = self.get();
  const std::shared_ptr<Waits> waits = self.waits_of(*pool);
  const std::uint64_t id = g_next_wait.fetch_add(1, std::memory_order_relaxed);
  const std::uint64_t end_ns = end_of(request.timeout);
  auto answer = [&]() -> Result<std::optional<Grant>> {
    const ReleasedGil released;
    auto pending = pool->begin_acquire(request.model, at(end_ns), request.options);
    if (!pending) return fail(pending.error());
    return waits->begin(id, std::move(*pending), end_ns, inbox.inbox);
  }();
  if (!answer) raise(answer.error());
  if (*answer) return to_object(std::move(**answer));
  return py::int_(id);
}

void cancel(PoolObject& self, const InboxObject& inbox, std::uint64_t id) {
  if (!inbox.inbox || inbox.forks != fork_count()) return;
  const std::shared_ptr<Waits> waits = self.forks == fork_count() ? self.waits : nullptr;
  const ReleasedGil released;
  if (waits) waits->cancel(id);
}

// [(id, Lease, LoadTicket or exception)]
py::list take(const InboxObject& inbox) {
  py::list taken;
  if (!inbox.inbox || inbox.forks != fork_count()) return taken;
  auto answers = [&inbox] {
    const ReleasedGil released;
    return inbox.inbox->take();
  }();
  for (auto& [id, answer] : answers) {
    taken.append(
        py::make_tuple(id, answer ? to_object(std::move(*answer)) : exception_of(answer.error())));
  }
  return taken;
}

// --- LoadTicket ----------------------------------------------------------------------------------

// fn(item) for what is iterated over.
template <class Fn>
void for_each(const py::object& items, const char* name, const char* wanted, const Fn& fn) {
  const auto iterator = py::reinterpret_steal<py::object>(PyObject_GetIter(items.ptr()));
  if (!iterator) {
    if (!PyErr_ExceptionMatches(PyExc_TypeError)) throw py::error_already_set();
    PyErr_Clear();
    raise_type(name, wanted, items);
  }
  while (const auto item = py::reinterpret_steal<py::object>(PyIter_Next(iterator.ptr()))) fn(item);
  if (PyErr_Occurred() != nullptr) throw py::error_already_set();
}

// As os_text_of, but None is no argument.
std::string argument_of(py::handle text, const char* name) {
  if (text.is_none()) raise_type(name, "str, bytes or os.PathLike", text);
  return os_text_of(text, name);
}

py::object spawn(const py::object& self, const py::object& argv, const py::object& env,
                 const py::object& cwd, const py::object& stdout_path,
                 const py::object& stderr_path) {
  auto& object = py::cast<TicketObject&>(self);
  if (PyUnicode_Check(argv.ptr()) || PyBytes_Check(argv.ptr())) {
    raise_type("argv", "a sequence of arguments", argv);
  }
  std::vector<std::string> arguments;
  for_each(argv, "argv", "a sequence of arguments",
           [&](py::handle argument) { arguments.push_back(argument_of(argument, "argv")); });
  SpawnOptions options;
  if (!env.is_none()) {
    constexpr const char* kWanted = "a mapping of names to values";
    if (PyMapping_Check(env.ptr()) == 0 || !py::hasattr(env, "items")) {
      raise_type("env", kWanted, env);
    }
    for_each(env.attr("items")(), "env", kWanted, [&](py::handle item) {
      if (!PyTuple_Check(item.ptr()) || PyTuple_GET_SIZE(item.ptr()) != 2) {
        raise_type("env", kWanted, env);
      }
      const std::string name = argument_of(PyTuple_GET_ITEM(item.ptr(), 0), "env");
      if (name.empty() || name.find('=') != std::string::npos) {
        raise_invalid("env: " + quote(name) + " is no name of a variable");
      }
      options.env.push_back(name + "=" + argument_of(PyTuple_GET_ITEM(item.ptr(), 1), "env"));
    });
  }
  options.cwd = os_text_of(cwd, "cwd");
  options.output = os_text_of(stdout_path, "stdout");
  options.error_output = os_text_of(stderr_path, "stderr");
  unwrap(object.in_turn([&](LoadTicket& ticket) { return ticket.spawn(arguments, options); }));
  return self;
}

py::object started(const py::object& self, const py::object& pid) {
  auto& object = py::cast<TicketObject&>(self);
  const auto process = static_cast<pid_t>(count_of(pid, "pid", INT32_MAX));
  unwrap(object.in_turn([&](LoadTicket& ticket) { return ticket.started(process); }));
  return self;
}

py::object ready(TicketObject& self, const py::object& address, const py::object& size_bytes,
                 const py::object& pinned, const py::object& external, const py::object& label,
                 const py::object& device_mask, const py::object& any_listener,
                 const py::kwargs& settings) {
  ReadyOptions options;
  const std::string where(utf8_of(address, "address"));
  if (!size_bytes.is_none()) options.size_bytes = count_of(size_bytes, "size_bytes");
  options.pinned = truth_of(pinned);
  options.external = truth_of(external);
  options.any_listener = truth_of(any_listener);
  options.label = utf8_of(label, "label");
  options.device_mask = count_of(device_mask, "device_mask");
  for (const auto& [name, text] : settings_of(settings)) {
    const SettingInfo& info = *find_setting(name);
    if (!info.per_model) {
      raise_invalid("unable to set " + name + ": it is the pool's, not a backend's");
    }
    options.overrides.set(unwrap(parse_entry(info, text, {OriginKind::kReady, 0})));
  }
  return make_lease(
      unwrap(self.in_turn([&](LoadTicket& ticket) { return ticket.ready(where, options); })));
}

void fail_load(TicketObject& self, const py::object& reason) {
  const std::string why(utf8_of(reason, "reason"));
  unwrap(self.in_turn([&](LoadTicket& ticket) { return ticket.fail(why); }));
}

void check_listener(TicketObject& self, const py::object& address) {
  const std::string where(utf8_of(address, "address"));
  unwrap(self.in_turn([&](LoadTicket& ticket) { return ticket.check_listener(where); }));
}

void give_ticket_back(TicketObject& self) {
  unwrap(self.in_turn([](LoadTicket& ticket) { return ticket.give_back(); }));
}

// --- Pool ----------------------------------------------------------------------------------------

std::unique_ptr<PoolObject> attach(const py::object& name, const py::object& dir,
                                   const py::object& create, const py::object& coordinator_grace) {
  auto object = std::make_unique<PoolObject>();
  if (name.is_none()) {
    const char* given = std::getenv("MODELPOOL_POOL");
    object->name = given != nullptr && *given != 0 ? given : "default";
  } else {
    object->name = utf8_of(name, "name");
  }
  PoolOptions options;
  options.dir = os_text_of(dir, "dir");
  if (!dir.is_none() && options.dir.empty()) {
    raise_invalid("unable to use dir '': None is the default place");
  }
  options.create = truth_of(create);
  options.coordinator_grace = duration_of(coordinator_grace, "coordinator_grace");
  auto pool = [&] {
    const ReleasedGil released;
    return Pool::attach(object->name, options);
  }();
  object->pool = std::make_shared<Pool>(unwrap(std::move(pool)));
  return object;
}

template <class MakeJson>
py::object tables(const PoolObject& self, const MakeJson& make) {
  return to_python(unwrap(without_gil(self, [&](Pool& pool) -> Result<Json> {
    const auto snapshot = look_inside(pool);
    if (!snapshot) return fail(snapshot.error());
    return make(pool, *snapshot);
  })));
}

py::object events(const PoolObject& self, const py::object& since) {
  const std::uint64_t first = count_of(since, "since");
  return to_python(without_gil(
      self, [first](Pool& pool) { return rows_json(event_rows(segment_of(pool), first)); }));
}

void set_settings(const PoolObject& self, const py::kwargs& settings) {
  const auto values = settings_of(settings);
  unwrap(without_gil(self, [&](Pool& pool) { return pool.set(values); }));
}

py::object get_setting(const PoolObject& self, const py::object& name) {
  const std::string wanted(utf8_of(name, "name"));
  const SettingInfo* info = find_setting(wanted);
  if (info == nullptr) {
    raise_invalid("unable to get " + quote(wanted) + ": " + no_such_setting(wanted));
  }
  const std::shared_ptr<Pool> pool = self.get();
  return setting_value(*info, read_pool_settings(segment_of(*pool)));
}

void define_pool(py::module_& module) {
  Class<PoolObject> pool(module, "Pool",
                         "What this process does with one pool: acquire, look, steer.");
  pool.refuse_copies();
  pool.def(py::init(&attach), py::arg("name") = py::none(), py::arg("dir") = py::none(),
           py::kw_only(), py::arg("create") = true, py::arg("coordinator_grace") = 10.0);
  pool.def(py::init([](const py::args&, const py::kwargs&) -> std::unique_ptr<PoolObject> {
    Class<PoolObject>::refuse_arguments("Pool");
  }));
  pool.def("close", &PoolObject::close,
           "close(self)\n--\n\n"
           "Leaves the pool: waits end with Closed, leases and tickets that are out stay valid. "
           "Further\n"
           "calls do nothing, all others raise Closed.");
  pool.def(
      "__enter__",
      [](const py::object& self) {
        py::cast<PoolObject&>(self).get();
        return self;
      },
      "__enter__(self)\n--\n\n");
  pool.def(
      "__exit__", [](PoolObject& self, const py::args&) { self.close(); },
      "__exit__(self, *exc_info)\n--\n\n");
  pool.def("__repr__", [](const PoolObject& self) {
    return "<modelpool.Pool " + quote(self.name) + (self.pool ? ">" : " closed>");
  });
  pool.def_readonly("name", &PoolObject::name, "The pool's name.");

  for (std::size_t i = 0; i < kArgumentCount; ++i) {
    g_argument_names[i] = PyUnicode_InternFromString(kArgumentNames[i]);
  }
  pool.attr("acquire") = py::reinterpret_steal<py::object>(
      PyDescr_NewMethod(reinterpret_cast<PyTypeObject*>(pool.ptr()), &g_acquire));
  pool.def("_begin", &begin, py::arg("inbox"), py::arg("model"), py::arg("timeout"), py::arg("tag"),
           py::arg("busy_timeout"), py::arg("may_load"), py::arg("expected_bytes"),
           py::arg("priority"), py::arg("cancellable"), py::arg("keep_alive"),
           "_begin(self, inbox, model, timeout, tag, busy_timeout, may_load, expected_bytes, "
           "priority, cancellable, keep_alive)\n--\n\n");
  pool.def("_cancel", &cancel, "_cancel(self, inbox, id)\n--\n\n");

  const auto by_name = [&](const char* method, Result<> (Pool::*call)(std::string_view),
                           const char* doc) {
    pool.def(
        method,
        [call](const PoolObject& self, const py::object& model) {
          const std::string name(utf8_of(model, "model"));
          unwrap(((*self.get()).*call)(name));
        },
        py::arg("model"), doc);
  };
  by_name("touch", &Pool::touch,
          "touch(self, model)\n--\n\nIts backend was used now, without a request in flight. Raises "
          "NotLoaded.");
  by_name("pin", &Pool::pin,
          "pin(self, model)\n--\n\nNothing but busy, stall and forced ends evicts it. Raises "
          "NotLoaded.");
  by_name("unpin", &Pool::unpin,
          "unpin(self, model)\n--\n\nEnds pin(). Raises NotLoaded; Invalid if its settings pin it "
          "as well."
          "\nThen it stays so.");
  pool.def(
      "evict",
      [](const PoolObject& self, const py::object& model, const py::object& force) {
        const std::string name(utf8_of(model, "model"));
        const bool cut_leases = truth_of(force);
        unwrap(self.get()->evict(name, cut_leases));
      },
      py::arg("model"), py::arg("force") = false,
      "evict(self, model, force=False)\n--\n\n"
      "Asks the coordinator to end its backend; force cuts its leases. A load under way is ended, "
      "too,\n"
      "and nothing cools down. Does not wait. Raises NotLoaded.");

  by_name(
      "reset", &Pool::reset,
      "reset(self, model)\n--\n\n"
      "Forgets that it failed to load: it may be loaded at once. A load that becomes ready and a\n"
      "changed load_cooldown do the same. Forgets what it was seen to take, too.");

  pool.def(
      "set", &set_settings,
      "set(self, **settings)\n--\n\n"
      "Changes the pool's settings, all or none. Durations are seconds or texts, None is off.\n\n"
      ">>> pool.set(idle_timeout=2.5, stop_grace=\"15s\", max_backends=3)\n"
      ">>> pool.get(\"idle_timeout\"), pool.limit\n"
      "(2.5, 3)\n"
      ">>> pool.set(idle_timeout=None)");
  pool.def("get", &get_setting, py::arg("name"),
           "get(self, name)\n--\n\n"
           "A setting of the pool: durations are seconds or None, numbers int, all else str.\n\n"
           ">>> pool.get(\"stop_signal\")\n"
           "'SIGTERM'");
  pool.def_property(
      "limit", [](const PoolObject& self) { return unwrap(self.get()->limit()); },
      [](const PoolObject& self, const py::object& limit) {
        py::kwargs setting;
        setting["max_backends"] = limit;
        set_settings(self, setting);
      },
      "max_backends: how many backends may be live; 0 is no limit.");

  pool.def(
      "status",
      [](const PoolObject& self) {
        return tables(self,
                      [](Pool& p, const Snapshot& s) { return status_json(segment_of(p), s); });
      },
      "status(self)\n--\n\nAs `poolctl -o json status`.\n\n"
      ">>> pool.status()[\"coordinator\"][\"alive\"]\n"
      "True");
  pool.def(
      "backends",
      [](const PoolObject& self) {
        return tables(self, [](Pool&, const Snapshot& s) { return list_json(s); });
      },
      "backends(self)\n--\n\nThe live backends, as `poolctl -o json list`.\n\n"
      ">>> [(b[\"model\"], b[\"state\"], b[\"in_flight\"]) for b in pool.backends()]\n"
      "[('llama', 'ready', 0)]");
  pool.def(
      "leases",
      [](const PoolObject& self) {
        return tables(self, [](Pool&, const Snapshot& s) { return leases_json(s); });
      },
      "leases(self)\n--\n\nThe requests in flight, as `poolctl -o json leases`.");
  pool.def(
      "waiters",
      [](const PoolObject& self) {
        return tables(self, [](Pool&, const Snapshot& s) { return waiters_json(s); });
      },
      "waiters(self)\n--\n\nThe waiters, as `poolctl -o json waiters`.");
  pool.def(
      "workers",
      [](const PoolObject& self) {
        return tables(self, [](Pool&, const Snapshot& s) { return workers_json(s); });
      },
      "workers(self)\n--\n\nThe attached processes, as `poolctl -o json workers`.");
  pool.def("events", &events, py::arg("since") = 1,
           "events(self, since=1)\n--\n\n"
           "What the coordinator decided, oldest first, from that sequence number on; as `poolctl "
           "-o json\n"
           "events`.\n\n"
           ">>> [e[\"kind\"] for e in pool.events() if e[\"model\"] == \"llama\"]\n"
           "['loaded']");
}

void define_ticket(py::module_& module) {
  Class<TicketObject> ticket(
      module, "LoadTicket",
      "The exclusive right to start the backend of one model: spawn it, wait until it answers, "
      "say\n"
      "ready(); or fail(). For one thread at a time.\n\n"
      "fail() says that the model cannot be loaded: who waits is told, and it cools down. "
      "give_back()\n"
      "says nothing of the model, and neither does a ticket that is collected unused or whose "
      "process\n"
      "dies: the next waiter loads it at once.");
  ticket.refuse_copies();
  ticket.def("__repr__", [](const TicketObject& self) -> std::string {
    if (!self.ticket || self.forks != fork_count()) return "<modelpool.LoadTicket used up>";
    const pid_t pid = self.ticket.pid();
    return "<modelpool.LoadTicket for " + quote(self.ticket.model()) +
           (pid == 0 ? ", nothing started>" : ", pid " + std::to_string(pid) + ">");
  });
  ticket.def_property_readonly(
      "model", [](const TicketObject& self) { return self.ticket.model(); }, "The model's name.");
  ticket.def_property_readonly(
      "pid", [](const TicketObject& self) { return self.ticket.pid(); },
      "PID of what was started, 0 before.");
  ticket.def_property_readonly(
      "waiting", [](TicketObject& self) { return self.waiting(); },
      "How many wait for this model now. A loader whose own time is over should go on while some "
      "do:\n"
      "they would begin anew.");
  ticket.def_property_readonly(
      "devices",
      [](TicketObject& self) {
        return self.in_turn([](LoadTicket& held) { return held.devices(); });
      },
      "UUIDs of the devices that the pool put the backend on, for who starts it by himself: "
      "spawn()\n"
      "tells it by CUDA_VISIBLE_DEVICES and HIP_VISIBLE_DEVICES.");
  ticket.def(
      "spawn", &spawn, py::arg("argv"), py::arg("env") = py::none(), py::arg("cwd") = py::none(),
      py::arg("stdout") = py::none(), py::arg("stderr") = py::none(),
      "spawn(self, argv, env=None, cwd=None, stdout=None, stderr=None)\n--\n\n"
      "Starts the backend in a session of its own and returns the ticket. It is known to the pool\n"
      "before it executes.\n\n"
      "env: added to this process's environment. stdout, stderr: files appended to (or a terminal, "
      "or\n"
      "a FIFO that somebody reads); without stderr both go to stdout, without both to the model's\n"
      "log in the pool's log_dir (`poolctl logs`), or to /dev/null without one.\n\n"
      "Raises SpawnFailed (the program or the directory), Invalid, System (a file that cannot be\n"
      "opened): nothing runs, and the ticket stays. TicketLost.");
  ticket.def("started", &started, py::arg("pid"),
             "started(self, pid)\n--\n\n"
             "Registers a process that the caller started, and returns the ticket.");
  ticket.def(
      "ready", &ready, py::arg("address"), py::arg("size_bytes") = py::none(),
      py::arg("pinned") = false, py::kw_only(), py::arg("external") = false,
      py::arg("label") = py::str(), py::arg("device_mask") = 0, py::arg("any_listener") = false,
      "ready(self, address, size_bytes=None, pinned=False, *, external=False, label='', "
      "device_mask=0, any_listener=False, **settings)\n--\n\n"
      "The backend answers there: opens it to everyone and returns the loader's own Lease.\n\n"
      "external: there is no process; it is counted and leased, never signalled.\n"
      "any_listener: any process that listens there answers for the backend (a proxy). "
      "Otherwise\n"
      "another live backend's address, and a listener that is provably none of the backend's, "
      "raise\n"
      "Invalid.\n"
      "settings: its own, over the pool's (busy_timeout=\"15m\").");
  ticket.def("fail", &fail_load, py::arg("reason"),
             "fail(self, reason)\n--\n\n"
             "The load failed: every waiter is told why, what was started is ended, the model "
             "cools down.");
  ticket.def("_check_listener", &check_listener, py::arg("address"),
             "_check_listener(self, address)\n--\n\n");
  ticket.def("_give_back", &give_ticket_back, "_give_back(self)\n--\n\n");  // its first name
  ticket.def(
      "give_back", &give_ticket_back,
      "give_back(self)\n--\n\n"
      "Gives the load up without a failure: ends what was started; the next waiter loads the "
      "model\n"
      "at once.");
}

void define_inbox(py::module_& module) {
  Class<InboxObject> inbox(module, "_Inbox");
  inbox.refuse_copies();
  inbox.def(py::init([] {
    try {
      return std::make_unique<InboxObject>();
    } catch (const std::system_error& error) {
      raise(fail_errno(error.code().value(), "create an eventfd").value());
    }
  }));
  inbox.def_property_readonly("alive",
                              [](const InboxObject& self) { return self.forks == fork_count(); });
  inbox.def(
      "fileno", [](const InboxObject& self) { return self.inbox ? self.inbox->fd() : -1; },
      "fileno(self)\n--\n\n");
  inbox.def("take", &take, "take(self)\n--\n\n");
}

}  // namespace

namespace {

// What pybind11 and the C API's PyGILState keep is one interpreter's; used from another it hangs.
PyObject* require_main_interpreter(PyObject*, PyObject*) {
  if (PyInterpreterState_Get() == PyInterpreterState_Main()) Py_RETURN_NONE;
  PyErr_SetString(PyExc_ImportError,
                  "unable to import modelpool: this is a subinterpreter; use the main interpreter "
                  "(uWSGI: single-interpreter = true, mod_wsgi: WSGIApplicationGroup %{GLOBAL})");
  return nullptr;
}

// For the package: Python initialises an extension once, and hands other interpreters a copy.
PyMethodDef g_require_main_interpreter = {"_require_main_interpreter", require_main_interpreter,
                                          METH_NOARGS, "_require_main_interpreter()\n--\n\n"};

void define_all(py::module_& module) {
  py::options options;
  options.disable_function_signatures();
  define_errors(module);
  define_lease(module);
  define_ticket(module);
  define_inbox(module);
  define_pool(module);
  module.def(
      "_free_port", [] { return unwrap(free_port()); }, "_free_port()\n--\n\n");
  // What tests/bench compares a lease with.
  module.def(
      "_nothing", [] {}, "_nothing()\n--\n\n");
  module.def(
      "_seconds",
      [](const py::object& value, const py::object& name) {
        const std::string what(utf8_of(name, "name"));
        return std::chrono::duration<double>(duration_of(value, what.c_str())).count();
      },
      py::arg("value"), py::arg("name"), "_seconds(value, name)\n--\n\n");
  module.attr("_require_main_interpreter") =
      py::reinterpret_steal<py::object>(PyCFunction_New(&g_require_main_interpreter, nullptr));
  module.attr("__version__") = MODELPOOL_VERSION;
}

// pybind11 remembers the thread state it begins under. From Python 3.13 on an import in a
// subinterpreter begins it under one of the main interpreter's that is freed after the import: this
// thread's next exception would abort. Without one it asks Python for the thread's own.
void forget_thread_state() {
#if PYBIND11_VERSION_MAJOR < 3
  auto& internals = py::detail::get_internals();
  if (PYBIND11_TLS_GET_VALUE(internals.tstate) == PyThreadState_Get())
    PYBIND11_TLS_DELETE_VALUE(internals.tstate);
#endif
}

}  // namespace

// What PYBIND11_MODULE would write, except its first line: pybind11 must not begin elsewhere.
extern "C" PYBIND11_EXPORT PyObject* PyInit__modelpool() {
  if (PyObject* none = require_main_interpreter(nullptr, nullptr); none == nullptr) return nullptr;
  static py::module_::module_def definition;
  try {
    py::detail::get_internals();
    forget_thread_state();
    auto module = py::module_::create_extension_module("_modelpool", nullptr, &definition);
    define_all(module);
    return module.ptr();
  } catch (py::error_already_set& error) {
    error.restore();
  } catch (const std::exception& error) {
    PyErr_SetString(PyExc_ImportError, error.what());
  }
  return nullptr;
}

}  // namespace modelpool::python
