//go:build go1.20

package modelpool_test

import (
	"context"
	"errors"
	"strings"
	"testing"

	"modelpool"
)

func TestTheCauseOfACancelledContextIsKept(t *testing.T) {
	pool := attached(t, scratch(t))
	ticket := ticketOn(t, pool, "m")
	defer ticket.Fail("the test is over")
	gone := errors.New("the client has gone")
	ctx, cancel := context.WithCancelCause(context.Background())
	cancel(gone)
	_, _, err := pool.Acquire(ctx, "m", modelpool.Options{})
	expect(t, err, modelpool.ErrCancelled)
	if !errors.Is(err, gone) || !errors.Is(err, context.Canceled) || !strings.Contains(err.Error(), gone.Error()) {
		t.Fatal(err)
	}
}
