package manifest

import (
	"encoding/json"
	"reflect"
	"strings"
	"testing"
)

// aTick is an index with all that there can be.
func aTick() *Tick {
	sum := strings.Repeat("ab", 32)
	chain := BackupID("01a22817-15e3-7065-b075-f89fda90a110")
	return &Tick{
		Format: TickFormat, Instance: "n1", Chain: chain, First: 7, Last: 9, Prev: sum, End: sum, Long: true, Since: chain, Tool: "test",
		Times: Times{{At: 1000, Quiet: 5}, {At: 900, Quiet: 900}, {At: 5000, Quiet: 1}}, DataSize: 100, DataSHA256: sum,
		Parts: []Segment{{Backup: chain, Key: string(chain) + "/0000000003", Size: 10, Plain: 50, SHA256: sum}},
		Files: []*TickFile{
			{File: File{Root: DataRoot, Path: "shards/x.couch", Kind: Shard, Size: 600, SHA256: sum, Generation: "g", Header: &Header{Offset: 500, UpdateSeq: 9},
				Extents: []Extent{{Seg: 1, At: 0, N: 50}, {Seg: -1, N: 150}}, Replays: []*Replay{{Kind: TailReplay, Size: 150, Stream: []Extent{{Seg: 0, At: 10, N: 20}}}}},
				From: 400, Cuts: Cuts{{Tick: 7, Size: 500, Header: 100, Seq: 5, Docs: 4, Ago: -3}, {Tick: 9, Size: 600, Header: 100, Seq: 9, Purge: 1, Compacted: 2, Docs: 3, Deleted: 1}}},
			{File: File{Root: DataRoot, Path: "shards/y.couch", Kind: Shard, Size: 90, SHA256: sum, Generation: "h", Header: &Header{Offset: 50},
				Extents: []Extent{{Seg: -1, N: 90}}, Replays: []*Replay{{Kind: CompactionReplay, Size: 90, Stream: []Extent{{Seg: 0, At: 0, N: 5}}, Older: &Older{Generation: "g", Header: 1, Size: 2}}}},
				Cuts: Cuts{{Tick: 8, Size: 90, Header: 40}}},
		},
		Gone: []Gone{{Root: DataRoot, Path: "shards/z.couch", Tick: 8}}, Notes: []string{"a note"},
	}
}

func TestDecodeTick(t *testing.T) {
	t.Parallel()
	want := aTick()
	b, err := json.Marshal(want)
	if err != nil {
		t.Fatal(err)
	}
	got, err := DecodeTick(b)
	if err != nil {
		t.Fatal(err)
	}
	if again, err := json.Marshal(got); err != nil || string(again) != string(b) {
		t.Errorf("%v\n%s\n%s", err, again, b)
	}
	if !reflect.DeepEqual(got.Times, want.Times) || !reflect.DeepEqual(got.Files[0].Cuts, want.Files[0].Cuts) {
		t.Errorf("%v %v", got.Times, got.Files[0].Cuts)
	}
	for tick, size := range map[int64]int64{6: 0, 7: 500, 8: 500, 9: 600, 20: 600} {
		if c, ok := got.Files[0].At(tick); c.Size != size || ok != (size > 0) {
			t.Errorf("at tick %d: %v, %v", tick, c, ok)
		}
	}
	for what, spoil := range map[string]func(*Tick){
		"a later format":         func(t *Tick) { t.Format++ },
		"a time too few":         func(t *Tick) { t.Times = t.Times[:2] },
		"ticks backwards":        func(t *Tick) { t.First = 10 },
		"no chain":               func(t *Tick) { t.Chain = "" },
		"an unsafe path":         func(t *Tick) { t.Files[0].Path = "../x" },
		"bytes too few":          func(t *Tick) { t.Files[0].From = 300 },
		"an extent outside":      func(t *Tick) { t.Files[0].Extents[0].At = 10 },
		"a stream outside":       func(t *Tick) { t.Files[0].Replays[0].Stream[0].N = 200 },
		"a replay without kind":  func(t *Tick) { t.Files[0].Replays[0].Kind = "later" },
		"a compaction within":    func(t *Tick) { t.Files[1].From, t.Files[1].Size, t.Files[1].Cuts[0].Size = 1, 91, 91 },
		"an older with extents":  func(t *Tick) { t.Files[1].Replays[0].Older.Extents = []Extent{{N: 2}} },
		"a cut of another tick":  func(t *Tick) { t.Files[0].Cuts[1].Tick = 10 },
		"a cut before the range": func(t *Tick) { t.Files[0].Cuts[0].Size = 399 },
		"a last cut elsewhere":   func(t *Tick) { t.Files[0].Cuts[1].Size = 599 },
		"gone later":             func(t *Tick) { t.Gone[0].Tick = 10 },
		"a part without a key":   func(t *Tick) { t.Parts[0].Key = "" },
	} {
		bad := aTick()
		spoil(bad)
		b, err := json.Marshal(bad)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := DecodeTick(b); err == nil {
			t.Errorf("%s is taken", what)
		}
	}
}

func FuzzDecodeTick(f *testing.F) {
	b, err := json.Marshal(aTick())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		got, err := DecodeTick(b)
		if err != nil {
			return
		}
		text, err := json.Marshal(got)
		if err != nil {
			t.Fatal(err)
		}
		again, err := DecodeTick(text)
		if err != nil || !reflect.DeepEqual(got.Files, again.Files) || !reflect.DeepEqual(got.Times, again.Times) {
			t.Errorf("%v: %s becomes %s", err, b, text)
		}
	})
}
