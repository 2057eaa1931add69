/* The layout of every structure and the value of every constant of modelpool.h, as programs were
 * built with it: checked by the compiler. What stands here may grow at the end of a structure (its
 * SIZE changes) but never change: that would be a new soname. Also shows that the header stands
 * alone in C11, twice. */
#include <modelpool/modelpool.h>
#include <modelpool/modelpool.h> /* again: guarded */

#define SIZE(type, bytes) _Static_assert(sizeof(type) == (bytes), #type " changed its size")
#define AT(type, field, offset) \
  _Static_assert(offsetof(type, field) == (offset), #type "." #field " moved")
#define VALUE(constant, value) _Static_assert((constant) == (value), #constant " changed")

_Static_assert(sizeof(void*) == 8 && sizeof(size_t) == 8, "these are the numbers of LP64");

SIZE(modelpool_error, 1024);
AT(modelpool_error, code, 0);
AT(modelpool_error, system, 4);
AT(modelpool_error, retry_after_ms, 8);
AT(modelpool_error, reserved, 16);
AT(modelpool_error, text, 32);

SIZE(modelpool_pool, 8);
AT(modelpool_pool, id, 0);

SIZE(modelpool_lease, 8);
AT(modelpool_lease, id, 0);

SIZE(modelpool_ticket, 8);
AT(modelpool_ticket, id, 0);

SIZE(modelpool_wait, 8);
AT(modelpool_wait, id, 0);

SIZE(modelpool_attach_options, 64);
AT(modelpool_attach_options, struct_bytes, 0);
AT(modelpool_attach_options, dir, 8);
AT(modelpool_attach_options, no_create, 16);
AT(modelpool_attach_options, backends, 20);
AT(modelpool_attach_options, workers, 24);
AT(modelpool_attach_options, leases, 28);
AT(modelpool_attach_options, waiters, 32);
AT(modelpool_attach_options, events, 36);
AT(modelpool_attach_options, models, 40);
AT(modelpool_attach_options, reserved, 44);
AT(modelpool_attach_options, settings, 48);
AT(modelpool_attach_options, coordinator_grace_ms, 56);

SIZE(modelpool_acquire_options, 72);
AT(modelpool_acquire_options, struct_bytes, 0);
AT(modelpool_acquire_options, tag, 8);
AT(modelpool_acquire_options, busy_timeout_ms, 16);
AT(modelpool_acquire_options, expected_bytes, 24);
AT(modelpool_acquire_options, priority, 32);
AT(modelpool_acquire_options, no_load, 40);
AT(modelpool_acquire_options, reserved, 44);
AT(modelpool_acquire_options, cancellable, 48);
AT(modelpool_acquire_options, reserved_cancel, 52);
AT(modelpool_acquire_options, keep_alive_ms, 56);
AT(modelpool_acquire_options, has_keep_alive, 64);
AT(modelpool_acquire_options, reserved2, 68);

SIZE(modelpool_grant, 24);
AT(modelpool_grant, kind, 0);
AT(modelpool_grant, reserved, 4);
AT(modelpool_grant, lease, 8);
AT(modelpool_grant, ticket, 16);

SIZE(modelpool_lease_info, 472);
AT(modelpool_lease_info, struct_bytes, 0);
AT(modelpool_lease_info, pid, 8);
AT(modelpool_lease_info, reserved, 12);
AT(modelpool_lease_info, model, 16);
AT(modelpool_lease_info, address, 208);
AT(modelpool_lease_info, slot, 464);
AT(modelpool_lease_info, generation, 468);

SIZE(modelpool_ticket_info, 1744);
AT(modelpool_ticket_info, struct_bytes, 0);
AT(modelpool_ticket_info, pid, 8);
AT(modelpool_ticket_info, waiting, 12);
AT(modelpool_ticket_info, model, 16);
AT(modelpool_ticket_info, devices, 208);

SIZE(modelpool_spawn_options, 40);
AT(modelpool_spawn_options, struct_bytes, 0);
AT(modelpool_spawn_options, env, 8);
AT(modelpool_spawn_options, cwd, 16);
AT(modelpool_spawn_options, output, 24);
AT(modelpool_spawn_options, error_output, 32);

SIZE(modelpool_ready_options, 56);
AT(modelpool_ready_options, struct_bytes, 0);
AT(modelpool_ready_options, size_bytes, 8);
AT(modelpool_ready_options, label, 16);
AT(modelpool_ready_options, device_mask, 24);
AT(modelpool_ready_options, settings, 32);
AT(modelpool_ready_options, pinned, 40);
AT(modelpool_ready_options, external, 44);
AT(modelpool_ready_options, any_listener, 48);
AT(modelpool_ready_options, reserved, 52);

SIZE(modelpool_status, 120);
AT(modelpool_status, struct_bytes, 0);
AT(modelpool_status, max_backends, 8);
AT(modelpool_status, live, 16);
AT(modelpool_status, ready, 20);
AT(modelpool_status, waiting, 24);
AT(modelpool_status, workers, 28);
AT(modelpool_status, leases, 32);
AT(modelpool_status, coordinator_alive, 36);
AT(modelpool_status, coordinator_pid, 40);
AT(modelpool_status, coordinator_epoch, 44);
AT(modelpool_status, pool, 48);

SIZE(modelpool_backend, 1232);
AT(modelpool_backend, struct_bytes, 0);
AT(modelpool_backend, model, 8);
AT(modelpool_backend, address, 200);
AT(modelpool_backend, state, 456);
AT(modelpool_backend, label, 472);
AT(modelpool_backend, busy_ms, 504);
AT(modelpool_backend, idle_ms, 512);
AT(modelpool_backend, ready_ms, 520);
AT(modelpool_backend, reserved_ms, 528);
AT(modelpool_backend, size_bytes, 536);
AT(modelpool_backend, device_mask, 544);
AT(modelpool_backend, in_flight, 552);
AT(modelpool_backend, generation, 556);
AT(modelpool_backend, slot, 560);
AT(modelpool_backend, pid, 564);
AT(modelpool_backend, owner_pid, 568);
AT(modelpool_backend, pinned, 572);
AT(modelpool_backend, external, 576);
AT(modelpool_backend, evict_requested, 580);
AT(modelpool_backend, group, 584);
AT(modelpool_backend, reserved, 588);
AT(modelpool_backend, started_ms, 592);
AT(modelpool_backend, exit, 600);
AT(modelpool_backend, stop_reason, 632);
AT(modelpool_backend, stop_text, 664);
AT(modelpool_backend, stop_decided_ms, 1176);
AT(modelpool_backend, stop_stopping_ms, 1184);
AT(modelpool_backend, stop_signalled_ms, 1192);
AT(modelpool_backend, stop_killed_ms, 1200);
AT(modelpool_backend, stop_age_ms, 1208);
AT(modelpool_backend, stop_limit_ms, 1216);
AT(modelpool_backend, stop_signal, 1224);
AT(modelpool_backend, reserved2, 1228);

SIZE(modelpool_lease_row, 272);
AT(modelpool_lease_row, struct_bytes, 0);
AT(modelpool_lease_row, model, 8);
AT(modelpool_lease_row, tag, 200);
AT(modelpool_lease_row, age_ms, 232);
AT(modelpool_lease_row, progress_ms, 240);
AT(modelpool_lease_row, limit_ms, 248);
AT(modelpool_lease_row, worker_pid, 256);
AT(modelpool_lease_row, backend_pid, 260);
AT(modelpool_lease_row, slot, 264);
AT(modelpool_lease_row, generation, 268);

SIZE(modelpool_worker, 104);
AT(modelpool_worker, struct_bytes, 0);
AT(modelpool_worker, command, 8);
AT(modelpool_worker, attached_ms, 72);
AT(modelpool_worker, leases, 80);
AT(modelpool_worker, row, 84);
AT(modelpool_worker, generation, 88);
AT(modelpool_worker, pid, 92);
AT(modelpool_worker, alive, 96);
AT(modelpool_worker, reserved, 100);

SIZE(modelpool_waiter, 280);
AT(modelpool_waiter, struct_bytes, 0);
AT(modelpool_waiter, model, 8);
AT(modelpool_waiter, tag, 200);
AT(modelpool_waiter, waiting_ms, 232);
AT(modelpool_waiter, left_ms, 240);
AT(modelpool_waiter, arrival, 248);
AT(modelpool_waiter, priority, 256);
AT(modelpool_waiter, expected_bytes, 264);
AT(modelpool_waiter, worker_pid, 272);
AT(modelpool_waiter, reserved, 276);

SIZE(modelpool_event, 912);
AT(modelpool_event, struct_bytes, 0);
AT(modelpool_event, sequence, 8);
AT(modelpool_event, time_ms, 16);
AT(modelpool_event, kind, 24);
AT(modelpool_event, reason, 56);
AT(modelpool_event, model, 88);
AT(modelpool_event, tag, 280);
AT(modelpool_event, exit, 312);
AT(modelpool_event, text, 344);
AT(modelpool_event, age_ms, 856);
AT(modelpool_event, limit_ms, 864);
AT(modelpool_event, exit_ms, 872);
AT(modelpool_event, load_ms, 880);
AT(modelpool_event, count, 888);
AT(modelpool_event, pid, 896);
AT(modelpool_event, worker_pid, 900);
AT(modelpool_event, signal, 904);
AT(modelpool_event, reserved, 908);

SIZE(modelpool_field, 40);
AT(modelpool_field, name, 0);
AT(modelpool_field, doc, 8);
AT(modelpool_field, kind, 16);
AT(modelpool_field, offset, 20);
AT(modelpool_field, bytes, 24);
AT(modelpool_field, is_signed, 28);
AT(modelpool_field, unknown, 32);

VALUE(MODELPOOL_OK, 0);
VALUE(MODELPOOL_TIMEOUT, 1);
VALUE(MODELPOOL_QUEUE_FULL, 2);
VALUE(MODELPOOL_TABLE_FULL, 3);
VALUE(MODELPOOL_ALL_PINNED, 4);
VALUE(MODELPOOL_COOLING_DOWN, 5);
VALUE(MODELPOOL_LOAD_FAILED, 6);
VALUE(MODELPOOL_NO_COORDINATOR, 7);
VALUE(MODELPOOL_NO_SUCH_POOL, 8);
VALUE(MODELPOOL_INCOMPATIBLE, 9);
VALUE(MODELPOOL_NOT_LOADED, 10);
VALUE(MODELPOOL_TICKET_LOST, 11);
VALUE(MODELPOOL_LEASE_LOST, 12);
VALUE(MODELPOOL_INVALID, 13);
VALUE(MODELPOOL_CLOSED, 14);
VALUE(MODELPOOL_REPLACED, 15);
VALUE(MODELPOOL_CANCELLED, 16);
VALUE(MODELPOOL_PERMISSION, 17);
VALUE(MODELPOOL_BUSY, 18);
VALUE(MODELPOOL_SPAWN_FAILED, 19);
VALUE(MODELPOOL_SYSTEM, 20);
VALUE(MODELPOOL_TOO_LARGE, 21);
VALUE(MODELPOOL_GRANTED_NOTHING, 0);
VALUE(MODELPOOL_GRANTED_LEASE, 1);
VALUE(MODELPOOL_GRANTED_TICKET, 2);
VALUE(MODELPOOL_BACKENDS, 1);
VALUE(MODELPOOL_LEASES, 2);
VALUE(MODELPOOL_WORKERS, 3);
VALUE(MODELPOOL_WAITERS, 4);
VALUE(MODELPOOL_EVENTS, 5);
VALUE(MODELPOOL_STATUS, 6);
VALUE(MODELPOOL_MODELS, 7);
VALUE(MODELPOOL_FIELD_TEXT, 1);
VALUE(MODELPOOL_FIELD_NUMBER, 2);
VALUE(MODELPOOL_FIELD_FLAG, 3);
VALUE(MODELPOOL_ALWAYS_KNOWN, INT64_MIN);
VALUE(MODELPOOL_MODEL_BYTES, 192);
VALUE(MODELPOOL_ADDRESS_BYTES, 256);
VALUE(MODELPOOL_TAG_BYTES, 32);
VALUE(MODELPOOL_LABEL_BYTES, 32);
VALUE(MODELPOOL_POOL_BYTES, 72);
VALUE(MODELPOOL_ERROR_BYTES, 992);

/* The macros set the size, and nothing else. */
int main(void) {
  modelpool_attach_options attach = MODELPOOL_ATTACH_OPTIONS_INIT;
  modelpool_acquire_options acquire = MODELPOOL_ACQUIRE_OPTIONS_INIT;
  modelpool_spawn_options spawn = MODELPOOL_SPAWN_OPTIONS_INIT;
  modelpool_ready_options ready = MODELPOOL_READY_OPTIONS_INIT;
  modelpool_lease_info lease = MODELPOOL_LEASE_INFO_INIT;
  modelpool_ticket_info ticket = MODELPOOL_TICKET_INFO_INIT;
  modelpool_status status = MODELPOOL_STATUS_INIT;
  return attach.struct_bytes == sizeof attach && attach.dir == NULL &&
                 attach.coordinator_grace_ms == 0 && acquire.struct_bytes == sizeof acquire &&
                 acquire.tag == NULL && acquire.no_load == 0 &&
                 spawn.struct_bytes == sizeof spawn && spawn.error_output == NULL &&
                 ready.struct_bytes == sizeof ready && ready.settings == NULL &&
                 ready.external == 0 && lease.struct_bytes == sizeof lease && lease.pid == 0 &&
                 ticket.struct_bytes == sizeof ticket && ticket.pid == 0 &&
                 status.struct_bytes == sizeof status && status.pool[0] == 0
             ? 0
             : 1;
}
