package modelpool

/*
#include <modelpool/modelpool.h>
#include <stdlib.h>
*/
import "C"

import (
	"fmt"
	"math"
	"reflect"
	"runtime"
	"sort"
	"strings"
	"sync"
	"time"
	"unsafe"
)

const (
	backendsTable = C.MODELPOOL_BACKENDS
	leasesTable   = C.MODELPOOL_LEASES
	workersTable  = C.MODELPOOL_WORKERS
	waitersTable  = C.MODELPOOL_WAITERS
	eventsTable   = C.MODELPOOL_EVENTS
	statusTable   = C.MODELPOOL_STATUS
	modelsTable   = C.MODELPOOL_MODELS
)

var tableNumbers = map[string]C.int{
	"backends": backendsTable, "leases": leasesTable, "workers": workersTable, "waiters": waitersTable,
	"events": eventsTable, "status": statusTable, "models": modelsTable,
}

// field says where in a row of C the library writes what.
type field struct {
	name     string
	kind     C.int32_t
	offset   uintptr
	bytes    uintptr
	isSigned bool
	unknown  int64
}

type table struct {
	fields   map[string]field
	rowBytes uintptr
}

var tables sync.Map // of *table, by number: they do not change

func describe(number C.int) (*table, error) {
	if known, ok := tables.Load(number); ok {
		return known.(*table), nil
	}
	var failed C.modelpool_error
	var described *C.modelpool_field
	var count, rowBytes C.size_t
	if code := C.modelpool_describe(number, &described, &count, &rowBytes, &failed); code != C.MODELPOOL_OK {
		return nil, failure(code, &failed)
	}
	found := &table{fields: map[string]field{}, rowBytes: uintptr(rowBytes)}
	for _, one := range unsafe.Slice(described, int(count)) {
		if one.kind != 0 {
			found.fields[C.GoString(one.name)] = field{
				name: C.GoString(one.name), kind: one.kind, offset: uintptr(one.offset), bytes: uintptr(one.bytes),
				isSigned: one.is_signed != 0, unknown: int64(one.unknown),
			}
		}
	}
	tables.Store(number, found)
	return found, nil
}

func (f *field) text(row unsafe.Pointer) string {
	return C.GoString((*C.char)(unsafe.Add(row, f.offset)))
}

func (f *field) number(row unsafe.Pointer) int64 {
	at := unsafe.Add(row, f.offset)
	switch {
	case f.bytes == 8:
		return *(*int64)(at)
	case f.isSigned:
		return int64(*(*int32)(at))
	}
	return int64(*(*uint32)(at))
}

// value is what JSON shows; times and signals are numbers: nil is unknown.
func (f *field) value(row unsafe.Pointer) any {
	if f.kind == C.MODELPOOL_FIELD_TEXT {
		if text := f.text(row); text != "" {
			return text
		}
		return nil
	}
	number := f.number(row)
	switch {
	case f.unknown != math.MinInt64 && number == f.unknown:
		return nil
	case f.kind == C.MODELPOOL_FIELD_FLAG:
		return number == 1
	}
	return number
}

// look asks until the rows fit, and calls visit for each of them.
func (p *Pool) look(number C.int, first uint64, described *table, visit func(row unsafe.Pointer)) error {
	a := p.get()
	defer runtime.KeepAlive(a)
	for capacity := C.size_t(64); ; {
		memory := C.calloc(capacity, C.size_t(described.rowBytes))
		var failed C.modelpool_error
		var count C.size_t
		code := C.modelpool_list_rows(a.handle, number, C.uint64_t(first), memory, C.size_t(described.rowBytes),
			capacity, &count, &failed)
		if code == C.MODELPOOL_OK && count <= capacity {
			for i := uintptr(0); i < uintptr(count); i++ {
				visit(unsafe.Add(memory, i*described.rowBytes))
			}
		}
		C.free(memory)
		if code != C.MODELPOOL_OK {
			return failure(code, &failed)
		}
		if count <= capacity {
			return nil
		}
		capacity = count + 64
	}
}

// set fills a structure from the fields that its tags name; a pointer to another one from those of
// that part.
func set(into reflect.Value, prefix string, described *table, row unsafe.Pointer) {
	for i := 0; i < into.NumField(); i++ {
		name := prefix + into.Type().Field(i).Tag.Get("modelpool")
		member := into.Field(i)
		if member.Kind() == reflect.Pointer {
			member.Set(reflect.New(member.Type().Elem()))
			set(member.Elem(), name+".", described, row)
			continue
		}
		field, ok := described.fields[name]
		if !ok {
			continue // the library is older than this package
		}
		switch member.Interface().(type) {
		case time.Duration:
			member.SetInt(int64(duration(C.int64_t(field.number(row)))))
			continue
		case time.Time:
			if ms := field.number(row); ms >= 0 {
				member.Set(reflect.ValueOf(time.UnixMilli(ms)))
			}
			continue
		}
		switch member.Kind() {
		case reflect.String:
			member.SetString(field.text(row))
		case reflect.Bool:
			member.SetBool(field.number(row) == 1)
		case reflect.Uint32, reflect.Uint64:
			member.SetUint(uint64(field.number(row)))
		default:
			member.SetInt(field.number(row))
		}
	}
}

func list[Row any](p *Pool, number C.int, first uint64) ([]Row, error) {
	described, err := describe(number)
	if err != nil {
		return nil, err
	}
	rows := []Row{}
	err = p.look(number, first, described, func(row unsafe.Pointer) {
		var one Row
		set(reflect.ValueOf(&one).Elem(), "", described, row)
		rows = append(rows, one)
	})
	if err != nil {
		return nil, err
	}
	return rows, nil
}

// Rows lists a table with every field that the library knows, by its name, also those that this
// package has no member for: "backends", "leases", "workers", "waiters", "events", "status" (one
// row) or "models". Values are string, bool and int64, or nil for what is unknown; the field of a
// part of a row is "stop.reason".
func (p *Pool) Rows(name string) ([]map[string]any, error) {
	number, ok := tableNumbers[name]
	if !ok {
		var known []string
		for table := range tableNumbers {
			known = append(known, table)
		}
		sort.Strings(known)
		return nil, invalid(fmt.Sprintf("unable to list %q: there is no such table; there are %s", name,
			strings.Join(known, ", ")))
	}
	described, err := describe(number)
	if err != nil {
		return nil, err
	}
	rows := []map[string]any{}
	err = p.look(number, 0, described, func(row unsafe.Pointer) {
		values := map[string]any{}
		for name, field := range described.fields {
			values[name] = field.value(row)
		}
		rows = append(rows, values)
	})
	return rows, err
}
