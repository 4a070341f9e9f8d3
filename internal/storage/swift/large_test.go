package swift_test

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/slipcover/slipcover/internal/storage"
	"github.com/slipcover/slipcover/internal/testenv"
)

const mib = 1 << 20

// random returns a body of which no two MiB are alike.
func random(t *testing.T, size int) []byte {
	t.Helper()
	b := make([]byte, size)
	for i := range b {
		b[i] = byte(i>>20*31 + i*7)
	}
	return b
}

func putBytes(t *testing.T, s storage.Store, key storage.Key, body []byte) {
	t.Helper()
	if err := s.Put(t.Context(), key, bytes.NewReader(body), storage.PutOptions{}); err != nil {
		t.Fatal(err)
	}
}

// names lists a container with the stock client.
func names(t *testing.T, container string) []string {
	t.Helper()
	return strings.Fields(command(t, testenv.Swift(t).Env(), "list", container))
}

func TestStockClient(t *testing.T) {
	t.Parallel()
	server := testenv.Swift(t)
	url := newContainer()
	container := strings.TrimPrefix(url, "swift://")
	s := open(t, url+"/pre?segment_size=1MiB", server.Vars)
	want := random(t, 5*mib/2)
	putBytes(t, s, "large", want)
	putBytes(t, s, "small", want[:100])
	if got := strings.Join(names(t, container), " "); got != "pre/large pre/small" {
		t.Errorf("swift list: got %q", got)
	}
	if got := len(names(t, container+"_segments")); got != 3 {
		t.Errorf("swift list: got %d segments, want 3", got)
	}
	for name, want := range map[string][]byte{"pre/large": want, "pre/small": want[:100]} {
		path := filepath.Join(t.TempDir(), "out")
		command(t, server.Env(), "download", "-o", path, container, name)
		got, err := os.ReadFile(path)
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("swift download %s: got %d bytes, %v, want %d", name, len(got), err, len(want))
		}
	}
	command(t, server.Env(), "delete", container, "pre/large")
	if got := names(t, container+"_segments"); len(got) != 0 {
		t.Errorf("swift delete left %q", got)
	}
}

// What Swift's own client puts in segments can be read and deleted.
func TestStockClientsSegments(t *testing.T) {
	t.Parallel()
	server := testenv.Swift(t)
	url := newContainer()
	container := strings.TrimPrefix(url, "swift://")
	s := open(t, url, server.Vars)
	want := random(t, 5*mib/2)
	path := filepath.Join(t.TempDir(), "in")
	if err := os.WriteFile(path, want, 0o600); err != nil {
		t.Fatal(err)
	}
	command(t, server.Env(), "upload", "--use-slo", "-S", "1048576", "--object-name", "a", container, path)
	if got, err := get(t, s, "a"); err != nil || got != string(want) {
		t.Errorf("get: got %d bytes, %v", len(got), err)
	}
	if err := s.DeleteAll(t.Context(), []storage.Key{"a", "b"}); err != nil {
		t.Error(err)
	}
	if got := names(t, container+"_segments"); len(got) != 0 {
		t.Errorf("delete left %q", got)
	}
}

func TestSegmentsGoWithTheObject(t *testing.T) {
	t.Parallel()
	server := testenv.Swift(t)
	url := newContainer()
	segments := strings.TrimPrefix(url, "swift://") + "_segments"
	s := open(t, url+"?segment_size=1MiB", server.Vars)
	body := random(t, 5*mib/2)
	steps := []struct {
		name string
		do   func() error
		want int // segments
	}{
		{"put", func() error { return s.Put(t.Context(), "a", bytes.NewReader(body), isNew) }, 3},
		{"put again, if absent", func() error {
			err := s.Put(t.Context(), "a", bytes.NewReader(body), isNew)
			if !errors.Is(err, storage.ErrExist) {
				return errors.Join(errors.New("want ErrExist"), err)
			}
			return nil
		}, 3},
		{"replace", func() error { return s.Put(t.Context(), "a", bytes.NewReader(body[:2*mib]), storage.PutOptions{}) }, 2},
		{"replace by a small one", func() error { return s.Put(t.Context(), "a", bytes.NewReader(body[:1]), storage.PutOptions{}) }, 0},
		{"replace the small one", func() error { return s.Put(t.Context(), "a", bytes.NewReader(body), storage.PutOptions{}) }, 3},
		{"delete", func() error { return s.Delete(t.Context(), "a") }, 0},
		{"put two", func() error {
			putBytes(t, s, "b", body)
			putBytes(t, s, "c", body)
			putBytes(t, s, "d", body[:1])
			return nil
		}, 6},
		{"delete both", func() error { return s.DeleteAll(t.Context(), []storage.Key{"b", "c", "d"}) }, 0},
	}
	for _, st := range steps {
		if err := st.do(); err != nil {
			t.Fatalf("%s: %v", st.name, err)
		}
		if got := names(t, segments); len(got) != st.want {
			t.Errorf("%s: got the segments %q, want %d", st.name, got, st.want)
		}
	}
	if got := names(t, strings.TrimSuffix(segments, "_segments")); len(got) != 0 {
		t.Errorf("left: %q", got)
	}
}

func TestMissingSegment(t *testing.T) {
	t.Parallel()
	server := testenv.Swift(t)
	url := newContainer()
	segments := strings.TrimPrefix(url, "swift://") + "_segments"
	s := open(t, url+"?segment_size=1MiB", server.Vars)
	for n := range 3 {
		putBytes(t, s, "a", random(t, 3*mib))
		command(t, server.Env(), "delete", segments, names(t, segments)[n])
		read := func(r io.Reader) error { _, err := io.Copy(io.Discard, r); return err }
		if err := s.Get(t.Context(), "a", 0, -1, read); err == nil || errors.Is(err, storage.ErrNotExist) {
			t.Errorf("segment %d is missing: get gives %v, want another error", n, err)
		}
		if err := s.Get(t.Context(), "a", int64(n)*mib+5, 10, read); err == nil || errors.Is(err, storage.ErrNotExist) {
			t.Errorf("segment %d is missing: get of a part of it gives %v, want another error", n, err)
		}
		if err := s.Delete(t.Context(), "a"); err != nil {
			t.Errorf("segment %d is missing: delete: %v", n, err)
		}
		if got := names(t, segments); len(got) != 0 {
			t.Errorf("left: %q", got)
		}
	}
}

// A put that the server refuses takes its segments back.
func TestRefusedManifest(t *testing.T) {
	t.Parallel()
	f, vars := newFront(t)
	url := newContainer()
	segments := strings.TrimPrefix(url, "swift://") + "_segments"
	s := open(t, url+"?segment_size=1MiB", vars)
	f.refuse("multipart-manifest=put", 403)
	if err := s.Put(t.Context(), "a", bytes.NewReader(random(t, 3*mib)), isNew); !errors.Is(err, storage.ErrDenied) {
		t.Errorf("put: got %v, want ErrDenied", err)
	}
	if got := names(t, segments); len(got) != 0 {
		t.Errorf("left: %q", got)
	}
}

func TestListPages(t *testing.T) {
	t.Parallel()
	s := open(t, newContainer()+"/pre", testenv.Swift(t).Vars)
	s.SetPage(3)
	var want []string
	for _, name := range []string{"a", "a-b", "a.b", "a/b", "a0", "b", "c/d/e"} {
		put(t, s, storage.Key(name), "x")
		want = append(want, name)
	}
	var got []string
	if err := s.List(t.Context(), "", func(i storage.Info) error { got = append(got, string(i.Key)); return nil }); err != nil {
		t.Fatal(err)
	}
	if strings.Join(got, " ") != strings.Join(want, " ") {
		t.Errorf("list in pages of 3:\n got %q\nwant %q", got, want)
	}
}
