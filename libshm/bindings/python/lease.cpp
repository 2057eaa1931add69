#include "lease.hpp"

#include <new>

namespace modelpool::python {
namespace {

struct LeaseObject {
  PyObject_HEAD Lease lease;
  unsigned forks;  // fork_count() when it was granted
  PyObject* told;  // who is told when it is asked to end, kept until the release; or null
};

PyTypeObject* g_lease_type = nullptr;

LeaseObject& object_of(PyObject* self) { return *reinterpret_cast<LeaseObject*>(self); }

// Null with Closed raised if it was released or inherited through fork.
Lease* held(PyObject* self) {
  LeaseObject& object = object_of(self);
  if (object.lease && object.forks == fork_count()) [[likely]] {
    return &object.lease;
  }
  try {
    raise_closed("lease");
  } catch (py::error_already_set& error) {
    error.restore();
  }
  return nullptr;
}

PyObject* text(const std::string& value) {
  return PyUnicode_DecodeUTF8(value.data(), static_cast<Py_ssize_t>(value.size()), "replace");
}

PyObject* get_model(PyObject* self, void*) {
  const Lease* lease = held(self);
  return lease == nullptr ? nullptr : text(lease->model());
}

PyObject* get_address(PyObject* self, void*) {
  const Lease* lease = held(self);
  return lease == nullptr ? nullptr : text(lease->address());
}

PyObject* get_pid(PyObject* self, void*) {
  const Lease* lease = held(self);
  return lease == nullptr ? nullptr : PyLong_FromLong(lease->pid());
}

PyObject* none_or_raise(const Result<>& result) {
  if (result) Py_RETURN_NONE;
  try {
    raise(result.error());
  } catch (py::error_already_set& error) {
    error.restore();
  }
  return nullptr;
}

PyObject* progress(PyObject* self, PyObject*) {
  Lease* lease = held(self);
  if (lease == nullptr) return nullptr;
  return none_or_raise(lease->progress());
}

PyObject* release(PyObject* self, PyObject*) {
  LeaseObject& object = object_of(self);
  object.lease.release();
  if (object.told != nullptr) [[unlikely]] {
    Py_CLEAR(object.told);
  }
  Py_RETURN_NONE;
}

PyObject* get_cancelled(PyObject* self, void*) {
  const Lease* lease = held(self);
  return lease == nullptr ? nullptr : PyBool_FromLong(lease->cancelled());
}

PyObject* get_cancel_reason(PyObject* self, void*) {
  const Lease* lease = held(self);
  if (lease == nullptr) return nullptr;
  const std::string reason = lease->cancel_reason();
  if (reason.empty()) Py_RETURN_NONE;
  return text(reason);
}

PyObject* get_exit_words(PyObject* self, void*) {
  const Lease* lease = held(self);
  if (lease == nullptr) return nullptr;
  std::string words;
  Py_BEGIN_ALLOW_THREADS;
  words = lease->exit_words();
  Py_END_ALLOW_THREADS;
  if (words.empty()) Py_RETURN_NONE;
  return text(words);
}

PyObject* set_cancellable(PyObject* self, PyObject*) {
  Lease* lease = held(self);
  return lease == nullptr ? nullptr : none_or_raise(lease->set_cancellable());
}

// The rest of it is Python: a thread that runs Python must be one of the interpreter's.
PyObject* on_cancel(PyObject* self, PyObject* const* values, Py_ssize_t count, PyObject* keywords) {
  if (held(self) == nullptr) return nullptr;
  const Py_ssize_t named = keywords == nullptr ? 0 : PyTuple_GET_SIZE(keywords);
  const bool is_named = named == 1 && PyUnicode_CompareWithASCIIString(
                                          PyTuple_GET_ITEM(keywords, 0), "callback") == 0;
  if (count + named != 1 || (named == 1 && !is_named)) {
    PyErr_SetString(PyExc_TypeError, "unable to call on_cancel: it takes one argument, callback");
    return nullptr;
  }
  PyObject* const package = PyImport_ImportModule("modelpool");
  if (package == nullptr) return nullptr;
  PyObject* const done = PyObject_CallMethod(package, "_on_cancel", "OO", self, values[0]);
  Py_DECREF(package);
  return done;
}

PyObject* notify_cancel(PyObject* self, PyObject* const* values, Py_ssize_t count) {
  Lease* lease = held(self);
  if (lease == nullptr) return nullptr;
  if (count != 3) {
    PyErr_SetString(PyExc_TypeError, "_notify_cancel takes fd, number and told");
    return nullptr;
  }
  const long fd = PyLong_AsLong(values[0]);
  const unsigned long long number = PyLong_AsUnsignedLongLong(values[1]);
  if (PyErr_Occurred() != nullptr) return nullptr;
  Py_INCREF(values[2]);
  Py_XSETREF(object_of(self).told, values[2]);
  return none_or_raise(lease->notify_cancel(static_cast<int>(fd), number));
}

PyObject* enter(PyObject* self, PyObject*) {
  if (held(self) == nullptr) return nullptr;
  Py_INCREF(self);
  return self;
}

PyObject* leave(PyObject* self, PyObject* const*, Py_ssize_t) { return release(self, nullptr); }

PyObject* repr(PyObject* self) {
  const LeaseObject& object = object_of(self);
  if (!object.lease || object.forks != fork_count()) {
    return PyUnicode_FromString("<modelpool.Lease released>");
  }
  const std::string shown =
      "<modelpool.Lease on " + quote(object.lease.model()) + " at " + object.lease.address() + ">";
  return text(shown);
}

void dealloc(PyObject* self) {
  PyTypeObject* type = Py_TYPE(self);
  object_of(self).lease.~Lease();
  Py_XDECREF(object_of(self).told);
  PyObject_Free(self);
  Py_DECREF(type);
}

PyGetSetDef g_getters[] = {
    {"model", get_model, nullptr, "The model's name.", nullptr},
    {"address", get_address, nullptr, "Where its backend answers.", nullptr},
    {"pid", get_pid, nullptr, "The backend's PID; 0 for an external one.", nullptr},
    {"cancelled", get_cancelled, nullptr,
     "Whether the pool has asked for the end of this request (on_overdue).", nullptr},
    {"cancel_reason", get_cancel_reason, nullptr,
     "Why, and what happens otherwise: \"busy_timeout 30s passed; if it goes on, its backend is "
     "killed 10s after that, and all requests there are lost\". None if it was not asked.",
     nullptr},
    {"exit_words", get_exit_words, nullptr,
     "How the backend's process ended and the last it wrote: \"exit status 1; its last lines: "
     "...\". None if it runs, or if nothing is known of its end.",
     nullptr},
    {nullptr, nullptr, nullptr, nullptr, nullptr}};

PyMethodDef g_methods[] = {
    {"progress", progress, METH_NOARGS,
     "progress($self, /)\n--\n\n"
     "The request is getting on: restarts its stall_timeout. Call it for every chunk of a "
     "stream.\n\n"
     "Raises LeaseLost if the backend was stopped, Closed after release."},
    {"set_cancellable", set_cancellable, METH_NOARGS,
     "set_cancellable($self, /)\n--\n\n"
     "This process looks at `cancelled` often enough, and ends the request then: it is asked "
     "before its backend is killed."},
    {"on_cancel", reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(on_cancel)),
     METH_FASTCALL | METH_KEYWORDS,
     "on_cancel($self, /, callback)\n--\n\n"
     "Calls callback() once when the pool asks for the end of this request, or soon if it has: end "
     "it at the backend, most often by closing the connection, and release the lease; "
     "cancel_reason says why. A lease tells the last callback it was given.\n\n"
     "The calls come from a thread of the package, one after the other, which starts with the "
     "first on_cancel. What they raise goes to threading.excepthook. None begins after release; "
     "the callback is kept until then."},
    {"_notify_cancel", reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(notify_cancel)),
     METH_FASTCALL, "_notify_cancel($self, /, fd, number, told)\n--\n\n"},
    {"release", release, METH_NOARGS,
     "release($self, /)\n--\n\nEnds the lease. Further calls do nothing."},
    {"__enter__", enter, METH_NOARGS, "__enter__($self, /)\n--\n\n"},
    {"__exit__", reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(leave)), METH_FASTCALL,
     "__exit__($self, /, *exc_info)\n--\n\nReleases."},
    {nullptr, nullptr, 0, nullptr}};

constexpr const char* kDoc =
    "A request in flight. While it is held its backend is not evicted.\n\n"
    "Ends with `with`, release() or collection. In a forked child it is closed and ends "
    "nothing.\n\n"
    ">>> with pool.acquire(\"llama\") as lease:\n"
    "...     lease.model, lease.address\n"
    "...     lease.progress()\n"
    "('llama', '127.0.0.1:4321')\n"
    ">>> lease\n"
    "<modelpool.Lease released>";

}  // namespace

void define_lease(py::module_& module) {
  static PyType_Slot slots[] = {{Py_tp_dealloc, reinterpret_cast<void*>(dealloc)},
                                {Py_tp_repr, reinterpret_cast<void*>(repr)},
                                {Py_tp_methods, g_methods},
                                {Py_tp_getset, g_getters},
                                {Py_tp_doc, const_cast<char*>(kDoc)},
                                {0, nullptr}};
  static PyType_Spec spec = {
      "modelpool.Lease", sizeof(LeaseObject), 0,
      Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION | Py_TPFLAGS_IMMUTABLETYPE, slots};
  g_lease_type = reinterpret_cast<PyTypeObject*>(PyType_FromSpec(&spec));
  if (g_lease_type == nullptr) throw py::error_already_set();
  module.attr("Lease") = py::handle(reinterpret_cast<PyObject*>(g_lease_type));
}

py::object make_lease(Lease lease) {
  LeaseObject* object = PyObject_New(LeaseObject, g_lease_type);
  if (object == nullptr) throw py::error_already_set();
  new (&object->lease) Lease(std::move(lease));
  object->forks = fork_count();
  object->told = nullptr;
  return py::reinterpret_steal<py::object>(reinterpret_cast<PyObject*>(object));
}

}  // namespace modelpool::python
