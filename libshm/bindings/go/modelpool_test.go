package modelpool_test

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"modelpool"
)

func ticketOn(t *testing.T, pool *modelpool.Pool, model string) *modelpool.Ticket {
	t.Helper()
	lease, ticket, err := pool.Acquire(context.Background(), model, modelpool.Options{})
	if err != nil || lease != nil || ticket == nil {
		t.Fatalf("no ticket for %s: %v", model, err)
	}
	return ticket
}

func leaseOn(t *testing.T, pool *modelpool.Pool, model string) *modelpool.Lease {
	t.Helper()
	lease, ticket, err := pool.Acquire(context.Background(), model, modelpool.Options{Tag: "go"})
	if err != nil || lease == nil || ticket != nil {
		t.Fatalf("no lease on %s: %v", model, err)
	}
	return lease
}

func leases(t *testing.T, pool *modelpool.Pool) int {
	t.Helper()
	all, err := pool.Leases()
	if err != nil {
		t.Fatal(err)
	}
	return len(all)
}

func expect(t *testing.T, err error, code modelpool.Code) {
	t.Helper()
	if !errors.Is(err, code) {
		t.Fatalf("got %v, not %v", err, code)
	}
}

func TestLoadsServesAndEvictsARealBackend(t *testing.T) {
	dir := scratch(t)
	daemon(t, dir)
	pool := attached(t, dir)
	argv, address := backend(t)
	ticket := ticketOn(t, pool, "llama")
	if err := ticket.Spawn(argv, modelpool.SpawnOptions{Env: []string{"GO_TEST=1"}}); err != nil {
		t.Fatal(err)
	}
	pid := ticket.Pid()
	if ticket.Model() != "llama" || pid == 0 {
		t.Fatalf("loading %q as %d", ticket.Model(), pid)
	}
	eventually(t, "the backend answers", func() bool { return answers(address) })
	lease, err := ticket.Ready(address, modelpool.ReadyOptions{Label: "gpu0", Settings: []string{"idle_timeout=7m"}})
	if err != nil {
		t.Fatal(err)
	}
	if lease.Model() != "llama" || lease.Address() != address || lease.Pid() != pid {
		t.Fatalf("lease on %q at %q of %d", lease.Model(), lease.Address(), lease.Pid())
	}
	if err := lease.Progress(); err != nil {
		t.Fatal(err)
	}
	backends, err := pool.Backends()
	if err != nil || len(backends) != 1 || backends[0].State != "ready" || backends[0].Label != "gpu0" ||
		backends[0].InFlight != 1 || backends[0].Idle != modelpool.Unknown || backends[0].OwnerPid != os.Getpid() {
		t.Fatalf("%+v, %v", backends, err)
	}
	if err := pool.Evict("llama", true); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the lease is lost", func() bool { return errors.Is(lease.Progress(), modelpool.ErrLeaseLost) })
	eventually(t, "the backend is gone", func() bool { return syscall.Kill(pid, 0) == syscall.ESRCH })
	eventually(t, "the end is recorded", func() bool {
		events, err := pool.Events(1)
		last := events[len(events)-1]
		return err == nil && last.Reason == "requested" && last.Pid == pid && !last.Time.IsZero()
	})
	lease.Release()
	lease.Release()
	expect(t, lease.Progress(), modelpool.ErrClosed)
	if lease.Address() != address {
		t.Fatal("a released lease forgot where it was")
	}
}

func TestAnAcquireSaysForHowLongItsBackendMayBeIdle(t *testing.T) {
	pool := attached(t, scratch(t))
	if _, err := ticketOn(t, pool, "m").Ready("127.0.0.1:1", modelpool.ReadyOptions{External: true}); err != nil {
		t.Fatal(err)
	}
	for _, one := range []struct {
		keep  *time.Duration
		shown string
	}{
		{nil, ""}, {modelpool.KeepAlive(90 * time.Second), "1m30s"}, {nil, "1m30s"},
		{modelpool.KeepAlive(0), "0"}, {modelpool.KeepAlive(-1), "off"},
		{modelpool.KeepAlive(1), "1ms"},
	} {
		lease, _, err := pool.Acquire(context.Background(), "m", modelpool.Options{KeepAlive: one.keep})
		if err != nil {
			t.Fatal(err)
		}
		lease.Release()
		backends, err := pool.Backends()
		if err != nil || len(backends) != 1 || backends[0].KeepAlive != one.shown {
			t.Fatalf("%v: %+v, %v", one, backends, err)
		}
	}
}

func TestWaitersShareOneLoadAndCostNoThread(t *testing.T) {
	dir := scratch(t)
	pool := attached(t, dir)
	ticket := ticketOn(t, pool, "m")
	const waiters = 100
	var group sync.WaitGroup
	var leased atomic.Int32
	for i := 0; i < waiters; i++ {
		group.Add(1)
		go func() {
			defer group.Done()
			lease, _, err := pool.Acquire(context.Background(), "m", modelpool.Options{})
			if err == nil && lease != nil {
				leased.Add(1)
			} else {
				t.Error(err)
			}
		}()
	}
	eventually(t, "all wait", func() bool {
		line, err := pool.Waiters()
		return err == nil && len(line) == waiters
	})
	tasks, err := os.ReadDir("/proc/self/task")
	if err != nil || len(tasks) >= waiters/2 {
		t.Fatalf("%d threads for %d waiters, %v", len(tasks), waiters, err)
	}
	if _, err := ticket.Ready("127.0.0.1:1", modelpool.ReadyOptions{External: true}); err != nil {
		t.Fatal(err)
	}
	group.Wait()
	if leased.Load() != waiters {
		t.Fatalf("%d of %d got their lease", leased.Load(), waiters)
	}
}

func TestTheContextEndsAWait(t *testing.T) {
	pool := attached(t, scratch(t))
	ticketOn(t, pool, "m") // never ready

	ctx, cancel := context.WithCancel(context.Background())
	failed := make(chan error)
	go func() {
		_, _, err := pool.Acquire(ctx, "m", modelpool.Options{})
		failed <- err
	}()
	eventually(t, "it waits", func() bool {
		line, _ := pool.Waiters()
		return len(line) == 1
	})
	cancel()
	err := <-failed
	expect(t, err, modelpool.ErrCancelled)
	if !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	if line, _ := pool.Waiters(); len(line) != 0 {
		t.Fatal("it is still in line")
	}
	_, _, err = pool.Acquire(ctx, "m", modelpool.Options{})
	expect(t, err, modelpool.ErrCancelled)

	ctx, cancel = context.WithTimeout(context.Background(), 30*time.Millisecond)
	defer cancel()
	_, _, err = pool.Acquire(ctx, "m", modelpool.Options{})
	expect(t, err, modelpool.ErrTimeout)
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Fatal(err)
	}
}

func TestClosingThePoolEndsItsWaitsAndNoLease(t *testing.T) {
	dir := scratch(t)
	observer := attached(t, dir)
	pool := attached(t, dir)
	lease := external(t, pool, "m", "127.0.0.1:1")
	ticketOn(t, observer, "loading")
	failed := make(chan error)
	go func() {
		_, _, err := pool.Acquire(context.Background(), "loading", modelpool.Options{})
		failed <- err
	}()
	eventually(t, "it waits", func() bool {
		line, _ := observer.Waiters()
		return len(line) == 1
	})
	pool.Close()
	expect(t, <-failed, modelpool.ErrClosed)
	_, _, err := pool.Acquire(context.Background(), "m", modelpool.Options{})
	expect(t, err, modelpool.ErrClosed)
	expect(t, pool.Touch("m"), modelpool.ErrClosed)
	pool.Close()
	if leases(t, observer) != 1 || lease.Progress() != nil {
		t.Fatal("the lease went with its pool")
	}
	lease.Release()
}

func TestLeasesEndInOtherThreadsThanTheyBegan(t *testing.T) {
	pool := attached(t, scratch(t))
	loader := external(t, pool, "m", "127.0.0.1:1")
	thread := func(work func()) <-chan struct{} {
		done := make(chan struct{})
		go func() {
			runtime.LockOSThread() // its thread ends with it
			defer close(done)
			work()
		}()
		return done
	}
	for round := 0; round < 5; round++ {
		held := make([]*modelpool.Lease, 400)
		<-thread(func() {
			for i := range held {
				held[i] = leaseOn(t, pool, "m")
			}
		})
		<-thread(func() {
			for _, lease := range held {
				lease.Release()
			}
		})
	}
	loader.Release()
	if left := leases(t, pool); left != 0 {
		t.Fatalf("%d leases are left", left)
	}
}

func TestWhatIsForgottenIsGivenBack(t *testing.T) {
	pool := attached(t, scratch(t))
	external(t, pool, "m", "127.0.0.1:1")
	ticketOn(t, pool, "n")
	eventually(t, "the lease and the ticket are collected", func() bool {
		runtime.GC()
		backends, _ := pool.Backends()
		return leases(t, pool) == 0 && len(backends) == 1
	})
	ticketOn(t, pool, "n").GiveBack() // it may be loaded at once
}

func TestSettings(t *testing.T) {
	pool := attached(t, scratch(t), "max_backends=3", "idle_timeout=15m")
	if limit, err := pool.Limit(); err != nil || limit != 3 {
		t.Fatal(limit, err)
	}
	if err := pool.SetLimit(4); err != nil {
		t.Fatal(err)
	}
	if value, err := pool.Get("max-backends"); err != nil || value != "4" {
		t.Fatal(value, err)
	}
	if err := pool.Set("idle_timeout", "2h"); err != nil {
		t.Fatal(err)
	}
	if value, err := pool.Get("idle_timeout"); err != nil || value != "2h" {
		t.Fatal(value, err)
	}
	expect(t, pool.SetLimit(-1), modelpool.ErrInvalid)
	expect(t, pool.Set("idle_timeout", "soon"), modelpool.ErrInvalid)
	_, err := pool.Get("no_such")
	expect(t, err, modelpool.ErrInvalid)
}

func TestBadInputIsNamed(t *testing.T) {
	pool := attached(t, scratch(t))
	background := context.Background()
	for _, name := range []string{"", "a\x00b", "\xff\xfe", "a\nb", strings.Repeat("x", 1_000_000)} {
		_, _, err := pool.Acquire(background, name, modelpool.Options{})
		expect(t, err, modelpool.ErrInvalid)
		expect(t, pool.Touch(name), modelpool.ErrInvalid)
		expect(t, pool.Pin(name), modelpool.ErrInvalid)
		expect(t, pool.Unpin(name), modelpool.ErrInvalid)
		expect(t, pool.Evict(name, false), modelpool.ErrInvalid)
		expect(t, pool.Set(name, "1"), modelpool.ErrInvalid)
		expect(t, pool.Set("max_backends", name), modelpool.ErrInvalid)
		if name != "" {
			_, err = modelpool.Attach(name, nil)
			expect(t, err, modelpool.ErrInvalid)
			_, _, err = pool.Acquire(background, "m", modelpool.Options{Tag: name})
			expect(t, err, modelpool.ErrInvalid)
		}
	}
	_, err := modelpool.Attach("other", &modelpool.AttachOptions{Dir: "/proc"})
	if err == nil {
		t.Fatal("a pool in /proc")
	}
	_, err = modelpool.Attach("other", &modelpool.AttachOptions{Dir: scratch(t), NoCreate: true})
	expect(t, err, modelpool.ErrNoSuchPool)
	for _, negative := range []time.Duration{-time.Second, -1, math.MinInt64} {
		_, _, err = pool.Acquire(background, "m", modelpool.Options{BusyTimeout: negative})
		expect(t, err, modelpool.ErrInvalid)
		_, err = modelpool.Attach("other", &modelpool.AttachOptions{Dir: scratch(t), CoordinatorGrace: negative})
		expect(t, err, modelpool.ErrInvalid)
	}
	_, _, err = pool.Acquire(background, "m", modelpool.Options{NoLoad: true})
	expect(t, err, modelpool.ErrNotLoaded)
	expect(t, pool.Touch("m"), modelpool.ErrNotLoaded)

	ticket := ticketOn(t, pool, "m")
	expect(t, ticket.Spawn(nil, modelpool.SpawnOptions{}), modelpool.ErrInvalid)
	expect(t, ticket.Spawn([]string{"a\x00b"}, modelpool.SpawnOptions{}), modelpool.ErrInvalid)
	expect(t, ticket.Spawn([]string{"/no/such/program"}, modelpool.SpawnOptions{}), modelpool.ErrSpawnFailed)
	for _, entry := range []string{"NAME", "=value", "", "A=\x00"} {
		expect(t, ticket.Spawn([]string{"true"}, modelpool.SpawnOptions{Env: []string{entry}}), modelpool.ErrInvalid)
	}
	expect(t, ticket.Started(os.Getpid()), modelpool.ErrInvalid)
	expect(t, ticket.Started(1<<40), modelpool.ErrInvalid)
	for _, address := range []string{"", "a b", "a\x00b", strings.Repeat("x", 256)} {
		_, err = ticket.Ready(address, modelpool.ReadyOptions{External: true})
		expect(t, err, modelpool.ErrInvalid)
	}
	if err := ticket.Fail("a\x00b"); err != nil {
		t.Fatal(err)
	}
	expect(t, ticket.Fail("again"), modelpool.ErrClosed)
	_, err = ticket.Ready("127.0.0.1:1", modelpool.ReadyOptions{})
	expect(t, err, modelpool.ErrClosed)
	if ticket.Model() != "" || ticket.Pid() != 0 {
		t.Fatal("a used up ticket is for something")
	}
	_, _, err = pool.Acquire(nil, "m", modelpool.Options{}) //lint:ignore SA1012 what it is about
	expect(t, err, modelpool.ErrInvalid)
}

// closedOrNothing uses what is not open in every way there is.
func closedOrNothing(t *testing.T, pool *modelpool.Pool, lease *modelpool.Lease, ticket *modelpool.Ticket) {
	t.Helper()
	expect(t, lease.Progress(), modelpool.ErrClosed)
	if lease.Pid() != 0 || lease.Model() != "" || lease.Address() != "" || ticket.Pid() != 0 || ticket.Model() != "" {
		t.Fatal("it is on something")
	}
	expect(t, ticket.Spawn([]string{"true"}, modelpool.SpawnOptions{}), modelpool.ErrClosed)
	expect(t, ticket.Started(2), modelpool.ErrClosed)
	_, err := ticket.Ready("127.0.0.1:1", modelpool.ReadyOptions{})
	expect(t, err, modelpool.ErrClosed)
	expect(t, ticket.Fail("why"), modelpool.ErrClosed)
	expect(t, ticket.GiveBack(), modelpool.ErrClosed)
	expect(t, pool.Reset("m"), modelpool.ErrClosed)
	_, _, err = pool.Acquire(context.Background(), "m", modelpool.Options{})
	expect(t, err, modelpool.ErrClosed)
	expect(t, pool.Touch("m"), modelpool.ErrClosed)
	expect(t, pool.Set("max_backends", "1"), modelpool.ErrClosed)
	_, err = pool.Get("max_backends")
	expect(t, err, modelpool.ErrClosed)
	_, err = pool.Backends()
	expect(t, err, modelpool.ErrClosed)
	_, err = pool.Status()
	expect(t, err, modelpool.ErrClosed)
	watchdog := modelpool.NewWatchDog(pool)
	expect(t, watchdog.Mark("127.0.0.1:1"), modelpool.ErrClosed)
	watchdog.Shutdown()
	for i := 0; i < 2; i++ {
		lease.Release()
		pool.Close()
	}
}

func TestZeroValuesInAStructureAndNilAreClosed(t *testing.T) {
	server := struct {
		name   string
		pool   modelpool.Pool
		lease  modelpool.Lease
		ticket modelpool.Ticket
	}{}
	closedOrNothing(t, &server.pool, &server.lease, &server.ticket)
	closedOrNothing(t, nil, nil, nil)
}

func TestCopiesInAStructureAreTheSame(t *testing.T) {
	dir := scratch(t)
	pool := attached(t, dir)
	server := struct {
		name   string
		pool   modelpool.Pool
		lease  modelpool.Lease
		ticket modelpool.Ticket
	}{ticket: *ticketOn(t, pool, "m")}
	runtime.GC() // what it is a copy of is gone
	runtime.GC()
	lease, err := server.ticket.Ready("127.0.0.1:1", modelpool.ReadyOptions{External: true})
	if err != nil {
		t.Fatal(err)
	}
	server.lease = *lease
	server.lease.Release()
	expect(t, lease.Progress(), modelpool.ErrClosed)
	other, err := modelpool.Attach("default", &modelpool.AttachOptions{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	server.pool = *other
	server.pool.Close()
	closedOrNothing(t, other, lease, &server.ticket)
}

func TestADeadlineCenturiesAheadIsTaken(t *testing.T) {
	pool := attached(t, scratch(t))
	ticket := ticketOn(t, pool, "m")
	ctx, cancel := context.WithDeadline(context.Background(), time.Now().AddDate(250, 0, 0))
	defer cancel()
	waited := make(chan error)
	go func() {
		lease, _, err := pool.Acquire(ctx, "m", modelpool.Options{ExpectedBytes: 5, Priority: 7})
		if err == nil {
			lease.Release()
		}
		waited <- err
	}()
	eventually(t, "it waits", func() bool {
		line, err := pool.Waiters()
		return err == nil && len(line) == 1 && line[0].ExpectedBytes == 5 && line[0].Priority == 7
	})
	if _, err := ticket.Ready("127.0.0.1:1", modelpool.ReadyOptions{External: true}); err != nil {
		t.Fatal(err)
	}
	if err := <-waited; err != nil {
		t.Fatal(err)
	}
}

func TestTheLongestDurationsAreTaken(t *testing.T) {
	pool := attached(t, scratch(t))
	external(t, pool, "m", "127.0.0.1:1").Release()
	lease, _, err := pool.Acquire(context.Background(), "m", modelpool.Options{BusyTimeout: math.MaxInt64})
	if err != nil {
		t.Fatal(err)
	}
	lease.Release()
	patient, err := modelpool.Attach("default",
		&modelpool.AttachOptions{Dir: scratch(t), CoordinatorGrace: math.MaxInt64})
	if err != nil {
		t.Fatal(err)
	}
	patient.Close()
}

func TestATicketTellsTheDevicesOfItsBackend(t *testing.T) {
	pool := attached(t, scratch(t), "max_backends=0", "devices=GPU-a,GPU-b", "gpu_memory=GPU-a=1GiB,GPU-b=1GiB")
	ticket := ticketOn(t, pool, "m")
	if devices := ticket.Devices(); len(devices) != 2 || devices[0] != "GPU-a" || devices[1] != "GPU-b" {
		t.Fatalf("on %v", devices)
	}
	if err := ticket.GiveBack(); err != nil {
		t.Fatal(err)
	}
	if devices := ticket.Devices(); devices != nil {
		t.Fatalf("on %v", devices)
	}
}

func TestATicketGivenBackIsNoFailedLoadAndResetForgetsOne(t *testing.T) {
	pool := attached(t, scratch(t), "max_backends=0", "load_cooldown=1h..1h")
	ticket := ticketOn(t, pool, "m")
	if waiting := ticket.Waiting(); waiting != 0 {
		t.Fatalf("%d wait", waiting)
	}
	if err := ticket.GiveBack(); err != nil {
		t.Fatal(err)
	}
	expect(t, ticket.GiveBack(), modelpool.ErrClosed)
	if err := ticketOn(t, pool, "m").Fail("no"); err != nil {
		t.Fatal(err)
	}
	_, _, err := pool.Acquire(context.Background(), "m", modelpool.Options{})
	expect(t, err, modelpool.ErrCoolingDown)
	if err := pool.Reset("m"); err != nil {
		t.Fatal(err)
	}
	ticketOn(t, pool, "m").GiveBack()
}

func TestWhatEndsALoadFailsItOnlyIfItSpeaksOfTheModel(t *testing.T) {
	pool := attached(t, scratch(t), "max_backends=0", "load_cooldown=1h..1h")
	over, cancel := context.WithCancel(context.Background())
	cancel()
	ticket := ticketOn(t, pool, "m")
	if err := ticket.Spawn([]string{"sleep", "60"}, modelpool.SpawnOptions{}); err != nil {
		t.Fatal(err)
	}
	ended := ticket.WaitReady(over, "127.0.0.1:1", "tcp")
	defer syscall.Kill(ticket.Pid(), syscall.SIGKILL) // without a coordinator nobody else does
	if err := ticket.End(ended); err != nil {
		t.Fatal(err)
	}
	for i, err := range []error{
		ticketOn(t, pool, "n").Spawn([]string{"/no/such/program"}, modelpool.SpawnOptions{}),
		context.DeadlineExceeded, os.NewSyscallError("open", syscall.EMFILE), nil,
	} {
		model := fmt.Sprint("given back ", i)
		if err := ticketOn(t, pool, model).End(err); err != nil {
			t.Fatal(err)
		}
		ticketOn(t, pool, model).GiveBack()
	}
	for i, err := range []error{errors.New("no weights"), &modelpool.Error{Code: modelpool.ErrLoadFailed, Text: "it ended"}} {
		model := fmt.Sprint("failed ", i)
		if err := ticketOn(t, pool, model).End(err); err != nil {
			t.Fatal(err)
		}
		_, _, err := pool.Acquire(context.Background(), model, modelpool.Options{})
		expect(t, err, modelpool.ErrCoolingDown)
	}
}

func TestWhatTheCallerNamedWronglyLeavesTheTicketAndNothingWaits(t *testing.T) {
	dir := scratch(t)
	pool := attached(t, dir)
	fifo := dir + "/fifo"
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	ticket := ticketOn(t, pool, "m")
	expect(t, ticket.Spawn([]string{"sleep", "60"}, modelpool.SpawnOptions{Output: fifo}), modelpool.ErrInvalid)
	expect(t, ticket.Spawn([]string{"sleep", "60"}, modelpool.SpawnOptions{ErrorOutput: "/nonexistent/x"}),
		modelpool.ErrSystem)
	if ticket.Model() != "m" || ticket.Pid() != 0 {
		t.Fatal("the ticket is used up")
	}
	ticket.GiveBack()
}

func TestAFreePortIsOfOneCaller(t *testing.T) {
	ports := map[int]bool{}
	for i := 0; i < 64; i++ {
		port, err := modelpool.FreePort()
		if err != nil {
			t.Fatal(err)
		}
		if ports[port] {
			t.Fatalf("%d twice", port)
		}
		ports[port] = true
	}
}

func TestRowsCarryEveryFactOfThePoolctlTables(t *testing.T) {
	dir := scratch(t)
	daemon(t, dir)
	pool := attached(t, dir)
	argv, address := backend(t)
	ticket := ticketOn(t, pool, "m")
	if err := ticket.Spawn(append(argv, "--ignore-sigterm"), modelpool.SpawnOptions{}); err != nil {
		t.Fatal(err)
	}
	pid := ticket.Pid()
	t.Cleanup(func() { syscall.Kill(pid, syscall.SIGKILL) })
	eventually(t, "the backend answers", func() bool { return answers(address) })
	lease, err := ticket.Ready(address, modelpool.ReadyOptions{Settings: []string{"stop_grace=1h"}})
	if err != nil {
		t.Fatal(err)
	}
	before, err := pool.Backends()
	if err != nil || before[0].Group != pid || before[0].Started < 0 || before[0].Reserved < before[0].Started ||
		before[0].Stop != nil || before[0].Exit != "" {
		t.Fatalf("%+v, %v", before, err)
	}
	held, err := pool.Leases()
	if err != nil || held[0].Slot != before[0].Slot || held[0].Generation != before[0].Generation ||
		held[0].BackendPid != pid || held[0].Limit != modelpool.Unknown {
		t.Fatalf("%+v, %v", held, err)
	}
	workers, err := pool.Workers()
	mine := workers[len(workers)-1] // daemon attached, too
	if err != nil || mine.Pid != os.Getpid() || !mine.Alive || mine.Leases != 1 || mine.Command == "" {
		t.Fatalf("%+v, %v", workers, err)
	}
	lease.Release()
	if err := pool.Evict("m", false); err != nil {
		t.Fatal(err)
	}
	eventually(t, "it was signalled", func() bool {
		now, err := pool.Backends()
		if err != nil || len(now) != 1 || now[0].Stop == nil || now[0].Stop.Signalled == modelpool.Unknown {
			return false
		}
		stop := now[0].Stop
		return stop.Reason == "requested" && stop.Signal == syscall.SIGTERM && stop.Stopping >= 0 &&
			stop.Killed == modelpool.Unknown && stop.Limit == modelpool.Unknown
	})
}

func TestManyGoroutinesAtOnce(t *testing.T) {
	pool := attached(t, scratch(t))
	loader := external(t, pool, "m", "127.0.0.1:1")
	var group sync.WaitGroup
	for i := 0; i < 8; i++ {
		group.Add(1)
		go func() {
			defer group.Done()
			for j := 0; j < 200; j++ {
				lease := leaseOn(t, pool, "m")
				var both sync.WaitGroup
				both.Add(2)
				for k := 0; k < 2; k++ {
					go func() {
						defer both.Done()
						lease.Progress()
						lease.Address()
						lease.Release()
					}()
				}
				both.Wait()
			}
		}()
	}
	group.Wait()
	loader.Release()
	if left := leases(t, pool); left != 0 {
		t.Fatalf("%d leases are left", left)
	}
}

func BenchmarkAcquireRelease(b *testing.B) {
	dir, err := os.MkdirTemp("/dev/shm", "modelpool-go-test.")
	if err != nil {
		b.Fatal(err)
	}
	defer os.RemoveAll(dir)
	pool, err := modelpool.Attach("default", &modelpool.AttachOptions{Dir: dir, Settings: []string{"max_backends=0"}})
	if err != nil {
		b.Fatal(err)
	}
	defer pool.Close()
	_, ticket, err := pool.Acquire(context.Background(), "m", modelpool.Options{})
	if err != nil {
		b.Fatal(err)
	}
	if _, err := ticket.Ready("127.0.0.1:1", modelpool.ReadyOptions{External: true}); err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	b.ResetTimer()
	for i := 0; i < b.N; i++ {
		lease, _, err := pool.Acquire(context.Background(), "m", modelpool.Options{})
		if err != nil {
			b.Fatal(err)
		}
		lease.Release()
	}
}

func TestOptionsOfAttachAreAValueAsAllOthersAre(t *testing.T) {
	dir := scratch(t)
	// Programs of before gave a pointer, or nil.
	for _, options := range []interface{}{
		modelpool.AttachOptions{Dir: dir}, &modelpool.AttachOptions{Dir: dir},
	} {
		var pool *modelpool.Pool
		var err error
		switch given := options.(type) {
		case modelpool.AttachOptions:
			pool, err = modelpool.Attach("default", given)
		case *modelpool.AttachOptions:
			pool, err = modelpool.Attach("default", given)
		}
		if err != nil {
			t.Fatal(err)
		}
		pool.Close()
	}
	t.Setenv("MODELPOOL_DIR", dir)
	for _, attach := range []func() (*modelpool.Pool, error){
		func() (*modelpool.Pool, error) { return modelpool.Attach("default", nil) },
		func() (*modelpool.Pool, error) { return modelpool.Attach("default", (*modelpool.AttachOptions)(nil)) },
	} {
		pool, err := attach()
		if err != nil {
			t.Fatal(err)
		}
		pool.Close()
	}
}

// It said "context deadline exceeded" and nothing else.
func TestAContextsEndKeepsTheReasonOfTheWait(t *testing.T) {
	dir := scratch(t)
	daemon(t, dir, "--max-backends", "1")
	pool := attached(t, dir)
	ticket := ticketOn(t, pool, "first")
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	_, _, err := pool.Acquire(ctx, "second", modelpool.Options{})
	expect(t, err, modelpool.ErrTimeout)
	if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "no place is free (1 of 1 in use)") {
		t.Fatal(err)
	}

	for model, reason := range map[string]string{"first": "it is being loaded", "second": "no place is free (1 of 1 in use)"} {
		cancelled, stop := context.WithCancel(context.Background())
		answer := make(chan error)
		go func() {
			_, _, err := pool.Acquire(cancelled, model, modelpool.Options{})
			answer <- err
		}()
		eventually(t, "it waits", func() bool {
			line, err := pool.Waiters()
			return err == nil && len(line) == 1
		})
		stop()
		err = <-answer
		expect(t, err, modelpool.ErrCancelled)
		if !errors.Is(err, context.Canceled) || !strings.HasSuffix(err.Error(), "canceled, waiting: "+reason) {
			t.Fatal(err)
		}
	}
	ticket.Fail("the test is over")
}

func TestWaitReadySeesAnswersAndTheEndOfTheProcess(t *testing.T) {
	// Asked through a proxy that is none, a backend would never be ready.
	t.Setenv("http_proxy", "http://127.0.0.1:9")
	t.Setenv("HTTP_PROXY", "http://127.0.0.1:9")
	dir := scratch(t)
	daemon(t, dir)
	pool := attached(t, dir)
	for _, check := range []string{"tcp", "http:/health", "delay:10ms"} {
		ticket := ticketOn(t, pool, check)
		argv, address := backend(t)
		if err := ticket.Spawn(argv, modelpool.SpawnOptions{}); err != nil {
			t.Fatal(err)
		}
		if err := ticket.WaitReady(context.Background(), address, check); err != nil {
			t.Fatal(err)
		}
		if check == "delay:10ms" {
			eventually(t, "it answers", func() bool { return answers(address) })
		}
		lease, err := ticket.Ready(address, modelpool.ReadyOptions{})
		if err != nil {
			t.Fatal(err)
		}
		lease.Release()
	}

	failing := ticketOn(t, pool, "failing")
	argv, address := backend(t)
	if err := failing.Spawn(append(argv, "--fail-load", "out of memory"), modelpool.SpawnOptions{}); err != nil {
		t.Fatal(err)
	}
	err := failing.WaitReady(context.Background(), address, "tcp")
	expect(t, err, modelpool.ErrLoadFailed)
	if !strings.Contains(err.Error(), "ended before it was ready at "+address) {
		t.Fatal(err)
	}
	failing.Fail(err.Error())
	_, _, err = pool.Acquire(context.Background(), "failing", modelpool.Options{})
	expect(t, err, modelpool.ErrCoolingDown)
	if !strings.Contains(err.Error(), "its last lines: ") || !strings.Contains(err.Error(), "out of memory") {
		t.Fatal(err)
	}

	slow := ticketOn(t, pool, "slow")
	if err := slow.Spawn(append(argv, "--load-time", "60s"), modelpool.SpawnOptions{}); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	err = slow.WaitReady(ctx, address, "http:/health")
	expect(t, err, modelpool.ErrTimeout)
	if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "it does not answer at "+address) {
		t.Fatal(err)
	}
	for _, wrong := range []string{"", "https:/", "http:health", "http://x/", "http:/a b", "delay:soon", "delay:-1s"} {
		expect(t, slow.WaitReady(context.Background(), address, wrong), modelpool.ErrInvalid)
	}
	for _, wrong := range []string{"", "127.0.0.1", "127.0.0.1:"} {
		expect(t, slow.WaitReady(context.Background(), wrong, "tcp"), modelpool.ErrInvalid)
	}
	slow.Fail("the test is over")
	expect(t, slow.WaitReady(context.Background(), address, "tcp"), modelpool.ErrClosed)
}

func TestALeaseNamesItsBackendAndTellsHowThatEnded(t *testing.T) {
	pool := attached(t, scratch(t))
	_, ticket, err := pool.Acquire(context.Background(), "m", modelpool.Options{})
	if err != nil || ticket == nil {
		t.Fatal(err)
	}
	if err := ticket.Spawn([]string{"sleep", "60"}, modelpool.SpawnOptions{}); err != nil {
		t.Fatal(err)
	}
	lease, err := ticket.Ready("unix:/m", modelpool.ReadyOptions{})
	if err != nil {
		t.Fatal(err)
	}
	rows, err := pool.Backends()
	slot, generation := lease.Backend()
	if err != nil || len(rows) != 1 || rows[0].Slot != slot || rows[0].Generation != generation {
		t.Fatalf("%d.%d is not the backend of %v (%v)", slot, generation, rows, err)
	}
	if words := lease.ExitWords(); words != "" {
		t.Fatalf("it runs, but %q", words)
	}
	if err := syscall.Kill(lease.Pid(), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	eventually(t, "its end is told", func() bool { return lease.ExitWords() == "signal SIGKILL" })
	lease.Release()
	if words := lease.ExitWords(); words != "" {
		t.Fatalf("released, but %q", words)
	}
}
