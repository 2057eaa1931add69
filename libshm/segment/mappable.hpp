// An open file as Boost.Interprocess maps it: bi::file_mapping would open it once more, by a path,
// and that descriptor might be 0, 1 or 2.
#pragma once

#include <boost/interprocess/detail/os_file_functions.hpp>

namespace modelpool {

struct MappableFile {
  int fd;

  boost::interprocess::mapping_handle_t get_mapping_handle() const {
    return boost::interprocess::ipcdetail::mapping_handle_from_file_handle(fd);
  }
};

}  // namespace modelpool
