//go:build go1.20

package modelpool

import "context"

func causeOf(ctx context.Context) error { return context.Cause(ctx) }
