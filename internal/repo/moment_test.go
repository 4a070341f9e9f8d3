package repo_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"filippo.io/age"

	"github.com/slipcover/slipcover/internal/manifest"
	"github.com/slipcover/slipcover/internal/repo"
	"github.com/slipcover/slipcover/internal/storage"
)

// shipping is a node with one file that is backed up and shipped.
type shipping struct {
	t *testing.T
	*fixture
	r     *repo.Repo
	key   *repo.WriteKey
	now   time.Time // by the clock of who reads
	data  []byte    // of the file
	from  int64     // shipped so far
	chain manifest.BackupID
	base  manifest.BackupID // as ticks say it
	since manifest.BackupID
	end   string
	ticks []*shippedTick
	quiet time.Duration // of the next ticks
	large int           // bytes of the next ticks
	named string        // the generation, as the next ticks and backups call it
	seed  uint64
}

type shippedTick struct {
	*manifest.Tick
	sealed repo.Sealed
	data   []byte // of the file up to then
}

// clock is a time of one day: "10:00" or "10:00:07".
func clock(t *testing.T, text string) time.Time {
	t.Helper()
	if len(text) == len("15:04") {
		text += ":00"
	}
	form := "2006-01-02 15:04:05"
	if len(text) < len(form) {
		text = "2026-11-22 " + text
	}
	at, err := time.Parse(form, text)
	if err != nil {
		t.Fatal(err)
	}
	return at
}

func newShipping(t *testing.T) *shipping {
	t.Helper()
	s := &shipping{t: t, fixture: newFixture(t), now: clock(t, "2026-11-23 12:00:00"), quiet: time.Second, large: 20, named: "g"}
	var err error
	s.r, err = repo.Open(t.Context(), s.store, repo.Options{Identities: []age.Identity{s.identity}, Now: func() time.Time { return s.now }})
	s.must(err)
	s.key, err = writeKey(t.Context(), s.r)
	s.must(err)
	return s
}

func (s *shipping) must(err error) {
	s.t.Helper()
	if err != nil {
		s.t.Fatal(err)
	}
}

func (s *shipping) write(n int) {
	s.seed++
	s.data = append(slices.Clone(s.data), text(s.seed, n)...)
}

func (s *shipping) file(size int64) manifest.File {
	sum := sha256.Sum256(s.data[:size])
	return manifest.File{Root: manifest.DataRoot, Path: "_users.couch", Kind: manifest.System, Mode: 0o600, Size: size,
		SHA256: hex.EncodeToString(sum[:]), Generation: s.named, Header: &manifest.Header{Offset: size - 1, UUID: "u", UpdateSeq: uint64(size)}}
}

// backup makes one that is done at a time, a minute after it was begun, and has a write that no tick has.
func (s *shipping) backup(done string) manifest.BackupID {
	s.t.Helper()
	s.write(50)
	at := clock(s.t, done)
	id := idAt(at)
	lock, err := s.r.Lock(s.t.Context(), instance, "backup", id)
	s.must(err)
	var sealed repo.Sealed
	s.must(s.r.Seal(&sealed, s.key, id, 0, s.data))
	s.must(s.r.PutSegment(s.t.Context(), instance, &sealed))
	f := s.file(int64(len(s.data)))
	f.Extents = []manifest.Extent{{N: f.Size}}
	m := &manifest.Manifest{Format: 1, Summary: manifest.Summary{ID: id, Instance: instance, Name: "b", Type: manifest.Full, Status: manifest.Completed,
		Started: at.Add(-time.Minute), Finished: at}, Segments: []manifest.Segment{sealed.Segment}, Files: []*manifest.File{&f}}
	_, err = s.r.Commit(s.t.Context(), lock, m, s.key, s.writer)
	s.must(err)
	s.must(lock.Release(s.t.Context()))
	return id
}

// begin begins a chain at a backup.
func (s *shipping) begin(since manifest.BackupID) {
	id, err := manifest.NewID()
	if s.chain != "" {
		id, err = manifest.NewIDAt(s.chain.Time().Add(time.Millisecond))
	}
	s.must(err)
	s.chain, s.end, s.ticks = id, "", nil
	s.adopt(since)
}

// adopt goes on from a backup.
func (s *shipping) adopt(since manifest.BackupID) { s.since, s.from = since, int64(len(s.data)) }

// tick ships a write; it returns the state.
func (s *shipping) tick(at string) []byte {
	s.t.Helper()
	s.write(s.large)
	n := int64(len(s.ticks) + 1)
	f := &manifest.TickFile{File: s.file(int64(len(s.data))), From: s.from, Cuts: manifest.Cuts{{Tick: n, Size: int64(len(s.data)), Header: 1, Seq: uint64(len(s.data))}}}
	f.Extents = []manifest.Extent{{N: f.Size - f.From}}
	t := &shippedTick{Tick: &manifest.Tick{Instance: instance, Chain: s.chain, First: n, Last: n, Prev: s.end, Base: s.base, Since: s.since,
		Times: manifest.Times{{At: clock(s.t, at).UnixMilli(), Quiet: s.quiet.Milliseconds()}}, Tool: "test", Files: []*manifest.TickFile{f}}, data: s.data}
	s.put(t, repo.ShipName{Chain: s.chain, First: n, Last: n}, s.data[s.from:])
	s.ticks, s.end, s.from = append(s.ticks, t), t.sealed.Segment.SHA256, int64(len(s.data))
	return s.data
}

func (s *shipping) put(t *shippedTick, name repo.ShipName, content []byte) {
	s.t.Helper()
	s.must(s.r.SealTick(&t.sealed, s.key, s.writer, name, t.Tick, slices.Clone(content)))
	s.must(s.r.PutShipped(s.t.Context(), instance, &t.sealed))
}

// rollUp puts a roll-up of ticks that go on from each other in their place.
func (s *shipping) rollUp(first, last int64) storage.Key {
	s.t.Helper()
	a, b := s.ticks[first-1], s.ticks[last-1]
	f := *b.Files[0]
	f.From, f.Cuts = a.Files[0].From, nil
	f.Extents = []manifest.Extent{{N: f.Size - f.From}}
	t := &shippedTick{Tick: &manifest.Tick{Instance: instance, Chain: s.chain, First: first, Last: last, Prev: a.Prev, End: b.sealed.Segment.SHA256,
		Base: b.Base, Since: b.Since, Tool: "test", Files: []*manifest.TickFile{&f}}}
	from, to := time.UnixMilli(a.Times[0].At), time.UnixMilli(b.Times[0].At)
	for _, x := range s.ticks[first-1 : last] {
		t.Times = append(t.Times, x.Times...)
		f.Cuts = append(f.Cuts, x.Files[0].Cuts...)
	}
	s.put(t, repo.ShipName{Chain: s.chain, First: first, Last: last, From: from, To: to}, b.data[f.From:])
	for n := first; n <= last; n++ {
		s.remove(s.tickKey(n))
	}
	return storage.Key("ship/" + instance + "/" + t.sealed.Segment.Key + ".zst.age")
}

func (s *shipping) tickKey(n int64) storage.Key {
	return storage.Key("ship/" + instance + "/" + repo.ShipName{Chain: s.chain, First: n, Last: n}.String() + ".zst.age")
}

func (s *shipping) object(key storage.Key) []byte { return get(s.t, s.store, key) }

func (s *shipping) replace(key storage.Key, b []byte) { put(s.t, s.store, key, b) }

func (s *shipping) remove(key storage.Key) {
	s.t.Helper()
	s.must(s.store.Delete(s.t.Context(), key))
}

// at returns the file at a time.
func (s *shipping) at(at string) ([]byte, *repo.Moment, error) {
	s.t.Helper()
	m, moment, err := s.r.At(s.t.Context(), instance, clock(s.t, at))
	if err != nil {
		return nil, nil, err
	}
	rd := s.r.NewReader(m, m.Files)
	defer rd.Close()
	var b bytes.Buffer
	err = rd.Stream(s.t.Context(), m.Files[0], func(p []byte) error { b.Write(p); return nil })
	if sum := sha256.Sum256(b.Bytes()); err == nil && m.Files[0].Longer == nil && hex.EncodeToString(sum[:]) != m.Files[0].SHA256 {
		err = errors.New("it has another hash")
	}
	return b.Bytes(), moment, err
}

func (s *shipping) want(at string, want []byte) *repo.Moment {
	s.t.Helper()
	got, m, err := s.at(at)
	if err != nil || !bytes.Equal(got, want) {
		s.t.Errorf("at %s there are %d bytes (%v), want %d", at, len(got), err, len(want))
	}
	return m
}

func (s *shipping) refuse(at string, kind error, texts ...string) {
	s.t.Helper()
	got, _, err := s.at(at)
	if !errors.Is(err, kind) {
		s.t.Errorf("at %s there are %d bytes (%v), want %v", at, len(got), err, kind)
		return
	}
	for _, text := range texts {
		if !strings.Contains(err.Error(), text) {
			s.t.Errorf("at %s: %v, which doesn't say %q", at, err, text)
		}
	}
}

// TestMomentsOfChain looks up times in a chain with roll-ups of two levels, quiet times, and a backup in it.
func TestMomentsOfChain(t *testing.T) {
	t.Parallel()
	s := newShipping(t)
	s.begin(s.backup("10:00"))
	first := s.data
	var states [][]byte
	for i := range 20 {
		states = append(states, s.tick(fmt.Sprintf("10:%02d", 5+i)))
	}
	s.rollUp(1, 5)
	s.rollUp(6, 12)
	second := s.backup("10:30")
	inSecond := s.data
	s.adopt(second)
	late := s.tick("10:40")
	s.refuse("09:59:59", repo.ErrNoMoment, "10:00")
	s.want("10:00", first)
	s.want("10:04:59", first)
	for i, want := range states {
		m := s.want(fmt.Sprintf("10:%02d", 5+i), want)
		if m.Tick != int64(i+1) || !m.At.Equal(clock(t, fmt.Sprintf("10:%02d", 5+i))) || i < 19 && !m.Until.Equal(m.At.Add(59*time.Second)) {
			t.Errorf("tick %d: %+v", i+1, m)
		}
	}
	s.want("10:29:59", states[19])
	s.want("10:30", inSecond)
	s.want("10:39:59", inSecond)
	if m := s.want("10:40", late); m.Base.ID != second {
		t.Errorf("it is made of %s, and what the ticks before lack is in %s", m.Base.ID, second)
	}
	s.rollUp(13, 20)
	s.want("10:21", states[16])
	s.want("2026-11-23 11:00:00", late)
	s.remove(storage.Key("backups/" + instance + "/" + string(second) + "/record.jsonl"))
	s.refuse("10:40", repo.ErrGap, "doesn't reach down to the backup") // ticks alone lack what only that backup took
}

// TestMomentsOfGoneBackup: without the backup that a chain was begun at nobody knows what happened before it.
func TestMomentsOfGoneBackup(t *testing.T) {
	t.Parallel()
	s := newShipping(t)
	s.begin(s.backup("10:00"))
	s.tick("10:01")
	id := s.backup("10:20")
	s.begin(id)
	s.named, s.from = "h", 0 // all of this file is in the tick; others may have changed before
	last := s.tick("10:30")
	s.want("10:30", last)
	s.remove(storage.Key("backups/" + instance + "/" + string(id) + "/record.jsonl"))
	s.refuse("10:30", repo.ErrNoMoment, "gone")
	p, err := s.r.Points(t.Context(), instance, nil)
	s.must(err)
	if got := p.Windows[len(p.Windows)-1]; len(p.Gaps) != 1 || got.To != clock(t, "10:01") {
		t.Errorf("%s", told(p))
	}
}

// TestMomentsOfBackupsWithinRollUp: a roll-up tells the last backup alone of several that its ticks go on from.
func TestMomentsOfBackupsWithinRollUp(t *testing.T) {
	t.Parallel()
	s := newShipping(t)
	s.begin(s.backup("10:00"))
	type state struct {
		at   string
		data []byte
	}
	var states []state
	tick := func(at string) { states = append(states, state{at, s.tick(at)}) }
	tick("10:01")
	s.rollUp(1, 1)
	tick("10:05")
	first := len(s.ticks) + 1
	for _, at := range []string{"10:1", "10:2", "10:3"} {
		s.adopt(s.backup(at + "0"))
		s.named, s.from = "g"+at, 0 // each calls the file otherwise
		tick(at + "1")
		tick(at + "2")
	}
	for _, x := range states {
		s.want(x.at, x.data)
	}
	// What a roll-up of all has: ranges from 0 on, each of another generation.
	a, b := s.ticks[first-2], s.ticks[len(s.ticks)-1]
	all := &shippedTick{Tick: &manifest.Tick{Instance: instance, Chain: s.chain, First: a.First, Last: b.Last, Prev: a.Prev, End: b.sealed.Segment.SHA256, Since: b.Since, Tool: "test"}}
	for _, x := range s.ticks[first-2:] {
		all.Times, all.Parts = append(all.Times, x.Times...), append(all.Parts, x.sealed.Segment)
		f := *x.Files[0]
		f.Extents = []manifest.Extent{{Seg: len(all.Parts), N: f.Extents[0].N}}
		all.Files = append(all.Files, &f)
	}
	s.put(all, repo.ShipName{Chain: s.chain, First: a.First, Last: b.Last, From: time.UnixMilli(a.Times[0].At), To: time.UnixMilli(b.Times[0].At)}, []byte("x"))
	for _, x := range states {
		s.want(x.at, x.data)
	}
	want := []string{"10:00", "10:00", "10:10", "10:10", "10:20", "10:20", "10:30", "10:30"}
	for i, x := range states {
		if _, m, err := s.at(x.at); err != nil || !m.Base.Finished.Equal(clock(t, want[i])) {
			t.Errorf("at %s: made of the backup of %s (%v), want %s", x.at, m.Base.Finished, err, want[i])
		}
	}
}

// TestMomentsWhileBackedUp: a file that a tick saw while a backup was made, which calls it otherwise.
func TestMomentsWhileBackedUp(t *testing.T) {
	t.Parallel()
	s := newShipping(t)
	s.begin(s.backup("10:00"))
	s.named, s.from = "shipper's", 0
	s.tick("10:05")
	s.tick("10:06")
	s.rollUp(1, 2)
	seen := s.tick("10:09:30")
	s.named = "backup's"
	id := s.backup("10:10") // begun at 10:09
	has := s.data
	s.adopt(id)
	s.want("10:09:40", seen)
	s.want("10:10", has)
	last := s.tick("10:20")
	s.want("10:15", has)
	s.want("10:20", last)
}

// TestMomentsOfWrongClocks: ticks and backups are in the order in which they were made.
func TestMomentsOfWrongClocks(t *testing.T) {
	t.Parallel()
	t.Run("ahead", func(t *testing.T) {
		t.Parallel()
		s := newShipping(t)
		s.begin(s.backup("10:00"))
		a := s.tick("10:01")
		s.tick("2027-11-22 10:02:00") // a year ahead
		b := s.tick("10:03")
		s.want("10:02:30", a)
		s.want("10:03", b)
		s.want("11:00", b)
		for _, roll := range [][2]int64{{1, 2}, {3, 3}} {
			s.rollUp(roll[0], roll[1])
			s.want("10:02:30", a)
			s.want("11:00", b)
		}
	})
	t.Run("back", func(t *testing.T) {
		t.Parallel()
		s := newShipping(t)
		s.begin(s.backup("10:00"))
		var states [][]byte
		for _, at := range []string{"10:10", "10:20", "10:30", "10:40", "10:50"} {
			states = append(states, s.tick(at))
		}
		s.tick("10:05") // set back by an hour
		last := s.tick("10:15")
		right := s.tick("11:30")
		s.want("10:15", states[0])
		s.want("10:55", states[4])
		s.want("11:29", states[4])
		s.want("11:30", right)
		_ = last
	})
	t.Run("1970", func(t *testing.T) {
		t.Parallel()
		s := newShipping(t)
		s.begin(s.backup("10:00"))
		a := s.tick("10:01")
		s.adopt(s.backup("1970-01-01 00:05:00"))
		b := s.tick("10:10")
		s.adopt(s.backup("10:20"))
		c := s.tick("10:25")
		s.want("10:05", a)
		s.want("10:10", b)
		s.want("10:25", c)
	})
	t.Run("slow reader", func(t *testing.T) {
		t.Parallel()
		s := newShipping(t)
		s.now = clock(t, "09:00")
		s.begin(s.backup("10:00"))
		a := s.tick("10:01")
		b := s.tick("10:02")
		s.want("10:01:30", a)
		s.want("10:05", b)
		m, moment, err := s.r.At(t.Context(), instance, time.Time{})
		if err != nil || moment.Tick != 2 || m.Files[0].Size != int64(len(b)) {
			t.Errorf("the newest is %+v, %v", moment, err)
		}
	})
	t.Run("all ahead", func(t *testing.T) {
		t.Parallel()
		s := newShipping(t)
		s.begin(s.backup("10:00"))
		a := s.tick("10:01")
		for i := range 5 {
			s.tick(fmt.Sprintf("2027-11-22 10:%02d:00", i))
		}
		b := s.tick("10:10")
		s.want("10:05", a)
		s.want("10:10", b)
	})
}

// TestMomentsOfTwoChains: the later chain counts where there are two.
func TestMomentsOfTwoChains(t *testing.T) {
	t.Parallel()
	s := newShipping(t)
	s.begin(s.backup("10:00"))
	a := s.tick("10:01")
	b := s.tick("10:02")
	id := s.backup("10:20")
	second := s.data
	s.begin(id)
	c := s.tick("10:30")
	d := s.tick("10:31")
	s.rollUp(1, 2)
	s.want("10:01:30", a)
	s.want("10:19", b)
	s.want("10:25", second)
	s.want("10:30", c)
	m := s.want("12:00", d)
	if m.Chain != s.chain || m.Tick != 2 {
		t.Errorf("%+v", m)
	}
}

// TestMomentsBesideHole: what a hole hides is never passed over, and what is before and behind it is there.
func TestMomentsBesideHole(t *testing.T) {
	t.Parallel()
	make := func(t *testing.T) (s *shipping, states [][]byte) {
		s = newShipping(t)
		s.begin(s.backup("10:00"))
		for i := range 9 {
			states = append(states, s.tick(fmt.Sprintf("10:%02d", 1+i)))
		}
		return s, states
	}
	check := func(s *shipping, states [][]byte, texts ...string) {
		s.t.Helper()
		s.want("10:03:30", states[2])
		s.want("10:04", states[3])
		s.refuse("10:04:01", repo.ErrGap, append(texts, "10:04:00Z")...)
		s.refuse("10:06", repo.ErrGap, texts...)
		s.refuse("10:08", repo.ErrGap, texts...)
		s.refuse("12:00", repo.ErrGap, texts...)
		id := s.backup("10:40")
		s.want("10:40", s.data)
		s.want("10:50", s.data)
		s.adopt(id)
		s.want("11:00", s.tick("11:00"))
		s.refuse("10:39", repo.ErrGap, texts...)
	}
	t.Run("removed", func(t *testing.T) {
		t.Parallel()
		s, states := make(t)
		s.remove(s.tickKey(5))
		s.remove(s.tickKey(6))
		check(s, states, "ticks 5 to 6", "are missing")
	})
	t.Run("damaged roll-up", func(t *testing.T) {
		t.Parallel()
		s, states := make(t)
		key := s.rollUp(5, 7)
		b := s.object(key)
		b[len(b)-100] ^= 1
		s.replace(key, b)
		check(s, states, "ticks 5 to 7", "damaged")
	})
	t.Run("of another chain", func(t *testing.T) {
		t.Parallel()
		s, states := make(t)
		other := newShipping(t)
		other.fixture, other.r, other.key = s.fixture, s.r, s.key
		other.begin(s.since)
		for i := range 9 {
			other.tick(fmt.Sprintf("10:%02d", 1+i))
		}
		alien := other.rollUp(5, 7)
		b := s.object(alien)
		for n := int64(1); n <= 9; n++ {
			_ = s.store.Delete(t.Context(), other.tickKey(n))
		}
		s.remove(alien)
		key := s.rollUp(5, 7)
		s.replace(key, b)
		check(s, states, "ticks 5 to 7", "chain "+string(other.chain))
	})
	t.Run("another shipper's", func(t *testing.T) {
		t.Parallel()
		s, states := make(t)
		s.remove(s.tickKey(5))
		x := *s.ticks[4]
		x.sealed = repo.Sealed{}
		x.Tool = "a clone's"
		s.put(&x, repo.ShipName{Chain: s.chain, First: 5, Last: 5}, x.data[x.Files[0].From:])
		s.want("10:05", states[4]) // it goes on from tick 4
		s.refuse("10:05:30", repo.ErrGap, "tick 6", "another shipper")
		s.refuse("10:07", repo.ErrGap, "tick 6", "another shipper")
	})
	t.Run("damaged, and what it rolled up is there", func(t *testing.T) {
		t.Parallel()
		s, states := make(t)
		kept := map[storage.Key][]byte{}
		for n := int64(5); n <= 7; n++ {
			kept[s.tickKey(n)] = s.object(s.tickKey(n))
		}
		key := s.rollUp(5, 7)
		b := s.object(key)
		b[len(b)-100] ^= 1
		s.replace(key, b)
		for k, b := range kept {
			s.replace(k, b)
		}
		s.want("10:06", states[5])
		s.want("12:00", states[8])
	})
}
