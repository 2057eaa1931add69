package modelpool_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"os"
	"time"

	"modelpool"
)

// A request: on the model if it is loaded, else by loading it.
func Example() {
	dir, err := os.MkdirTemp("/dev/shm", "modelpool-go-test.") // a server takes the default
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	pool, err := modelpool.Attach("default", &modelpool.AttachOptions{
		Dir:      dir,
		Settings: []string{"max_backends=3"},
	})
	if err != nil {
		log.Fatal(err)
	}
	defer pool.Close()

	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	lease, ticket, err := pool.Acquire(ctx, "llama-3-8b", modelpool.Options{Tag: "req-81"})
	if ticket != nil {
		// ticket.Spawn, then wait until it answers. Here, one that somebody else runs:
		lease, err = ticket.Ready("127.0.0.1:4321", modelpool.ReadyOptions{External: true})
	}
	if errors.Is(err, modelpool.ErrQueueFull) {
		log.Fatal("503, come again")
	}
	if err != nil {
		log.Fatal(err)
	}
	defer lease.Release()
	fmt.Println(lease.Model(), "answers at", lease.Address())
	// Output: llama-3-8b answers at 127.0.0.1:4321
}
