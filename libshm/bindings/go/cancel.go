package modelpool

/*
#include <modelpool/modelpool.h>
*/
import "C"

import (
	"fmt"
	"io"
	"os"
	"runtime"
	"sync"
	"syscall"
	"unsafe"
)

// Done is closed when the coordinator asks for the end of this request, as a context's Done is: it
// has taken longer than busy_timeout, stall_timeout or first_byte_timeout. Whoever asks for the
// channel says that it will end the request then: stop it at the backend, most often by closing the
// connection, and Release the lease. If the lease still exists when the grace of on_overdue is over,
// the backend is killed; if nobody asked for Done, and Options did not say Cancellable, at once.
//
//	select {
//	case answer := <-answers:
//	case <-lease.Done():
//		cancel() // the context of the HTTP request
//		return errors.New(lease.CancelReason())
//	}
//
// It stays open after Release. nil, which is never ready, if it cannot be had: of a lease that was
// released, or for want of descriptors. One goroutine serves all leases of the process; it costs no
// thread while it waits.
func (l *Lease) Done() <-chan struct{} {
	g := l.get()
	defer runtime.KeepAlive(g)
	g.asking.Lock()
	defer g.asking.Unlock()
	if g.done == nil {
		g.done = cancels.register(g.handle)
	}
	return g.done
}

// Cancelled is whether the coordinator has asked for the end of this request.
func (l *Lease) Cancelled() bool {
	g := l.get()
	defer runtime.KeepAlive(g)
	var asked C.int
	return C.modelpool_cancelled(g.handle, &asked, nil, 0, nil) == C.MODELPOOL_OK && asked != 0
}

// CancelReason is why it was asked to end, and what happens otherwise: "busy_timeout 30s passed; if
// it goes on, its backend is killed 10s after that, and all requests there are lost". "" if it was
// not asked, and after Release.
func (l *Lease) CancelReason() string {
	g := l.get()
	defer runtime.KeepAlive(g)
	var asked C.int
	var reason [512]C.char
	if C.modelpool_cancelled(g.handle, &asked, &reason[0], C.size_t(len(reason)), nil) != C.MODELPOOL_OK {
		return ""
	}
	return C.GoString(&reason[0])
}

// cancels hears of leases that are asked to end, by a pipe to which the library writes the number
// of each.
var cancels cancelled

type cancelled struct {
	mutex  sync.Mutex
	in     int
	out    *os.File // once there was a lease
	leases map[uint64]chan struct{}
}

func (c *cancelled) register(handle C.modelpool_lease) chan struct{} {
	c.mutex.Lock()
	defer c.mutex.Unlock()
	if err := c.open(); err != nil {
		return nil
	}
	number := uint64(handle.id)
	done := make(chan struct{})
	c.leases[number] = done
	if C.modelpool_notify_cancel(handle, C.int(c.in), C.uint64_t(number), nil) != C.MODELPOOL_OK {
		delete(c.leases, number)
		return nil
	}
	return done
}

func (c *cancelled) open() error {
	if c.out != nil {
		return nil
	}
	var ends [2]int
	if err := syscall.Pipe2(ends[:], syscall.O_CLOEXEC|syscall.O_NONBLOCK); err != nil {
		return fmt.Errorf("unable to make a pipe: %w", err)
	}
	c.in, c.out = ends[1], os.NewFile(uintptr(ends[0]), "modelpool cancels")
	c.leases = make(map[uint64]chan struct{})
	go c.run()
	return nil
}

func (c *cancelled) forget(number uint64) {
	c.mutex.Lock()
	defer c.mutex.Unlock()
	delete(c.leases, number)
}

func (c *cancelled) run() {
	var number [8]byte
	for {
		if _, err := io.ReadFull(c.out, number[:]); err != nil {
			return
		}
		c.tell(*(*uint64)(unsafe.Pointer(&number[0])))
	}
}

func (c *cancelled) tell(number uint64) {
	c.mutex.Lock()
	defer c.mutex.Unlock()
	if done, ok := c.leases[number]; ok {
		close(done)
		delete(c.leases, number)
	}
}
