package modelpool

/*
#include <modelpool/modelpool.h>
*/
import "C"

import (
	"context"
	"errors"
	"strings"
	"syscall"
	"time"
)

// Code says what went wrong. It is an error itself, so that errors.Is(err, modelpool.ErrTimeout)
// holds for every *Error of that code.
type Code int

// What a call can answer; see <modelpool/modelpool.h> and, for each call, its documentation.
const (
	ErrTimeout       Code = C.MODELPOOL_TIMEOUT        // the deadline passed while waiting
	ErrQueueFull     Code = C.MODELPOOL_QUEUE_FULL     // max_waiters are waiting already
	ErrTableFull     Code = C.MODELPOOL_TABLE_FULL     // a table of the pool has no free slot
	ErrAllPinned     Code = C.MODELPOOL_ALL_PINNED     // no place can be made: all that could go is pinned
	ErrCoolingDown   Code = C.MODELPOOL_COOLING_DOWN   // failed to load lately; see Error.RetryAfter
	ErrLoadFailed    Code = C.MODELPOOL_LOAD_FAILED    // the load this call waited for failed
	ErrNoCoordinator Code = C.MODELPOOL_NO_COORDINATOR // coordinatord is needed and does not run
	ErrNoSuchPool    Code = C.MODELPOOL_NO_SUCH_POOL   // no pool of that name
	ErrIncompatible  Code = C.MODELPOOL_INCOMPATIBLE   // another layout, namespace, boot or kind of file; a setting not known here
	ErrNotLoaded     Code = C.MODELPOOL_NOT_LOADED     // no backend serves the model and none was to be loaded
	ErrTicketLost    Code = C.MODELPOOL_TICKET_LOST    // load_timeout ended it, or it was given up
	ErrLeaseLost     Code = C.MODELPOOL_LEASE_LOST     // the lease's backend was stopped
	ErrInvalid       Code = C.MODELPOOL_INVALID        // an argument is malformed
	ErrClosed        Code = C.MODELPOOL_CLOSED         // released, used up or closed before
	ErrReplaced      Code = C.MODELPOOL_REPLACED       // the pool was removed, and no other had its name in time
	ErrCancelled     Code = C.MODELPOOL_CANCELLED      // the context
	ErrPermission    Code = C.MODELPOOL_PERMISSION     // owned by another user, or open to others
	ErrBusy          Code = C.MODELPOOL_BUSY           // in use by another goroutine, or locked for long
	ErrSpawnFailed   Code = C.MODELPOOL_SPAWN_FAILED   // the program could not be executed; the ticket stays
	ErrSystem        Code = C.MODELPOOL_SYSTEM         // the operating system refused; unwraps to its errno
	ErrTooLarge      Code = C.MODELPOOL_TOO_LARGE      // the model takes more than the pool has at all
)

// Error returns the code's name, such as "queue_full".
func (c Code) Error() string { return C.GoString(C.modelpool_code_name(C.int(c))) }

// Error is what every call of this package fails with.
type Error struct {
	Code       Code
	Text       string        // "unable to VERB OBJECT: reason; what to do"
	RetryAfter time.Duration // with ErrCoolingDown and ErrLoadFailed: until the next load may start
	context    error         // context.Canceled or DeadlineExceeded if the context ended the call
	cause      error         // the context's cause, or an errno; nil for none
}

func (e *Error) Error() string { return e.Text }

// Is makes errors.Is(err, ErrTimeout) and its like hold, and errors.Is(err, context.Canceled) or
// context.DeadlineExceeded if the context ended the call.
func (e *Error) Is(target error) bool {
	code, ok := target.(Code)
	return ok && code == e.Code || e.context != nil && target == e.context
}

// Unwrap gives the context's cause if the context ended the call (context.WithCancelCause, from Go
// 1.20 on; else context.Canceled or context.DeadlineExceeded), and the syscall.Errno with
// ErrSystem, else nil.
func (e *Error) Unwrap() error { return e.cause }

func failure(code C.modelpool_code, from *C.modelpool_error) error {
	if code == C.MODELPOOL_OK {
		return nil
	}
	e := &Error{
		Code:       Code(code),
		Text:       C.GoString(&from.text[0]),
		RetryAfter: time.Duration(from.retry_after_ms) * time.Millisecond,
	}
	if from.system != 0 {
		e.cause = syscall.Errno(from.system)
	}
	return e
}

func invalid(text string) error { return &Error{Code: ErrInvalid, Text: text} }

// ended is the error of a call that its context ended while it was waiting for something.
func ended(ctx context.Context, model, waitedFor string) error {
	e := &Error{Code: ErrCancelled, context: ctx.Err(), cause: causeOf(ctx)}
	if errors.Is(e.context, context.DeadlineExceeded) {
		e.Code = ErrTimeout
	}
	e.Text = "unable to acquire " + model + ": " + e.context.Error()
	if e.cause != e.context {
		e.Text += " (" + e.cause.Error() + ")"
	}
	if waitedFor != "" {
		e.Text += ", waiting: " + waitedFor
	}
	return e
}

// reasonOf takes from "unable to acquire m: timed out: no place is free" what comes after the
// model, whose name may have colons of its own.
func reasonOf(text string) string {
	for _, before := range []string{": timed out: ", ": "} {
		if at := strings.LastIndex(text, before); at >= 0 {
			return text[at+len(before):]
		}
	}
	return text
}

// text as C takes it, in Go's memory. C would read a text with a NUL in it as a shorter one.
func text(s, what string) (*C.char, error) {
	if strings.IndexByte(s, 0) >= 0 {
		return nil, invalid("unable to use this " + what + ": it contains a NUL byte")
	}
	bytes := make([]byte, len(s)+1)
	copy(bytes, s)
	return (*C.char)(pointer(bytes)), nil
}
