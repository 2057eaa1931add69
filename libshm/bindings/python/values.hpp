// What crosses between Python and C++: errors, texts, durations, settings, JSON.
//
// Safety: all but error_of() needs the GIL.
//
// Errors: a value of the wrong type, or a wrong value, is modelpool.Invalid (P13). What an object
// of the caller's raises when it is asked for its value goes through.
#pragma once

#include <pybind11/pybind11.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "json/table_json.hpp"
#include "pool/inside.hpp"

namespace modelpool::python {

// Public since 3.13, and the private name went then.
#if PY_VERSION_HEX >= 0x030D0000
inline bool is_finalizing() { return Py_IsFinalizing() != 0; }
#else
inline bool is_finalizing() { return _Py_IsFinalizing() != 0; }
#endif

// Without the GIL while it lives. At the interpreter's end a thread that wants it back, other than
// the main one that ends it, is parked by us for ever: Python would end it with pthread_exit,
// through frames that must not be unwound.
class ReleasedGil {
 public:
  ReleasedGil() : state_(PyEval_SaveThread()) {}
  ~ReleasedGil() noexcept(false) {
    while (is_finalizing() && gettid() != getpid()) pause();
    PyEval_RestoreThread(state_);
  }
  ReleasedGil(const ReleasedGil&) = delete;
  ReleasedGil& operator=(const ReleasedGil&) = delete;

 private:
  PyThreadState* state_;
};

namespace py = pybind11;

// Counts the forks that led to this process: what was made before the last one is inert.
unsigned fork_count();

// Defines modelpool.Error and one class for each Errc in the module.
void define_errors(py::module_& module);
// The exception, not raised.
py::object exception_of(const Error& error);
[[noreturn]] void raise(const Error& error);
[[noreturn]] void raise_closed(const char* what);
[[noreturn]] void raise_invalid(const std::string& text);
[[noreturn]] void raise_type(const char* name, const char* wanted, py::handle given);

template <class T>
T unwrap(Result<T> result) {
  if (!result) raise(result.error());
  if constexpr (!std::is_void_v<T>) return std::move(*result);
}

// UTF-8 of a str, valid as long as it is.
std::string_view utf8_of(py::handle text, const char* name);
// A path or an argument as the operating system takes it: str, bytes or os.PathLike; None is "".
std::string os_text_of(py::handle text, const char* name);
// An int; a bool is none.
std::uint64_t count_of(py::handle value, const char* name, std::uint64_t max = UINT64_MAX);
bool truth_of(py::handle value);
// Seconds (int, float) or a duration ("500ms", "15m"); "off" is none, as for poolctl's --timeout.
std::chrono::nanoseconds duration_of(py::handle value, const char* name);
// As duration_of; None, 0 and "off" are 0.
std::chrono::nanoseconds limit_of(py::handle value, const char* name);
// As duration_of; None is none given, "off" and what is less than 0 for ever (negative).
std::optional<Duration> keep_alive_of(py::handle value, const char* name);

// {"idle_timeout": 2.5, "stop_signal": signal.SIGINT} as names and texts for Pool::set.
std::vector<std::pair<std::string, std::string>> settings_of(const py::kwargs& values);
py::object setting_value(const SettingInfo& info, const PoolSettings& settings);

py::object to_python(const Json& json);

}  // namespace modelpool::python
