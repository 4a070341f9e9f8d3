package sequence_test

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/slipcover/slipcover/internal/sequence"
	"github.com/slipcover/slipcover/internal/shard"
)

const expected = "../../testdata/couchdb-3.5.0/expected"

// What real servers answered says of each shard what the shard's own info says, and is the same packed again.
func TestServersSequences(t *testing.T) {
	paths, err := filepath.Glob(expected + "/*/info.json")
	if err != nil || len(paths) == 0 {
		t.Fatal(paths, err)
	}
	for _, path := range paths {
		var info struct {
			Update string `json:"update_seq"`
			Purge  string `json:"purge_seq"`
		}
		var shards map[string]struct {
			Update uint64 `json:"update_seq"`
			Purge  uint64 `json:"purge_seq"`
			UUID   string `json:"uuid"`
		}
		read(t, path, &info)
		read(t, filepath.Dir(path)+"/shard_info.json", &shards)
		update, err := sequence.Unpack(info.Update)
		if err != nil || len(update) != len(shards) {
			t.Fatalf("%s: %v, %v", path, update, err)
		}
		purge, err := sequence.Unpack(info.Purge)
		if err != nil || len(purge) != len(shards) {
			t.Fatalf("%s: %v, %v", path, purge, err)
		}
		for name, want := range shards {
			for i, got := range update {
				if strings.Contains(name, got.Range.String()) && (got.Seq != want.Update || !strings.HasPrefix(want.UUID, got.UUID) || len(got.UUID) != 7 || got.Node != "couchdbfix@127.0.0.1") {
					t.Errorf("%s: %+v, want %+v", name, got, want)
				}
				if strings.Contains(name, purge[i].Range.String()) && purge[i].Seq != want.Purge {
					t.Errorf("%s: %+v, want %+v", name, purge[i], want)
				}
			}
		}
		for _, list := range [][]sequence.Shard{update, purge} {
			text := sequence.Pack(list)
			sum, _, _ := strings.Cut(text, "-")
			if again, err := sequence.Unpack(text); err != nil || !reflect.DeepEqual(again, list) || !strings.HasPrefix(info.Update, sum+"-") && !strings.HasPrefix(info.Purge, sum+"-") {
				t.Errorf("%s: %s, %v, %v; want %v", path, text, again, err, list)
			}
		}
	}
}

func read(t *testing.T, path string, to any) {
	t.Helper()
	b, err := os.ReadFile(path)
	if err == nil {
		err = json.Unmarshal(b, to)
	}
	if err != nil {
		t.Fatal(err)
	}
}

func TestUnpackRefuses(t *testing.T) {
	for _, text := range []string{"", "5", "5-", "x", "5-AAAA", "5-g1AAAA", "0-!"} {
		if got, err := sequence.Unpack(text); !errors.Is(err, sequence.ErrSequence) {
			t.Errorf("%q: %v, %v", text, got, err)
		}
	}
	one := []sequence.Shard{{Node: "a@b", Range: shard.Full, Seq: 7, UUID: "0123456"}}
	if got, err := sequence.Unpack(`"` + sequence.Pack(one) + `"`); err != nil || !reflect.DeepEqual(got, one) {
		t.Errorf("with quotes: %v, %v", got, err)
	}
}

func FuzzUnpack(f *testing.F) {
	f.Add(sequence.Pack([]sequence.Shard{{Node: "a@b", Range: shard.Full, Seq: 7, UUID: "0123456"}, {Node: "c@d", Range: shard.Full, Seq: 1 << 60}}))
	f.Add("25-g1AAAACneJzLYWBgYMpgTmEQSc4vTc5ISUrLrHAwNDLXMwBCwxyQbB4LkGRoAFL_gSArgzmRKxcowG6elGyUZmqOQyt-MxMZkuqhhvGDDTMzNzM0STbFoScLAImgLWc")
	f.Fuzz(func(t *testing.T, text string) {
		list, err := sequence.Unpack(text)
		if err != nil && !errors.Is(err, sequence.ErrSequence) || err == nil && len(list) == 0 {
			t.Errorf("%v, %v", list, err)
		}
	})
}
