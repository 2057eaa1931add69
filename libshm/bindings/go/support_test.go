package modelpool_test

import (
	"net"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"syscall"
	"testing"
	"time"

	"modelpool"
)

// Generous: a wait that runs into it has failed, however slow the machine.
const patience = 30 * time.Second

func eventually(t *testing.T, what string, condition func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !condition(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%s: not within %v", what, patience)
		}
	}
}

// program is the path of one of ours, from the environment that ctest sets.
func program(t *testing.T, variable string) string {
	t.Helper()
	path := os.Getenv(variable)
	if path == "" {
		t.Skipf("%s is not set: run by ctest", variable)
	}
	return path
}

// TestMain keeps what backends write out of the home of whoever runs the tests.
func TestMain(m *testing.M) {
	state, err := os.MkdirTemp("/dev/shm", "modelpool-go-test.")
	if err != nil {
		panic(err)
	}
	os.Setenv("XDG_STATE_HOME", state)
	code := m.Run()
	os.RemoveAll(state)
	os.Exit(code)
}

// scratch is a directory on a tmpfs, gone with the test.
func scratch(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "modelpool-go-test.")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// attached is a pool of the test's own, without a coordinator.
func attached(t *testing.T, dir string, settings ...string) *modelpool.Pool {
	t.Helper()
	if settings == nil {
		settings = []string{"max_backends=0"}
	}
	pool, err := modelpool.Attach("default", &modelpool.AttachOptions{Dir: dir, Settings: settings})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	return pool
}

// daemon runs coordinatord on dir until the test ends; its backends end with it. It dies with this
// process.
func daemon(t *testing.T, dir string, flags ...string) {
	t.Helper()
	command := exec.Command(program(t, "MODELPOOL_COORDINATORD"),
		append([]string{"--dir", dir, "--on-exit", "stop", "--stop-grace", "1s"}, flags...)...)
	command.Stderr = os.Stderr
	command.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM}
	started := make(chan error)
	ended := make(chan struct{})
	go func() {
		// The death signal is of the thread that starts it: keep that one.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		started <- command.Start()
		if command.Process != nil {
			command.Wait()
		}
		close(ended)
	}()
	if err := <-started; err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		command.Process.Signal(syscall.SIGTERM)
		<-ended
	})
	pool := attached(t, dir)
	// It is alive before it has applied its own settings over ours.
	eventually(t, "coordinatord serves", func() bool {
		events, err := pool.Events(1)
		return err == nil && len(events) > 0 && events[len(events)-1].Kind == "settings_changed"
	})
}

// backend is the command line of a demo_backend on a free port, and its address.
func backend(t *testing.T) ([]string, string) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	address := listener.Addr().String()
	_, port, _ := net.SplitHostPort(address)
	if _, err := strconv.Atoi(port); err != nil {
		t.Fatal(err)
	}
	return []string{program(t, "MODELPOOL_DEMO_BACKEND"), "--port", port}, address
}

func answers(address string) bool {
	connection, err := net.Dial("tcp", address)
	if err != nil {
		return false
	}
	connection.Close()
	return true
}

// external loads a model without a process and gives the loader's lease.
func external(t *testing.T, pool *modelpool.Pool, model string, address string) *modelpool.Lease {
	t.Helper()
	lease, err := ticketOn(t, pool, model).Ready(address, modelpool.ReadyOptions{External: true})
	if err != nil {
		t.Fatal(err)
	}
	return lease
}
