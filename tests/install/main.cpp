#include <iostream>
#include <modelpool/pool.hpp>

int main(int, char** argv) {
  modelpool::PoolOptions options;
  options.dir = argv[1];
  auto pool = modelpool::Pool::attach("client", options);
  if (!pool) {
    std::cerr << pool.error().text << '\n';
    return 1;
  }
  std::cout << "attached, limit " << pool->limit().value_or(0) << '\n';
}
