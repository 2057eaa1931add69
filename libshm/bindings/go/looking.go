package modelpool

/*
#include <modelpool/modelpool.h>
*/
import "C"

import (
	"runtime"
	"syscall"
	"time"
)

// Status is the pool in a dozen numbers.
type Status struct {
	Pool             string
	MaxBackends      int // 0: no limit; Unknown: the pool never had settings
	Live             int
	Ready            int
	Waiting          int
	Workers          int
	Leases           int
	CoordinatorAlive bool // false also when that cannot be told
	CoordinatorPid   int  // 0: none
}

// Status looks at the pool. Looking takes no lock and counts as no use (P12).
func (p *Pool) Status() (Status, error) {
	a := p.get()
	defer runtime.KeepAlive(a)
	var failed C.modelpool_error
	got := C.modelpool_status{struct_bytes: C.sizeof_modelpool_status}
	if code := C.modelpool_get_status(a.handle, &got, &failed); code != C.MODELPOOL_OK {
		return Status{}, failure(code, &failed)
	}
	return Status{
		Pool:             C.GoString(&got.pool[0]),
		MaxBackends:      int(got.max_backends),
		Live:             int(got.live),
		Ready:            int(got.ready),
		Waiting:          int(got.waiting),
		Workers:          int(got.workers),
		Leases:           int(got.leases),
		CoordinatorAlive: got.coordinator_alive == 1,
		CoordinatorPid:   int(got.coordinator_pid),
	}, nil
}

// list asks until the rows fit.
func list[Row any](p *Pool, ask func(pool C.modelpool_pool, rows *Row, capacity C.size_t, count *C.size_t, failed *C.modelpool_error) C.modelpool_code) ([]Row, error) {
	a := p.get()
	defer runtime.KeepAlive(a)
	rows := make([]Row, 64)
	for {
		var failed C.modelpool_error
		var count C.size_t
		if code := ask(a.handle, &rows[0], C.size_t(len(rows)), &count, &failed); code != C.MODELPOOL_OK {
			return nil, failure(code, &failed)
		}
		if int(count) <= len(rows) {
			return rows[:count], nil
		}
		rows = make([]Row, int(count)+64)
	}
}

// Backend is one process that serves one model, or will, or did.
type Backend struct {
	Model          string
	Address        string // "" before it is ready
	State          string // reserved, starting, ready, evicting, stopping
	Label          string
	Pid            int           // 0: none known
	OwnerPid       int           // the worker that loaded it
	InFlight       int           // leases of all workers of the host
	Busy           time.Duration // age of the oldest lease; Unknown: none
	Idle           time.Duration // Unknown: not idle
	Ready          time.Duration // since it is ready; Unknown: not yet
	Reserved       time.Duration // since its ticket was granted
	Started        time.Duration // since its process was started; Unknown: not yet
	SizeBytes      int64         // Unknown: not given
	DeviceMask     uint64
	Pinned         bool
	External       bool
	EvictRequested bool
	Slot           int
	Generation     uint32 // with Slot, names this backend and no other
	Group          int    // its process group; 0: none of its own, or none known
	Exit           string // "exit status 1", "signal SIGKILL"; "": runs, or unknown
	Stop           *Stop  // while it is evicting or stopping
}

// Stop is why and how far a backend is being ended.
type Stop struct {
	Reason    string // as of an Event
	Text      string
	Decided   time.Duration  // since then
	Stopping  time.Duration  // since it was certain; Unknown: it may still go back to ready
	Signalled time.Duration  // Unknown: not yet
	Killed    time.Duration  // since SIGKILL; Unknown: not yet
	Age       time.Duration  // measured
	Limit     time.Duration  // the rule's
	Signal    syscall.Signal // the last one sent; 0: none
}

// Backends lists the live backends of the pool.
func (p *Pool) Backends() ([]Backend, error) {
	rows, err := list(p, func(pool C.modelpool_pool, rows *C.modelpool_backend, capacity C.size_t, count *C.size_t, failed *C.modelpool_error) C.modelpool_code {
		return C.modelpool_list_backends(pool, rows, C.sizeof_modelpool_backend, capacity, count, failed)
	})
	result := make([]Backend, len(rows))
	for i := range rows {
		row := &rows[i]
		result[i] = Backend{
			Model:          C.GoString(&row.model[0]),
			Address:        C.GoString(&row.address[0]),
			State:          C.GoString(&row.state[0]),
			Label:          C.GoString(&row.label[0]),
			Pid:            int(row.pid),
			OwnerPid:       int(row.owner_pid),
			InFlight:       int(row.in_flight),
			Busy:           duration(row.busy_ms),
			Idle:           duration(row.idle_ms),
			Ready:          duration(row.ready_ms),
			Reserved:       duration(row.reserved_ms),
			Started:        duration(row.started_ms),
			SizeBytes:      int64(row.size_bytes),
			DeviceMask:     uint64(row.device_mask),
			Pinned:         row.pinned != 0,
			External:       row.external != 0,
			EvictRequested: row.evict_requested != 0,
			Slot:           int(row.slot),
			Generation:     uint32(row.generation),
			Group:          int(row.group),
			Exit:           C.GoString(&row.exit[0]),
			Stop:           stopOf(row),
		}
	}
	return result, err
}

func stopOf(row *C.modelpool_backend) *Stop {
	if row.stop_decided_ms < 0 {
		return nil
	}
	return &Stop{
		Reason:    C.GoString(&row.stop_reason[0]),
		Text:      C.GoString(&row.stop_text[0]),
		Decided:   duration(row.stop_decided_ms),
		Stopping:  duration(row.stop_stopping_ms),
		Signalled: duration(row.stop_signalled_ms),
		Killed:    duration(row.stop_killed_ms),
		Age:       duration(row.stop_age_ms),
		Limit:     duration(row.stop_limit_ms),
		Signal:    syscall.Signal(row.stop_signal),
	}
}

// LeaseInfo is a request in flight, of any worker of the host.
type LeaseInfo struct {
	Model      string
	Tag        string
	WorkerPid  int
	Age        time.Duration
	Progress   time.Duration // since its last progress
	Limit      time.Duration // its own busy timeout; Unknown: none
	BackendPid int           // 0: none
	Slot       int           // with Generation, its Backend
	Generation uint32
}

// Leases lists the requests in flight.
func (p *Pool) Leases() ([]LeaseInfo, error) {
	rows, err := list(p, func(pool C.modelpool_pool, rows *C.modelpool_lease_row, capacity C.size_t, count *C.size_t, failed *C.modelpool_error) C.modelpool_code {
		return C.modelpool_list_leases(pool, rows, C.sizeof_modelpool_lease_row, capacity, count, failed)
	})
	result := make([]LeaseInfo, len(rows))
	for i := range rows {
		row := &rows[i]
		result[i] = LeaseInfo{
			Model:      C.GoString(&row.model[0]),
			Tag:        C.GoString(&row.tag[0]),
			WorkerPid:  int(row.worker_pid),
			Age:        duration(row.age_ms),
			Progress:   duration(row.progress_ms),
			Limit:      duration(row.limit_ms),
			BackendPid: int(row.backend_pid),
			Slot:       int(row.slot),
			Generation: uint32(row.generation),
		}
	}
	return result, err
}

// Worker is a process that is attached.
type Worker struct {
	Pid        int
	Command    string
	Leases     int
	Attached   time.Duration
	Alive      bool // false also when that cannot be told
	Row        int
	Generation uint32
}

// Workers lists the attached processes.
func (p *Pool) Workers() ([]Worker, error) {
	rows, err := list(p, func(pool C.modelpool_pool, rows *C.modelpool_worker, capacity C.size_t, count *C.size_t, failed *C.modelpool_error) C.modelpool_code {
		return C.modelpool_list_workers(pool, rows, C.sizeof_modelpool_worker, capacity, count, failed)
	})
	result := make([]Worker, len(rows))
	for i := range rows {
		row := &rows[i]
		result[i] = Worker{
			Pid:        int(row.pid),
			Command:    C.GoString(&row.command[0]),
			Leases:     int(row.leases),
			Attached:   duration(row.attached_ms),
			Alive:      row.alive == 1,
			Row:        int(row.row),
			Generation: uint32(row.generation),
		}
	}
	return result, err
}

// Waiter is who waits in Acquire, in any worker of the host.
type Waiter struct {
	Model         string
	Tag           string
	WorkerPid     int
	Waiting       time.Duration
	Left          time.Duration // until its deadline
	Arrival       uint64        // its place in line
	ExpectedBytes int64         // Unknown: not given
	Priority      uint64
}

// Waiters lists the line, by arrival.
func (p *Pool) Waiters() ([]Waiter, error) {
	rows, err := list(p, func(pool C.modelpool_pool, rows *C.modelpool_waiter, capacity C.size_t, count *C.size_t, failed *C.modelpool_error) C.modelpool_code {
		return C.modelpool_list_waiters(pool, rows, C.sizeof_modelpool_waiter, capacity, count, failed)
	})
	result := make([]Waiter, len(rows))
	for i := range rows {
		row := &rows[i]
		result[i] = Waiter{
			Model:         C.GoString(&row.model[0]),
			Tag:           C.GoString(&row.tag[0]),
			WorkerPid:     int(row.worker_pid),
			Waiting:       duration(row.waiting_ms),
			Left:          duration(row.left_ms),
			Arrival:       uint64(row.arrival),
			ExpectedBytes: int64(row.expected_bytes),
			Priority:      uint64(row.priority),
		}
	}
	return result, err
}

// Event is a decision that was taken (P11).
type Event struct {
	Sequence  uint64    // from 1
	Time      time.Time // zero: unknown
	Kind      string    // loaded, load_failed, evicted, killed, exited, worker_died...
	Reason    string    // lru, idle, busy, stall, load_timeout, requested...
	Model     string
	Tag       string // of the lease that broke a rule
	Pid       int    // 0: none
	WorkerPid int
	Age       time.Duration // measured
	Limit     time.Duration // the rule's
	Load      time.Duration // how long it loaded
	Exit      string        // "exit status 1", "signal SIGKILL"; "": unknown
	ExitTook  time.Duration // from the stop signal until it was gone
	Text      string
	Signal    syscall.Signal // 0: none
	Count     int64          // of what, the kind says; Unknown: does not apply
}

// Events lists decisions from number `first` on, oldest first, as far as the pool remembers. To follow, ask again
// from the last Sequence + 1.
func (p *Pool) Events(first uint64) ([]Event, error) {
	rows, err := list(p, func(pool C.modelpool_pool, rows *C.modelpool_event, capacity C.size_t, count *C.size_t, failed *C.modelpool_error) C.modelpool_code {
		return C.modelpool_list_events(pool, C.uint64_t(first), rows, C.sizeof_modelpool_event, capacity, count, failed)
	})
	result := make([]Event, len(rows))
	for i := range rows {
		row := &rows[i]
		result[i] = Event{
			Sequence:  uint64(row.sequence),
			Kind:      C.GoString(&row.kind[0]),
			Reason:    C.GoString(&row.reason[0]),
			Model:     C.GoString(&row.model[0]),
			Tag:       C.GoString(&row.tag[0]),
			Pid:       int(row.pid),
			WorkerPid: int(row.worker_pid),
			Age:       duration(row.age_ms),
			Limit:     duration(row.limit_ms),
			Load:      duration(row.load_ms),
			Exit:      C.GoString(&row.exit[0]),
			ExitTook:  duration(row.exit_ms),
			Text:      C.GoString(&row.text[0]),
			Signal:    syscall.Signal(row.signal),
			Count:     int64(row.count),
		}
		if row.time_ms >= 0 {
			result[i].Time = time.UnixMilli(int64(row.time_ms))
		}
	}
	return result, err
}
