// modelpool.Lease, written with the C API: its making and its end are the hot path, and an object
// that pybind11 registers would cost more than the lease.
//
// Safety: the GIL makes its users take turns.
#pragma once

#include "values.hpp"

namespace modelpool::python {

void define_lease(py::module_& module);
py::object make_lease(Lease lease);

}  // namespace modelpool::python
