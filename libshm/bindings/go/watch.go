package modelpool

/*
#include <modelpool/modelpool.h>
*/
import "C"

import (
	"fmt"
	"os"
	"sync"
	"syscall"
)

// A watch reads the pool's wait fd in one goroutine, which costs no thread while it waits, and
// tells everyone who waits in Acquire.
type watch struct {
	file *os.File

	mutex sync.Mutex
	woken chan struct{} // closed at the next wake
}

// wakes gives the pool's watch, started at the first wait.
func (a *attachment) wakes() (*watch, error) {
	a.watching.Lock()
	defer a.watching.Unlock()
	if a.closed {
		return nil, &Error{Code: ErrClosed, Text: "unable to use this pool: it is closed"}
	}
	if a.watch != nil {
		return a.watch, nil
	}
	var fd C.int
	var failed C.modelpool_error
	if code := C.modelpool_wait_fd(a.handle, &fd, &failed); code != C.MODELPOOL_OK {
		return nil, failure(code, &failed)
	}
	// A duplicate of our own: the pool closes its descriptor when it likes.
	own, _, errno := syscall.Syscall(syscall.SYS_FCNTL, uintptr(fd), syscall.F_DUPFD_CLOEXEC, 0)
	if errno != 0 {
		return nil, &Error{Code: ErrSystem, Text: fmt.Sprintf("unable to watch the pool: %v", errno), cause: errno}
	}
	a.watch = &watch{file: os.NewFile(own, "modelpool wait fd"), woken: make(chan struct{})}
	go a.watch.run()
	return a.watch, nil
}

// next is closed at the next wake.
func (w *watch) next() <-chan struct{} {
	w.mutex.Lock()
	defer w.mutex.Unlock()
	return w.woken
}

func (w *watch) wake() {
	w.mutex.Lock()
	defer w.mutex.Unlock()
	close(w.woken)
	w.woken = make(chan struct{})
}

func (w *watch) run() {
	var count [8]byte
	for {
		if _, err := w.file.Read(count[:]); err != nil {
			return // stopped
		}
		w.wake()
	}
}

// stop ends the goroutine; every waiter looks once more and is told that the pool is closed.
func (w *watch) stop() {
	w.file.Close()
	w.wake()
}
