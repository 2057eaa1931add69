package modelpool

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"strings"
	"syscall"
	"time"
	"unsafe"
)

const (
	firstPause   = 10 * time.Millisecond
	longestPause = 200 * time.Millisecond
	connectTime  = time.Second      // a server on this host accepts at once, or not yet
	answerTime   = 10 * time.Second // one that is loading may accept and answer late
)

// WaitReady waits until what was started answers at an address, host:port or unix:/path. check says
// what an answer is: "tcp": a connection is accepted; "http:/health": a GET of /health is answered
// 2xx, asked through no proxy; "delay:5s": so much time has passed.
//
// It ends when the process ends, with ErrLoadFailed, and when the context does, with ErrTimeout or
// ErrCancelled; the ticket stays. Without a deadline the pool's load_timeout bounds it, by ending
// the process. Other errors: ErrClosed: nothing was started with this ticket.
func (t *Ticket) WaitReady(ctx context.Context, address, check string) error {
	answers, err := readerOf(address, check)
	if err != nil {
		return err
	}
	pid, model := t.Pid(), t.Model()
	if pid == 0 {
		return &Error{Code: ErrClosed, Text: "unable to wait for " + address + ": nothing was started with this ticket"}
	}
	process, err := watchProcess(pid)
	if err != nil {
		return err
	}
	defer process.close()
	began := time.Now()
	for pause := firstPause; !answers(ctx, time.Since(began)); {
		if process.hasEnded() {
			return &Error{Code: ErrLoadFailed, Text: fmt.Sprintf("unable to load %s: its process ended before it was ready "+
				"at %s%s; SpawnOptions.Output keeps what it prints", model, address, process.how())}
		}
		timer := time.NewTimer(pause)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			err := ended(ctx, model, "it does not answer at "+address+" ("+check+") yet").(*Error)
			err.Text = strings.Replace(err.Text, "unable to acquire ", "unable to load ", 1)
			return err
		}
		if pause *= 2; pause > longestPause {
			pause = longestPause
		}
	}
	return nil
}

type reader func(ctx context.Context, waited time.Duration) bool

func readerOf(address, check string) (reader, error) {
	network, place := "tcp", address
	if strings.HasPrefix(address, "unix:") {
		network, place = "unix", strings.TrimPrefix(address, "unix:")
	} else if _, port, err := net.SplitHostPort(address); err != nil || port == "" {
		return nil, invalid(fmt.Sprintf("unable to ask %q: it is no address; write host:port or unix:/path", address))
	}
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{Timeout: connectTime}).DialContext(ctx, network, place)
	}
	switch {
	case check == "tcp":
		return func(ctx context.Context, _ time.Duration) bool { return accepts(ctx, dial) }, nil
	case strings.HasPrefix(check, "http:/") && !strings.HasPrefix(check, "http://") && !strings.ContainsAny(check, " \t\r\n"):
		host := place
		if network == "unix" {
			host = "localhost"
		}
		client := &http.Client{
			Transport:     &http.Transport{DialContext: dial, DisableKeepAlives: true}, // and no Proxy
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
			Timeout:       answerTime,
		}
		url := "http://" + host + strings.TrimPrefix(check, "http:")
		return func(ctx context.Context, _ time.Duration) bool { return saysYes(ctx, client, url) }, nil
	case strings.HasPrefix(check, "delay:"):
		delay, err := time.ParseDuration(strings.TrimPrefix(check, "delay:"))
		if err == nil && delay >= 0 {
			return func(_ context.Context, waited time.Duration) bool { return waited >= delay }, nil
		}
	}
	return nil, invalid(fmt.Sprintf("unable to see readiness by %q: write tcp, http:/path or delay:DURATION", check))
}

func accepts(ctx context.Context, dial func(context.Context, string, string) (net.Conn, error)) bool {
	connection, err := dial(ctx, "", "")
	if err != nil {
		return false
	}
	defer connection.Close()
	// To a free port of this host a connection may get that very port, and meet itself.
	itself := connection.LocalAddr().Network() == "tcp" && connection.LocalAddr().String() == connection.RemoteAddr().String()
	return !itself
}

func saysYes(ctx context.Context, client *http.Client, url string) bool {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return false
	}
	response, err := client.Do(request)
	if err != nil {
		return false
	}
	response.Body.Close()
	return response.StatusCode >= 200 && response.StatusCode < 300
}

// watchedProcess is a pidfd, or -1: the process has ended, and was reaped.
type watchedProcess int

func watchProcess(pid int) (watchedProcess, error) {
	const pidfdOpen = 434 // on every architecture
	fd, _, errno := syscall.Syscall(pidfdOpen, uintptr(pid), 0, 0)
	if errno == syscall.ESRCH {
		return -1, nil
	}
	if errno != 0 {
		return -1, &Error{Code: ErrSystem, Text: fmt.Sprintf("unable to watch process %d: %v", pid, errno), cause: errno}
	}
	return watchedProcess(fd), nil
}

func (p watchedProcess) hasEnded() bool {
	if p < 0 {
		return true
	}
	pollfd := struct {
		fd              int32
		events, revents int16
	}{fd: int32(p), events: 1} // POLLIN
	var now syscall.Timespec
	ready, _, _ := syscall.Syscall6(syscall.SYS_PPOLL, uintptr(unsafe.Pointer(&pollfd)), 1, uintptr(unsafe.Pointer(&now)), 0, 0, 0)
	return int(ready) == 1
}

// how says " (exit status 1)", as long as the process is not reaped; else nothing.
func (p watchedProcess) how() string {
	const pPidfd, exitedNoHangNoWait, exited = 3, 4 | 1 | 0x1000000, 1
	var info struct { // siginfo_t, of 128 bytes
		signo, errno, code, pad, pid, uid, status int32
		rest                                      [100]byte
	}
	_, _, errno := syscall.Syscall6(syscall.SYS_WAITID, pPidfd, uintptr(p), uintptr(unsafe.Pointer(&info)), exitedNoHangNoWait, 0, 0)
	switch {
	case p < 0 || errno != 0 || info.pid == 0:
		return ""
	case info.code == exited:
		return fmt.Sprintf(" (exit status %d)", info.status)
	}
	return fmt.Sprintf(" (signal: %v)", syscall.Signal(info.status))
}

func (p watchedProcess) close() {
	if p >= 0 {
		syscall.Close(int(p))
	}
}
