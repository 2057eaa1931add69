// Package modelpool shares model backends between all workers of a host: at most one process serves
// a model, a limit holds for all workers together, and one judge, coordinatord, ends what is idle or
// hangs. It is a thin layer over libmodelpool.so; <modelpool/modelpool.h> has every detail, the
// project's README the meaning of each word and of the promises P1 to P13.
//
//	pool, err := modelpool.Attach("default", nil)
//	lease, ticket, err := pool.Acquire(ctx, "llama-3-8b", modelpool.Options{Tag: "req-81"})
//	if ticket != nil { // not loaded, and we are the one to load it
//		err = ticket.Spawn([]string{"llama-server", "--port", "4321"}, modelpool.SpawnOptions{})
//		// ... wait until it answers ...
//		lease, err = ticket.Ready("127.0.0.1:4321", modelpool.ReadyOptions{})
//	}
//	defer lease.Release()
//	// ... send the request to lease.Address() ...
//
// Everything may be used from any goroutine, and by several at once; two that use one Ticket at the
// same time get ErrBusy. A Lease may be released by another goroutine, or thread, than acquired it.
// A Lease, Ticket or Pool that becomes unreachable is released, given up or closed by a finalizer, at
// some time: do not rely on it to make room. What a process held when it died is cleared (P6). Waiting costs
// a goroutine, no thread. Programs started with os/exec inherit nothing of a pool.
//
// Errors are *Error; errors.Is(err, modelpool.ErrTimeout) and its like tell them apart. Any call may fail with
// ErrInvalid (an argument), ErrClosed and ErrSystem; listed is what else. Durations are counted in milliseconds,
// rounded up, by CLOCK_MONOTONIC. The zero value of an options structure is its defaults.
//
// To build, let pkg-config find modelpool.pc (PKG_CONFIG_PATH, if the library is not under /usr).
package modelpool

/*
#cgo pkg-config: modelpool
#include <modelpool/modelpool.h>
#include <stdlib.h>
*/
import "C"

import (
	"context"
	"fmt"
	"math"
	"runtime"
	"sync"
	"time"
	"unsafe"
)

// DefaultTimeout is how long Acquire waits under a context without a deadline: every wait has an end.
const DefaultTimeout = 30 * time.Second

// Unknown is a duration or size that is not known or does not apply.
const Unknown = -1

// Version of the library in use, such as "0.1.0".
func Version() string { return C.GoString(C.modelpool_version()) }

func pointer(bytes []byte) unsafe.Pointer { return unsafe.Pointer(&bytes[0]) }

// milliseconds rounds up, so that a wait does not end early.
func milliseconds(d time.Duration) C.int64_t {
	ms := d / time.Millisecond
	if d%time.Millisecond > 0 {
		ms++
	}
	return C.int64_t(ms)
}

func duration(ms C.int64_t) time.Duration {
	if ms < 0 {
		return Unknown
	}
	if int64(ms) > math.MaxInt64/int64(time.Millisecond) {
		return math.MaxInt64
	}
	return time.Duration(ms) * time.Millisecond
}

// cMemory holds copies of texts in C's memory, for structures that point to them.
type cMemory struct {
	pointers []unsafe.Pointer
	err      error
}

func (m *cMemory) free() {
	for _, p := range m.pointers {
		C.free(p)
	}
}

// text copies s; an empty one is nil.
func (m *cMemory) text(s, what string) *C.char {
	if s == "" {
		return nil
	}
	return m.full(s, what)
}

func (m *cMemory) full(s, what string) *C.char {
	if _, err := text(s, what); err != nil {
		m.err = err
		return nil
	}
	copied := C.CString(s)
	m.pointers = append(m.pointers, unsafe.Pointer(copied))
	return copied
}

// list copies texts and ends them with NULL; none at all is nil.
func (m *cMemory) list(texts []string, what string) **C.char {
	if texts == nil {
		return nil
	}
	array := C.calloc(C.size_t(len(texts)+1), C.size_t(unsafe.Sizeof(uintptr(0))))
	m.pointers = append(m.pointers, array)
	for i, s := range texts {
		*(**C.char)(unsafe.Add(array, uintptr(i)*unsafe.Sizeof(uintptr(0)))) = m.full(s, what)
	}
	return (**C.char)(array)
}

func flag(b bool) C.int32_t {
	if b {
		return 1
	}
	return 0
}

// A Pool is an attachment of this process to a pool.
type Pool struct {
	handle C.modelpool_pool

	watching sync.Mutex
	watch    *watch // of the waits, once there was one
	closed   bool
}

// AttachOptions are for Attach; nil gives the defaults.
type AttachOptions struct {
	Dir              string        // "": MODELPOOL_DIR, /run/modelpool, /dev/shm/modelpool-UID
	NoCreate         bool          // ErrNoSuchPool instead of a new pool
	Settings         []string      // "name=value", of a pool that is created here
	CoordinatorGrace time.Duration // how long its absence goes unnoticed; 0: 10 s
}

// Attach joins the pool of that name, [a-z0-9_-]{1,64}, creating it if there is none. The empty name is
// MODELPOOL_POOL, else "default". Errors: ErrNoSuchPool, ErrIncompatible, ErrPermission, ErrTableFull.
func Attach(name string, options *AttachOptions) (*Pool, error) {
	if options == nil {
		options = &AttachOptions{}
	}
	var memory cMemory
	defer memory.free()
	given := C.modelpool_attach_options{
		struct_bytes:         C.sizeof_modelpool_attach_options,
		dir:                  memory.text(options.Dir, "directory"),
		no_create:            flag(options.NoCreate),
		settings:             memory.list(options.Settings, "setting"),
		coordinator_grace_ms: milliseconds(options.CoordinatorGrace),
	}
	wanted := memory.text(name, "pool name")
	if memory.err != nil {
		return nil, memory.err
	}
	pool := &Pool{}
	var failed C.modelpool_error
	if code := C.modelpool_attach(wanted, &given, &pool.handle, &failed); code != C.MODELPOOL_OK {
		return nil, failure(code, &failed)
	}
	runtime.SetFinalizer(pool, func(p *Pool) { p.Close() })
	return pool, nil
}

// Close leaves the pool. Leases and tickets out stay valid; calls to Acquire that wait are answered ErrClosed.
// Further calls do nothing.
func (p *Pool) Close() {
	runtime.SetFinalizer(p, nil)
	C.modelpool_detach(p.handle)
	p.watching.Lock()
	defer p.watching.Unlock()
	p.closed = true
	if p.watch != nil {
		p.watch.stop()
	}
}

// Options are for Acquire.
type Options struct {
	Tag           string        // who asks, at most 31 bytes, shown in events and lists
	BusyTimeout   time.Duration // of this request alone; 0: only the pool's rules
	ExpectedBytes uint64        // what loading it will take; 0: unknown
	Priority      uint64
	NoLoad        bool // ErrNotLoaded instead of a ticket
}

// Acquire gives a lease if the model is loaded, or a ticket if the caller is to load it (P4: one loader at a
// time; P5: first come, first served); exactly one of them is not nil, unless err is. It waits for either until
// the context is done, or for DefaultTimeout if that has no deadline. An error then says both:
// errors.Is(err, ErrTimeout) and errors.Is(err, context.DeadlineExceeded), or ErrCancelled and context.Canceled.
//
// Errors: ErrTimeout, ErrCancelled, ErrQueueFull, ErrTableFull, ErrAllPinned, ErrCoolingDown, ErrLoadFailed,
// ErrNoCoordinator, ErrNotLoaded, ErrReplaced.
func (p *Pool) Acquire(ctx context.Context, model string, options Options) (*Lease, *Ticket, error) {
	if err := ctx.Err(); err != nil {
		return nil, nil, ended(model, err)
	}
	name, err := text(model, "model name")
	if err != nil {
		return nil, nil, err
	}
	var memory cMemory
	defer memory.free()
	given := C.modelpool_acquire_options{
		struct_bytes:    C.sizeof_modelpool_acquire_options,
		tag:             memory.text(options.Tag, "tag"),
		busy_timeout_ms: milliseconds(options.BusyTimeout),
		expected_bytes:  C.uint64_t(options.ExpectedBytes),
		priority:        C.uint64_t(options.Priority),
		no_load:         flag(options.NoLoad),
	}
	if memory.err != nil {
		return nil, nil, memory.err
	}
	defer runtime.KeepAlive(p)

	// Without waiting, first: a loaded model, or a free place.
	var grant C.modelpool_grant
	if C.modelpool_acquire(p.handle, name, 0, &given, &grant, nil) == C.MODELPOOL_OK {
		return newGrant(&grant)
	}
	return p.wait(ctx, model, name, &given)
}

// wait stands in line. It also answers, with its text, what made the first look fail.
func (p *Pool) wait(ctx context.Context, model string, name *C.char,
	given *C.modelpool_acquire_options) (*Lease, *Ticket, error) {
	timeout := DefaultTimeout
	deadline, bounded := ctx.Deadline()
	if bounded {
		if timeout = time.Until(deadline); timeout < 0 {
			timeout = 0
		}
	}
	wakes, err := p.wakes()
	if err != nil {
		return nil, nil, err
	}
	var failed C.modelpool_error
	var wait C.modelpool_wait
	var grant C.modelpool_grant
	if code := C.modelpool_begin(p.handle, name, milliseconds(timeout), given, &wait, &failed); code != C.MODELPOOL_OK {
		return nil, nil, failure(code, &failed)
	}
	for {
		woken := wakes.next() // before the look, so that no wake is missed
		if code := C.modelpool_poll(wait, &grant, &failed); code != C.MODELPOOL_OK {
			err := failure(code, &failed)
			if bounded && code == C.MODELPOOL_TIMEOUT {
				err.(*Error).cause = context.DeadlineExceeded
			}
			return nil, nil, err
		}
		if grant.kind != C.MODELPOOL_GRANTED_NOTHING {
			return newGrant(&grant)
		}
		select {
		case <-woken:
		case <-ctx.Done():
			C.modelpool_cancel(wait)
			return nil, nil, ended(model, ctx.Err())
		}
	}
}

// Touch marks the model's backend used now, without a request in flight. Errors: ErrNotLoaded.
func (p *Pool) Touch(model string) error {
	return p.onModel(model, func(name *C.char, failed *C.modelpool_error) C.modelpool_code {
		return C.modelpool_touch(p.handle, name, failed)
	})
}

// Pin exempts the model's backend from idle, LRU, group and memory eviction. Errors: ErrNotLoaded.
func (p *Pool) Pin(model string) error {
	return p.onModel(model, func(name *C.char, failed *C.modelpool_error) C.modelpool_code {
		return C.modelpool_pin(p.handle, name, failed)
	})
}

// Unpin ends a Pin. Errors: ErrNotLoaded.
func (p *Pool) Unpin(model string) error {
	return p.onModel(model, func(name *C.char, failed *C.modelpool_error) C.modelpool_code {
		return C.modelpool_unpin(p.handle, name, failed)
	})
}

// Evict asks the coordinator to end the model's backend and returns at once. With force its leases are cut, else
// it waits for them up to drain_timeout. Errors: ErrNotLoaded.
func (p *Pool) Evict(model string, force bool) error {
	return p.onModel(model, func(name *C.char, failed *C.modelpool_error) C.modelpool_code {
		return C.modelpool_evict(p.handle, name, C.int(flag(force)), failed)
	})
}

func (p *Pool) onModel(model string, call func(*C.char, *C.modelpool_error) C.modelpool_code) error {
	name, err := text(model, "model name")
	if err != nil {
		return err
	}
	defer runtime.KeepAlive(p)
	var failed C.modelpool_error
	return failure(call(name, &failed), &failed)
}

// Set changes one of the pool's settings, for every worker of the host, written as everywhere:
// Set("idle_timeout", "15m"). Errors: ErrInvalid, with what the setting takes.
func (p *Pool) Set(name, value string) error {
	setting, err := text(name, "setting")
	if err != nil {
		return err
	}
	to, err := text(value, "value")
	if err != nil {
		return err
	}
	defer runtime.KeepAlive(p)
	var failed C.modelpool_error
	return failure(C.modelpool_set(p.handle, setting, to, &failed), &failed)
}

// Get gives the pool's value of a setting, or its default, as Set takes it.
func (p *Pool) Get(name string) (string, error) {
	setting, err := text(name, "setting")
	if err != nil {
		return "", err
	}
	defer runtime.KeepAlive(p)
	var failed C.modelpool_error
	var value [256]C.char
	if code := C.modelpool_get(p.handle, setting, &value[0], C.size_t(len(value)), &failed); code != C.MODELPOOL_OK {
		return "", failure(code, &failed)
	}
	return C.GoString(&value[0]), nil
}

// Limit is the setting max_backends as a number; 0: no limit (P3).
func (p *Pool) Limit() (int, error) {
	defer runtime.KeepAlive(p)
	var failed C.modelpool_error
	var limit C.uint32_t
	code := C.modelpool_limit(p.handle, &limit, &failed)
	return int(limit), failure(code, &failed)
}

// SetLimit sets max_backends; 0: no limit.
func (p *Pool) SetLimit(maxBackends int) error {
	if maxBackends < 0 || maxBackends > math.MaxUint32 {
		return invalid(fmt.Sprintf("unable to set max_backends to %d: it takes 0 (no limit) or more", maxBackends))
	}
	defer runtime.KeepAlive(p)
	var failed C.modelpool_error
	return failure(C.modelpool_set_limit(p.handle, C.uint32_t(maxBackends), &failed), &failed)
}

// A Lease is a request in flight. While it is held its backend is not evicted (P2).
type Lease struct {
	handle C.modelpool_lease
	once   sync.Once
	info   *C.modelpool_lease_info // once asked for
}

func newLease(handle C.modelpool_lease) *Lease {
	lease := &Lease{handle: handle}
	runtime.SetFinalizer(lease, func(l *Lease) { l.Release() })
	return lease
}

func newGrant(grant *C.modelpool_grant) (*Lease, *Ticket, error) {
	if grant.kind == C.MODELPOOL_GRANTED_LEASE {
		return newLease(grant.lease), nil, nil
	}
	ticket := &Ticket{handle: grant.ticket}
	runtime.SetFinalizer(ticket, func(t *Ticket) { t.Fail("given up: its ticket was forgotten") })
	return nil, ticket, nil
}

func (l *Lease) get() *C.modelpool_lease_info {
	l.once.Do(func() {
		l.info = &C.modelpool_lease_info{struct_bytes: C.sizeof_modelpool_lease_info}
		C.modelpool_lease_get(l.handle, l.info, nil)
	})
	return l.info
}

// Model is the name of what the lease is on; "" if it was first asked for after Release.
func (l *Lease) Model() string { return C.GoString(&l.get().model[0]) }

// Address is where the backend answers; "" if it was first asked for after Release.
func (l *Lease) Address() string { return C.GoString(&l.get().address[0]) }

// Pid is the backend's; 0 for an external one.
func (l *Lease) Pid() int { return int(l.get().pid) }

// Progress says that the request is getting on: restarts its stall_timeout. For every chunk of a stream.
// Errors: ErrLeaseLost: its backend was stopped; the text says why. ErrClosed after Release.
func (l *Lease) Progress() error {
	defer runtime.KeepAlive(l)
	if C.modelpool_progress(l.handle, nil) == C.MODELPOOL_OK {
		return nil
	}
	var failed C.modelpool_error
	return failure(C.modelpool_progress(l.handle, &failed), &failed)
}

// Release ends the lease. Further calls do nothing.
func (l *Lease) Release() {
	runtime.SetFinalizer(l, nil)
	C.modelpool_release(l.handle)
}

// A Ticket is the exclusive right to start the backend of one model (P4). Ready or Fail use it up.
type Ticket struct {
	handle C.modelpool_ticket
}

func (t *Ticket) get() C.modelpool_ticket_info {
	defer runtime.KeepAlive(t)
	info := C.modelpool_ticket_info{struct_bytes: C.sizeof_modelpool_ticket_info}
	C.modelpool_ticket_get(t.handle, &info, nil)
	return info
}

// Model is the name of what is to be loaded; "" once the ticket is used up.
func (t *Ticket) Model() string {
	info := t.get()
	return C.GoString(&info.model[0])
}

// Pid is that of what was started; 0 before, and once the ticket is used up.
func (t *Ticket) Pid() int { return int(t.get().pid) }

// SpawnOptions are for Ticket.Spawn.
type SpawnOptions struct {
	Env         []string // "NAME=value", added to the caller's environment, or replacing; ErrInvalid without "="
	Dir         string   // "": the caller's
	Output      string   // file that stdout and stderr are appended to; "": /dev/null
	ErrorOutput string   // another one for stderr; "": as stdout
}

// Spawn starts the backend in a session of its own, recorded before it executes, so that there is no instant in
// which it runs unknown (P6, P9); os/exec with Started leaves one. argv[0] is looked up in PATH. Do not
// wait for the process: a thread of the library reaps it.
// Errors: ErrSpawnFailed (the ticket stays: spawn something else, or Fail), ErrTicketLost.
func (t *Ticket) Spawn(argv []string, options SpawnOptions) error {
	var memory cMemory
	defer memory.free()
	given := C.modelpool_spawn_options{
		struct_bytes: C.sizeof_modelpool_spawn_options,
		env:          memory.list(options.Env, "environment"),
		cwd:          memory.text(options.Dir, "directory"),
		output:       memory.text(options.Output, "file name"),
		error_output: memory.text(options.ErrorOutput, "file name"),
	}
	arguments := memory.list(append([]string{}, argv...), "argument")
	if memory.err != nil {
		return memory.err
	}
	defer runtime.KeepAlive(t)
	var failed C.modelpool_error
	return failure(C.modelpool_spawn(t.handle, arguments, &given, nil, &failed), &failed)
}

// Started registers a process the caller started. If it does not lead its own process group
// (SysProcAttr.Setpgid), only the process itself is signalled. Errors: ErrInvalid for a PID that may not
// be signalled (P7), ErrTicketLost.
func (t *Ticket) Started(pid int) error {
	if pid < math.MinInt32 || pid > math.MaxInt32 {
		return invalid(fmt.Sprintf("unable to register process %d: it is no PID", pid))
	}
	defer runtime.KeepAlive(t)
	var failed C.modelpool_error
	return failure(C.modelpool_started(t.handle, C.int32_t(pid), &failed), &failed)
}

// ReadyOptions are for Ticket.Ready.
type ReadyOptions struct {
	SizeBytes  uint64   // memory it takes; 0: unknown
	Label      string   // e.g. a GPU's name; not interpreted
	DeviceMask uint64   // not interpreted
	Settings   []string // "name=value": for this backend, over all other rules
	Pinned     bool     // exempt from eviction
	External   bool     // without a process of ours: counted and leased, never signalled
}

// Ready says that the backend answers at this address, opens it to every worker and gives the loader its own
// lease. Uses the ticket up. Errors: ErrTicketLost; ErrTableFull and ErrInvalid, with which the ticket stays.
func (t *Ticket) Ready(address string, options ReadyOptions) (*Lease, error) {
	var memory cMemory
	defer memory.free()
	given := C.modelpool_ready_options{
		struct_bytes: C.sizeof_modelpool_ready_options,
		size_bytes:   C.uint64_t(options.SizeBytes),
		label:        memory.text(options.Label, "label"),
		device_mask:  C.uint64_t(options.DeviceMask),
		settings:     memory.list(options.Settings, "setting"),
		pinned:       flag(options.Pinned),
		external:     flag(options.External),
	}
	where := memory.full(address, "address")
	if memory.err != nil {
		return nil, memory.err
	}
	defer runtime.KeepAlive(t)
	var failed C.modelpool_error
	var handle C.modelpool_lease
	if code := C.modelpool_ready(t.handle, where, &given, &handle, &failed); code != C.MODELPOOL_OK {
		return nil, failure(code, &failed)
	}
	runtime.SetFinalizer(t, nil)
	return newLease(handle), nil
}

// Fail says that the load failed: answers every waiter with the reason, ends what was started, starts the
// model's cool-down. Uses the ticket up. Errors: ErrTicketLost.
func (t *Ticket) Fail(reason string) error {
	why, err := text(reason, "reason")
	if err != nil {
		why, _ = text("its reason contains a NUL byte", "reason")
	}
	var failed C.modelpool_error
	code := C.modelpool_fail(t.handle, why, &failed)
	if code != C.MODELPOOL_BUSY {
		runtime.SetFinalizer(t, nil)
	}
	return failure(code, &failed)
}
