package repo

import (
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/google/uuid"
	"golang.org/x/sync/errgroup"

	"github.com/slipcover/slipcover/internal/manifest"
	"github.com/slipcover/slipcover/internal/shard"
	"github.com/slipcover/slipcover/internal/storage"
)

// ErrNoMoment says that there is no moment at the time that was asked for.
var ErrNoMoment = errors.New("there is no moment that can be had back at that time")

// History is what was shipped of an instance, put in order: chains of ticks, oldest first,
// and the backups that they stand on.
type History struct {
	Instance string
	Backups  []*manifest.Record // oldest first
	Chains   []*Chain

	repo *Repo
}

// Chain is what one shipper stored without a gap.
type Chain struct {
	ID    manifest.BackupID
	Links []*Link // ascending, each one going on where the one before ends
	// Broken says why objects behind the last link are of no use; "" if there are none.
	Broken string
}

// Link is an object of a chain: a tick or roll-up.
type Link struct {
	Shipped
	Tick    *manifest.Tick // nil if it wasn't read
	segment manifest.Segment
}

// History lists what was shipped of an instance and reads the indexes of what is of use for
// moments from a time on. An object that is rolled up meanwhile is looked for again.
func (r *Repo) History(ctx context.Context, instance string, from time.Time) (*History, error) {
	for try := 0; ; try++ {
		h, err := r.history(ctx, instance, from)
		if !errors.Is(err, storage.ErrNotExist) || try == historyTries {
			return h, err
		}
	}
}

// historyTries is how often a history is read again because objects went while it was read.
const historyTries = 10

func (r *Repo) history(ctx context.Context, instance string, from time.Time) (*History, error) {
	shipped, err := r.Shipped(ctx, instance) // first: a backup that is made meanwhile does no harm
	if err != nil {
		return nil, err
	}
	recs, _, err := r.List(ctx, instance)
	if err != nil {
		return nil, err
	}
	h := &History{Instance: instance, Backups: recs, repo: r}
	for len(shipped) > 0 {
		n := slices.IndexFunc(shipped, func(o Shipped) bool { return o.Chain != shipped[0].Chain })
		if n < 0 {
			n = len(shipped)
		}
		h.Chains = append(h.Chains, chainOf(shipped[:n]))
		shipped = shipped[n:]
	}
	return h, h.read(ctx, from)
}

// chainOf picks, of the objects of one chain, those that together cover its ticks, the larger
// ones where there are several.
func chainOf(shipped []Shipped) *Chain {
	c := &Chain{ID: shipped[0].Chain}
	shipped = slices.DeleteFunc(slices.Clone(shipped), func(o Shipped) bool { return o.Part > 0 })
	slices.SortFunc(shipped, func(a, b Shipped) int { return cmp.Or(cmp.Compare(a.First, b.First), cmp.Compare(b.Last, a.Last)) })
	for _, o := range shipped {
		switch k := len(c.Links); {
		case k == 0 || o.First == c.Links[k-1].Last+1:
			c.Links = append(c.Links, &Link{Shipped: o})
		case o.First > c.Links[k-1].Last+1:
			c.Broken = fmt.Sprintf("tick %d of chain %s is missing", c.Links[k-1].Last+1, c.ID)
			return c
		}
	}
	return c
}

// read reads the indexes of links that may be of moments from a time on, and cuts chains off where
// they don't go on.
func (h *History) read(ctx context.Context, from time.Time) error {
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(parallelReads)
	var mu sync.Mutex // guards broken
	broken := map[*Link]error{}
	for _, c := range h.Chains {
		for _, l := range c.Links {
			if l.RollUp() && l.To.Before(from) {
				continue
			}
			g.Go(func() (err error) {
				l.Tick, l.segment, err = h.repo.ReadTick(gctx, h.Instance, l.Shipped)
				if errors.Is(err, ErrCorrupt) || errors.Is(err, ErrSignature) {
					mu.Lock()
					defer mu.Unlock()
					broken[l] = err
					return nil
				}
				return err
			})
		}
	}
	if err := g.Wait(); err != nil {
		return err
	}
	for _, c := range h.Chains {
		c.cut(broken)
	}
	return nil
}

// cut drops the links that don't go on from the one before, or can't be read, and all behind.
func (c *Chain) cut(broken map[*Link]error) {
	end := ""
	for i, l := range c.Links {
		why := ""
		switch {
		case broken[l] != nil:
			why = broken[l].Error()
		case l.Tick == nil:
			continue
		case end != "" && l.Tick.Prev != end:
			why = fmt.Sprintf("tick %d of chain %s doesn't go on from the one before: another shipper has stored one of them", l.First, c.ID)
		}
		if why != "" {
			c.Links, c.Broken = c.Links[:i], why
			return
		}
		if end = l.Tick.End; end == "" {
			end = l.segment.SHA256
		}
	}
}

// Moment is a state of an instance that can be had back.
type Moment struct {
	Base  *manifest.Record  // the backup that it is made of
	Chain manifest.BackupID // "" if it is that backup
	Tick  int64
	At    time.Time // when it was seen: the backup's end, or the tick's time
	// Until is up to when it is known to have been the state; the next tick's changes came after.
	Until time.Time
}

// last returns the newest tick up to a time, nil if the chain has none.
func (c *Chain) last(at time.Time) (l *Link, tick int64) {
	for _, x := range c.Links {
		if x.Tick == nil {
			continue
		}
		for i, t := range x.Tick.Times {
			if t.At <= at.UnixMilli() {
				l, tick = x, x.First+int64(i)
			}
		}
	}
	return l, tick
}

// timeOf returns when a tick was, and until when it is known to have been the newest state.
func (c *Chain) timeOf(tick int64) (at, until time.Time) {
	for _, l := range c.Links {
		if l.Tick == nil {
			continue
		}
		if l.First <= tick && tick <= l.Last {
			at = time.UnixMilli(l.Tick.Times[tick-l.First].At).UTC()
			until = at
		}
		if n := tick + 1; l.First <= n && n <= l.Last {
			t := l.Tick.Times[n-l.First]
			return at, time.UnixMilli(t.At - t.Quiet).UTC()
		}
	}
	return at, until
}

// At returns the newest moment up to a time, as a manifest: the state that was seen last,
// put together from a backup and what was shipped since. It returns ErrNoMoment if there is
// none so old.
func (r *Repo) At(ctx context.Context, instance string, at time.Time) (*manifest.Manifest, *Moment, error) {
	recs, _, err := r.List(ctx, instance)
	if err != nil {
		return nil, nil, err
	}
	base := lastBefore(recs, at)
	if base < 0 {
		return nil, nil, fmt.Errorf("%w: the oldest backup of %s was finished %s", ErrNoMoment, instance, oldest(recs))
	}
	h, err := r.History(ctx, instance, recs[base].Started)
	if err != nil {
		return nil, nil, err
	}
	return h.at(ctx, at)
}

func oldest(recs []*manifest.Record) string {
	if len(recs) == 0 {
		return "never: there is none"
	}
	return recs[0].Finished.UTC().Format(time.RFC3339)
}

// lastBefore returns the index of the newest backup that was finished by a time, -1 if there
// is none.
func lastBefore(recs []*manifest.Record, at time.Time) int {
	for i, rec := range slices.Backward(recs) {
		if !rec.Finished.After(at) {
			return i
		}
	}
	return -1
}

// at is At in a history.
func (h *History) at(ctx context.Context, at time.Time) (*manifest.Manifest, *Moment, error) {
	base := lastBefore(h.Backups, at)
	if base < 0 {
		return nil, nil, fmt.Errorf("%w: the oldest backup of %s was finished %s", ErrNoMoment, h.Instance, oldest(h.Backups))
	}
	var chain *Chain
	var tick int64
	for _, c := range h.Chains { // a later one counts more
		if l, n := c.last(at); l != nil {
			chain, tick = c, n
		}
	}
	if chain == nil {
		return h.backup(ctx, h.Backups[base])
	}
	var first error
	for i := base; i >= 0; i-- { // as a rule the first one does
		rec := h.Backups[i]
		if seen, _ := chain.timeOf(tick); seen.Before(rec.Started) {
			return h.backup(ctx, rec)
		}
		if i < base { // older than what was read
			older, err := h.repo.History(ctx, h.Instance, rec.Started)
			if err != nil {
				return nil, nil, err
			}
			if c := older.chain(chain.ID); c != nil {
				chain = c
			}
		}
		m, err := h.compose(ctx, rec, chain, tick)
		if err == nil {
			moment := &Moment{Base: rec, Chain: chain.ID, Tick: tick}
			moment.At, moment.Until = chain.timeOf(tick)
			return m, moment, nil
		}
		if !errors.Is(err, errNotCovered) {
			return nil, nil, err
		}
		first = cmp.Or(first, err)
	}
	return nil, nil, first
}

func (h *History) chain(id manifest.BackupID) *Chain {
	for _, c := range h.Chains {
		if c.ID == id {
			return c
		}
	}
	return nil
}

// backup is the moment of a backup itself.
func (h *History) backup(ctx context.Context, rec *manifest.Record) (*manifest.Manifest, *Moment, error) {
	m, err := h.repo.Manifest(ctx, rec)
	return m, &Moment{Base: rec, At: rec.Finished, Until: rec.Finished}, err
}

// errNotCovered says that bytes of a file are neither in the backup nor in what was shipped
// since.
var errNotCovered = errors.New("what was shipped doesn't reach down to the backup")

// fileName is a file of a node.
type fileName struct {
	root manifest.Root
	path string
}

// composer puts a moment together.
type composer struct {
	m      *manifest.Manifest
	base   map[string]*manifest.File // by generation
	older  map[string]*manifest.Older
	ranges map[string][]piece // by generation, in the order of links
	segs   map[*Link][]int    // numbers of a link's segments in m
}

// piece is a range of a generation in a link.
type piece struct {
	link *Link
	file *manifest.TickFile
}

// compose puts the state at a tick together from a backup made before it.
func (h *History) compose(ctx context.Context, rec *manifest.Record, chain *Chain, tick int64) (*manifest.Manifest, error) {
	m, err := h.repo.Manifest(ctx, rec)
	if err != nil {
		return nil, err
	}
	c := &composer{m: m, base: map[string]*manifest.File{}, older: map[string]*manifest.Older{}, ranges: map[string][]piece{}, segs: map[*Link][]int{}}
	state := map[fileName]*manifest.File{}
	for _, f := range m.Files {
		state[fileName{f.Root, f.Path}] = f
		if f.Generation != "" {
			c.base[f.Generation] = f
		}
		c.addOlder(f.Replays)
	}
	newest := map[fileName]event{}
	for _, l := range chain.Links {
		if l.Tick != nil && l.First <= tick {
			c.addLink(l, tick, newest)
		}
	}
	for nm, e := range newest {
		if err := c.apply(state, nm, e, chain, rec); err != nil {
			return nil, err
		}
	}
	return c.finish(state, chain, tick), nil
}

// event is the last thing that ticks say of a file up to a moment: a cut, or that it is gone.
type event struct {
	piece
	cut  manifest.Cut
	tick int64
}

func (c *composer) addOlder(replays []*manifest.Replay) {
	for _, r := range replays {
		if o := r.Older; o != nil {
			if was := c.older[o.Generation]; was == nil || was.Size < o.Size {
				c.older[o.Generation] = o
			}
			c.addOlder(o.Replays)
		}
	}
}

func (c *composer) addLink(l *Link, tick int64, newest map[fileName]event) {
	for _, f := range l.Tick.Files {
		p := piece{l, f}
		if f.Generation != "" {
			c.ranges[f.Generation] = append(c.ranges[f.Generation], p)
		}
		nm := fileName{f.Root, f.Path}
		if cut, ok := f.At(tick); ok && cut.Tick >= newest[nm].tick {
			newest[nm] = event{p, cut, cut.Tick}
		}
	}
	for _, g := range l.Tick.Gone {
		nm := fileName{g.Root, g.Path}
		if g.Tick <= tick && g.Tick > newest[nm].tick {
			newest[nm] = event{tick: g.Tick}
		}
	}
}

// apply puts what ticks say of a file into the state, unless the backup saw it later.
func (c *composer) apply(state map[fileName]*manifest.File, nm fileName, e event, chain *Chain, rec *manifest.Record) error {
	was := state[nm]
	seen, _ := chain.timeOf(e.tick)
	switch {
	case seen.Before(rec.Started):
		return nil
	case e.file == nil:
		delete(state, nm)
		return nil
	case was != nil && later(was, e):
		return nil
	}
	f, err := c.file(e)
	if err != nil {
		return fmt.Errorf("%s: %w", nm.path, err)
	}
	state[nm] = f
	return nil
}

// later reports whether the backup's copy of a file is of a later moment than the cut.
func later(was *manifest.File, e event) bool {
	if was.Header == nil || e.file.Header == nil || was.Header.UUID != e.file.Header.UUID {
		return false
	}
	if was.Generation == e.file.Generation {
		return was.Size > e.cut.Size
	}
	return was.Header.UpdateSeq > e.cut.Seq
}

// file makes a file at a cut.
func (c *composer) file(e event) (*manifest.File, error) {
	f := e.file.File
	if f.Generation == "" { // it is whole in each tick
		f.Extents, f.Replays = c.placed(e.piece, f.Extents, f.Replays)
		return &f, nil
	}
	p, err := c.cover(f.Generation, e.cut.Size, 0)
	if err != nil {
		return nil, err
	}
	f.Extents, f.Replays = p.extents, p.replays
	if p.size > e.cut.Size {
		f.Longer = &manifest.Longer{Size: p.size, SHA256: p.sum}
		f.Header, f.SHA256 = e.file.HeaderAt(e.cut), ""
	}
	f.Size = e.cut.Size
	return &f, c.settleOlder(f.Replays, 1)
}

// covered is the beginning of a generation.
type covered struct {
	extents []manifest.Extent
	replays []*manifest.Replay
	size    int64
	sum     string // SHA-256 of these bytes
}

// cover finds the bytes of a generation up to a size, or some more.
func (c *composer) cover(generation string, size int64, depth int) (covered, error) {
	var out covered
	if f := c.base[generation]; f != nil {
		out = covered{slices.Clone(f.Extents), slices.Clone(f.Replays), f.Size, f.SHA256}
	} else if o := c.older[generation]; o != nil {
		out = covered{slices.Clone(o.Extents), slices.Clone(o.Replays), o.Size, ""}
	}
	for out.size < size {
		best := piece{}
		for _, p := range c.ranges[generation] {
			if p.file.From <= out.size && p.file.Size > out.size && (best.file == nil || better(p.file, best.file, out.size)) {
				best = p
			}
		}
		if best.file == nil {
			return out, fmt.Errorf("%w: bytes of generation %s from %d on", errNotCovered, generation, out.size)
		}
		if err := c.extend(&out, best); err != nil {
			return out, err
		}
	}
	return out, nil
}

// better prefers a range that begins just where bytes are missing, and the longer of two such.
func better(a, b *manifest.TickFile, at int64) bool {
	if (a.From == at) != (b.From == at) {
		return a.From == at
	}
	return a.Size > b.Size
}

// extend adds a range to what is covered, of which it may have the beginning already.
func (c *composer) extend(out *covered, p piece) error {
	extents, replays := c.placed(p, p.file.Extents, p.file.Replays)
	if twice := out.size - p.file.From; twice > 0 {
		var ok bool
		if extents, ok = behind(extents, twice); !ok {
			if out.extents, ok = upTo(out.extents, p.file.From); !ok {
				return fmt.Errorf("%w: bytes of generation %s from %d on", errNotCovered, p.file.Generation, p.file.From)
			}
		}
	}
	for _, e := range extents {
		if e.Seg < 0 {
			out.replays = append(out.replays, replays[-1-e.Seg])
			e.Seg = -len(out.replays)
		}
		out.extents = append(out.extents, e)
	}
	out.size, out.sum = p.file.Size, p.file.SHA256
	return nil
}

// behind returns extents without their first n bytes, ok if these are stored as they are.
func behind(extents []manifest.Extent, n int64) (rest []manifest.Extent, ok bool) {
	for i, e := range extents {
		if n == 0 {
			return extents[i:], true
		}
		if e.Seg < 0 {
			return extents, false
		}
		if e.N > n {
			rest = slices.Clone(extents[i:])
			rest[0].At, rest[0].N = e.At+n, e.N-n
			return rest, true
		}
		n -= e.N
	}
	return nil, n == 0
}

// upTo returns extents up to a size, ok if it isn't within what a replay makes and no replay is
// behind it.
func upTo(extents []manifest.Extent, size int64) ([]manifest.Extent, bool) {
	for i, e := range extents {
		if size < e.N {
			if slices.ContainsFunc(extents[i:], func(e manifest.Extent) bool { return e.Seg < 0 }) {
				return extents, false
			}
			out := slices.Clone(extents[:i])
			if size > 0 {
				out = append(out, manifest.Extent{Seg: e.Seg, At: e.At, N: size})
			}
			return out, true
		}
		size -= e.N
	}
	return extents, size == 0
}

// placed returns extents and replays of a link with the numbers that its segments have here.
func (c *composer) placed(p piece, extents []manifest.Extent, replays []*manifest.Replay) ([]manifest.Extent, []*manifest.Replay) {
	segs := c.segs[p.link]
	if segs == nil {
		for _, s := range append([]manifest.Segment{p.link.segment}, p.link.Tick.Parts...) {
			segs = append(segs, len(c.m.Segments))
			c.m.Segments = append(c.m.Segments, s)
		}
		c.segs[p.link] = segs
	}
	renumber := func(list []manifest.Extent) []manifest.Extent {
		out := slices.Clone(list)
		for i := range out {
			if out[i].Seg >= 0 {
				out[i].Seg = segs[out[i].Seg]
			}
		}
		return out
	}
	out := make([]*manifest.Replay, len(replays))
	for i, r := range replays {
		made := *r
		made.Stream = renumber(r.Stream)
		if r.Older != nil {
			older := *r.Older
			made.Older = &older
		}
		out[i] = &made
	}
	return renumber(extents), out
}

// settleOlder finds what the replays of compactions rest on.
func (c *composer) settleOlder(replays []*manifest.Replay, depth int) error {
	if depth > manifest.MaxReplays {
		return fmt.Errorf("%w: more than %d replays that rest on each other", ErrCorrupt, manifest.MaxReplays)
	}
	for _, r := range replays {
		o := r.Older
		if o == nil || len(o.Extents) > 0 {
			continue
		}
		p, err := c.cover(o.Generation, o.Size, depth)
		if err != nil {
			return err
		}
		o.Extents, o.Replays = p.extents, p.replays
		if err := c.settleOlder(o.Replays, depth+1); err != nil {
			return err
		}
	}
	return nil
}

// finish makes the manifest of the state.
func (c *composer) finish(state map[fileName]*manifest.File, chain *Chain, tick int64) *manifest.Manifest {
	m := c.m
	shards := map[string]string{} // uuids that the backup had
	for _, f := range m.Files {
		if f.Kind == manifest.Shard && f.Header != nil {
			shards[f.Path] = f.Header.UUID
		}
	}
	for nm, f := range state {
		if f.Kind != manifest.View {
			continue
		}
		if db := state[fileName{manifest.DataRoot, databaseOf(f.Path)}]; db != nil && db.Header != nil && shards[db.Path] != db.Header.UUID {
			delete(state, nm) // of a database that was there before under the same name
			m.LeftOut = append(m.LeftOut, manifest.LeftOut{Root: nm.root, Path: nm.path, Reason: "its database was made anew between the backup and the moment"})
		}
	}
	m.Files = slices.SortedFunc(maps.Values(state), func(a, b *manifest.File) int {
		return cmp.Or(cmp.Compare(a.Root, b.Root), cmp.Compare(a.Path, b.Path))
	})
	at, _ := chain.timeOf(tick)
	m.ID, m.Started, m.Finished = momentID(chain.ID, tick), at, at
	m.FileCount, m.SizeBytes, m.LeftOutCount = len(m.Files), 0, len(m.LeftOut)
	for _, f := range m.Files {
		m.SizeBytes += f.Size
	}
	for _, l := range chain.Links {
		if l.Tick != nil && l.First <= tick && tick <= l.Last {
			m.NodeName, m.Identity = cmp.Or(l.Tick.NodeName, m.NodeName), l.Tick.Identity
		}
	}
	return m
}

// databaseOf returns the path of the database file that an index belongs to, "" if its path tells none.
func databaseOf(view string) string {
	base, _, ok := shard.CutView(view)
	if !ok || len(base) == 0 || base[0] != '.' {
		return ""
	}
	return base[1:] + ".couch"
}

// momentID returns what names a moment of a chain: not a backup's id, but as steady.
func momentID(chain manifest.BackupID, tick int64) manifest.BackupID {
	sum := sha256.Sum256(fmt.Appendf(nil, "%s/%d", chain, tick))
	return manifest.BackupID(uuid.NewHash(sha256.New(), uuid.Nil, sum[:], 8).String())
}
