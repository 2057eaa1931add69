#include "values.hpp"

#include <pthread.h>

#include <array>
#include <cmath>

#include "base/duration.hpp"
#include "base/nearest.hpp"
#include "base/time.hpp"

namespace modelpool::python {
namespace {

struct ErrorClass {
  Errc code;
  const char* name;
  const char* doc;
};

constexpr ErrorClass kErrorClasses[] = {
    {Errc::kTimeout, "Timeout", "The deadline passed while waiting. Also a TimeoutError."},
    {Errc::kQueueFull, "QueueFull", "max_waiters are waiting already."},
    {Errc::kTableFull, "TableFull", "A table of the pool has no free slot."},
    {Errc::kAllPinned, "AllPinned", "No place can be made: every backend that could go is pinned."},
    {Errc::kCoolingDown, "CoolingDown",
     "The model failed to load lately; retry_after says how many seconds are left."},
    {Errc::kLoadFailed, "LoadFailed", "The load this call waited for failed."},
    {Errc::kNoCoordinator, "NoCoordinator",
     "coordinatord is needed and has been absent for coordinator_grace."},
    {Errc::kNoSuchPool, "NoSuchPool", "There is no pool of that name."},
    {Errc::kIncompatible, "Incompatible", "Another layout, namespace or kind of file."},
    {Errc::kNotLoaded, "NotLoaded", "No backend serves the model and none was to be loaded."},
    {Errc::kTicketLost, "TicketLost", "The ticket ended: load_timeout, or it was given up."},
    {Errc::kLeaseLost, "LeaseLost", "The lease's backend was stopped."},
    {Errc::kInvalid, "Invalid",
     "An argument is of a wrong type or value. Also a ValueError and a TypeError."},
    {Errc::kClosed, "Closed", "The handle is closed, used up, or was inherited through fork."},
    {Errc::kReplaced, "Replaced",
     "The pool was removed or replaced, and no other had its name in time."},
    {Errc::kCancelled, "Cancelled", "The wait was cancelled."},
    {Errc::kPermission, "Permission", "Owned by another user, or open to others."},
    {Errc::kBusy, "Busy",
     "In use by another thread, or the holder of the pool's mutex did not let go."},
    {Errc::kSpawnFailed, "SpawnFailed", "The program could not be executed; the ticket stays."},
    {Errc::kSystem, "System", "The operating system refused; errno says how, if known."},
    {Errc::kTooLarge, "TooLarge", "The model takes more than the pool has at all."},
};

// By code. Never released: they are used until the process ends.
std::array<PyObject*, 64> g_classes{};

std::atomic<unsigned> g_forks{0};

// A number or a text as a setting of that kind is written.
std::string setting_text(const SettingInfo& info, py::handle value) {
  const std::string name(info.name);
  if (value.is_none()) return "off";
  if (PyUnicode_Check(value.ptr())) return std::string(utf8_of(value, name.c_str()));
  if (info.kind == SettingKind::kSwitch) {
    if (!PyBool_Check(value.ptr())) raise_type(name.c_str(), "a bool, a str or None", value);
    return value.ptr() == Py_True ? "true" : "false";
  }
  if (PyBool_Check(value.ptr())) raise_type(name.c_str(), "a number, a str or None", value);
  if (info.kind == SettingKind::kDuration) {
    // All digits: parse_duration takes nine decimals.
    const auto ns = static_cast<std::uint64_t>(duration_of(value, name.c_str()).count());
    std::string decimals = std::to_string(ns % kSecond_ns);
    decimals.insert(0, 9 - decimals.size(), '0');
    return std::to_string(ns / kSecond_ns) + "." + decimals + "s";
  }
  return std::to_string(count_of(value, name.c_str()));
}

}  // namespace

unsigned fork_count() { return g_forks.load(std::memory_order_relaxed); }

void define_errors(py::module_& module) {
  static const bool registered = pthread_atfork(nullptr, nullptr, [] {
                                   g_forks.fetch_add(1, std::memory_order_relaxed);
                                 }) == 0;
  static_cast<void>(registered);
  PyObject* base = PyErr_NewExceptionWithDoc(
      "modelpool.Error",
      "What modelpool refuses, with a text that says what is wrong and what to do.\n\n"
      "code: its name as JSON carries it (\"queue_full\").\n"
      "retry_after: seconds until another attempt makes sense, or None.\n"
      "errno: of the system call that failed, or None.",
      PyExc_Exception, nullptr);
  if (base == nullptr) throw py::error_already_set();
  for (const char* attribute : {"code", "retry_after", "errno"}) {
    PyObject_SetAttrString(base, attribute, Py_None);
  }
  module.attr("Error") = py::handle(base);
  for (const ErrorClass& error : kErrorClasses) {
    py::tuple bases = py::make_tuple(py::handle(base));
    if (error.code == Errc::kTimeout) {
      bases = py::make_tuple(py::handle(base), py::handle(PyExc_TimeoutError));
    } else if (error.code == Errc::kInvalid) {
      bases = py::make_tuple(py::handle(base), py::handle(PyExc_ValueError),
                             py::handle(PyExc_TypeError));
    }
    const std::string name = std::string("modelpool.") + error.name;
    PyObject* made = PyErr_NewExceptionWithDoc(name.c_str(), error.doc, bases.ptr(), nullptr);
    if (made == nullptr) throw py::error_already_set();
    py::handle(made).attr("code") = py::str(std::string(errc_name(error.code)));
    module.attr(error.name) = py::handle(made);
    g_classes[static_cast<std::size_t>(error.code)] = made;
  }
}

py::object exception_of(const Error& error) {
  const auto code = static_cast<std::size_t>(error.code);
  const auto text = py::reinterpret_steal<py::object>(PyUnicode_DecodeUTF8(
      error.text.data(), static_cast<Py_ssize_t>(error.text.size()), "backslashreplace"));
  if (!text) throw py::error_already_set();
  py::object made = py::handle(g_classes[code < g_classes.size() ? code : 0])(text);
  if (error.retry_after_ns != 0) {
    made.attr("retry_after") = static_cast<double>(error.retry_after_ns) / 1e9;
  }
  if (error.system != 0) made.attr("errno") = error.system;
  return made;
}

void raise(const Error& error) {
  const py::object made = exception_of(error);
  PyErr_SetObject(py::type::handle_of(made).ptr(), made.ptr());
  throw py::error_already_set();
}

void raise_closed(const char* what) {
  raise(Error{Errc::kClosed,
              "unable to use this " + std::string(what) +
                  ": it is closed, used up, or was inherited through fork",
              0, 0});
}

void raise_invalid(const std::string& text) { raise(Error{Errc::kInvalid, text, 0, 0}); }

void raise_type(const char* name, const char* wanted, py::handle given) {
  raise_invalid(std::string(name) + ": expected " + wanted + ", not " +
                Py_TYPE(given.ptr())->tp_name);
}

std::string_view utf8_of(py::handle text, const char* name) {
  if (!PyUnicode_Check(text.ptr())) raise_type(name, "str", text);
  Py_ssize_t size = 0;
  const char* bytes = PyUnicode_AsUTF8AndSize(text.ptr(), &size);
  if (bytes != nullptr) return {bytes, static_cast<std::size_t>(size)};
  if (!PyErr_ExceptionMatches(PyExc_UnicodeEncodeError)) throw py::error_already_set();
  PyErr_Clear();
  raise_invalid(std::string(name) + ": the text is not valid Unicode (it has lone surrogates)");
}

std::string os_text_of(py::handle text, const char* name) {
  if (text.is_none()) return {};
  const auto path = py::reinterpret_steal<py::object>(PyOS_FSPath(text.ptr()));
  if (!path) {
    if (!PyErr_ExceptionMatches(PyExc_TypeError)) throw py::error_already_set();
    PyErr_Clear();
    raise_type(name, "str, bytes or os.PathLike", text);
  }
  py::object encoded = path;
  if (PyUnicode_Check(path.ptr())) {
    encoded = py::reinterpret_steal<py::object>(PyUnicode_EncodeFSDefault(path.ptr()));
    if (!encoded) {
      if (!PyErr_ExceptionMatches(PyExc_UnicodeEncodeError)) throw py::error_already_set();
      PyErr_Clear();
      raise_invalid(std::string(name) + ": the text cannot be encoded");
    }
  }
  std::string result(PyBytes_AS_STRING(encoded.ptr()),
                     static_cast<std::size_t>(PyBytes_GET_SIZE(encoded.ptr())));
  if (result.find('\0') != std::string::npos) {
    raise_invalid(std::string(name) + ": it contains a NUL byte");
  }
  return result;
}

std::uint64_t count_of(py::handle value, const char* name, std::uint64_t max) {
  if (PyBool_Check(value.ptr()) || !PyIndex_Check(value.ptr())) raise_type(name, "an int", value);
  const auto number = py::reinterpret_steal<py::object>(PyNumber_Index(value.ptr()));
  if (!number) throw py::error_already_set();
  const std::uint64_t count = PyLong_AsUnsignedLongLong(number.ptr());
  const bool fits = PyErr_Occurred() == nullptr;
  if (!fits && !PyErr_ExceptionMatches(PyExc_OverflowError)) throw py::error_already_set();
  PyErr_Clear();
  if (!fits || count > max) {
    raise_invalid(std::string(name) + ": give 0 to " + std::to_string(max));
  }
  return count;
}

bool truth_of(py::handle value) {
  const int truth = PyObject_IsTrue(value.ptr());
  if (truth < 0) throw py::error_already_set();
  return truth != 0;
}

std::chrono::nanoseconds duration_of(py::handle value, const char* name) {
  if (PyUnicode_Check(value.ptr())) {
    const std::string text(utf8_of(value, name));
    if (text == "off") {
      raise_invalid(std::string(name) +
                    ": \"off\" would be without end; write it like 30s or 2h, 0 is no time");
    }
    return std::chrono::nanoseconds(static_cast<std::int64_t>(unwrap(parse_duration(text))));
  }
  if (value.is_none()) {
    raise_invalid(std::string(name) + ": None is no duration; give seconds, or one like \"15m\"");
  }
  if (PyBool_Check(value.ptr()) || !PyNumber_Check(value.ptr())) {
    raise_type(name, "seconds (int or float) or a str like \"15m\"", value);
  }
  const double seconds = PyFloat_AsDouble(value.ptr());
  if (PyErr_Occurred() != nullptr) {
    // A complex number is one without a place on the line.
    const bool no_number = PyErr_ExceptionMatches(PyExc_TypeError);
    if (!no_number && !PyErr_ExceptionMatches(PyExc_OverflowError)) throw py::error_already_set();
    PyErr_Clear();
    if (no_number) raise_type(name, "seconds (int or float) or a str like \"15m\"", value);
    raise_invalid(std::string(name) + ": the number is too large");
  }
  if (!(seconds >= 0) || seconds > static_cast<double>(kDurationMax_ns / kSecond_ns)) {
    raise_invalid(std::string(name) + ": give 0 to 315360000 seconds (10 years)");
  }
  return std::chrono::nanoseconds(static_cast<std::int64_t>(std::ceil(seconds * 1e9)));
}

std::chrono::nanoseconds limit_of(py::handle value, const char* name) {
  const bool is_off = PyUnicode_Check(value.ptr()) && utf8_of(value, name) == "off";
  return value.is_none() || is_off ? std::chrono::nanoseconds(0) : duration_of(value, name);
}

std::optional<Duration> keep_alive_of(py::handle value, const char* name) {
  constexpr std::chrono::nanoseconds kForEver(-1);
  if (value.is_none()) return std::nullopt;
  if (PyUnicode_Check(value.ptr())) {
    const std::uint64_t ns = unwrap(parse_keep_alive(utf8_of(value, name)));
    return ns == kNever_ns ? kForEver : std::chrono::nanoseconds(static_cast<std::int64_t>(ns));
  }
  if (!PyBool_Check(value.ptr()) && PyNumber_Check(value.ptr())) {
    const double seconds = PyFloat_AsDouble(value.ptr());
    if (PyErr_Occurred() == nullptr && seconds < 0) return kForEver;
    PyErr_Clear();
  }
  return duration_of(value, name);
}

std::vector<std::pair<std::string, std::string>> settings_of(const py::kwargs& values) {
  std::vector<std::pair<std::string, std::string>> result;
  for (const auto& [key, value] : values) {
    const std::string name(utf8_of(key, "a setting's name"));
    const SettingInfo* info = find_setting(name);
    if (info == nullptr) {
      raise_invalid("unable to set " + escape(name) + ": " + no_such_setting(name));
    }
    result.emplace_back(info->name, setting_text(*info, value));
  }
  return result;
}

py::object setting_value(const SettingInfo& info, const PoolSettings& settings) {
  const std::uint64_t value = settings.get(info.id);
  switch (info.kind) {
    case SettingKind::kCount:
    case SettingKind::kSize:
      return py::int_(value);
    case SettingKind::kSwitch:
      return py::bool_(value != 0);
    case SettingKind::kDuration:
      if (value == 0) return py::none();
      return py::float_(static_cast<double>(value) / 1e9);
    case SettingKind::kSignal:
    case SettingKind::kChoice:
    case SettingKind::kCooldown:
    case SettingKind::kOnOverdue:
    case SettingKind::kPath:
    case SettingKind::kGroups:
    case SettingKind::kDevices:
    case SettingKind::kGpuMemory:
    case SettingKind::kProbe:
      return py::str(settings.shown(info.id));
  }
  return py::none();
}

py::object to_python(const Json& json) {
  switch (json.type()) {
    case Json::value_t::boolean:
      return py::bool_(json.get<bool>());
    case Json::value_t::number_integer:
      return py::int_(json.get<std::int64_t>());
    case Json::value_t::number_unsigned:
      return py::int_(json.get<std::uint64_t>());
    case Json::value_t::number_float:
      return py::float_(json.get<double>());
    case Json::value_t::string:
      return py::str(json.get_ref<const std::string&>());
    case Json::value_t::array: {
      py::list list;
      for (const Json& item : json) list.append(to_python(item));
      return list;
    }
    case Json::value_t::object: {
      py::dict dict;
      for (const auto& [key, value] : json.items()) dict[py::str(key)] = to_python(value);
      return dict;
    }
    default:
      return py::none();
  }
}

}  // namespace modelpool::python
