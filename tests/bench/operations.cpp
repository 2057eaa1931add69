#include "operations.hpp"

#include <cstdio>
#include <cstdlib>

#include "support/pool.hpp"

namespace modelpool::bench {

void give_up(const std::string& why) {
  std::fprintf(stderr, "unable to measure: %s\n", why.c_str());
  std::exit(1);
}

LoadedPool::LoadedPool() {
  for (std::size_t i = 0; i < kModels; ++i)
    models_.push_back("llama-3-8b-instruct-" + std::to_string(i));
  Capacities capacities;
  capacities.backends = kModels;
  capacities.models = kModels;
  pool_ = test::make_pool(scratch_, {}, capacities);
  auto worker = Worker::attach(shared_segment_of(*pool_));
  if (!worker) give_up(worker.error().text);
  worker_ = *worker;
}

void LoadedPool::load(std::size_t count) {
  for (; loaded_ < count; ++loaded_) test::load_external(*pool_, models_[loaded_]).release();
}

BackendRef LoadedPool::backend(std::size_t i) {
  load(i + 1);
  return find_backend(segment_of(*pool_), models_[i])->ref;
}

RobustStamps::RobustStamps() {
  pthread_mutexattr_t kind;
  pthread_mutexattr_init(&kind);
  pthread_mutexattr_setpshared(&kind, PTHREAD_PROCESS_SHARED);
  pthread_mutexattr_setrobust(&kind, PTHREAD_MUTEX_ROBUST);
  pthread_mutex_init(&mutex_, &kind);
}

}  // namespace modelpool::bench
