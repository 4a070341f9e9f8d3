package manifest

import (
	"bytes"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"
)

func partly() *Manifest {
	sum := strings.Repeat("ab", 32)
	m := &Manifest{Format: Format, Summary: Summary{ID: "01990000-0000-7000-8000-000000000001", Instance: "node1", Name: "a, \"b\": [\n{", Started: time.Unix(1, 0).UTC()}}
	for i := range 5 {
		m.Segments = append(m.Segments, Segment{Backup: m.ID, N: i, Size: 10, Plain: 100, SHA256: sum})
		m.Files = append(m.Files, &File{Root: DataRoot, Kind: Shard, Path: fmt.Sprintf("shards/00000000-ffffffff/db%d.1.couch", i), Size: 100, SHA256: sum,
			Generation: fmt.Sprint("g", i), Header: &Header{Offset: 3, UpdateSeq: uint64(i)}, Extents: []Extent{{i, 0, 60}, {4, 10, 40}}})
	}
	return m
}

// Of the files that are wanted a part says what all of it says.
func TestDecodePart(t *testing.T) {
	t.Parallel()
	m := partly()
	most := Counts{Segments: 5, Files: 5}
	var text bytes.Buffer
	if err := Encode(&text, m); err != nil {
		t.Fatal(err)
	}
	wanted := Part{Line: func(b []byte) bool { return bytes.Contains(b, []byte("/db2.")) }, Wanted: func(f *File) bool { return f.Generation == "g2" }}
	for _, stored := range []bool{false, true} {
		wanted.Stored = stored
		got, err := DecodePart(bytes.NewReader(text.Bytes()), most, wanted)
		if err != nil {
			t.Fatal(err)
		}
		if len(got.Files) != 1 || !reflect.DeepEqual(got.Files[0].Header, m.Files[2].Header) || got.Name != m.Name {
			t.Fatalf("%+v", got)
		}
		if stored && (!reflect.DeepEqual(got.Files[0], m.Files[2]) || len(got.Segments) != 5 || got.Segments[2] != m.Segments[2] || got.Segments[4] != m.Segments[4] || got.Segments[1].SHA256 == m.Segments[1].SHA256) {
			t.Errorf("%+v %+v", got.Files[0], got.Segments)
		}
	}
	wanted.Line = func([]byte) bool { return true }
	for what, c := range map[string]struct {
		text string
		most Counts
		want error
	}{
		"cut off":                {text.String()[:text.Len()-3], most, ErrNotLines},
		"a line too few":         {strings.Replace(text.String(), ",\n\"files\"", "\n\"files\"", 1), most, ErrNotLines},
		"one line":               {strings.ReplaceAll(text.String(), "\n", ""), most, ErrNotLines},
		"something behind":       {text.String() + "x", most, ErrNotLines},
		"more files":             {text.String(), Counts{5, 4, 0, 0}, ErrFormat},
		"more segments":          {text.String(), Counts{4, 5, 0, 0}, ErrFormat},
		"an unsafe path":         {strings.ReplaceAll(text.String(), "shards/", "../"), most, ErrFormat},
		"an extent elsewhere":    {strings.ReplaceAll(text.String(), "[2,0,60]", "[7,0,60]"), most, ErrFormat},
		"a later format":         {strings.Replace(text.String(), `"format":1`, `"format":9`, 1), most, ErrFormat},
		"a key that isn't known": {strings.Replace(text.String(), `"format":1`, `"format":1,"x":1`, 1), most, ErrFormat},
	} {
		if _, err := DecodePart(strings.NewReader(c.text), c.most, wanted); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", what, err, c.want)
		}
	}
}
