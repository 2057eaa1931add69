package modelpool

/*
#include <modelpool/modelpool.h>
*/
import "C"

import (
	"runtime"
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
	defer runtime.KeepAlive(p)
	var failed C.modelpool_error
	got := C.modelpool_status{struct_bytes: C.sizeof_modelpool_status}
	if code := C.modelpool_get_status(p.handle, &got, &failed); code != C.MODELPOOL_OK {
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
func list[Row any](p *Pool, ask func(rows *Row, capacity C.size_t, count *C.size_t, failed *C.modelpool_error) C.modelpool_code) ([]Row, error) {
	defer runtime.KeepAlive(p)
	rows := make([]Row, 64)
	for {
		var failed C.modelpool_error
		var count C.size_t
		if code := ask(&rows[0], C.size_t(len(rows)), &count, &failed); code != C.MODELPOOL_OK {
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
	SizeBytes      int64         // Unknown: not given
	DeviceMask     uint64
	Pinned         bool
	External       bool
	EvictRequested bool
	Slot           int
	Generation     uint32 // with Slot, names this backend and no other
}

// Backends lists the live backends of the pool.
func (p *Pool) Backends() ([]Backend, error) {
	rows, err := list(p, func(rows *C.modelpool_backend, capacity C.size_t, count *C.size_t, failed *C.modelpool_error) C.modelpool_code {
		return C.modelpool_list_backends(p.handle, rows, C.sizeof_modelpool_backend, capacity, count, failed)
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
			SizeBytes:      int64(row.size_bytes),
			DeviceMask:     uint64(row.device_mask),
			Pinned:         row.pinned != 0,
			External:       row.external != 0,
			EvictRequested: row.evict_requested != 0,
			Slot:           int(row.slot),
			Generation:     uint32(row.generation),
		}
	}
	return result, err
}

// LeaseInfo is a request in flight, of any worker of the host.
type LeaseInfo struct {
	Model     string
	Tag       string
	WorkerPid int
	Age       time.Duration
	Progress  time.Duration // since its last progress
}

// Leases lists the requests in flight.
func (p *Pool) Leases() ([]LeaseInfo, error) {
	rows, err := list(p, func(rows *C.modelpool_lease_row, capacity C.size_t, count *C.size_t, failed *C.modelpool_error) C.modelpool_code {
		return C.modelpool_list_leases(p.handle, rows, C.sizeof_modelpool_lease_row, capacity, count, failed)
	})
	result := make([]LeaseInfo, len(rows))
	for i := range rows {
		row := &rows[i]
		result[i] = LeaseInfo{
			Model:     C.GoString(&row.model[0]),
			Tag:       C.GoString(&row.tag[0]),
			WorkerPid: int(row.worker_pid),
			Age:       duration(row.age_ms),
			Progress:  duration(row.progress_ms),
		}
	}
	return result, err
}

// Waiter is who waits in Acquire, in any worker of the host.
type Waiter struct {
	Model     string
	Tag       string
	WorkerPid int
	Waiting   time.Duration
	Left      time.Duration // until its deadline
	Arrival   uint64        // its place in line
}

// Waiters lists the line, by arrival.
func (p *Pool) Waiters() ([]Waiter, error) {
	rows, err := list(p, func(rows *C.modelpool_waiter, capacity C.size_t, count *C.size_t, failed *C.modelpool_error) C.modelpool_code {
		return C.modelpool_list_waiters(p.handle, rows, C.sizeof_modelpool_waiter, capacity, count, failed)
	})
	result := make([]Waiter, len(rows))
	for i := range rows {
		row := &rows[i]
		result[i] = Waiter{
			Model:     C.GoString(&row.model[0]),
			Tag:       C.GoString(&row.tag[0]),
			WorkerPid: int(row.worker_pid),
			Waiting:   duration(row.waiting_ms),
			Left:      duration(row.left_ms),
			Arrival:   uint64(row.arrival),
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
}

// Events lists decisions from number `first` on, oldest first, as far as the pool remembers. To follow, ask again
// from the last Sequence + 1.
func (p *Pool) Events(first uint64) ([]Event, error) {
	rows, err := list(p, func(rows *C.modelpool_event, capacity C.size_t, count *C.size_t, failed *C.modelpool_error) C.modelpool_code {
		return C.modelpool_list_events(p.handle, C.uint64_t(first), rows, C.sizeof_modelpool_event, capacity, count, failed)
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
		}
		if row.time_ms >= 0 {
			result[i].Time = time.UnixMilli(int64(row.time_ms))
		}
	}
	return result, err
}
