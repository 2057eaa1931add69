#include <iostream>
#include <modelpool/json.hpp>
#include <modelpool/pool.hpp>

int main(int, char** argv) {
  modelpool::PoolOptions options;
  options.dir = argv[1];
  auto pool = modelpool::Pool::attach("client", options);
  if (!pool) {
    std::cerr << pool.error().text << '\n';
    return 1;
  }
  const auto seen = pool->snapshot();
  if (!seen || seen->workers.size() != 1 || !pool->events()) {
    std::cerr << (seen ? "unexpected rows" : seen.error().text) << '\n';
    return 1;
  }
  if (modelpool::to_json(seen->status).find("\"pool\": \"client\"") == std::string::npos) return 1;
  std::cout << "attached, limit " << pool->limit().value_or(0) << '\n';
}
