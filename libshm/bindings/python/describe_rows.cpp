// describe_rows: prints the rows as TypedDicts, for the stubs of the Python package. Runs while
// that is built.
#include <iostream>

#include "rows/rows.hpp"

namespace modelpool {
namespace {

std::string_view name_of(const StopRow&) { return "StopRow"; }
std::string_view name_of(const LeftRow&) { return "LeftRow"; }
std::string_view name_of(const DeviceUseRow&) { return "DeviceUseRow"; }
std::string_view name_of(const DeviceRow&) { return "DeviceRow"; }
std::string_view name_of(const CoordinatorRow&) { return "CoordinatorRow"; }

template <class Row>
std::string part_type(const std::optional<Row>&) {
  return std::string(name_of(Row())) + " | None";
}
template <class Row>
std::string part_type(const Row& row) {
  return std::string(name_of(row));
}

template <class Member>
std::string type_of(Kind kind, const Member& member) {
  switch (kind) {
    case Kind::kText:
    case Kind::kSignalName:
    case Kind::kTime:
      return "str | None";
    case Kind::kName:
      return "str";
    case Kind::kFlag:
      return "bool";
    case Kind::kTruth:
      return "bool | None";
    case Kind::kNumber:
      return "int";
    case Kind::kMaybe:
    case Kind::kPid:
    case Kind::kSignal:
      return "int | None";
    case Kind::kTexts:
      return "list[str]";
    case Kind::kCounters:
      return "dict[str, dict[str, int]]";
    case Kind::kMeters:
      return "list[dict[str, object]]";
    case Kind::kRows:
      break;
    case Kind::kPart:
      break;
  }
  if constexpr (Rows<Member>)
    return "list[" + std::string(name_of(typename Member::value_type())) + "]";
  if constexpr (
      requires { name_of(member); } || requires { name_of(*member); })
    return part_type(member);
  return "object";
}

std::string in_python(std::string_view doc) {
  std::string text(doc);
  for (std::size_t at = 0; (at = text.find("null", at)) != std::string::npos;)
    text.replace(at, 4, "None");
  return text;
}

template <class Row>
void print(std::string_view name) {
  std::cout << "\nclass " << name << "(TypedDict):\n";
  for_each_field(Row(), [](const Field& field, const auto& member) {
    std::cout << "    " << field.name << ": " << type_of(field.kind, member) << "  # "
              << in_python(field.doc) << "\n";
  });
}

}  // namespace
}  // namespace modelpool

int main() {
  using namespace modelpool;  // NOLINT(google-build-using-namespace)
  std::cout
      << "# Written by describe_rows from libshm/rows/rows.def.\nfrom typing import TypedDict\n";
  print<StopRow>("StopRow");
  print<LeftRow>("LeftRow");
  print<DeviceUseRow>("DeviceUseRow");
  print<BackendRow>("BackendRow");
  print<LeaseRow>("LeaseRow");
  print<WorkerRow>("WorkerRow");
  print<WaiterRow>("WaiterRow");
  print<EventRow>("EventRow");
  print<DeviceRow>("DeviceRow");
  print<CoordinatorRow>("CoordinatorRow");
  print<StatusRow>("StatusRow");
}
