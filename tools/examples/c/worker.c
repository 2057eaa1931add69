/* A worker in C: serves one request from the pool.
 *
 *   worker MODEL PORT COMMAND...
 *
 * Acquires MODEL. If nobody has loaded it, starts COMMAND, a server that listens on
 * 127.0.0.1:PORT, and tells the pool when it answers; the server outlives this program. Then prints
 * where the request goes. Environment: MODELPOOL_DIR, MODELPOOL_POOL.
 *
 *   cc worker.c $(pkg-config --cflags --libs modelpool)
 */
#define _POSIX_C_SOURCE 200809L

#include <arpa/inet.h>
#include <modelpool/modelpool.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

static int answers(int port) {
  struct sockaddr_in address;
  memset(&address, 0, sizeof address);
  address.sin_family = AF_INET;
  address.sin_port = htons((unsigned short)port);
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  const int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  const int connected =
      fd >= 0 && connect(fd, (const struct sockaddr*)&address, sizeof address) == 0;
  if (fd >= 0) close(fd);
  return connected;
}

/* Uses the ticket up: either *lease is ours, or the load is over. A program that does not start
 * says nothing about the model: the next waiter may try. One that ends before it answers does: all
 * waiters are told so, and the model cools down. */
static modelpool_code load(modelpool_ticket ticket, int port, const char* const* command,
                           modelpool_lease* lease, modelpool_error* error) {
  int32_t pid = 0;
  modelpool_code code = modelpool_spawn(ticket, command, NULL, &pid, error);
  if (code != MODELPOOL_OK) {
    modelpool_give_back(ticket, NULL);
    return code;
  }
  const struct timespec pause = {0, 20 * 1000 * 1000};
  while (!answers(port) && kill(pid, 0) == 0) nanosleep(&pause, NULL);
  char address[MODELPOOL_ADDRESS_BYTES];
  snprintf(address, sizeof address, "127.0.0.1:%d", port);
  /* If the server ended, or took longer than load_timeout, the ticket is lost, and this says so. */
  code = modelpool_ready(ticket, address, NULL, lease, error);
  if (code != MODELPOOL_OK) modelpool_give_back(ticket, NULL); /* does nothing if it is lost */
  return code;
}

int main(int argc, char** argv) {
  if (argc < 4) {
    fprintf(stderr, "usage: worker MODEL PORT COMMAND...\n");
    return 2;
  }
  const char* const model = argv[1];
  const int port = atoi(argv[2]);
  modelpool_error error;
  modelpool_pool pool;
  if (modelpool_attach(NULL, NULL, &pool, &error) != MODELPOOL_OK) {
    fprintf(stderr, "worker: %s\n", error.text);
    return 1;
  }
  modelpool_acquire_options options = MODELPOOL_ACQUIRE_OPTIONS_INIT;
  options.tag = "worker.c";
  modelpool_grant grant;
  modelpool_code code = modelpool_acquire(pool, model, 30000, &options, &grant, &error);
  if (code == MODELPOOL_OK && grant.kind == MODELPOOL_GRANTED_TICKET) {
    code = load(grant.ticket, port, (const char* const*)argv + 3, &grant.lease, &error);
  }
  if (code != MODELPOOL_OK) {
    fprintf(stderr, "worker: %s (%s)\n", error.text, modelpool_code_name(code));
    modelpool_detach(pool);
    return 1;
  }
  modelpool_lease_info info = MODELPOOL_LEASE_INFO_INIT;
  modelpool_lease_get(grant.lease, &info, NULL);
  printf("%s %s %d\n", info.model, info.address, info.pid);
  /* The request runs here; for each chunk of a stream: */
  code = modelpool_progress(grant.lease, &error);
  if (code != MODELPOOL_OK) fprintf(stderr, "worker: %s\n", error.text);
  modelpool_release(grant.lease);
  modelpool_detach(pool);
  return code == MODELPOOL_OK ? 0 : 1;
}
