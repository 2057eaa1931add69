// Package modelpool shares model backends between all workers of a host: at most one process serves
// a model, a limit holds for all workers together, and one judge, coordinatord, ends what is idle
// or hangs. It is a thin layer over libmodelpool.so; <modelpool/modelpool.h> has every detail.
//
//	pool, err := modelpool.Attach("default", modelpool.AttachOptions{})
//	lease, ticket, err := pool.Acquire(ctx, "llama-3-8b", modelpool.Options{Tag: "req-81"})
//	if err != nil {
//		return err // errors.Is(err, modelpool.ErrQueueFull)...
//	}
//	if ticket != nil { // nobody has it loaded, and we are the one to load it; everybody else waits
//		lease, err = load(ctx, ticket)
//		if err != nil {
//			ticket.End(err) // tells everybody who waits, if it speaks of the model; else the next one loads it
//			return err
//		}
//	}
//	defer lease.Release()
//	// ... send the request to lease.Address(); in a long stream call lease.Progress() ...
//
// The load itself, from the free port to the lease:
//
//	func load(ctx context.Context, ticket *modelpool.Ticket) (*modelpool.Lease, error) {
//		port, err := modelpool.FreePort()
//		if err != nil {
//			return nil, err
//		}
//		argv := []string{"llama-server", "--port", strconv.Itoa(port)}
//		if err := ticket.Spawn(argv, modelpool.SpawnOptions{Output: "/var/log/llama.log"}); err != nil {
//			return nil, err
//		}
//		address := fmt.Sprintf("127.0.0.1:%d", port)
//		if err := ticket.WaitReady(ctx, address, "http:/health"); err != nil {
//			return nil, err
//		}
//		return ticket.Ready(address, modelpool.ReadyOptions{SizeBytes: 7_000_000_000})
//	}
//
// A context that ends here ends the request and not the load, for which others may be waiting: give
// load one of its own, that outlives the request, and let the pool's load_timeout bound it.
//
// Options are values, and the zero value of each structure is its defaults.
//
// Everything may be used from any goroutine, and by several at once; two that use one Ticket at the
// same time get ErrBusy. A Lease may be released by another goroutine, or thread, than acquired it.
// A Lease, Ticket or Pool that becomes unreachable, with all its copies, is released, given back or
// closed by a finalizer, at some time: do not rely on it to make room. Of the zero value, and of
// nil, Release and Close do nothing and all else is ErrClosed. What a process held when it died is
// cleared (P6). Waiting costs a goroutine, no thread. Programs started with os/exec inherit nothing
// of a pool.
//
// Errors are *Error; errors.Is(err, modelpool.ErrTimeout) and its like tell them apart. Any call
// may fail with ErrInvalid (an argument), ErrClosed and ErrSystem; listed is what else. Durations
// are counted in milliseconds, rounded up, by CLOCK_MONOTONIC; one of more than 10 years is 10
// years.
//
// The promises that are cited here; the project's README has them all:
//
//   - P1: every decision counts the leases of every worker on the host.
//   - P2: a granted lease is never cut by an eviction for idleness, room, group or memory.
//   - P3: at most max_backends are live at any instant, those that start and those that die included.
//   - P4: one backend of a model is started, and everybody waits for that one.
//   - P5: first come, first served across all workers of the host.
//   - P6: any process may die anywhere; the others go on, and what it held is cleared.
//   - P7: a signal reaches the process that was registered, or nobody.
//   - P9: a backend that is stopped is stopped to the end, with its whole process group.
//   - P11: every decision leaves a record; what is unknown reads as unknown, never as 0.
//   - P12: looking changes nothing.
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
	"errors"
	"fmt"
	"math"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"
	"unsafe"
)

// DefaultTimeout is how long Acquire waits under a context without a deadline: every wait has an
// end.
const DefaultTimeout = 30 * time.Second

// Unknown is a duration or size that is not known or does not apply.
const Unknown = -1

// Version of the library in use, such as "0.1.0".
func Version() string { return C.GoString(C.modelpool_version()) }

func pointer(bytes []byte) unsafe.Pointer { return unsafe.Pointer(&bytes[0]) }

// What C takes for a time.
const longest = 10 * 365 * 24 * time.Hour

// milliseconds rounds up, so that a wait does not end early. What is longer than C takes is that;
// less than nothing is -1, which C refuses.
func milliseconds(d time.Duration) C.int64_t {
	if d < 0 {
		return -1
	}
	if d > longest {
		d = longest
	}
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
type Pool struct{ attached *attachment }

// What has a finalizer stands apart: a Pool, Lease or Ticket may be copied, or part of another
// structure.
type attachment struct {
	handle C.modelpool_pool

	watching sync.Mutex
	watch    *watch // of the waits, once there was one
	closed   bool
}

// AttachOptions are for Attach.
type AttachOptions struct {
	Dir              string        // "": MODELPOOL_DIR, /run/modelpool, /dev/shm/modelpool-UID
	NoCreate         bool          // ErrNoSuchPool instead of a new pool
	Settings         []string      // "name=value", of a pool that is created here
	CoordinatorGrace time.Duration // how long its absence goes unnoticed; 0: 10 s
}

// attachOptions is what Attach takes: AttachOptions, like the options of every other call. Programs
// of before give nil or a pointer to them.
type attachOptions interface{ forAttach() }

func (AttachOptions) forAttach() {}

// Attach joins the pool of that name, [a-z0-9_-]{1,64}, creating it if there is none. The empty
// name is MODELPOOL_POOL, else "default". options is an AttachOptions; nil and a pointer to one are
// taken as well. Waits up to 5 s for a worker row if every one is taken. Errors: ErrNoSuchPool,
// ErrIncompatible, ErrPermission, ErrTableFull.
func Attach(name string, options attachOptions) (*Pool, error) {
	switch given := options.(type) {
	case AttachOptions:
		return attach(name, given)
	case *AttachOptions:
		if given != nil {
			return attach(name, *given)
		}
	}
	return attach(name, AttachOptions{})
}

func attach(name string, options AttachOptions) (*Pool, error) {
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
	attached := &attachment{}
	var failed C.modelpool_error
	if code := C.modelpool_attach(wanted, &given, &attached.handle, &failed); code != C.MODELPOOL_OK {
		return nil, failure(code, &failed)
	}
	runtime.SetFinalizer(attached, (*attachment).close)
	return &Pool{attached}, nil
}

// get is never nil.
func (p *Pool) get() *attachment {
	if p == nil || p.attached == nil {
		return &attachment{closed: true}
	}
	return p.attached
}

// Close leaves the pool. Leases and tickets out stay valid; calls to Acquire that wait are answered
// ErrClosed. Further calls do nothing.
func (p *Pool) Close() {
	if p == nil || p.attached == nil {
		return
	}
	runtime.SetFinalizer(p.attached, nil)
	p.attached.close()
}

func (a *attachment) close() {
	C.modelpool_detach(a.handle)
	a.watching.Lock()
	defer a.watching.Unlock()
	a.closed = true
	if a.watch != nil {
		a.watch.stop()
	}
}

// Options are for Acquire.
type Options struct {
	Tag           string        // who asks, at most 31 bytes, shown in events and lists
	BusyTimeout   time.Duration // of this request alone; 0: only the pool's rules
	ExpectedBytes uint64        // what loading it will take; 0: unknown. Shown in lists
	Priority      uint64        // shown in lists; the line is first come, first served (P5)
	NoLoad        bool          // ErrNotLoaded instead of a ticket
	Cancellable   bool          // looks at Cancelled often enough; Done says so by itself
	// How long the model's backend may be idle from now on, in place of idle_timeout; the last
	// Acquire that says so wins. 0: it is evicted when its last lease ends. Less than 0: it may for
	// ever. nil: as it is. KeepAlive(d) makes one.
	KeepAlive *time.Duration
}

// KeepAlive is for Options.
func KeepAlive(d time.Duration) *time.Duration {
	return &d
}

// Acquire gives a lease if the model is loaded, or a ticket if the caller is to load it (P4: one
// loader at a time; P5: first come, first served); exactly one of them is not nil, unless err is.
// It also waits while the backend serves as many requests at once as the setting parallel lets it.
// It waits for either until the context is done, or for DefaultTimeout if that has no deadline. An
// error then says both: errors.Is(err, ErrTimeout) and errors.Is(err, context.DeadlineExceeded), or
// ErrCancelled and context.Canceled.
//
// Errors: ErrTimeout, ErrCancelled, ErrQueueFull, ErrTableFull, ErrAllPinned, ErrCoolingDown,
// ErrLoadFailed, ErrNoCoordinator, ErrNotLoaded, ErrReplaced.
func (p *Pool) Acquire(ctx context.Context, model string, options Options) (*Lease, *Ticket, error) {
	if ctx == nil {
		return nil, nil, invalid("unable to acquire: the context is nil")
	}
	if ctx.Err() != nil {
		return nil, nil, ended(ctx, model, "")
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
		cancellable:     flag(options.Cancellable),
	}
	if options.KeepAlive != nil {
		given.has_keep_alive = 1
		given.keep_alive_ms = milliseconds(*options.KeepAlive)
	}
	if memory.err != nil {
		return nil, nil, memory.err
	}
	a := p.get()
	defer runtime.KeepAlive(a)

	// Without waiting, first: a loaded model, or a free place.
	var grant C.modelpool_grant
	var failed C.modelpool_error
	if C.modelpool_acquire(a.handle, name, 0, &given, &grant, &failed) == C.MODELPOOL_OK {
		return newGrant(&grant)
	}
	return a.wait(ctx, model, name, &given, reasonOf(C.GoString(&failed.text[0])))
}

// wait stands in line. It also answers, with its text, what made the first look fail; why that was,
// if it could be waited for, is the reason.
func (a *attachment) wait(ctx context.Context, model string, name *C.char,
	given *C.modelpool_acquire_options, reason string) (*Lease, *Ticket, error) {
	timeout := DefaultTimeout
	deadline, bounded := ctx.Deadline()
	if bounded {
		if timeout = time.Until(deadline); timeout < 0 {
			timeout = 0
		} else if timeout > longest {
			timeout, bounded = longest, false // the context ends it
		}
	}
	wakes, err := a.wakes()
	if err != nil {
		return nil, nil, err
	}
	var failed C.modelpool_error
	var wait C.modelpool_wait
	var grant C.modelpool_grant
	if code := C.modelpool_begin(a.handle, name, milliseconds(timeout), given, &wait, &failed); code != C.MODELPOOL_OK {
		return nil, nil, failure(code, &failed)
	}
	for over := 0; ; {
		woken := wakes.next() // before the look, so that no wake is missed
		if code := C.modelpool_poll(wait, &grant, &failed); code != C.MODELPOOL_OK {
			err := failure(code, &failed).(*Error)
			if bounded && !time.Now().Before(deadline) {
				err.context = context.DeadlineExceeded
				if err.cause == nil {
					err.cause = context.DeadlineExceeded
				}
			}
			return nil, nil, err
		}
		if grant.kind != C.MODELPOOL_GRANTED_NOTHING {
			return newGrant(&grant)
		}
		select {
		case <-woken:
		case <-ctx.Done():
			// At its deadline, which is the wait's own except for rounding, the library says why.
			if over++; bounded && ctx.Err() == context.DeadlineExceeded && over < 100 {
				time.Sleep(time.Millisecond)
				continue
			}
			C.modelpool_cancel(wait)
			return nil, nil, ended(ctx, model, a.waitsFor(name, reason))
		}
	}
}

// waitsFor says why a model cannot be had now: if it is not loaded, for the reason that there was
// before.
func (a *attachment) waitsFor(name *C.char, before string) string {
	given := C.modelpool_acquire_options{struct_bytes: C.sizeof_modelpool_acquire_options, no_load: 1}
	var grant C.modelpool_grant
	var failed C.modelpool_error
	switch C.modelpool_acquire(a.handle, name, 0, &given, &grant, &failed) {
	case C.MODELPOOL_OK:
		C.modelpool_release(grant.lease)
		return ""
	case C.MODELPOOL_NOT_LOADED:
		return before
	}
	return reasonOf(C.GoString(&failed.text[0]))
}

// Touch marks the model's backend used now, without a request in flight. Errors: ErrNotLoaded.
func (p *Pool) Touch(model string) error {
	return p.onModel(model, func(pool C.modelpool_pool, name *C.char, failed *C.modelpool_error) C.modelpool_code {
		return C.modelpool_touch(pool, name, failed)
	})
}

// Pin exempts the model's backend from idle, LRU, group and memory eviction. Errors: ErrNotLoaded.
func (p *Pool) Pin(model string) error {
	return p.onModel(model, func(pool C.modelpool_pool, name *C.char, failed *C.modelpool_error) C.modelpool_code {
		return C.modelpool_pin(pool, name, failed)
	})
}

// Unpin ends a Pin. Errors: ErrNotLoaded; ErrInvalid if the model's settings pin it as well: then it
// stays so.
func (p *Pool) Unpin(model string) error {
	return p.onModel(model, func(pool C.modelpool_pool, name *C.char, failed *C.modelpool_error) C.modelpool_code {
		return C.modelpool_unpin(pool, name, failed)
	})
}

// Evict asks the coordinator to end the model's backend and returns at once. With force its leases
// are cut, else it waits for them up to drain_timeout. A load under way is ended, too: its ticket
// is lost, and nothing cools down. Errors: ErrNotLoaded.
func (p *Pool) Evict(model string, force bool) error {
	return p.onModel(model, func(pool C.modelpool_pool, name *C.char, failed *C.modelpool_error) C.modelpool_code {
		return C.modelpool_evict(pool, name, C.int(flag(force)), failed)
	})
}

// Reset forgets that the model failed to load: it may be loaded at once. A load that becomes ready
// and a changed load_cooldown do the same. Forgets what it was seen to take, too: it may take less.
func (p *Pool) Reset(model string) error {
	return p.onModel(model, func(pool C.modelpool_pool, name *C.char, failed *C.modelpool_error) C.modelpool_code {
		return C.modelpool_reset(pool, name, failed)
	})
}

func (p *Pool) onModel(model string, call func(C.modelpool_pool, *C.char, *C.modelpool_error) C.modelpool_code) error {
	name, err := text(model, "model name")
	if err != nil {
		return err
	}
	a := p.get()
	defer runtime.KeepAlive(a)
	var failed C.modelpool_error
	return failure(call(a.handle, name, &failed), &failed)
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
	a := p.get()
	defer runtime.KeepAlive(a)
	var failed C.modelpool_error
	return failure(C.modelpool_set(a.handle, setting, to, &failed), &failed)
}

// Get gives the pool's value of a setting, or its default, as Set takes it.
func (p *Pool) Get(name string) (string, error) {
	setting, err := text(name, "setting")
	if err != nil {
		return "", err
	}
	a := p.get()
	defer runtime.KeepAlive(a)
	var failed C.modelpool_error
	var value [256]C.char
	if code := C.modelpool_get(a.handle, setting, &value[0], C.size_t(len(value)), &failed); code != C.MODELPOOL_OK {
		return "", failure(code, &failed)
	}
	return C.GoString(&value[0]), nil
}

// Limit is the setting max_backends as a number; 0: no limit (P3).
func (p *Pool) Limit() (int, error) {
	a := p.get()
	defer runtime.KeepAlive(a)
	var failed C.modelpool_error
	var limit C.uint32_t
	code := C.modelpool_limit(a.handle, &limit, &failed)
	return int(limit), failure(code, &failed)
}

// SetLimit sets max_backends; 0: no limit.
func (p *Pool) SetLimit(maxBackends int) error {
	if maxBackends < 0 || maxBackends > math.MaxUint32 {
		return invalid(fmt.Sprintf("unable to set max_backends to %d: it takes 0 (no limit) or more", maxBackends))
	}
	a := p.get()
	defer runtime.KeepAlive(a)
	var failed C.modelpool_error
	return failure(C.modelpool_set_limit(a.handle, C.uint32_t(maxBackends), &failed), &failed)
}

// A Lease is a request in flight. While it is held its backend is not evicted (P2).
type Lease struct{ granted *grantedLease }

type grantedLease struct {
	handle C.modelpool_lease
	once   sync.Once
	info   *C.modelpool_lease_info // once asked for
	asking sync.Mutex
	done   chan struct{} // once asked for
}

func newLease(handle C.modelpool_lease) *Lease {
	granted := &grantedLease{handle: handle}
	runtime.SetFinalizer(granted, (*grantedLease).release)
	return &Lease{granted}
}

func newGrant(grant *C.modelpool_grant) (*Lease, *Ticket, error) {
	if grant.kind == C.MODELPOOL_GRANTED_LEASE {
		return newLease(grant.lease), nil, nil
	}
	granted := &grantedTicket{handle: grant.ticket}
	runtime.SetFinalizer(granted, func(g *grantedTicket) {
		C.modelpool_give_back(g.handle, nil)
	})
	return nil, &Ticket{granted}, nil
}

// get is never nil.
func (l *Lease) get() *grantedLease {
	if l == nil || l.granted == nil {
		return &grantedLease{}
	}
	return l.granted
}

func (l *Lease) on() *C.modelpool_lease_info {
	g := l.get()
	g.once.Do(func() {
		g.info = &C.modelpool_lease_info{struct_bytes: C.sizeof_modelpool_lease_info}
		C.modelpool_lease_get(g.handle, g.info, nil)
	})
	return g.info
}

// Model is the name of what the lease is on; "" if it was first asked for after Release.
func (l *Lease) Model() string { return C.GoString(&l.on().model[0]) }

// Address is where the backend answers; "" if it was first asked for after Release.
func (l *Lease) Address() string { return C.GoString(&l.on().address[0]) }

// Pid is the backend's; 0 for an external one.
func (l *Lease) Pid() int { return int(l.on().pid) }

// Backend names the backend it is on, and no other, as Backend.Slot and Generation do; zeros if it
// was first asked for after Release.
func (l *Lease) Backend() (slot int, generation uint32) {
	return int(l.on().slot), uint32(l.on().generation)
}

// ExitWords is how the backend's process ended and the last it wrote: "exit status 1; its last
// lines: ...". "" if it runs, if nothing is known of its end, and after Release. Reads files.
func (l *Lease) ExitWords() string {
	g := l.get()
	defer runtime.KeepAlive(g)
	var words [2048]C.char
	if C.modelpool_exit_words(g.handle, &words[0], C.size_t(len(words)), nil) != C.MODELPOOL_OK {
		return ""
	}
	return C.GoString(&words[0])
}

// Progress says that the request is getting on: restarts its stall_timeout. For every chunk of a
// stream. Errors: ErrLeaseLost: its backend was stopped; the text says why. ErrClosed after
// Release.
func (l *Lease) Progress() error {
	g := l.get()
	defer runtime.KeepAlive(g)
	if C.modelpool_progress(g.handle, nil) == C.MODELPOOL_OK {
		return nil
	}
	var failed C.modelpool_error
	return failure(C.modelpool_progress(g.handle, &failed), &failed)
}

// Release ends the lease. Further calls do nothing.
func (l *Lease) Release() {
	if l == nil || l.granted == nil {
		return
	}
	runtime.SetFinalizer(l.granted, nil)
	l.granted.release()
}

func (g *grantedLease) release() {
	C.modelpool_release(g.handle)
	cancels.forget(uint64(g.handle.id))
}

// A Ticket is the exclusive right to start the backend of one model (P4). Ready, Fail, GiveBack or
// End use it up. Fail says that the model cannot be loaded: who waits is told, and it cools down.
// GiveBack says nothing of the model, and neither does a Ticket that is forgotten or whose process
// dies: the next waiter loads it at once.
type Ticket struct{ granted *grantedTicket }

type grantedTicket struct{ handle C.modelpool_ticket }

// get is never nil.
func (t *Ticket) get() *grantedTicket {
	if t == nil || t.granted == nil {
		return &grantedTicket{}
	}
	return t.granted
}

func (t *Ticket) on() C.modelpool_ticket_info {
	g := t.get()
	defer runtime.KeepAlive(g)
	info := C.modelpool_ticket_info{struct_bytes: C.sizeof_modelpool_ticket_info}
	C.modelpool_ticket_get(g.handle, &info, nil)
	return info
}

// Model is the name of what is to be loaded; "" once the ticket is used up.
func (t *Ticket) Model() string {
	info := t.on()
	return C.GoString(&info.model[0])
}

// Pid is that of what was started; 0 before, and once the ticket is used up.
func (t *Ticket) Pid() int { return int(t.on().pid) }

// Waiting is how many wait for this model now; 0 once the ticket is used up. A loader whose own
// time is over should go on while some do: they would begin anew.
func (t *Ticket) Waiting() int { return int(t.on().waiting) }

// Devices are the UUIDs of those that the pool put the backend on, for who starts it by himself:
// Spawn tells it by CUDA_VISIBLE_DEVICES and HIP_VISIBLE_DEVICES. Nil: none, or the ticket is used up.
func (t *Ticket) Devices() []string {
	info := t.on()
	devices := C.GoString(&info.devices[0])
	if devices == "" {
		return nil
	}
	return strings.Split(devices, ",")
}

// SpawnOptions are for Ticket.Spawn.
type SpawnOptions struct {
	Env         []string // "NAME=value", added to the caller's environment, or replacing; ErrInvalid without "="
	Dir         string   // "": the caller's
	Output      string   // file (or FIFO with a reader) that stdout and stderr are appended to; "": the model's log (`poolctl logs`), or /dev/null without one
	ErrorOutput string   // another one for stderr; "": as stdout
}

// Spawn starts the backend in a session of its own, recorded before it executes, so that there is
// no instant in which it runs unknown (P6, P9); os/exec with Started leaves one. argv[0] is looked
// up in PATH. Do not wait for the process: a thread of the library reaps it. Errors: ErrSpawnFailed
// (the program or the directory), ErrInvalid, ErrSystem (an output that cannot be opened): nothing
// runs, and the ticket stays: spawn something else, or GiveBack. ErrTicketLost.
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
	g := t.get()
	defer runtime.KeepAlive(g)
	var failed C.modelpool_error
	return failure(C.modelpool_spawn(g.handle, arguments, &given, nil, &failed), &failed)
}

// Started registers a process the caller started. If it does not lead its own process group
// (SysProcAttr.Setpgid), it is ended with what it has started, and nobody else of its group is.
// Errors: ErrInvalid for a PID that may not be signalled (P7), ErrTicketLost.
func (t *Ticket) Started(pid int) error {
	if pid < math.MinInt32 || pid > math.MaxInt32 {
		return invalid(fmt.Sprintf("unable to register process %d: it is no PID", pid))
	}
	g := t.get()
	defer runtime.KeepAlive(g)
	var failed C.modelpool_error
	return failure(C.modelpool_started(g.handle, C.int32_t(pid), &failed), &failed)
}

// ReadyOptions are for Ticket.Ready.
type ReadyOptions struct {
	SizeBytes  uint64   // memory it takes; 0: unknown
	Label      string   // e.g. a GPU's name; not interpreted
	DeviceMask uint64   // not interpreted
	Settings   []string // "name=value": for this backend, over all other rules
	Pinned     bool     // exempt from eviction
	External   bool     // without a process of ours: counted and leased, never signalled
	// Any process that listens at the address answers for the backend: a container's proxy. Otherwise
	// another live backend's address, and a listener that is provably none of the backend's, are
	// ErrInvalid.
	AnyListener bool
}

// Ready says that the backend answers at this address, opens it to every worker and gives the
// loader its own lease. Uses the ticket up. Errors: ErrTicketLost; ErrTableFull and ErrInvalid,
// with which the ticket stays.
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
		any_listener: flag(options.AnyListener),
	}
	where := memory.full(address, "address")
	if memory.err != nil {
		return nil, memory.err
	}
	g := t.get()
	defer runtime.KeepAlive(g)
	var failed C.modelpool_error
	var handle C.modelpool_lease
	if code := C.modelpool_ready(g.handle, where, &given, &handle, &failed); code != C.MODELPOOL_OK {
		return nil, failure(code, &failed)
	}
	runtime.SetFinalizer(g, nil)
	return newLease(handle), nil
}

// Fail says that the load failed: answers every waiter with the reason, ends what was started,
// starts the model's cool-down. Uses the ticket up. Errors: ErrTicketLost, with what ended the load
// before.
func (t *Ticket) Fail(reason string) error {
	why, err := text(reason, "reason")
	if err != nil {
		why, _ = text("its reason contains a NUL byte", "reason")
	}
	g := t.get()
	var failed C.modelpool_error
	code := C.modelpool_fail(g.handle, why, &failed)
	if code != C.MODELPOOL_BUSY {
		runtime.SetFinalizer(g, nil)
	}
	return failure(code, &failed)
}

// End ends the load because of err: Fail if that speaks of the model, GiveBack if it does not. What
// says nothing of the model are errors of this package but ErrLoadFailed (a program, a file or an
// argument that was named wrongly, an address that is taken), the end of a context, and want of
// descriptors, memory or processes. Uses the ticket up; does nothing to a lost one but let it go.
// Errors: ErrTicketLost, ErrClosed.
func (t *Ticket) End(err error) error {
	if saysNothingOfTheModel(err) {
		return t.GiveBack()
	}
	return t.Fail(err.Error())
}

func saysNothingOfTheModel(err error) bool {
	var own *Error
	if err == nil || errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return true
	}
	for _, exhausted := range []syscall.Errno{syscall.EMFILE, syscall.ENFILE, syscall.ENOMEM, syscall.EAGAIN} {
		if errors.Is(err, exhausted) {
			return true
		}
	}
	return errors.As(err, &own) && own.Code != ErrLoadFailed
}

// GiveBack gives the load up without a failure: the loader has to end, or was told something wrong.
// Ends what was started; the next waiter gets a ticket at once, and nothing cools down. Uses the
// ticket up. Errors: ErrClosed.
func (t *Ticket) GiveBack() error {
	g := t.get()
	var failed C.modelpool_error
	code := C.modelpool_give_back(g.handle, &failed)
	if code != C.MODELPOOL_BUSY {
		runtime.SetFinalizer(g, nil)
	}
	return failure(code, &failed)
}

// FreePort is a TCP port of this host that is free, for a backend that is to be started, and held
// for it: no other caller gets it while this process has not asked for 64 more. Errors: ErrSystem.
func FreePort() (int, error) {
	var failed C.modelpool_error
	var port C.int32_t
	code := C.modelpool_free_port(&port, &failed)
	return int(port), failure(code, &failed)
}
