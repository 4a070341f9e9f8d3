package repo

import (
	"cmp"
	"context"
	"crypto/sha256"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/google/uuid"

	"github.com/slipcover/slipcover/internal/manifest"
	"github.com/slipcover/slipcover/internal/shard"
)

// errNotCovered says that bytes of a file are neither in the backup nor in what was shipped
// since.
var errNotCovered = fmt.Errorf("%w: it doesn't reach down to the backup", ErrGap)

// fileName is a file of a node.
type fileName struct {
	root manifest.Root
	path string
}

// composer puts a moment together.
type composer struct {
	m       *manifest.Manifest
	history *History
	chain   *Chain
	base    int                       // the backup, its index in History.Backups
	files   map[string]*manifest.File // of the backup, by generation
	older   map[string]*manifest.Older
	ranges  map[string][]piece // by generation, in the order of links
	segs    map[*Link][]int    // numbers of a link's segments in m
	seen    map[fileName]time.Time
	before  int             // the oldest backup whose files are among those
	ctx     context.Context // of the call that puts it together
}

// piece is a range of a generation in a link.
type piece struct {
	link *Link
	file *manifest.TickFile
}

// compose puts the state at a tick together from the backup that the tick rests on. It returns too when those files were
// seen that ticks have.
func (h *History) compose(ctx context.Context, base int, chain *Chain, tick int64) (*manifest.Manifest, map[fileName]time.Time, error) {
	m, err := h.repo.Manifest(ctx, h.Backups[base])
	if err != nil {
		return nil, nil, err
	}
	c := &composer{m: m, history: h, chain: chain, base: base, files: map[string]*manifest.File{}, older: map[string]*manifest.Older{},
		ranges: map[string][]piece{}, segs: map[*Link][]int{}, seen: map[fileName]time.Time{},
		before: base, ctx: ctx}
	state := map[fileName]*manifest.File{}
	for _, f := range m.Files {
		state[fileName{f.Root, f.Path}] = f
		if f.Generation != "" {
			c.files[f.Generation] = f
		}
		c.addOlder(f.Replays)
	}
	newest := map[fileName]seen{}
	for _, l := range chain.Links {
		if l.First <= tick {
			c.addLink(l, tick, newest)
		}
	}
	for nm, e := range newest {
		if err := c.apply(state, nm, e); err != nil {
			return nil, nil, fmt.Errorf("tick %d of chain %s: %w", tick, chain.ID, err)
		}
	}
	return c.finish(state, tick), c.seen, nil
}

// seen is the last thing that ticks say of a file up to a moment: a cut, or that it is gone.
type seen struct {
	piece
	cut  manifest.Cut
	tick int64
}

func (c *composer) addOlder(replays []*manifest.Replay) {
	for _, r := range replays {
		if o := r.Older; o != nil && r.Kind != manifest.CopyReplay { // of a copy it is not the whole file
			if was := c.older[o.Generation]; was == nil || was.Size < o.Size {
				c.older[o.Generation] = o
			}
			c.addOlder(o.Replays)
		}
	}
}

func (c *composer) addLink(l *Link, tick int64, newest map[fileName]seen) {
	for _, f := range l.Tick.Files {
		p := piece{l, f}
		if f.Generation != "" {
			c.ranges[f.Generation] = append(c.ranges[f.Generation], p)
		}
		nm := fileName{f.Root, f.Path}
		if cut, ok := f.At(tick); ok && cut.Tick >= newest[nm].tick {
			newest[nm] = seen{p, cut, cut.Tick}
		}
	}
	for _, g := range l.Tick.Gone {
		nm := fileName{g.Root, g.Path}
		if g.Tick <= tick && g.Tick > newest[nm].tick {
			newest[nm] = seen{tick: g.Tick}
		}
	}
}

// apply puts what ticks say of a file into the state, unless the backup saw it later.
func (c *composer) apply(state map[fileName]*manifest.File, nm fileName, e seen) error {
	if !c.after(e, state[nm]) {
		return nil
	}
	if e.file == nil {
		delete(state, nm)
		return nil
	}
	f, err := c.file(e)
	if err != nil {
		return fmt.Errorf("%s: %w", nm.path, err)
	}
	state[nm] = f
	c.seen[nm] = c.chain.times[e.tick-c.chain.from].Add(-time.Duration(e.cut.Ago) * time.Millisecond)
	return nil
}

// after reports whether ticks saw a file later than the backup did, which has was of it, or nil.
func (c *composer) after(e seen, was *manifest.File) bool {
	rec := c.history.Backups[c.base]
	at := c.chain.times[e.tick-c.chain.from]
	switch {
	case c.chain.sinceOf(e.tick) >= c.base:
		return true // that is where the shipper went on from
	case at.Before(rec.Started):
		return false
	case !at.Before(rec.Finished) || was == nil || e.file == nil || was.Header == nil || e.file.Header == nil || was.Header.UUID != e.file.Header.UUID:
		return true
	case was.Generation == e.file.Generation:
		return e.cut.Size > was.Size
	}
	// Seen by both meanwhile: whichever has more. One physical file may have two names here, the shipper's and the backup's.
	return cmp.Or(cmp.Compare(e.cut.Seq, was.Header.UpdateSeq), cmp.Compare(e.cut.Compacted, was.Header.CompactedSeq), cmp.Compare(e.cut.Size, was.Size)) > 0
}

// file makes a file at a cut.
func (c *composer) file(e seen) (*manifest.File, error) {
	f := e.file.File
	if f.Generation == "" { // it is whole in each tick
		f.Extents, f.Replays = c.placed(e.piece, f.Extents, f.Replays)
		return &f, nil
	}
	p, err := c.cover(f.Generation, e.cut.Size, true)
	if err != nil {
		return nil, err
	}
	f.Extents, f.Replays = p.extents, p.replays
	if p.size > e.cut.Size || e.cut.Size < e.file.Size { // no hash of just that, or of its header, is known
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
	sum     string // SHA-256 of these bytes, "" if it isn't known
}

// cover finds the bytes of a generation up to a size, or some more; if proof is set, as many that their
// hash is known.
func (c *composer) cover(generation string, size int64, proof bool) (covered, error) {
	var out covered
	if f := c.files[generation]; f != nil && f.Longer == nil {
		out = covered{slices.Clone(f.Extents), slices.Clone(f.Replays), f.Size, f.SHA256}
	} else if o := c.older[generation]; o != nil {
		out = covered{slices.Clone(o.Extents), slices.Clone(o.Replays), o.Size, ""}
	}
	for out.size < size || proof && out.sum == "" {
		best := piece{}
		for _, p := range c.ranges[generation] {
			if p.file.From <= out.size && p.file.Size > out.size && (best.file == nil || better(p.file, best.file, out.size)) {
				best = p
			}
		}
		if best.file == nil && out.size == 0 {
			found, err := c.readBefore(generation)
			if err != nil {
				return out, err
			}
			if found {
				return c.cover(generation, size, proof)
			}
		}
		if best.file == nil {
			return out, fmt.Errorf("%w: bytes of generation %s from %d on", errNotCovered, generation, out.size)
		}
		c.extend(&out, best)
	}
	return out, nil
}

// readBefore takes files of older backups into account, down to one that has a generation: what is shipped may go on from a file,
// or rest on one, that the backup itself has no more, as of one that was compacted while that was made.
func (c *composer) readBefore(generation string) (found bool, err error) {
	for c.before > 0 {
		c.before--
		m, err := c.history.repo.Manifest(c.ctx, c.history.Backups[c.before])
		if err != nil {
			return false, err
		}
		n := len(c.m.Segments)
		c.m.Segments = append(c.m.Segments, m.Segments...)
		for _, f := range m.Files {
			for e := range f.Stored() {
				e.Seg += n
			}
			if f.Generation == "" {
				continue
			}
			if c.files[f.Generation] == nil {
				c.files[f.Generation] = f
			}
			c.addOlder(f.Replays)
		}
		if c.files[generation] != nil || c.older[generation] != nil {
			return true, nil
		}
	}
	return false, nil
}

// better prefers a range that begins just where bytes are missing, and the longer of two such.
func better(a, b *manifest.TickFile, at int64) bool {
	if (a.From == at) != (b.From == at) {
		return a.From == at
	}
	return a.Size > b.Size
}

// extend adds a range to what is covered, of which it may have the beginning already.
func (c *composer) extend(out *covered, p piece) {
	extents, replays := c.placed(p, p.file.Extents, p.file.Replays)
	if p.file.From == 0 {
		*out = covered{}
	}
	all := manifest.File{Extents: out.extents, Replays: out.replays}
	all.Append(behind(extents, out.size-p.file.From), replays)
	out.extents, out.replays = all.Extents, all.Replays
	out.size, out.sum = p.file.Size, p.file.SHA256
}

// behind returns extents without their first n bytes.
func behind(extents []manifest.Extent, n int64) []manifest.Extent {
	for i, e := range extents {
		if e.N > n {
			rest := slices.Clone(extents[i:])
			rest[0].At, rest[0].N = e.At+n, e.N-n
			return rest
		}
		n -= e.N
	}
	return nil
}

// upTo returns extents without what is behind a size, but for the rest of what a replay makes.
func upTo(extents []manifest.Extent, size int64) []manifest.Extent {
	for i, e := range extents {
		if e.N >= size {
			out := slices.Clone(extents[:i+1])
			if e.Seg >= 0 {
				out[i].N = size
			}
			return out
		}
		size -= e.N
	}
	return extents
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
	extents, replays = manifest.Renumbered(extents, replays, func(seg int) int { return segs[seg] })
	for _, r := range replays {
		if r.Older != nil {
			older := *r.Older
			r.Older = &older
		}
	}
	return extents, replays
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
		p, err := c.cover(o.Generation, o.Size, false)
		if err != nil {
			return err
		}
		o.Extents = upTo(p.extents, o.Size)
		o.Replays = p.replays[:replaysOf(o.Extents)]
		if err := c.settleOlder(o.Replays, depth+1); err != nil {
			return err
		}
	}
	return nil
}

// replaysOf is how many replays extents name.
func replaysOf(extents []manifest.Extent) (n int) {
	for _, e := range extents {
		if e.Seg < 0 {
			n++
		}
	}
	return n
}

// finish makes the manifest of the state.
func (c *composer) finish(state map[fileName]*manifest.File, tick int64) *manifest.Manifest {
	m := c.m
	shards := map[string]string{} // uuids that the backup had
	for _, f := range m.Files {
		if f.Kind == manifest.Shard && f.Header != nil {
			shards[f.Path] = f.Header.UUID
		}
	}
	m.LeftOut = slices.DeleteFunc(m.LeftOut, func(l manifest.LeftOut) bool { return state[fileName{l.Root, l.Path}] != nil })
	was := map[fileName]*manifest.File{}
	for _, f := range m.Files {
		was[fileName{f.Root, f.Path}] = f
	}
	m.Damage = slices.DeleteFunc(m.Damage, func(d manifest.Damage) bool {
		f, before := state[fileName{d.Root, d.Path}], was[fileName{d.Root, d.Path}]
		return before != nil && (f == nil || f.Generation != before.Generation)
	})
	for nm, f := range state {
		if f.Kind != manifest.View {
			continue
		}
		owner, _ := shard.ViewOwner(f.Path)
		if db := state[fileName{manifest.DataRoot, owner}]; db != nil && db.Header != nil && shards[db.Path] != db.Header.UUID {
			delete(state, nm) // of a database that was there before under the same name
			m.LeftOut = append(m.LeftOut, manifest.LeftOut{Root: nm.root, Path: nm.path, Reason: "its database was made anew between the backup and the moment"})
		}
	}
	m.Files = slices.SortedFunc(maps.Values(state), func(a, b *manifest.File) int {
		return cmp.Or(cmp.Compare(a.Root, b.Root), cmp.Compare(a.Path, b.Path))
	})
	at, _ := c.chain.timeOf(tick)
	name := fmt.Sprintf("%s/%d", c.chain.ID, tick)
	if c.base != c.chain.sinceOf(tick) { // with what a backup had seen later
		name += "/" + string(m.ID)
		at = m.Finished
	}
	m.ID, m.Started, m.Finished = momentID(name), at, at
	count(m)
	for _, l := range c.chain.Links {
		if l.First <= tick && tick <= l.Last {
			m.NodeName, m.Identity = cmp.Or(l.Tick.NodeName, m.NodeName), l.Tick.Identity
		}
	}
	return m
}

// count sets what a manifest says of its files in all.
func count(m *manifest.Manifest) {
	m.FileCount, m.SizeBytes, m.LeftOutCount, m.DamageCount = len(m.Files), 0, len(m.LeftOut), len(m.Damage)
	for _, f := range m.Files {
		m.SizeBytes += f.Size
	}
}

// momentID returns what names a moment of a chain: not a backup's id, but as steady.
func momentID(name string) manifest.BackupID {
	sum := sha256.Sum256([]byte(name))
	return manifest.BackupID(uuid.NewHash(sha256.New(), uuid.Nil, sum[:], 8).String())
}
