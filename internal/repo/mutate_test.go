package repo_test

import (
	"bytes"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"filippo.io/age"

	"github.com/slipcover/slipcover/internal/manifest"
	"github.com/slipcover/slipcover/internal/repo"
	"github.com/slipcover/slipcover/internal/storage"
)

// mutate calls try for each change of each stored object of three backups: deleted,
// emptied, cut, a bit flipped, and swapped with its sibling of another backup. what
// names the change.
func mutate(t *testing.T, s storage.Store, ids []manifest.BackupID, try func(key storage.Key, how string)) {
	t.Helper()
	whole := all(t, s)
	for _, key := range slices.Sorted(maps.Keys(whole)) {
		b := whole[key]
		if strings.HasPrefix(string(key), "locks/") || len(b) == 0 {
			continue
		}
		flipped := bytes.Clone(b)
		flipped[len(b)*2/3] ^= 1
		edits := map[string][]byte{"emptied": {}, "cut": b[:len(b)/2], "flipped": flipped}
		for _, from := range ids {
			for _, to := range ids {
				if sibling, ok := whole[storage.Key(strings.Replace(string(key), string(from), string(to), 1))]; ok && !bytes.Equal(sibling, b) {
					edits["swapped"] = sibling
				}
			}
		}
		for how, edit := range edits {
			put(t, s, key, edit)
			try(key, how)
		}
		if err := s.Delete(t.Context(), key); err != nil {
			t.Fatal(err)
		}
		try(key, "deleted")
		put(t, s, key, b)
	}
}

// checked reports whether a check by the holder of ids finds a problem.
func checked(t *testing.T, s storage.Store, opts repo.CheckOptions, ids ...age.Identity) bool {
	t.Helper()
	r, err := repo.Open(t.Context(), s, repo.Options{Identities: ids})
	if err != nil {
		return true
	}
	report, err := r.Check(t.Context(), opts)
	return err != nil || len(report.Problems) > 0
}

// Whatever breaks a restore is told by a check: by one without a key, all but what
// changes the content of a segment in its size, which reading the data tells.
func TestCheckTellsWhatBreaks(t *testing.T) {
	f := newFixture(t)
	r := f.open(t, f.store)
	first := mustBackup(t, r, f.writer, nil, text(1, 1000), text(2, 1000))
	second := mustBackup(t, r, f.writer, first, text(3, 1000))
	third := mustBackup(t, r, f.writer, nil, text(4, 1200), text(5, 900))
	if _, err := r.AddPassphrase(t.Context(), "correct horse"); err != nil {
		t.Fatal(err)
	}
	backups := map[manifest.BackupID][]byte{
		first.ID:  append(text(1, 1000), text(2, 1000)...),
		second.ID: append(append(text(1, 1000), text(2, 1000)...), text(3, 1000)...),
		third.ID:  append(text(4, 1200), text(5, 900)...),
	}
	for _, opts := range []repo.CheckOptions{{}, {ReadData: true}} {
		if checked(t, f.store, opts) || checked(t, f.store, opts, f.identity) {
			t.Fatal("a problem with what is as it was")
		}
	}
	tried, broke := 0, 0
	missed := map[string][]string{}
	mutate(t, f.store, []manifest.BackupID{first.ID, second.ID, third.ID}, func(key storage.Key, how string) {
		tried++
		sound := true
		for id, want := range backups {
			r, err := repo.Open(t.Context(), f.store, repo.Options{Identities: []age.Identity{f.identity}})
			if err == nil {
				var got []byte
				got, err = readBack(t.Context(), r, id)
				sound = sound && err == nil && bytes.Equal(got, want)
			}
			sound = sound && err == nil
		}
		if !sound {
			broke++
		}
		// What has a second copy breaks nothing, and is told all the same.
		single := key == "slipcover.json" || strings.HasPrefix(string(key), "keys/") || strings.HasPrefix(string(key), "kept/") && how != "deleted"
		if sound && !single {
			return
		}
		what := fmt.Sprintf("%s %s", key, how)
		for name, told := range map[string]bool{
			"without a key":                   checked(t, f.store, repo.CheckOptions{}),
			"with a key":                      checked(t, f.store, repo.CheckOptions{}, f.identity),
			"without a key, reading the data": checked(t, f.store, repo.CheckOptions{ReadData: true}),
			"with a key, reading the data":    checked(t, f.store, repo.CheckOptions{ReadData: true}, f.identity),
		} {
			content := strings.HasPrefix(string(key), "segments/") && how == "flipped" && !strings.Contains(name, "reading")
			if told == content {
				missed[name] = append(missed[name], what)
			}
		}
	})
	if broke < 30 {
		t.Errorf("only %d of %d changes break a restore", broke, tried)
	}
	t.Logf("%d changes, of which %d break a restore", tried, broke)
	for name, list := range missed {
		t.Errorf("%s, %d: %s", name, len(list), strings.Join(list, "\n\t"))
	}
}
