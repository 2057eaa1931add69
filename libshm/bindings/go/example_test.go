package modelpool_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"os"
	"syscall"
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
	pool, err := modelpool.Attach("default", modelpool.AttachOptions{
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
		// Spawn, WaitReady, Ready: see the second example. Here, a backend that somebody else runs:
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

// A load, as the package's documentation has it: from the free port to the lease.
func ExampleTicket_WaitReady() {
	load := func(ctx context.Context, ticket *modelpool.Ticket) (*modelpool.Lease, error) {
		port, err := modelpool.FreePort()
		if err != nil {
			return nil, err
		}
		if err := ticket.Spawn(server(port), modelpool.SpawnOptions{}); err != nil {
			return nil, err
		}
		address := fmt.Sprintf("127.0.0.1:%d", port)
		if err := ticket.WaitReady(ctx, address, "http:/"); err != nil {
			return nil, err
		}
		return ticket.Ready(address, modelpool.ReadyOptions{})
	}

	dir, err := os.MkdirTemp("/dev/shm", "modelpool-go-test.")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	options := modelpool.AttachOptions{Dir: dir, Settings: []string{"max_backends=3"}}
	pool, err := modelpool.Attach("default", options)
	if err != nil {
		log.Fatal(err)
	}
	defer pool.Close()
	_, ticket, err := pool.Acquire(context.Background(), "llama-3-8b", modelpool.Options{})
	if err != nil {
		log.Fatal(err)
	}
	lease, err := load(context.Background(), ticket)
	if err != nil {
		ticket.End(err)
		log.Fatal(err)
	}
	defer lease.Release()
	defer syscall.Kill(-lease.Pid(), syscall.SIGKILL) // its whole group: without a coordinator nobody else does
	fmt.Println(lease.Model(), "is loaded:", lease.Pid() > 0)
	// Output: llama-3-8b is loaded: true
}

// server is a command that listens on a port, and ends by itself.
func server(port int) []string {
	return []string{"timeout", "60", "python3", "-m", "http.server", "--bind", "127.0.0.1", fmt.Sprint(port)}
}
