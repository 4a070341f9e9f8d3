package manifest_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"math"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/slipcover/slipcover/internal/manifest"
)

// plenty is more than the tests' manifests have.
var plenty = manifest.Counts{Segments: 1e6, Files: 1e6, LeftOut: 1e6, Damage: 1e6}

func sample(t *testing.T) *manifest.Manifest {
	t.Helper()
	id, err := manifest.NewID()
	if err != nil {
		t.Fatal(err)
	}
	now := time.Date(2026, 11, 22, 10, 0, 0, 0, time.UTC)
	sum := strings.Repeat("ab", 32)
	return &manifest.Manifest{
		Format:   manifest.Format,
		Summary:  manifest.Summary{ID: id, Instance: "node1", Name: "nightly", Type: manifest.Full, Status: manifest.Completed, Started: now, Finished: now, FileCount: 1},
		Segments: []manifest.Segment{{Backup: id, N: 0, Size: 10, Plain: 100, SHA256: sum}, {Backup: id, N: 1, Size: 10, Plain: 100, SHA256: sum}, {Backup: id, N: 3, Size: 10, Plain: 100, SHA256: sum}},
		Files: []*manifest.File{{Root: manifest.DataRoot, Path: "shards/00000000-7fffffff/a.1795334390.couch", Kind: manifest.Shard, Mode: 0o644, Size: 150, SHA256: sum,
			Header: &manifest.Header{Offset: 100, SHA256: sum}, Extents: []manifest.Extent{{Seg: 0, At: 0, N: 100}, {Seg: 1, At: 50, N: 50}}}},
		LeftOut: []manifest.LeftOut{}, Damage: []manifest.Damage{}, Notes: []string{},
	}
}

func TestEncodeDecode(t *testing.T) {
	m := sample(t)
	var b bytes.Buffer
	if err := manifest.Encode(&b, m); err != nil {
		t.Fatal(err)
	}
	got, err := manifest.Decode(bytes.NewReader(b.Bytes()), plenty)
	if err != nil {
		t.Fatalf("%v in\n%s", err, b.Bytes())
	}
	if !reflect.DeepEqual(got, m) {
		t.Errorf("got %+v, want %+v", got, m)
	}
}

// replayed is a sample whose file begins with a replay that rests on another.
func replayed(t *testing.T) *manifest.Manifest {
	t.Helper()
	m := sample(t)
	m.Format = manifest.ReplayFormat
	first := &manifest.Replay{Kind: manifest.CompactionReplay, Size: 40, Stream: []manifest.Extent{{Seg: 2, At: 10, N: 5}}}
	older := &manifest.Older{Generation: "g", Header: 20, Size: 45, Extents: []manifest.Extent{{Seg: -1, N: 40}, {Seg: 0, At: 90, N: 5}}, Replays: []*manifest.Replay{first}}
	f := m.Files[0]
	f.Replays = []*manifest.Replay{{Kind: manifest.CompactionReplay, Size: 100, Stream: []manifest.Extent{{Seg: 2, N: 7}}, Older: older}}
	f.Extents[0] = manifest.Extent{Seg: -1, N: 100}
	return m
}

func TestReplayed(t *testing.T) {
	m := replayed(t)
	m.Files[0].Replays[0].Older.Replays[0].Kind = manifest.ViewReplay // the rules are the same
	var b bytes.Buffer
	if err := manifest.Encode(&b, m); err != nil {
		t.Fatal(err)
	}
	got, err := manifest.Decode(bytes.NewReader(b.Bytes()), plenty)
	if err != nil || !reflect.DeepEqual(got, m) {
		t.Fatalf("got %+v, %v, want %+v", got, err, m)
	}
	if n := manifest.Depth(got.Files[0].Replays); n != 2 {
		t.Errorf("depth %d, want 2", n)
	}
	var stored []manifest.Extent
	for e := range got.Files[0].Stored() {
		stored = append(stored, *e)
	}
	want := []manifest.Extent{{Seg: 1, At: 50, N: 50}, {Seg: 2, N: 7}, {Seg: 0, At: 90, N: 5}, {Seg: 2, At: 10, N: 5}}
	if !reflect.DeepEqual(stored, want) {
		t.Errorf("stored %v, want %v", stored, want)
	}
}

// TestCopied holds that a copy rests on a copy, and a compaction on one.
func TestCopied(t *testing.T) {
	for _, kind := range []manifest.ReplayKind{manifest.CopyReplay, manifest.CompactionReplay} {
		m := replayed(t)
		r := m.Files[0].Replays[0]
		first := r.Older.Replays[0]
		first.Older = &manifest.Older{Generation: "f", Size: 50, Extents: []manifest.Extent{{Seg: 1, N: 50}}}
		r.Kind, first.Kind = kind, manifest.CopyReplay
		if err := m.Check(); err != nil {
			t.Errorf("%s: %v", kind, err)
		}
		if n := manifest.Depth(m.Files[0].Replays); n != 2 {
			t.Errorf("%s: depth %d, want 2", kind, n)
		}
	}
}

func TestReplayedRefuses(t *testing.T) {
	for name, edit := range map[string]func(m *manifest.Manifest, f *manifest.File, r *manifest.Replay){
		"format 1":       func(m *manifest.Manifest, _ *manifest.File, _ *manifest.Replay) { m.Format = 1 },
		"none":           func(_ *manifest.Manifest, f *manifest.File, _ *manifest.Replay) { f.Replays = nil },
		"null":           func(_ *manifest.Manifest, f *manifest.File, _ *manifest.Replay) { f.Replays[0] = nil },
		"one too many":   func(_ *manifest.Manifest, f *manifest.File, r *manifest.Replay) { f.Replays = append(f.Replays, r) },
		"another number": func(_ *manifest.Manifest, f *manifest.File, _ *manifest.Replay) { f.Extents[0].Seg = -2 },
		"not first": func(_ *manifest.Manifest, f *manifest.File, _ *manifest.Replay) {
			f.Extents[0], f.Extents[1] = f.Extents[1], f.Extents[0]
		},
		"view not first": func(_ *manifest.Manifest, f *manifest.File, r *manifest.Replay) {
			r.Kind = manifest.ViewReplay
			f.Extents[0], f.Extents[1] = f.Extents[1], f.Extents[0]
		},
		"twice": func(_ *manifest.Manifest, f *manifest.File, _ *manifest.Replay) {
			f.Extents[1] = f.Extents[0]
			f.Size = 200
		},
		"another size":           func(_ *manifest.Manifest, _ *manifest.File, r *manifest.Replay) { r.Size = 99 },
		"kind":                   func(_ *manifest.Manifest, _ *manifest.File, r *manifest.Replay) { r.Kind = "later" },
		"tail in front":          func(_ *manifest.Manifest, _ *manifest.File, r *manifest.Replay) { r.Kind = manifest.TailReplay },
		"no stream":              func(_ *manifest.Manifest, _ *manifest.File, r *manifest.Replay) { r.Stream = nil },
		"replayed stream":        func(_ *manifest.Manifest, _ *manifest.File, r *manifest.Replay) { r.Stream[0].Seg = -1 },
		"no such segment":        func(_ *manifest.Manifest, _ *manifest.File, r *manifest.Replay) { r.Older.Replays[0].Stream[0].Seg = 3 },
		"header":                 func(_ *manifest.Manifest, _ *manifest.File, r *manifest.Replay) { r.Older.Header = 45 },
		"older size":             func(_ *manifest.Manifest, _ *manifest.File, r *manifest.Replay) { r.Older.Size = 46 },
		"a copy of a compaction": func(_ *manifest.Manifest, _ *manifest.File, r *manifest.Replay) { r.Kind = manifest.CopyReplay },
		"a copy of nothing": func(_ *manifest.Manifest, _ *manifest.File, r *manifest.Replay) {
			r.Kind, r.Older = manifest.CopyReplay, nil
		},
		"too deep": func(_ *manifest.Manifest, f *manifest.File, _ *manifest.Replay) {
			for range manifest.MaxReplays {
				o := &manifest.Older{Generation: "g", Size: f.Size, Extents: f.Extents, Replays: f.Replays}
				f.Replays = []*manifest.Replay{{Kind: manifest.CompactionReplay, Size: 100, Stream: []manifest.Extent{{Seg: 2, N: 7}}, Older: o}}
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			m := replayed(t)
			edit(m, m.Files[0], m.Files[0].Replays[0])
			var b bytes.Buffer
			if err := manifest.Encode(&b, m); err != nil {
				t.Fatal(err)
			}
			if _, err := manifest.Decode(&b, plenty); !errors.Is(err, manifest.ErrFormat) {
				t.Errorf("got %v, want ErrFormat", err)
			}
		})
	}
}

func TestDecodeRefuses(t *testing.T) {
	for name, edit := range map[string]func(*manifest.Manifest){
		"newer format": func(m *manifest.Manifest) { m.Format = manifest.ShippedFormat + 1 },
		"object of a chain": func(m *manifest.Manifest) {
			m.Format, m.Segments[0].Key = manifest.ReplayFormat, string(m.ID)+"/0000000001"
		},
		"path goes up":        func(m *manifest.Manifest) { m.Files[0].Path = "../etc/passwd" },
		"absolute path":       func(m *manifest.Manifest) { m.Files[0].Path = "/etc/passwd" },
		"path with a drive":   func(m *manifest.Manifest) { m.Files[0].Path = "c:/x" },
		"extent past its end": func(m *manifest.Manifest) { m.Files[0].Extents[1].At = 60 },
		"extents too short":   func(m *manifest.Manifest) { m.Files[0].Size = 151 },
		"no such segment":     func(m *manifest.Manifest) { m.Files[0].Extents[1].Seg = 3 },
		"unknown root":        func(m *manifest.Manifest) { m.Files[0].Root = "home" },
		"instance":            func(m *manifest.Manifest) { m.Instance = "../x" },
	} {
		t.Run(name, func(t *testing.T) {
			m := sample(t)
			edit(m)
			var b bytes.Buffer
			if err := manifest.Encode(&b, m); err != nil {
				t.Fatal(err)
			}
			if _, err := manifest.Decode(&b, plenty); !errors.Is(err, manifest.ErrFormat) {
				t.Errorf("got %v, want ErrFormat", err)
			}
		})
	}
}

func TestDecodeRefusesText(t *testing.T) {
	var b bytes.Buffer
	if err := manifest.Encode(&b, sample(t)); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{
		"cut off":     b.String()[:b.Len()-3],
		"unknown key": strings.Replace(b.String(), `"instance"`, `"colour":1,"instance"`, 1),
		"copy extent": strings.Replace(b.String(), `[1,50,50]`, `[-1,50,50]`, 1),
		"empty":       "",
		"array":       "[]",
	} {
		if _, err := manifest.Decode(strings.NewReader(text), plenty); !errors.Is(err, manifest.ErrFormat) {
			t.Errorf("%s: got %v, want ErrFormat", name, err)
		}
	}
}

func TestRefs(t *testing.T) {
	m := sample(t)
	m.Segments = append(m.Segments, manifest.Segment{Backup: m.ID, Key: "b"}, manifest.Segment{Backup: m.ID, Key: "a"})
	want := map[manifest.BackupID][]manifest.Range{m.ID: {{0, 1}, {3, 3}}}
	if got, shipped := m.Refs(); !reflect.DeepEqual(got, want) || !slices.Equal(shipped, []string{"a", "b"}) {
		t.Errorf("got %v and %v, want %v", got, shipped, want)
	}
}

func FuzzDecode(f *testing.F) {
	f.Add([]byte(`{"format":1,"id":"0193516e-0000-7000-8000-000000000000","instance":"a","segments":[],"files":[]}`))
	f.Add([]byte(`{"files":[null]}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := manifest.Decode(bytes.NewReader(b), plenty)
		if err != nil {
			return
		}
		var out bytes.Buffer
		if err := manifest.Encode(&out, m); err != nil {
			t.Fatal(err)
		}
		again, err := manifest.Decode(&out, plenty)
		if err != nil {
			t.Fatalf("own text: %v", err)
		}
		if len(again.Files) != len(m.Files) || len(again.Segments) != len(m.Segments) {
			t.Error("files or segments differ after a round trip")
		}
	})
}

func TestExtentJSON(t *testing.T) {
	t.Parallel()
	good := map[string]manifest.Extent{
		"[0,0,1]":                   {N: 1},
		"[12,3456789,8388608]":      {Seg: 12, At: 3456789, N: 8388608},
		"[1,999999999999999999,2]":  {Seg: 1, At: 999999999999999999, N: 2},
		"[1,9223372036854775807,2]": {Seg: 1, At: math.MaxInt64, N: 2},
		" [ 1 ,\n2, 3 ] ":           {Seg: 1, At: 2, N: 3},
	}
	for text, want := range good {
		var e manifest.Extent
		if err := json.Unmarshal([]byte(text), &e); err != nil || e != want {
			t.Errorf("%s: %v, %v", text, e, err)
		}
		b, err := json.Marshal(want)
		var again manifest.Extent
		if err != nil || json.Unmarshal(b, &again) != nil || again != want {
			t.Errorf("%v is written as %s", want, b)
		}
	}
	for _, text := range []string{"[]", "[1,2]", "[1,2,3,4]", "[1,2,0]", "[-1,2,3]", "[1,-2,3]", "[1,2,3", "1,2,3]", "[1,2,03]", "[1.5,2,3]", "[1,2,9223372036854775808]", "{}", `"[1,2,3]"`, "[,1,2]"} {
		var e manifest.Extent
		if err := json.Unmarshal([]byte(text), &e); err == nil {
			t.Errorf("%s is %v", text, e)
		}
		if err := e.UnmarshalJSON([]byte(text)); err == nil {
			t.Errorf("%s is %v", text, e)
		}
	}
}

// TestMerges has bytes behind what a compaction wrote, and nowhere, in a file or in one below it.
func TestMerges(t *testing.T) {
	t.Parallel()
	tail := &manifest.Replay{Kind: manifest.TailReplay}
	bytes, first, second := manifest.Extent{Seg: 3, N: 9}, manifest.Extent{Seg: -1, N: 9}, manifest.Extent{Seg: -2, N: 9}
	for _, c := range []struct {
		below, file []manifest.Extent
		want        bool
	}{
		{[]manifest.Extent{bytes, bytes}, []manifest.Extent{first, second}, true},
		{[]manifest.Extent{first, second}, []manifest.Extent{first, second}, true},
		{[]manifest.Extent{first, bytes}, []manifest.Extent{first, second}, false},
		{[]manifest.Extent{first, second}, []manifest.Extent{first, second, bytes}, false},
	} {
		below := []*manifest.Replay{{Kind: manifest.CompactionReplay}, tail}
		replays := []*manifest.Replay{{Kind: manifest.CompactionReplay, Older: &manifest.Older{Extents: c.below, Replays: below}}, tail}
		if got := manifest.Merges(c.file, replays); got != c.want {
			t.Errorf("%v on %v: %v, want %v", c.file, c.below, got, c.want)
		}
	}
}
