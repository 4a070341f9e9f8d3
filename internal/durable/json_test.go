package durable_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"testing"

	"github.com/slipcover/slipcover/internal/durable"
)

type thing struct {
	Name string   `json:"name"`
	N    int      `json:"n"`
	List []string `json:"list"`
}

// Whatever byte changes, what is read is what was written or an error.
func TestJSONOfAnotherByte(t *testing.T) {
	path := filepath.Join(t.TempDir(), "thing.json")
	want := thing{"node, one", 1234567, []string{"a", "b\n  \"sha256\": \"x\""}}
	if err := durable.WriteJSON(path, 0o600, want); err != nil {
		t.Fatal(err)
	}
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var got thing
	if sealed, err := durable.ReadJSON(path, &got); err != nil || !sealed || !reflect.DeepEqual(got, want) {
		t.Fatalf("got %+v, %v, %v", got, sealed, err)
	}
	for i := range whole {
		for _, bit := range []byte{1, 2, 0x20} {
			b := bytes.Clone(whole)
			b[i] ^= bit
			if err := os.WriteFile(path, b, 0o600); err != nil {
				t.Fatal(err)
			}
			var got thing
			if _, err := durable.ReadJSON(path, &got); err == nil && !reflect.DeepEqual(got, want) {
				t.Errorf("byte %d: read %+v", i, got)
			}
		}
	}
}

func TestJSONWithoutChecksum(t *testing.T) {
	path := filepath.Join(t.TempDir(), "thing.json")
	want := thing{Name: "x", N: 2}
	var got thing
	if _, err := durable.ReadJSON(path, &got); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no file: %v", err)
	}
	b, err := json.Marshal(want)
	if err := errors.Join(err, os.WriteFile(path, b, 0o600)); err != nil {
		t.Fatal(err)
	}
	if sealed, err := durable.ReadJSON(path, &got); err != nil || sealed || !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, %v, %v", got, sealed, err)
	}
	if err := os.WriteFile(path, []byte(`{"name":"x","sha256":"00"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := durable.ReadJSON(path, &got); !errors.Is(err, durable.ErrChecksum) {
		t.Errorf("a checksum in another place: %v", err)
	}
	if err := durable.WriteJSON(path, 0o600, struct{}{}); err == nil {
		t.Error("an object without members was written")
	}
}
