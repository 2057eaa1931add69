package modelpool_test

import (
	"fmt"
	"os"
	"os/exec"
	"syscall"
	"testing"

	"modelpool"
)

// startBackend starts one as a server that has its own loader does, in a group of its own.
func startBackend(t *testing.T) (*exec.Cmd, string) {
	t.Helper()
	argv, address := backend(t)
	command := exec.Command(argv[0], argv[1:]...)
	command.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() { // reaps it whenever it ends
		command.Wait()
		close(ended)
	}()
	t.Cleanup(func() {
		command.Process.Kill()
		<-ended
	})
	eventually(t, "the backend answers", func() bool { return answers(address) })
	return command, address
}

func TestWatchDogRegistersMarksAndMakesRoom(t *testing.T) {
	dir := scratch(t)
	daemon(t, dir)
	pool := attached(t, dir)
	wd := modelpool.NewWatchDog(pool)
	finished := make(chan struct{})
	go func() {
		wd.Run()
		close(finished)
	}()
	if err := wd.SetLRULimit(2); err != nil || wd.GetLRULimit() != 2 {
		t.Fatal(err, wd.GetLRULimit())
	}
	addresses := make([]string, 2)
	for i, model := range []string{"first", "second"} {
		command, address := startBackend(t)
		wd.Add(address, command.Process.Pid)
		if err := wd.AddAddressModelMap(address, model); err != nil {
			t.Fatal(err)
		}
		addresses[i] = address
	}
	backends, err := pool.Backends()
	if err != nil || len(backends) != 2 || backends[0].External || wd.GetLoadedModelCount() != 2 {
		t.Fatal(backends, err)
	}

	// Marked, it is in flight; each mark counts.
	for i := 0; i < 2; i++ {
		if err := wd.Mark(addresses[0]); err != nil {
			t.Fatal(err)
		}
	}
	wd.UnMark(addresses[0])
	if leases(t, pool) != 1 {
		t.Fatal("one of two marks should be left")
	}
	if err := wd.UpdateLastUsed(addresses[1]); err != nil {
		t.Fatal(err)
	}

	// The first is busy, so the second goes, although used later; its process is gone when this
	// returns.
	result := wd.EnforceLRULimit(0)
	if result.EvictedCount != 1 || result.NeedMore {
		t.Fatalf("%+v", result)
	}
	if backends, _ := pool.Backends(); len(backends) != 1 || backends[0].Model != "first" {
		t.Fatal(backends)
	}
	expect(t, wd.Mark(addresses[1]), modelpool.ErrNotLoaded)
	expect(t, wd.UpdateLastUsed(addresses[1]), modelpool.ErrNotLoaded)
	if result := wd.EnforceLRULimit(0); result.EvictedCount != 0 || result.NeedMore {
		t.Fatalf("there was room: %+v", result)
	}
	if result := wd.EnforceLRULimit(1); result.EvictedCount != 0 || !result.NeedMore {
		t.Fatalf("the only one is busy: %+v", result)
	}
	wd.Shutdown()
	wd.Shutdown()
	<-finished
	if leases(t, pool) != 0 {
		t.Fatal("a mark outlived the watchdog")
	}
	expect(t, wd.Mark(addresses[0]), modelpool.ErrClosed)
}

func TestWatchDogSeesWhatOthersLoaded(t *testing.T) {
	dir := scratch(t)
	other := attached(t, dir)
	loader := external(t, other, "m", "127.0.0.1:1")
	wd := modelpool.NewWatchDog(attached(t, dir))
	if err := wd.Mark("127.0.0.1:1"); err != nil {
		t.Fatal(err)
	}
	if leases(t, other) != 2 {
		t.Fatal("the mark is not seen by others")
	}
	wd.UnMark("127.0.0.1:1")
	loader.Release()
	// Known already, at this address; at another one it is a second copy.
	if err := wd.AddAddressModelMap("127.0.0.1:1", "m"); err != nil {
		t.Fatal(err)
	}
	expect(t, wd.AddAddressModelMap("127.0.0.1:2", "m"), modelpool.ErrInvalid)
	if err := wd.SetForceEvictionWhenBusy(true); err != nil {
		t.Fatal(err)
	}
	if value, _ := other.Get("when_busy"); value != "force" {
		t.Fatal(value)
	}
	// Nobody can make room without a coordinator.
	if err := wd.SetLRULimit(1); err != nil {
		t.Fatal(err)
	}
	if result := wd.EnforceLRULimit(0); result.EvictedCount != 0 || !result.NeedMore {
		t.Fatalf("%+v", result)
	}
}

func TestWatchDogBadInput(t *testing.T) {
	pool := attached(t, scratch(t))
	wd := modelpool.NewWatchDog(pool)
	for _, address := range []string{"", "nowhere:1", "a\x00b", "\xff"} {
		expect(t, wd.Mark(address), modelpool.ErrNotLoaded)
		expect(t, wd.UpdateLastUsed(address), modelpool.ErrNotLoaded)
		wd.UnMark(address)
	}
	for i, address := range []string{"", "a b", "a\x00b"} {
		expect(t, wd.AddAddressModelMap(address, fmt.Sprint("m", i)), modelpool.ErrInvalid)
	}
	expect(t, wd.AddAddressModelMap("a:1", ""), modelpool.ErrInvalid)
	wd.Add("own:1", os.Getpid())
	expect(t, wd.AddAddressModelMap("own:1", "own"), modelpool.ErrInvalid)
	ticketOn(t, pool, "own").GiveBack() // it was not kept, and nothing cools down
	if err := wd.SetLRULimit(-5); err != nil || wd.GetLRULimit() != 0 {
		t.Fatal(err)
	}
	if result := wd.EnforceLRULimit(-5); result.EvictedCount != 0 || result.NeedMore {
		t.Fatalf("no limit: %+v", result)
	}
	pool.Close()
	expect(t, wd.Mark("a:1"), modelpool.ErrClosed)
}
