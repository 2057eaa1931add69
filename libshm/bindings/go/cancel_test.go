package modelpool_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"modelpool"
)

func TestDoneIsClosedWhenTheRequestIsAskedToEnd(t *testing.T) {
	dir := scratch(t)
	daemon(t, dir, "--on-overdue", "cancel, 60s, kill")
	pool := attached(t, dir)
	external(t, pool, "m", "127.0.0.1:1").Release()
	good, _, err := pool.Acquire(context.Background(), "m", modelpool.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer good.Release()
	bad, _, err := pool.Acquire(context.Background(), "m", modelpool.Options{BusyTimeout: 100 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	select {
	case <-bad.Done():
	case <-good.Done():
		t.Fatal("a request that is not overdue is asked to end")
	case <-time.After(patience):
		t.Fatal("never asked")
	}
	if !bad.Cancelled() || !strings.Contains(bad.CancelReason(), "busy_timeout 100ms passed") {
		t.Fatalf("asked, but %v: %q", bad.Cancelled(), bad.CancelReason())
	}
	bad.Release()
	if good.Cancelled() || good.CancelReason() != "" || good.Progress() != nil {
		t.Fatal("the others are not spared")
	}
}

func TestAFlagAtAcquireSaysThatALeaseCanBeAsked(t *testing.T) {
	dir := scratch(t)
	daemon(t, dir, "--on-overdue", "cancel, 60s, kill")
	pool := attached(t, dir)
	external(t, pool, "m", "127.0.0.1:1").Release()
	lease, _, err := pool.Acquire(context.Background(), "m",
		modelpool.Options{BusyTimeout: 100 * time.Millisecond, Cancellable: true})
	if err != nil {
		t.Fatal(err)
	}
	defer lease.Release()
	eventually(t, "asked", lease.Cancelled)
}

func TestDoneOfAReleasedLeaseIsNil(t *testing.T) {
	pool := attached(t, scratch(t))
	lease := external(t, pool, "m", "127.0.0.1:1")
	lease.Release()
	if lease.Done() != nil || lease.Cancelled() || lease.CancelReason() != "" {
		t.Fatal("a released lease is asked to end")
	}
}
