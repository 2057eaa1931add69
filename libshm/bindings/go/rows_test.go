package modelpool_test

import (
	"errors"
	"reflect"
	"strings"
	"testing"

	"modelpool"
)

// tags calls visit with the name of each field that a structure and its parts are filled from.
func tags(of reflect.Type, prefix string, visit func(name string)) {
	for i := 0; i < of.NumField(); i++ {
		name := prefix + of.Field(i).Tag.Get("modelpool")
		if member := of.Field(i).Type; member.Kind() == reflect.Pointer {
			tags(member.Elem(), name+".", visit)
		} else {
			visit(name)
		}
	}
}

func TestEveryMemberIsFilledFromAFieldOfTheLibrary(t *testing.T) {
	for name, row := range map[string]any{
		"backends": modelpool.Backend{}, "leases": modelpool.LeaseInfo{}, "workers": modelpool.Worker{},
		"waiters": modelpool.Waiter{}, "events": modelpool.Event{}, "status": modelpool.Status{},
	} {
		described, err := modelpool.FieldsOf(name)
		if err != nil {
			t.Fatal(err)
		}
		tags(reflect.TypeOf(row), "", func(field string) {
			if !described[field] {
				t.Errorf("%s has no field %q: %v", name, field, described)
			}
		})
	}
}

func TestRowsHaveEveryFieldThatTheLibraryDescribes(t *testing.T) {
	pool := attached(t, scratch(t))
	lease := external(t, pool, "m", "127.0.0.1:1")
	defer lease.Release()
	if err := ticketOn(t, pool, "broken").Fail("no such file"); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"backends", "leases", "workers", "status", "models"} {
		described, err := modelpool.FieldsOf(name)
		if err != nil {
			t.Fatal(err)
		}
		rows, err := pool.Rows(name)
		if err != nil || len(rows) == 0 || len(rows[0]) != len(described) {
			t.Fatalf("%s: %v, %v", name, rows, err)
		}
		for field := range described {
			if _, ok := rows[0][field]; !ok {
				t.Errorf("%s: no %q in %v", name, field, rows[0])
			}
		}
	}
	models, err := pool.Rows("models")
	found := false
	for _, model := range models {
		found = found || model["model"] == "broken" && model["last_error"] == "no such file" &&
			model["failures_in_a_row"] == int64(1) && model["exit"] == nil
	}
	if err != nil || !found {
		t.Fatalf("%v, %v", models, err)
	}
}

func TestRowsSayWhatTheStructuresSay(t *testing.T) {
	pool := attached(t, scratch(t))
	lease := external(t, pool, "m", "127.0.0.1:1")
	defer lease.Release()
	backends, err := pool.Backends()
	if err != nil {
		t.Fatal(err)
	}
	rows, err := pool.Rows("backends")
	if err != nil || len(rows) != 1 || len(backends) != 1 {
		t.Fatalf("%v, %v, %v", rows, backends, err)
	}
	row, backend := rows[0], backends[0]
	if row["model"] != "m" || row["state"] != "ready" || row["external"] != true || row["pid"] != nil ||
		row["owner_pid"] != int64(backend.OwnerPid) || row["in_flight"] != int64(1) || row["idle_ms"] != nil ||
		row["stop.reason"] != nil || row["size_bytes"] != nil || row["generation"] != int64(backend.Generation) {
		t.Fatalf("%v", row)
	}
	if backend.Model != "m" || !backend.External || backend.Idle != modelpool.Unknown || backend.Busy < 0 ||
		backend.SizeBytes != modelpool.Unknown || backend.Stop != nil {
		t.Fatalf("%+v", backend)
	}
	if _, err := pool.Rows("tables"); !errors.Is(err, modelpool.ErrInvalid) || !strings.Contains(err.Error(), "backends") {
		t.Fatal(err)
	}
	pool.Close()
	if _, err := pool.Rows("backends"); !errors.Is(err, modelpool.ErrClosed) {
		t.Fatal(err)
	}
}
