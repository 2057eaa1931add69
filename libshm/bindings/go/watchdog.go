package modelpool

import (
	"context"
	"fmt"
	"sort"
	"sync"
	"time"
)

// A WatchDog speaks the vocabulary of LocalAI's watchdog (pkg/model/watchdog.go) over a pool, so
// that a server built around one can move to the pool file by file: first this in place of its
// watchdog, then its loader to Pool.Acquire and Ticket. What the names mean here is stricter:
//
//   - One truth (P1): every count, age and limit is of the whole host, not of this process, and coordinatord
//     judges; without it nothing is evicted. Run has nothing to do.
//   - Mark takes a lease: a marked backend is not evicted (P2). Each Mark needs its own UnMark, while LocalAI
//     keeps one timestamp for each address and forgets the first request when the second begins. UnMark
//     ends the oldest mark of the address, so that no request looks older than it is; with several at once a
//     hung one may then look younger than it is. A Lease of its own for each request is exact.
//   - Mark fails, with ErrNotLoaded, when the backend at that address is gone: do not send the request.
//   - AddAddressModelMap makes the backend known to every worker of the host, which send requests at
//     once: call it when the backend answers, not before. It waits for a place under the limit, but the
//     process runs already: only Acquire before the start, and Ticket.Spawn, keep the limit at every instant (P3).
//   - The limit counts what is starting and what is still dying, too.
//   - EnforceLRULimit reserves nothing: the room it made is taken by who acquires first, on any worker.
//   - A backend is ended by coordinatord, which signals its process group: there is no ShutdownModel, and
//     the server must not be surprised that its child is gone. A process given by no Add is never signalled.
//   - Timeouts are settings of the pool: pool.Set("busy_timeout", "5m"), Set("idle_timeout", "15m").
//   - There is no memory reclaimer.
//
// Where LocalAI's methods return nothing, these return an error; calls that ignore it still
// compile. All methods may be called from any goroutine.
type WatchDog struct {
	pool *Pool
	done chan struct{}

	mutex    sync.Mutex
	models   map[string]string   // by address
	pids     map[string]int      // by address
	marks    map[string][]*Lease // by address, oldest first
	shutdown bool
}

// NewWatchDog makes one over a pool, which stays the caller's.
func NewWatchDog(pool *Pool) *WatchDog {
	return &WatchDog{
		pool:   pool,
		done:   make(chan struct{}),
		models: map[string]string{},
		pids:   map[string]int{},
		marks:  map[string][]*Lease{},
	}
}

// Add says which process answers at an address, for a later AddAddressModelMap. (LocalAI passes a
// *process.Process; its PID is all that matters.)
func (wd *WatchDog) Add(address string, pid int) {
	wd.mutex.Lock()
	defer wd.mutex.Unlock()
	wd.pids[address] = pid
}

// AddAddressModelMap says which model is served at an address. If the pool does not know it yet,
// this registers it, with the process given to Add, or as external (never signalled) without one;
// waits up to DefaultTimeout for a place. Errors: those of Acquire, Ticket.Started and
// Ticket.Ready; ErrInvalid if another backend serves the model.
func (wd *WatchDog) AddAddressModelMap(address string, model string) error {
	wd.mutex.Lock()
	pid := wd.pids[address]
	wd.mutex.Unlock()

	lease, ticket, err := wd.pool.Acquire(context.Background(), model, Options{Tag: "watchdog add"})
	if err != nil {
		return err
	}
	if ticket != nil {
		if lease, err = register(ticket, address, pid); err != nil {
			return err
		}
	}
	defer lease.Release()
	if at := lease.Address(); at != address {
		return invalid(fmt.Sprintf("unable to add %s at %s: it is served at %s already; stop the second one",
			model, address, at))
	}
	wd.mutex.Lock()
	defer wd.mutex.Unlock()
	wd.models[address] = model
	return nil
}

// register uses the ticket up. What fails says nothing of the model, which runs already.
func register(ticket *Ticket, address string, pid int) (*Lease, error) {
	if pid != 0 {
		if err := ticket.Started(pid); err != nil {
			ticket.GiveBack()
			return nil, err
		}
	}
	lease, err := ticket.Ready(address, ReadyOptions{External: pid == 0})
	if err != nil {
		ticket.GiveBack()
	}
	return lease, err
}

// Mark begins a request at an address: takes a lease, until UnMark. Errors: ErrNotLoaded if no
// backend of the pool answers there; else those of Acquire.
func (wd *WatchDog) Mark(address string) error {
	model, err := wd.modelAt(address)
	if err != nil {
		return err
	}
	lease, _, err := wd.pool.Acquire(context.Background(), model, Options{Tag: "watchdog mark", NoLoad: true})
	if err != nil {
		return err
	}
	if lease.Address() != address {
		lease.Release()
		return notLoaded(address)
	}
	wd.mutex.Lock()
	defer wd.mutex.Unlock()
	if wd.shutdown {
		lease.Release()
		return &Error{Code: ErrClosed, Text: "unable to mark " + address + ": the watchdog was shut down"}
	}
	wd.marks[address] = append(wd.marks[address], lease)
	return nil
}

// UnMark ends the oldest request at an address; does nothing if there is none.
func (wd *WatchDog) UnMark(address string) {
	wd.mutex.Lock()
	defer wd.mutex.Unlock()
	marks := wd.marks[address]
	if len(marks) == 0 {
		return
	}
	marks[0].Release()
	if marks = marks[1:]; len(marks) == 0 {
		delete(wd.marks, address)
	} else {
		wd.marks[address] = marks
	}
}

// UpdateLastUsed says that the backend at an address was used now. Errors: ErrNotLoaded.
func (wd *WatchDog) UpdateLastUsed(address string) error {
	model, err := wd.modelAt(address)
	if err != nil {
		return err
	}
	return wd.pool.Touch(model)
}

// SetLRULimit sets how many backends the whole host may have; 0 or less: no limit.
func (wd *WatchDog) SetLRULimit(limit int) error {
	if limit < 0 {
		limit = 0
	}
	return wd.pool.SetLimit(limit)
}

// GetLRULimit is the host's limit, 0 if there is none or it cannot be told.
func (wd *WatchDog) GetLRULimit() int {
	limit, _ := wd.pool.Limit()
	return limit
}

// SetForceEvictionWhenBusy says whether room may be made by cutting requests (when_busy force), or
// only when they have finished (drain, the default).
func (wd *WatchDog) SetForceEvictionWhenBusy(force bool) error {
	if force {
		return wd.pool.Set("when_busy", "force")
	}
	return wd.pool.Set("when_busy", "drain")
}

// GetLoadedModelCount is the number of models that are ready on this host, 0 if it cannot be told.
func (wd *WatchDog) GetLoadedModelCount() int {
	status, _ := wd.pool.Status()
	return status.Ready
}

// EnforceLRULimitResult says what EnforceLRULimit achieved.
type EnforceLRULimitResult struct {
	EvictedCount int  // backends that are gone, processes and all
	NeedMore     bool // there is less room than was asked for
}

// EnforceLRULimit makes room under the limit for pendingLoads and one more: asks for the eviction
// of the least recently used idle backends that are not pinned, and waits until they are gone, up
// to DefaultTimeout. It is not needed before Acquire, which makes its own room and keeps it for who
// comes first.
func (wd *WatchDog) EnforceLRULimit(pendingLoads int) EnforceLRULimitResult {
	limit, err := wd.pool.Limit()
	if err != nil || limit == 0 {
		return EnforceLRULimitResult{NeedMore: err != nil}
	}
	backends, err := wd.pool.Backends()
	if err != nil {
		return EnforceLRULimitResult{NeedMore: true}
	}
	if pendingLoads < 0 {
		pendingLoads = 0
	}
	wanted := len(backends) + pendingLoads + 1 - limit
	if wanted <= 0 {
		return EnforceLRULimitResult{}
	}
	victims := idleByAge(backends)
	if len(victims) > wanted {
		victims = victims[:wanted]
	}
	if status, err := wd.pool.Status(); err != nil || !status.CoordinatorAlive {
		return EnforceLRULimitResult{NeedMore: true} // nobody to do it
	}
	asked := map[slot]bool{}
	for _, victim := range victims {
		if wd.pool.Evict(victim.Model, false) == nil {
			asked[slot{victim.Slot, victim.Generation}] = true
		}
	}
	gone := wd.waitUntilGone(asked)
	return EnforceLRULimitResult{EvictedCount: gone, NeedMore: gone < wanted}
}

// Shutdown ends Run and all marks. The pool and its backends stay.
func (wd *WatchDog) Shutdown() {
	wd.mutex.Lock()
	defer wd.mutex.Unlock()
	if wd.shutdown {
		return
	}
	wd.shutdown = true
	for _, marks := range wd.marks {
		for _, lease := range marks {
			lease.Release()
		}
	}
	wd.marks = map[string][]*Lease{}
	close(wd.done)
}

// Run returns after Shutdown. coordinatord does the work.
func (wd *WatchDog) Run() { <-wd.done }

func notLoaded(address string) error {
	return &Error{Code: ErrNotLoaded, Text: "unable to use " + address + ": no backend of the pool answers there"}
}

// modelAt also finds what another worker loaded.
func (wd *WatchDog) modelAt(address string) (string, error) {
	wd.mutex.Lock()
	model, known := wd.models[address]
	wd.mutex.Unlock()
	if known {
		return model, nil
	}
	backends, err := wd.pool.Backends()
	if err != nil {
		return "", err
	}
	for _, backend := range backends {
		if backend.Address == address && backend.State == "ready" {
			return backend.Model, nil
		}
	}
	return "", notLoaded(address)
}

// slot names one backend.
type slot struct {
	index      int
	generation uint32
}

// idleByAge is who may go, least recently used first.
func idleByAge(backends []Backend) []Backend {
	var idle []Backend
	for _, backend := range backends {
		if backend.State == "ready" && backend.InFlight == 0 && !backend.Pinned {
			idle = append(idle, backend)
		}
	}
	sort.Slice(idle, func(i, j int) bool { return idle[i].Idle > idle[j].Idle })
	return idle
}

// waitUntilGone counts who went within DefaultTimeout.
func (wd *WatchDog) waitUntilGone(asked map[slot]bool) int {
	deadline := time.Now().Add(DefaultTimeout)
	for {
		backends, err := wd.pool.Backends()
		if err != nil {
			return 0
		}
		left := 0
		for _, backend := range backends {
			if asked[slot{backend.Slot, backend.Generation}] {
				left++
			}
		}
		if left == 0 || time.Now().After(deadline) {
			return len(asked) - left
		}
		time.Sleep(10 * time.Millisecond)
	}
}
