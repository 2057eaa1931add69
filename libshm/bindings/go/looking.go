package modelpool

import (
	"syscall"
	"time"
)

// What is unknown, or does not apply, is Unknown for a duration or a size, "" for a text, 0 for a
// PID or signal, and false. The tags are the names of the fields in every language; Rows has those
// that these structures lack.

// Status is the pool in a dozen numbers.
type Status struct {
	Pool             string `modelpool:"pool"`
	MaxBackends      int    `modelpool:"max_backends"` // 0: no limit; Unknown: the pool never had settings
	Live             int    `modelpool:"live"`
	Ready            int    `modelpool:"ready"`
	Waiting          int    `modelpool:"waiting"`
	Workers          int    `modelpool:"workers"`
	Leases           int    `modelpool:"leases"`
	CoordinatorAlive bool   `modelpool:"coordinator.alive"` // false also when that cannot be told
	CoordinatorPid   int    `modelpool:"coordinator.pid"`   // 0: none
}

// Status looks at the pool. Looking takes no lock and counts as no use (P12).
func (p *Pool) Status() (Status, error) {
	rows, err := list[Status](p, statusTable, 0)
	if err != nil {
		return Status{}, err
	}
	return rows[0], nil
}

// Backend is one process that serves one model, or will, or did.
type Backend struct {
	Model          string        `modelpool:"model"`
	Address        string        `modelpool:"address"` // "" before it is ready
	State          string        `modelpool:"state"`   // reserved, starting, ready, evicting, stopping
	Label          string        `modelpool:"label"`
	Pid            int           `modelpool:"pid"`         // 0: none known
	OwnerPid       int           `modelpool:"owner_pid"`   // the worker that loaded it
	InFlight       int           `modelpool:"in_flight"`   // leases of all workers of the host
	Busy           time.Duration `modelpool:"busy_ms"`     // age of the oldest lease; Unknown: none
	Idle           time.Duration `modelpool:"idle_ms"`     // Unknown: not idle
	Ready          time.Duration `modelpool:"ready_ms"`    // since it is ready; Unknown: not yet
	Reserved       time.Duration `modelpool:"reserved_ms"` // since its ticket was granted
	Started        time.Duration `modelpool:"started_ms"`  // since its process was started; Unknown: not yet
	SizeBytes      int64         `modelpool:"size_bytes"`  // Unknown: not given
	DeviceMask     uint64        `modelpool:"device_mask"`
	Pinned         bool          `modelpool:"pinned"`
	External       bool          `modelpool:"external"`
	EvictRequested bool          `modelpool:"evict_requested"`
	Slot           int           `modelpool:"slot"`
	Generation     uint32        `modelpool:"generation"` // with Slot, names this backend and no other
	Group          int           `modelpool:"group"`      // its process group; 0: none of its own, or none known
	Exit           string        `modelpool:"exit"`       // "exit status 1", "signal SIGKILL"; "": runs, or unknown
	Stop           *Stop         `modelpool:"stop"`       // while it is evicting or stopping
	KeepAlive      string        `modelpool:"keep_alive"` // as an Acquire asked: "5m", "0", "off"; "": none did
}

// Stop is why and how far a backend is being ended.
type Stop struct {
	Reason    string         `modelpool:"reason"` // as of an Event
	Text      string         `modelpool:"text"`
	Decided   time.Duration  `modelpool:"decided_ms"`   // since then
	Stopping  time.Duration  `modelpool:"stopping_ms"`  // since it was certain; Unknown: it may still go back to ready
	Signalled time.Duration  `modelpool:"signalled_ms"` // Unknown: not yet
	Killed    time.Duration  `modelpool:"killed_ms"`    // since SIGKILL; Unknown: not yet
	Age       time.Duration  `modelpool:"age_ms"`       // measured
	Limit     time.Duration  `modelpool:"limit_ms"`     // the rule's
	Signal    syscall.Signal `modelpool:"signal"`       // the last one sent; 0: none
}

// Backends lists the live backends of the pool.
func (p *Pool) Backends() ([]Backend, error) {
	rows, err := list[Backend](p, backendsTable, 0)
	for i := range rows {
		if rows[i].Stop.Decided < 0 {
			rows[i].Stop = nil
		}
	}
	return rows, err
}

// LeaseInfo is a request in flight, of any worker of the host.
type LeaseInfo struct {
	Model      string        `modelpool:"model"`
	Tag        string        `modelpool:"tag"`
	WorkerPid  int           `modelpool:"worker_pid"`
	Age        time.Duration `modelpool:"age_ms"`
	Progress   time.Duration `modelpool:"progress_ms"` // since its last progress
	Limit      time.Duration `modelpool:"limit_ms"`    // its own busy timeout; Unknown: none
	BackendPid int           `modelpool:"backend_pid"` // 0: none
	Slot       int           `modelpool:"slot"`        // with Generation, its Backend
	Generation uint32        `modelpool:"generation"`
}

// Leases lists the requests in flight.
func (p *Pool) Leases() ([]LeaseInfo, error) { return list[LeaseInfo](p, leasesTable, 0) }

// Worker is a process that is attached.
type Worker struct {
	Pid        int           `modelpool:"pid"`
	Command    string        `modelpool:"command"`
	Leases     int           `modelpool:"leases"`
	Attached   time.Duration `modelpool:"attached_ms"`
	Alive      bool          `modelpool:"alive"` // false also when that cannot be told
	Row        int           `modelpool:"row"`
	Generation uint32        `modelpool:"generation"`
}

// Workers lists the attached processes.
func (p *Pool) Workers() ([]Worker, error) { return list[Worker](p, workersTable, 0) }

// Waiter is who waits in Acquire, in any worker of the host.
type Waiter struct {
	Model         string        `modelpool:"model"`
	Tag           string        `modelpool:"tag"`
	WorkerPid     int           `modelpool:"worker_pid"`
	Waiting       time.Duration `modelpool:"waiting_ms"`
	Left          time.Duration `modelpool:"left_ms"`        // until its deadline
	Arrival       uint64        `modelpool:"arrival"`        // its place in line
	ExpectedBytes int64         `modelpool:"expected_bytes"` // Unknown: not given
	Priority      uint64        `modelpool:"priority"`
}

// Waiters lists the line, by arrival.
func (p *Pool) Waiters() ([]Waiter, error) { return list[Waiter](p, waitersTable, 0) }

// Event is a decision that was taken (P11).
type Event struct {
	Sequence  uint64         `modelpool:"seq"`    // from 1
	Time      time.Time      `modelpool:"time"`   // zero: unknown
	Kind      string         `modelpool:"kind"`   // loaded, load_failed, evicted, killed, exited, worker_died...
	Reason    string         `modelpool:"reason"` // lru, idle, busy, stall, load_timeout, requested...
	Model     string         `modelpool:"model"`
	Tag       string         `modelpool:"tag"` // of the lease that broke a rule
	Pid       int            `modelpool:"pid"` // 0: none
	WorkerPid int            `modelpool:"worker_pid"`
	Age       time.Duration  `modelpool:"age_ms"`   // measured
	Limit     time.Duration  `modelpool:"limit_ms"` // the rule's
	Load      time.Duration  `modelpool:"load_ms"`  // how long it loaded
	Exit      string         `modelpool:"exit"`     // "exit status 1", "signal SIGKILL"; "": unknown
	ExitTook  time.Duration  `modelpool:"exit_ms"`  // from the stop signal until it was gone
	Text      string         `modelpool:"text"`
	Signal    syscall.Signal `modelpool:"signal"` // 0: none
	Count     int64          `modelpool:"count"`  // of what, the kind says; Unknown: does not apply
}

// Events lists decisions from number `first` on, oldest first, as far as the pool remembers. To
// follow, ask again from the last Sequence + 1.
func (p *Pool) Events(first uint64) ([]Event, error) { return list[Event](p, eventsTable, first) }
